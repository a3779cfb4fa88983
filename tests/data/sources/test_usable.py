"""Bad rows, wherever they show: one sentence with their number before a run, or left out and listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openvlt.cli.errors import error_sentence
from openvlt.data.errors import BadRows, TooFewProblems
from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.data.row_check import RowCheck, check_prompt, require_usable
from openvlt.data.sources.base import Selection
from openvlt.data.sources.local import LocalRows
from openvlt.data.sources.mixture import Mixture
from openvlt.data.sources.releases import EvaluationOnly
from openvlt.data.sources.usable import check_source
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.types import EncodedImage, Problem

ALL = Selection()


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., str]:
    """`rows(row, row, ...)` writes rows.jsonl; a row is what differs from a good one."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    noise.save(tmp_path / "a.png")
    for name, size in {"wide": (2010, 10), "tall": (10, 2010), "edge": (2000, 10), "dot": (1, 1)}.items():
        Image.new("L", size, 99).save(tmp_path / f"{name}.png")
    for form in ("jpg", "png", "webp", "gif", "bmp", "tif"):
        noise.save(tmp_path / f"whole.{form}")
        (tmp_path / f"half.{form}").write_bytes(
            (tmp_path / f"whole.{form}").read_bytes()[: -(tmp_path / f"whole.{form}").stat().st_size // 2]
        )
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "page.jpg").write_bytes(b"<!DOCTYPE html><html>not found</html>")
    (tmp_path / "lfs.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")

    def write(*changes: dict[str, Any]) -> str:
        good = {"question": "How many bars?", "answer": "3", "images": ["a.png"]}
        lines = [json.dumps({"id": f"q{n}"} | good | change) for n, change in enumerate(changes, 1)]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines))
        return str(tmp_path / "rows.jsonl")

    return write


@pytest.fixture
def check(vlm: VLM) -> Callable[[], RowCheck]:
    return lambda: RowCheck([Renderer(vlm.processor, PromptStyle(max_tokens=200))])


BAD = {
    "half a JPEG": ({"images": "half.jpg"}, "truncated"),
    "half a PNG": ({"images": "half.png"}, "can't be read"),
    "half a WebP": ({"images": "half.webp"}, "can't be read"),
    "half a GIF": ({"images": "half.gif"}, "can't be read"),
    "half a BMP": ({"images": "half.bmp"}, "can't be read"),
    "half a TIFF": ({"images": "half.tif"}, "can't be read"),
    "empty file": ({"images": "empty.png"}, "it is empty"),
    "HTML": ({"images": "page.jpg"}, "it is a web page"),
    "Git LFS": ({"images": "lfs.png"}, "pointer of Git LFS"),
    "missing": ({"images": "gone.png"}, "does not exist"),
    "outside": ({"images": "/etc/passwd"}, r"data\.anywhere=true"),
    "second of two": ({"images": ["a.png", "half.jpg"]}, "truncated"),
    "too wide": (
        {"images": "wide.png"},
        r"wide\.png is 2010 x 10 pixels large, which the model's processor refuses",
    ),
    "too tall": (
        {"images": "tall.png"},
        r"tall\.png is 10 x 2010 pixels large.*pad it, or cut it into parts",
    ),
    "too long": (
        {"question": "How many bars? " * 99},
        r"its prompt has \d+ tokens, more than max_tokens=200",
    ),
    "too many pictures": ({"images": ["a.png"] * 40}, r"its prompt has \d+ tokens"),
    "a mark": ({"question": "<|vision_start|>?"}, "the model's own mark"),
    "a mark in a choice": ({"choices": ["3", "<|im_end|>"]}, "the model's own mark"),
    "an id that occurs twice": ({"id": "q1"}, r"id 'q1' occurs twice, in .*line 1 and in .*line 2"),
    "no answer": ({"answer": ""}, "column 'answer' is empty"),
}


@pytest.mark.parametrize("change, reason", BAD.values(), ids=BAD)
def test_a_bad_row_stops_before_the_run_or_is_left_out_and_listed(rows, check, capsys, change, reason):
    file = rows({}, change, {}, {"images": []})
    with pytest.raises(BadRows, match=rf"^1 of 4 rows is bad: .*{reason}.*; data\.skip_bad=true leaves"):
        check_source(LocalRows(file), check).problems(ALL, 0)
    source = check_source(LocalRows(file, skip_bad=True), check)
    for _ in range(2):  # a second reading finds the same, and tells nothing again
        assert {problem.id for problem in source.problems(ALL, 0)} == {"q1", "q3", "q4"}
        assert list(source.skipped) == [f"{file}, line 2"]
    assert capsys.readouterr().out.count("left out 1 of 4 rows, the first: ") == 1


