"""What a cell may hold as a picture, which sentence the rest gets, and that pictures lie where the rows do."""

from __future__ import annotations

import base64
import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from openvlt.data.errors import ImageOutside
from openvlt.data.images import open_image
from openvlt.data.rows.image_cells import read_image_cell
from openvlt.errors import UserError
from openvlt.storage.own_files import is_own_file, sign_files

FORMS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]


def encode(form: str = "PNG") -> bytes:
    file = BytesIO()
    Image.effect_noise((9, 7), 50).save(file, form)
    return file.getvalue()


def text64(form: str = "PNG") -> str:
    return base64.b64encode(encode(form)).decode()


PNG = encode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """`rows/` with a.png, sub/a.png and some odd names; above it secret.png."""
    folder = tmp_path / "rows"
    for name in ("a.png", "sub/a.png", "b c.png", "per%20cent.png", "[1].png", "Über.png", "ünï/x.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    return folder


def read(cell: Any, root: Path, **options: bool) -> list[Any]:
    return list(read_image_cell(cell, root, "rows.jsonl, line 7", **options))


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("a.png", ["a.png"]),
        ("sub\\a.png", ["sub/a.png"]),
        (" a.png\n", ["a.png"]),
        ("./sub/../a.png", ["sub/../a.png"]),
        ("b%20c.png", ["b c.png"]),
        ("per%20cent.png", ["per%20cent.png"]),
        ("[1].png", ["[1].png"]),
        ('["a.png", "sub/a.png"]', ["a.png", "sub/a.png"]),
        ("['a.png', 'sub/a.png']", ["a.png", "sub/a.png"]),
        ([["a.png"], ["sub/a.png"]], ["a.png", "sub/a.png"]),
        (["a.png", None, float("nan")], ["a.png"]),
        (("a.png",), ["a.png"]),
        (Path("a.png"), ["a.png"]),
        ({"path": "a.png"}, ["a.png"]),
        ({"bytes": None, "path": "a.png"}, ["a.png"]),
        ({"bytes": b"", "path": "a.png"}, ["a.png"]),
        ('{"path": "a.png"}', ["a.png"]),
        ({"type": "image", "image": "a.png"}, ["a.png"]),
        ({"type": "image_url", "image_url": {"url": "a.png"}}, ["a.png"]),
        ("file://a.png", ["a.png"]),
        ("file://./sub/a.png", ["./sub/a.png"]),
        ("file://b%20c.png", ["b c.png"]),
        ("", []),
        ("  ", []),
        (None, []),
        (float("nan"), []),
        ([], []),
        ("[]", []),
        ({"bytes": None, "path": None}, []),
        ([None], []),
    ],
)
def test_cells_that_name_files(root, cell, names):
    assert [os.path.normpath(image) for image in read(cell, root)] == [
        os.path.normpath(root / name) for name in names
    ]


@pytest.mark.parametrize("slashes", ["file://", "FILE://", "file:", "file://localhost"])
def test_the_url_of_a_file_beside_the_rows(root, slashes):
    assert read(f"{slashes}{root}/a.png", root) == [root / "a.png"]
    assert read(f"{slashes}{root}/b%20c.png", root) == [root / "b c.png"]


@pytest.mark.parametrize("form", FORMS)
def test_pictures_inside_the_row(root, form):
    text = text64(form)
    cells = [
        encode(form),
        bytearray(encode(form)),
        {"bytes": encode(form), "path": "/somewhere/else.png"},
        text,
        text.rstrip("="),
        text.replace("+", "-").replace("/", "_"),
        "\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        text.encode(),
        f"data:image/{form.lower()};base64,{text}",
        f"DATA:image/{form.lower()};charset=utf-8;base64,{text}",
        f"data:;base64,{text}",
        f"image/png;base64,{text}",
        "data:image/png," + "".join(f"%{byte:02x}" for byte in encode(form)),
        json.dumps([text]),
        repr({"bytes": encode(form), "path": None}),
        repr(encode(form)),
        {"image_url": {"url": f"data:image/png;base64,{text}"}},
    ]
    for cell in cells:
        (image,) = read(cell, root)
        assert open_image(image, "q1").size == (9, 7), cell[:40]


