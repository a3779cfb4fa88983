"""Choices of a row in the forms that files have, and the answer that names one of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from openvlt.data.rows.cells import brief, check_text, is_missing, parse_cell
from openvlt.errors import UserError
from openvlt.types import Verdict
from openvlt.verify.grade.rules import grade_answer
from openvlt.verify.options import Options, letter_set, strip_labels
from openvlt.verify.parse.normalize import fold

_LABEL_KEYS = ("label", "key", "letter", "id", "name", "option", "index")
_TEXT_KEYS = ("text", "value", "content", "choice", "answer", "option")
_LABEL = re.compile(r"[(\[]?\s*([A-Za-z]|\d{1,2})\s*[)\].:]?")


def read_choices(cell: Any) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The texts of the choices in order and their labels (none: A, B, C); None where there are no choices.

    A cell is a list of texts or numbers, an object (label -> text), a list of pairs or objects of label and
    text, or one of these as text. Labels that the texts carry are left out. Raises UserError for another
    form, empty or equal choices, labels that aren't in sequence, and more choices than letters.
    """
    value = parse_cell(cell)
    if is_missing(value):
        return None
    labelled = _read_pairs(value)
    if labelled is not None:
        labels, items = _in_order(labelled)
    elif isinstance(value, list | tuple):
        labels, items = (), list(value)
    else:
        raise UserError(
            f"holds {brief(value)}; expected a list of texts or numbers, or an object from letter to text"
        )
    texts = [_choice_text(item, number) for number, item in enumerate(items, 1)]
    if len(texts) > len(ascii_uppercase):
        raise UserError(
            f"holds {len(texts)} choices; they are lettered A to Z, so give at most {len(ascii_uppercase)}, "
            "or ask without choices"
        )
    texts = strip_labels(texts)
    folded = [" ".join(text.split()) for text in texts]
    for number, text in enumerate(folded, 1):
        if not text:
            raise UserError(f"has an empty choice {number}; give its text, or remove the row")
        if folded.index(text) < number - 1 and "<im" not in text:
            raise UserError(f"has the choice {text[:60]!r} twice; mend it or remove the row")
    return tuple(texts), labels


def _read_pairs(value: Any) -> list[tuple[str, Any]] | None:
    """(label, text) of choices that have labels; None where they have none."""
    if isinstance(value, Mapping):
        labels, texts = (
            next((value[key] for key in keys if isinstance(value.get(key), list)), None)
            for keys in ((*_LABEL_KEYS, "labels"), (*_TEXT_KEYS, "texts", "choices"))
        )
        if labels is not None and texts is not None and len(labels) == len(texts):
            return [(str(label), text) for label, text in zip(labels, texts, strict=True)]
        return [(str(label), text) for label, text in value.items()]
    if not isinstance(value, list | tuple) or not value:
        return None
    if all(isinstance(item, list | tuple) and len(item) == 2 for item in value):
        return [(str(label), text) for label, text in value]
    if all(isinstance(item, Mapping) and len(item) == 1 for item in value):
        pairs = [(str(label), text) for item in value for label, text in item.items()]
        named = {label for label, _ in pairs} <= set(_TEXT_KEYS)  # [{text: red}, {text: blue}]
        return [(ascii_uppercase[n], text) for n, (_, text) in enumerate(pairs[:26])] if named else pairs
    if all(isinstance(item, Mapping) for item in value):
        keys = [
            next((key for key in names if all(key in item for item in value)), None)
            for names in (_LABEL_KEYS, _TEXT_KEYS)
        ]
        if None not in keys and keys[0] != keys[1]:
            return [(str(item[keys[0]]), item[keys[1]]) for item in value]
    return None


def _in_order(pairs: Sequence[tuple[str, Any]]) -> tuple[tuple[str, ...], list[Any]]:
    """Labels and texts, sorted by the labels; empty ones at the end, as tables have them, are left out."""
    found = [(_LABEL.fullmatch(label.strip()), label, text) for label, text in pairs]
    places: list[tuple[int, str, Any]] = []
    for match, label, text in found:
        if match is None:
            raise UserError(f"has the label {label!r} for a choice; expected A, B, C or 1, 2, 3")
        mark = match[1].upper()
        places.append((int(mark) if mark.isdigit() else ord(mark) - ord("A"), mark, text))
    places.sort(key=lambda place: place[0])
    while places and is_missing(places[-1][2]):
        places.pop()
    begin = places[0][0] if places and places[0][1] == "1" else 0
    if [place for place, _, _ in places] != list(range(begin, begin + len(places))):
        raise UserError(f"has choices {', '.join(mark for _, mark, _ in places)}; labels go on without a gap")
    return tuple(mark for _, mark, _ in places), [text for _, _, text in places]


def _choice_text(item: Any, number: int) -> str:
    if is_missing(item):
        return ""
    if not isinstance(item, str | int | float):
        raise UserError(
            f"has choice {number} {brief(item)}; expected text or a number "
            "(pictures belong to the images, with <image> in the choice)"
        )
    return check_text(str(item), f"has choice {number}, which")


def name_choice(answer: Any, text: str, choices: Sequence[str], labels: Sequence[str], as_text: bool) -> str:
    """The answer, if it names a choice: its letter, label or text; labels and other forms become the letter.

    `answer` is the cell as it is and `text` what it says. Raises UserError for an answer that names none.
    """
    bare = text.strip().strip("()[]. ").upper()
    if labels and labels[0].isdigit() and bare in labels and text not in choices:
        return ascii_uppercase[labels.index(bare)]
    if isinstance(answer, str):
        letters = letter_set(text)
        if letters and max(letters) <= ascii_uppercase[len(choices) - 1]:
            return text
        options = Options(choices, _is_same)
        index, meant = options.index_of_gold(text, as_text=as_text), options.index_of_answer(text)
        if index is not None and (index == meant or fold(text) in options.folded):
            return text
        if index is None and meant is not None:
            return ascii_uppercase[meant]
    elif text in choices or any(_is_number(choice, float(answer)) for choice in choices):
        return text
    fix = "write the letter or the text of the choice"
    if re.fullmatch(r"\d+(\.0)?", text.strip()):
        fix += ", not its index (data.convert with release_readers.read_indexed_choice reads one)"
    raise UserError(f"the answer {text[:60]} is none of the choices {brief(list(choices))}; {fix}")


def _is_same(option: str, text: str) -> bool:
    return grade_answer(option, text).verdict is Verdict.CORRECT


def _is_number(text: str, number: float) -> bool:
    try:
        return float(text) == number
    except ValueError:
        return False