def test_all_bad_rows_are_counted_and_the_first_in_the_file_is_named(rows, check):
    file = rows(*([{}] * 8), *(change for change, _ in BAD.values()))
    with pytest.raises(
        BadRows, match=rf"^{len(BAD)} of {len(BAD) + 8} rows are bad, the first: .*line 9 \(id 'q9'\)"
    ):
        check_source(LocalRows(file), check).problems(ALL, 3)
    source = check_source(LocalRows(file, skip_bad=True), check)
    assert len(source.problems(ALL, 3)) == 8 and len(source.skipped) == len(BAD)
    assert list(source.skipped) == [f"{file}, line {number}" for number in range(9, 9 + len(BAD))]


def test_sizes_at_the_edge_are_good_rows(rows, check):
    file = rows({"images": "edge.png"}, {"images": "dot.png"})
    assert len(check_source(LocalRows(file), check).problems(ALL, 0)) == 2


def test_good_rows_keep_their_order_and_an_amount_is_filled_up(rows, check):
    file = rows(*([{}] * 12))
    plain = LocalRows(file).problems(Selection(amount=5), 7)
    assert check_source(LocalRows(file), check).problems(Selection(amount=5), 7) == plain
    bad = {problem.id for problem in plain[:3]}
    file = rows(*({"images": "half.jpg"} if f"q{n}" in bad else {} for n in range(1, 13)))
    source = check_source(LocalRows(file, skip_bad=True), check)
    assert source.problems(Selection(amount=5), 7)[:2] == plain[3:]
    assert len(source.problems(Selection(amount=5), 7)) == 5 and len(source.skipped) == 3
    with pytest.raises(TooFewProblems, match="10 problems wanted, 9 there"):
        source.problems(Selection(amount=10), 7)


def test_at_most_so_many_rows_are_good_ones_where_there_are(rows, check):
    file = rows(*({"images": "half.jpg"} if n < 3 else {} for n in range(8)))
    source = check_source(LocalRows(file, skip_bad=True), check)
    assert [len(source.problems(Selection(at_most=most), 0)) for most in (4, 5, 6)] == [4, 5, 5]


def test_only_as_many_rows_are_checked_as_are_taken(rows, check):
    file = rows(*([{}] * 30), {"images": "half.jpg"})
    asked: list[Problem] = []

    def counting() -> Callable[..., list[UserError | None]]:
        return lambda problems: asked.extend(problems) or check()(problems)

    source = check_source(LocalRows(file, skip_bad=True), counting)
    source.problems(Selection(amount=4), 0)
    source.problems(Selection(amount=4), 0)
    assert len(asked) == 4


def test_of_equal_ids_the_first_good_row_is_kept(rows, check):
    file = rows({"id": "a", "images": "gone.png"}, {"id": "a"}, {"id": "a"}, {"id": "b"}, {"id": "b"})
    with pytest.raises(UserError, match=r"line 3 .*\(2 ids occur more than once\)|the first: .*gone\.png"):
        check_source(LocalRows(file), check).problems(ALL, 0)
    source = check_source(LocalRows(file, skip_bad=True), check)
    assert {problem.place for problem in source.problems(ALL, 0)} == {
        f"{file}, line 2 (id 'a')",
        f"{file}, line 4 (id 'b')",
    }
    assert list(source.skipped) == [f"{file}, line {number}" for number in (1, 3, 5)]
    with pytest.raises(
        UserError, match=r"id 'b' occurs twice, in .*line 1 and in .*line 2 \(it is the only such id\)"
    ):
        LocalRows(rows({"id": "b"}, {"id": "b"}, {"id": "b"})).problems(ALL, 0)


def test_where_no_row_is_left_the_first_reason_is_given(rows, check):
    for change in ({"images": "gone.png"}, {"images": "half.jpg"}):
        file = rows(change, change)
        for skip_bad in (False, True):
            with pytest.raises(UserError, match=r"2 of 2 rows are bad, the first: .*line 1 .*(gone|half)"):
                check_source(LocalRows(file, skip_bad=skip_bad), check).problems(ALL, 0)