# --- what is refused, and in which words -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("none.png", r"none\.png does not exist; image paths are relative to the data file"),
        ("A.PNG", r"A\.PNG does not exist, but there is a\.png; correct the row or rename the file"),
        ("a.jpg", r"a\.jpg does not exist, but there is a\.png"),
        ("sub/A.png", r"sub/A\.png does not exist, but there is a\.png"),
        ("U\u0308ber.png", "does not exist, but there is Über.png"),
        ("sub", "sub is a folder; give the picture's file"),
        ("C:\\data\\a.png", r"C:\\data\\a\.png is a path on a Windows machine"),
        ("file:///C:/data/a.png", "is a path on a Windows machine"),
        ("<PIL.PngImagePlugin.PngImageFile image mode=RGB at 0x7F>", "is the name of a Python object"),
        ("https://x.org/a.png", "is not a file; save it"),
        ("s3://bucket/a.png", "is not a file; save it"),
        (["a.png", ""], "image 2 of 2 is empty"),
        (3, r"an image is 3 \(int\); expected a path, bytes"),
        ([[1, 2], [3, 4]], r"an image is 1 \(int\)"),
        (True, r"an image is True \(bool\)"),
        ({"height": 3}, r"an image is \{'height': 3\} \(dict\)"),
        (b"not a picture", "13 bytes are not a readable image"),
        (b"version https://git-lfs.github.com/spec/v1", "pointer of Git LFS"),
        ("data:image/svg+xml,<svg xmlns='x'/>", "SVG drawing"),
        ("data:text/html;base64," + base64.b64encode(b"<html></html>").decode(), "web page"),
        ("data:image/png;base64,%%%", "is no valid data URL"),
        ("a\0.png", "does not exist"),
        ("x" * 5000, r"x\.\.\. does not exist"),
        (text64()[:60] + "*" + text64()[60:] * 9, "does not exist"),
        (base64.b64encode(b"\x89PNG nothing" * 30).decode(), "bytes are not a readable image"),
    ],
)
def test_what_is_no_picture_is_named_in_a_short_sentence(root, cell, message):
    with pytest.raises(UserError, match=rf"^rows\.jsonl, line 7: .*{message}") as caught:
        read(cell, root)
    assert len(str(caught.value)) < 400


# --- where pictures may lie ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        "../secret.png",
        "sub/../../secret.png",
        "..\\secret.png",
        "%2e%2e/secret.png",
        "file://../secret.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "/etc/none.png",
        "../../none.png",
        '["../secret.png"]',
        {"path": "../secret.png"},
        {"bytes": None, "path": "/etc/passwd"},
        {"image_url": {"url": "file:///etc/passwd"}},
        "link.png",
        "links/secret.png",
        "links/../secret.png",
        "../rows2/a.png",
    ],
)
def test_pictures_lie_where_the_rows_do(root, cell):
    (root / "link.png").symlink_to("../secret.png")
    (root / "links").symlink_to(root.parent)
    (root.parent / "rows2").mkdir()
    (root.parent / "rows2" / "a.png").write_bytes(PNG)
    with pytest.raises(ImageOutside, match=r"lies outside of .*rows, .* data\.anywhere=true"):
        read(cell, root)


def test_links_within_and_the_hubs_cache_are_inside(root, tmp_path):
    (root / "link.png").symlink_to("sub/a.png")
    (tmp_path / "other").symlink_to(root)
    assert read("link.png", root) and read(f"{root}/a.png", tmp_path / "other")
    snapshot = tmp_path / "hub" / "datasets--x--y" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "hub" / "datasets--x--y" / "blobs").mkdir()
    (tmp_path / "hub" / "datasets--x--y" / "blobs" / "f00").write_bytes(PNG)
    (snapshot / "a.png").symlink_to("../../blobs/f00")
    assert read("a.png", snapshot)
    (snapshot / "b.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ImageOutside):
        read("b.png", snapshot)


@pytest.mark.parametrize("cell", ["../secret.png", "file://../secret.png", "link.png"])
def test_anywhere_allows_them(root, cell):
    (root / "link.png").symlink_to("../secret.png")
    (image,) = read(cell, root, anywhere=True)
    assert open_image(image, "q1").size == (9, 7)


# --- files that a run of this user wrote -----------------------------------------------------------------------------


def test_only_what_this_user_wrote_and_nobody_changed_is_an_own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    files = [tmp_path / "traces.jsonl", tmp_path / "problems.parquet"]
    for file in files:
        file.write_bytes(b"rows of " + file.name.encode())
    assert not is_own_file(files[0])
    sign_files(files[0])
    sign_files(files[1])
    assert all(map(is_own_file, files))
    assert (tmp_path / "state" / "openvlt" / "key").stat().st_mode & 0o77 == 0
    files[0].write_bytes(b"other rows")
    assert [is_own_file(file) for file in files] == [False, True]
    files[0].write_bytes(files[1].read_bytes())  # nor is a signature good for another file
    note = tmp_path / "signatures.json"
    note.write_text(json.dumps({file.name: json.loads(note.read_text())[files[1].name] for file in files}))
    assert [is_own_file(file) for file in files] == [False, True]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    assert not any(map(is_own_file, files))


def test_without_a_home_nothing_is_signed_and_broken_notes_are_none(tmp_path, monkeypatch):
    (tmp_path / "no folder").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "no folder"))
    file = tmp_path / "traces.jsonl"
    file.write_text("{}")
    sign_files(file)
    assert not is_own_file(file) and not (tmp_path / "signatures.json").exists()
    for content in ("", "[]", '{"traces.jsonl": 3}'):
        (tmp_path / "signatures.json").write_text(content)
        assert not is_own_file(file)
