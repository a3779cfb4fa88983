"""The pictures of a page: inside it up to a budget, the rest in `report_files/` beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from openvlt.data.images import data_url, image_size, open_image
from openvlt.errors import UserError
from openvlt.report.records import StageRecord, write_report_file

FILES = "report_files"
BUDGET = 20_000_000  # bytes of pictures inside the page
_WIDEST = 640  # pixels of a picture's longer side
_SMALL = 200  # pixels: pictures up to this size are magnified without smoothing
_AS_IT_IS = 60_000  # bytes: smaller PNG and JPEG files are taken unchanged
_KINDS = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG"}


class PictureShelf:
    """The pictures that rows name, each once; `add` gives the numbers that the page's data refers to.

    A row names `images` relative to its stage's folder. Where it names none, those of another row of the same
    problem are taken.
    """

    def __init__(self) -> None:
        self._numbers: dict[Path, int] = {}
        self._of_problem: dict[str, list[int]] = {}

    def add(self, row: Mapping[str, Any], stage: StageRecord) -> list[int]:
        """The numbers of a row's pictures; [] while none is known."""
        name = str(row.get("problem", row.get("id")))
        named = row.get("images") or []
        if stage.folder is None or not named:
            return self._of_problem.get(name, [])
        paths = [stage.folder / path for path in ([named] if isinstance(named, str) else named)]
        numbers = [self._numbers.setdefault(path, len(self._numbers)) for path in paths]
        return self._of_problem.setdefault(name, numbers)

    def find(self, problem: str) -> list[int]:
        """The numbers of a problem's pictures."""
        return self._of_problem.get(problem, [])

    def encode(self, folder: Path, budget: int = BUDGET) -> dict[str, Any]:
        """Every picture as `src` or with the reason in `missing`, in order; how many lie outside the page."""
        items, inside, outside = [], 0, 0
        for path in self._numbers:
            item, content = load_picture(path)
            if content is None:
                items.append(item)
                continue
            if inside + len(content) * 4 // 3 <= budget:
                inside += len(content) * 4 // 3
                item["src"] = data_url(content, item.pop("form"))
            else:
                outside += 1
                item["src"] = _write_outside(folder, content, item.pop("form"))
            items.append(item)
        return {"items": items, "outside": outside, "folder": FILES}


def load_picture(path: Path) -> tuple[dict[str, Any], bytes | None]:
    """A picture's entry and its bytes, at most `_WIDEST` pixels wide or high; None where it can't be read."""
    try:
        width, height = image_size(path, path.name)
        size = path.stat().st_size
        raw = path.read_bytes() if size <= _AS_IT_IS else b""
        form = next((kind for mark, kind in _KINDS.items() if raw.startswith(mark)), "")
        if not form or max(width, height) > 2 * _WIDEST:
            form, raw = _shrink(path)
    except UserError:
        reason = "isn't there any more" if not path.exists() else "can't be read"
        return {"missing": f"{path.name} {reason}"}, None
    return {"form": form, "w": width, "h": height, "small": max(width, height) <= _SMALL}, raw


def _shrink(path: Path) -> tuple[str, bytes]:
    image = open_image(path, path.name)
    form = "PNG" if max(image.size) <= _SMALL else "JPEG"
    image.thumbnail((_WIDEST, _WIDEST))
    file = BytesIO()
    image.save(file, form)
    return form, file.getvalue()


def _write_outside(folder: Path, content: bytes, form: str) -> str:
    """Writes a picture into `report_files/` where it isn't there yet; the address as the page names it."""
    name = f"{hashlib.sha256(content).hexdigest()[:20]}.{form.lower()}"
    place = folder / FILES / name
    if not place.is_file():
        try:
            place.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make {place.parent} ({error.strerror}); give a folder that can be written"
            ) from error
        write_report_file(place, content)
    return f"{FILES}/{name}"


def describe_sizes(items: Sequence[Mapping[str, Any]]) -> str:
    """How many pictures the page has and how large they are, by pixels: smallest, median, largest."""
    sizes = sorted((item["w"] * item["h"], item["w"], item["h"]) for item in items if "w" in item)
    lost = sum("missing" in item for item in items)
    words = []
    if sizes:
        smallest, middle, largest = (
            f"{w} × {h}" for _, w, h in (sizes[0], sizes[len(sizes) // 2], sizes[-1])
        )
        words.append(
            f"{len(sizes):,} pictures, smallest {smallest}, median {middle}, largest {largest} pixels"
        )
    if lost:
        words.append(f"{lost:,} that can't be shown")
    return "; ".join(words)
