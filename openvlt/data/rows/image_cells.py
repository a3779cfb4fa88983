"""The pictures in a row's cell: paths, URLs of files or data, base64 text, bytes, structs, lists of these."""

from __future__ import annotations

import ast
import base64
import binascii
import functools
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from PIL import Image

from openvlt.data.errors import ImageOutside, UnreadableImage
from openvlt.data.images import ImageSource, image_size
from openvlt.data.rows.cells import brief
from openvlt.errors import UserError
from openvlt.types import EncodedImage

_STRUCT_KEYS = ("bytes", "path", "image", "image_url", "url", "base64")  # the first that is filled counts
_DATA_URL = re.compile(r"\s*(?:data:)?([\w.+/-]*(?:;[^,;]*)*?)(;\s*base64)?,(.*)", re.DOTALL | re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_HEADS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP")


def read_image_cell(cell: Any, root: Path, where: str, *, anywhere: bool = False) -> tuple[ImageSource, ...]:
    """The pictures of a cell, not decoded yet; () where it is empty. Relative paths begin at `root`.

    Files must lie in `root` or below, links and `..` resolved, unless `anywhere`. Raises UserError that
    begins with `where`; it shows no more than the start of a long cell.
    """
    return tuple(_read(cell, root, where, anywhere))


def _read(cell: Any, root: Path, where: str, anywhere: bool) -> Iterator[ImageSource]:
    cell = _parse_text(cell)
    if isinstance(cell, dict) and any(cell.values()):
        key = next((key for key in _STRUCT_KEYS if cell.get(key)), None)
        if key is None:
            raise UserError(f"{where}: an image is {brief(cell)}; expected a path, bytes, or {{bytes, path}}")
        yield from _read(cell[key], root, where, anywhere)
    elif isinstance(cell, list | tuple):
        for number, item in enumerate(cell, 1):
            if isinstance(item, str) and not item.strip():
                raise UserError(f"{where}: image {number} of {len(cell)} is empty; give a path or remove it")
            yield from _read(item, root, where, anywhere)
    elif not _is_empty(cell):
        yield _read_single(cell, root, where, anywhere)


def _read_single(cell: Any, root: Path, where: str, anywhere: bool) -> ImageSource:
    if isinstance(cell, Image.Image | EncodedImage):
        return cell
    if isinstance(cell, bytes | bytearray | memoryview):
        return _encode(bytes(cell), where)
    if isinstance(cell, str | Path):
        return _read_text(str(cell), root, where, anywhere)
    raise UserError(f"{where}: an image is {brief(cell)}; expected a path, bytes, or {{bytes, path}}")


def _is_empty(cell: Any) -> bool:
    """Whether a cell holds no picture: nothing, an empty struct, blanks, or pandas' NaN."""
    blank = isinstance(cell, str) and not cell.strip()
    return cell is None or isinstance(cell, dict) or blank or (isinstance(cell, float) and math.isnan(cell))


def _parse_text(cell: Any) -> Any:
    """A list, struct or bytes that a table holds as text (JSON or Python's); anything else as it is."""
    if not isinstance(cell, str) or not re.match(r"\s*([\[{]|b['\"])", cell):
        return cell
    try:
        return json.loads(cell)
    except ValueError:
        pass
    try:
        return ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell


# --- pictures inside the row --------------------------------------------------------------------------------


def _encode(data: bytes, where: str) -> EncodedImage:
    """The picture of bytes, or of base64 text stored as bytes. Raises UserError if their head is broken."""
    if not data.startswith(_HEADS) and data[:4096].isascii():
        data = _decode_base64(data.decode("ascii", "replace")) or data
    image = EncodedImage(data)
    try:
        image_size(image, where)
    except UnreadableImage as error:
        raise UserError(
            f"{where}: {len(data)} bytes are not a readable image ({error.reason}); "
            "replace them or remove the row"
        ) from error
    return image


def _decode_base64(text: str, *, sure: bool = False) -> bytes | None:
    """The bytes of base64 text, with or without its padding; None if it isn't any.

    Unless `sure`, the bytes must also begin as a picture's do: a path may look like base64.
    """
    if not sure and (len(text) < 40 or _BASE64.fullmatch(text) is None):
        return None
    plain = re.sub(r"[\s=]", "", text).translate(str.maketrans("-_", "+/"))
    plain = plain[: len(plain) - (len(plain) % 4 == 1)]  # text that was cut off
    try:
        data = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if sure or data.startswith(_HEADS) or data[4:8] == b"ftyp" else None


def _read_text(text: str, root: Path, where: str, anywhere: bool) -> ImageSource:
    """The picture that a text means: a `data:` URL, base64, a file's URL or a path."""
    if re.match(r"\s*data:|[\w/+.-]{,64};base64,", text, re.IGNORECASE):
        return _encode(_decode_data_url(text, where), where)
    if (data := _decode_base64(text)) is not None:
        return _encode(data, where)
    if re.match(r"\s*file:", text, re.IGNORECASE):
        text = _file_url_path(text.strip())
    elif re.match(r"\s*[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
        raise UserError(
            f"{where}: image {brief(text)} is not a file; save it and give a path relative to the data file"
        )
    return _find_file(text, root, where, anywhere)


def _decode_data_url(text: str, where: str) -> bytes:
    found = _DATA_URL.fullmatch(text)
    if found is None:
        data = None
    elif found[2]:
        data = _decode_base64(unquote(found[3]), sure=True)
    else:
        data = unquote_to_bytes(found[3])
    if data is None:
        raise UserError(
            f"{where}: image {brief(text)} is no valid data URL; write data:image/png;base64,<base64 text>"
        )
    return data


# --- files --------------------------------------------------------------------------------------------------


def _file_url_path(url: str) -> str:
    """The path of a `file:` URL; of `file://a.png`, which has no third slash, the relative one."""
    parts = urlsplit(url)
    host = "" if parts.netloc.lower() == "localhost" else parts.netloc
    path = parts.path + (f"#{parts.fragment}" if parts.fragment else "")
    return unquote(host + path)


def _find_file(text: str, root: Path, where: str, anywhere: bool) -> Path:
    """The file of a path, also one written with backslashes or percent signs, or with blanks around it."""
    readings = [text, text.strip(), text.strip().replace("\\", "/"), unquote(text.strip())]
    files = [root / reading for reading in dict.fromkeys(readings)]
    file = next((file for file in files if os.path.isfile(file)), None)
    windows = file is None and re.match(r"\s*/?[A-Za-z]:[\\/]", text)
    if not anywhere and not windows and not is_inside(file or files[0], root):
        raise ImageOutside(where, _cut(text), root)
    if windows:
        shown = _cut(text)
        raise UserError(
            f"{where}: image {shown} is a path on a Windows machine; give one relative to the data file"
        )
    if file is None:
        raise UserError(f"{where}: image {_missing(text, files)}")
    return file


def is_inside(file: Path, root: Path) -> bool:
    """Whether a file lies in a folder or below it, after links and `..` are resolved."""
    real = os.path.realpath(file) if os.path.islink(file) else os.path.join(_real(file.parent), file.name)
    home = _real(root)
    if os.path.basename(os.path.dirname(home)) == "snapshots":  # the hub's cache: links to ../../blobs
        home = os.path.dirname(os.path.dirname(home))
    return os.path.normpath(real).startswith(home.rstrip(os.sep) + os.sep)


@functools.lru_cache(4096)
def _real(folder: Path) -> str:
    return os.path.realpath(folder)


def _missing(text: str, files: list[Path]) -> str:
    """What is wrong with a path that is no file; `files` are its readings."""
    shown = _cut(str(files[0]))
    if re.match(r"\s*\W?<.* at 0x", text):
        return f"{_cut(text)} is the name of a Python object, not a picture; save pictures as files"
    for file in files:
        if os.path.isdir(file):
            return f"{shown} is a folder; give the picture's file"
        if os.path.exists(file):
            return f"{shown} is no regular file"
        if there := _similar(file):
            return f"{shown} does not exist, but there is {there}; correct the row or rename the file"
    return f"{shown} does not exist; image paths are relative to the data file"


def _similar(file: Path) -> str | None:
    """A file of the same folder whose name differs in case, accents' form or suffix alone."""
    try:
        names = sorted(os.listdir(file.parent))
    except (OSError, ValueError):
        return None
    alike = [name for name in names if _plain(name) == _plain(file.name)]
    stem = _plain(file.stem)
    alike += [name for name in names if "." in name and _plain(name.rpartition(".")[0]) == stem]
    return alike[0] if alike and stem else None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:80]}..."
