"""Which columns of a file hold the fields of a problem."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from string import ascii_uppercase

from openvlt.data.errors import MissingColumn
from openvlt.data.rows.conversations import ANSWERS, CONVERSATIONS

_OPTIONAL = ("id", "choices", "answer_type", "level", "turns")


@dataclass(frozen=True)
class Columns:
    """Which column of a file holds which field of a problem; the defaults are the fields' own names.

    A dotted name reads inside of objects (`reward_model.ground_truth`). `images` is a name, a list of
    alternatives (the first that a row fills counts), or null for data without images. An alternative may
    itself be a list of columns that are read together (`[images, [image_1, image_2]]`). A cell holds one
    image or a list of them: a path relative to the file, encoded bytes, `{bytes, path}`, or a PIL image.
    `choices` is one column (see `choices.read_choices`) or one for each choice; columns A, B, ... are taken
    where it is missing. It, `answer_type`, `level` and `turns` (before the question) may be missing from the
    file, and so may `id` (the row's number is taken then).
    """

    id: str = "id"
    question: str = "question"
    answer: str = "answer"
    images: str | Sequence[str | Sequence[str]] | None = "images"
    choices: str | Sequence[str] = "choices"
    answer_type: str = "answer_type"
    level: str = "level"
    turns: str = "turns"

    def image_groups(self) -> tuple[tuple[str, ...], ...]:
        """The alternatives for the images, each a tuple of columns that are read together."""
        if self.images is None:
            return ()
        names = [self.images] if isinstance(self.images, str) else self.images
        return tuple((name,) if isinstance(name, str) else tuple(name) for name in names)

    def image_names(self) -> tuple[str, ...]:
        """All columns that may hold images."""
        return tuple(name for group in self.image_groups() for name in group)

    def names(self) -> set[str]:
        """Every column of a file that rows may be read from."""
        fixed = {self.id, self.question, self.answer, self.answer_type, self.level, self.turns, "system"}
        choices = {self.choices} if isinstance(self.choices, str) else set(self.choices)
        found = {*fixed, *choices, *self.image_names(), *ascii_uppercase, *CONVERSATIONS, *ANSWERS}
        return found | {name.partition(".")[0] for name in found}

    def check(self, there: Collection[str], where: str) -> None:
        """Raises MissingColumn when `there` lacks a field that rows must have, or a name that was set."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "images":
                names = self.image_names()
            else:
                names = [value] if isinstance(value, str) else value
            optional = not names or (field.name in _OPTIONAL and value == field.default)
            heads = {name.partition(".")[0] for name in names}
            if not optional and not any(name in there for name in (*names, *heads)):
                raise MissingColumn(where, field.name, " or ".join(names), there)
