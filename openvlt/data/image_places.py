"""Places of pictures in a text: the marks that files have, and the one mark that stands in a problem."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from openvlt.data.images import ImageSource
from openvlt.errors import UserError
from openvlt.types import Problem

PLACE = "<image>"
"""The mark of a picture's place in a problem's texts; without any, all pictures stand first."""

_MARK = re.compile(
    r"<\|vision_start\|>(?:\s*<\|\w{1,20}\|>)*?\s*<\|vision_end\|>"  # Qwen: one picture, however many pads
    r"|<(?P<tag>image|img)>(?P<name>[^<>\n]*)</(?P=tag)>"  # Qwen-VL, MiniCPM-V: the file stands inside
    r"|<img\s[^<>]*?\bsrc\s*=\s*[\"']?(?P<src>[^\"'<>\s]+)[^<>]*>"
    r"|<\|?(?:start_of_)?im(?:age|g)(?:_?(?:here|placeholder|token|soft_token|context))?"
    r"(?:[ _:#-]{0,2}(?P<number>\d{1,3}))?\s?/?\|?>"  # <image>, <|image_1|>, <ImageHere>; not <|image_pad|>
    r"|\[IMG\]",
    re.IGNORECASE,
)
_OTHER_MEDIA = re.compile(r"\s*<\|?(video|audio)(?:_pad)?\|?>", re.IGNORECASE)


def place_images(
    texts: Sequence[str], images: Sequence[ImageSource], first: int = 0
) -> tuple[list[str], tuple[ImageSource, ...]]:
    """The texts with every mark written as `PLACE`, and the images in the order of their places.

    `texts` are in reading order; `first` is the index of the one that images without a mark stand before.
    Marks that all stand at its beginning are left out. Numbers in marks (from 1, or from 0) choose the image,
    and so do file names. Beside marks without numbers, those with numbers only mention an image. Raises
    UserError when marks and images differ in number.
    """
    marks = [(index, mark) for index, text in enumerate(texts) for mark in _MARK.finditer(text)]
    if video := next((found for text in texts if (found := _OTHER_MEDIA.match(text))), None):
        raise UserError(f"the text has the mark {video[0].strip()}; only pictures can be shown")
    if not marks:
        return list(texts), tuple(images)
    plain = [mark for _, mark in marks if mark["number"] is None]
    ordered = _match_names(plain, images) if plain else _match_numbers([m for _, m in marks], images)
    places = set(plain) if plain else {mark for _, mark in marks}

    def write(mark: re.Match[str]) -> str:
        return PLACE if not plain or mark["number"] is None else f"image {mark['number']}"

    head = re.match(rf"(?:\s|{_MARK.pattern})*", texts[first], re.IGNORECASE)
    assert head is not None
    leading = all(index == first and mark.end() <= head.end() for index, mark in marks if mark in places)
    if leading and texts[first][head.end() :]:
        texts = [*texts[:first], texts[first][head.end() :], *texts[first + 1 :]]
    return [_MARK.sub(write, text) for text in texts], ordered


def _match_numbers(marks: Sequence[re.Match[str]], images: Sequence[ImageSource]) -> tuple[ImageSource, ...]:
    """The image of each numbered mark; one may be shown several times, but every one has to be named."""
    numbers = [int(mark["number"]) for mark in marks]
    begin = min(1, *numbers)
    if {number - begin for number in numbers} != set(range(len(images))):
        raise _unequal(f"the marks {', '.join(dict.fromkeys(mark[0] for mark in marks))}", images)
    return tuple(images[number - begin] for number in numbers)


def _match_names(marks: Sequence[re.Match[str]], images: Sequence[ImageSource]) -> tuple[ImageSource, ...]:
    """The image of each mark: the one that it names, else the next. Names that no file has are a fault."""
    if len(marks) != len(images):
        count = f"{len(marks)} marks of pictures" if len(marks) > 1 else "the mark of a picture"
        raise _unequal(f"{count} ({marks[0][0][:40]})", images)
    names = [Path((mark["name"] or mark["src"] or "").strip()).name for mark in marks]
    files = {image.name: image for image in images if isinstance(image, Path)}
    if not all(names) or len(files) < len(images):
        return tuple(images)
    if set(names) != set(files):
        raise UserError(f"the marks name {', '.join(names)}, but the pictures are {', '.join(files)}")
    return tuple(files[name] for name in names)


def _unequal(marks: str, images: Sequence[ImageSource]) -> UserError:
    there = f"{len(images)} picture{'s' * (len(images) > 1)}" if images else "no picture"
    fix = "give each picture one mark, or none: pictures without marks stand first"
    if not images:
        fix = "give the picture, or set data.columns.images=null where no row has one and marks are just text"
    return UserError(f"the text has {marks}, but the row has {there}; {fix}")


def split_places(texts: Sequence[str], images: int, first: int = 0) -> list[list[str]]:
    """The pieces of each text, with an image between each two.

    Where places and images differ in number, all images stand before the text `first`.
    """
    pieces = [text.split(PLACE) for text in texts]
    if not images or sum(len(each) - 1 for each in pieces) != images:
        pieces = [[text] for text in texts]
        pieces[first] = [""] * images + pieces[first]
    return pieces


def hide_images(problem: Problem) -> Problem:
    """The problem for a model that sees no image: without the images, and without their places."""
    if not problem.images:
        return problem
    choices = problem.choices and tuple(_drop_places(choice) or "a picture" for choice in problem.choices)
    turns = tuple((role, _drop_places(text)) for role, text in problem.turns)
    return replace(problem, images=(), question=_drop_places(problem.question), choices=choices, turns=turns)


def _drop_places(text: str) -> str:
    return re.sub(rf"[ \t]*{PLACE}", "", text).strip() if PLACE in text else text