def test_parts_name_their_own_settings(rows, check):
    file = rows({}, {"images": "/etc/passwd"})
    mixed = check_source(Mixture({"mine": LocalRows(file)}), check)
    with pytest.raises(
        UserError, match=r"^source 'mine': 1 of 2 rows .*set data\.sources\.mine\.anywhere=true"
    ) as caught:
        mixed.problems(ALL, 0)
    assert str(caught.value).endswith("data.sources.mine.skip_bad=true leaves such rows out")
    only = check_source(EvaluationOnly(LocalRows(file, test_path=file), "mine", "why"), check)
    with pytest.raises(UserError, match=r"data\.source\.skip_bad=true"):
        only.problems(Selection(split="test"), 0)
    left_out = check_source(Mixture({"mine": LocalRows(file, skip_bad=True)}), check)
    assert len(left_out.problems(ALL, 0)) == 1 and len(left_out.skipped) == 1


def test_the_fix_of_the_first_follows(rows, check):
    with pytest.raises(BadRows) as caught:
        check_source(LocalRows(rows({}, {"question": "How? " * 300})), check).problems(ALL, 0)
    assert error_sentence(caught.value).endswith("lower model.max_pixels or raise prompt.max_tokens")


def test_a_source_without_the_switch_is_left_as_it_is(check):
    class Own:
        def problems(self, selection: Selection, seed: int) -> list[Problem]:
            return []

    own = Own()
    assert check_source(own, check) is own


def test_heads_alone_are_quicker_and_find_less(rows, vlm):
    file = rows({}, {"images": "half.jpg"}, {"images": "empty.png"}, {"images": "wide.png"})
    heads = RowCheck([Renderer(vlm.processor, PromptStyle())], decode=False)
    source = check_source(LocalRows(file, skip_bad=True), lambda: heads)
    assert {problem.id for problem in source.problems(ALL, 0)} == {"q1", "q2"}


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_the_length_is_the_rendered_one(vlm, mixed):
    for problem in mixed:
        length = int(Renderer(vlm.processor, PromptStyle()).prompts([problem]).mask_PL.sum())
        sizes = [image.size for image in problem.images]
        check_prompt(Renderer(vlm.processor, PromptStyle(max_tokens=length)), problem, sizes)
        with pytest.raises(UserError, match=f"its prompt has {length} tokens"):
            check_prompt(Renderer(vlm.processor, PromptStyle(max_tokens=length - 1)), problem, sizes)


def test_a_processor_that_can_not_count_is_asked_to_process(vlm, mixed, monkeypatch):
    monkeypatch.setattr(type(vlm.processor), "_get_num_multimodal_tokens", None)
    check = RowCheck([Renderer(vlm.processor, PromptStyle())])
    wide = Problem("wide", "?", "1", (Image.new("RGB", (2010, 10)),))
    faults = check([*mixed, wide])
    assert faults[:-1] == [None] * len(mixed)
    assert str(faults[-1]).startswith("row 'wide': the model's processor refuses it (absolute aspect ratio")


def test_a_picture_that_comes_later_gets_its_sentence_too(vlm):
    wide = Problem("q1", "?", "1", (Image.new("RGB", (2010, 10)),))
    with pytest.raises(UserError, match="row 'q1': the image in the row is 2010 x 10 pixels large"):
        Renderer(vlm.processor, PromptStyle()).prompts([wide])
    with pytest.raises(BadRows, match="^1 of 2 rows is bad: row 'q1'.*parts$"):
        require_usable(RowCheck([Renderer(vlm.processor, PromptStyle())]), [Problem("q0", "?", "1"), wide])


@pytest.mark.parametrize("size", [(90, 1), (90, 3), (1, 90), (3, 90), (3, 3), (4, 4)])
def test_pictures_of_few_rows_keep_their_axes(vlm, size):
    """A processor that guesses which axis holds the colours would take three rows for them."""
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = (
        np.linspace(0, 255, width)[None] if width >= height else np.linspace(0, 255, height)[:, None]
    )
    small, large = (
        Image.fromarray(ramp),
        Image.fromarray(ramp).resize((width * 4, height * 4), Image.Resampling.BOX),
    )
    render = Renderer(vlm.processor, PromptStyle()).prompts
    pixels = [render([Problem("q", "?", "1", (image,))]).vision["pixel_values"] for image in (small, large)]
    assert pixels[0].shape == pixels[1].shape
    assert (pixels[0] - pixels[1]).abs().mean() < 0.1


def test_encoded_pictures_are_checked_and_stay_encoded(vlm):
    data = EncodedImage(b"\x89PNG\r\n\x1a\nnothing")
    (fault,) = RowCheck()([Problem("q1", "?", "1", (data,))])
    assert "the image in the row (15 bytes) can't be read" in str(fault)
