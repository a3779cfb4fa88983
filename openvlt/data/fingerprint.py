"""Fingerprints of a run's rows, kept in its folder: a run that goes on over changed data is stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from openvlt.data.images import ImageSource
from openvlt.data.rows.lazy import LazyProblems
from openvlt.data.sources.base import Selection, Source
from openvlt.errors import UserError
from openvlt.storage.atomic import read_json_file, write_json
from openvlt.types import EncodedImage, Problem

FINGERPRINTS = "data.json"  # in a run's folder: the fingerprint of every row, by selection
ALL_ROWS = ""  # in the place of an id: the fingerprint of a large file's rows together
COMPARED = ("questions", "answers", "choices", "pictures")
_PIECE = 1 << 16  # bytes; a larger picture file is read at four places


@dataclass
class Fingerprints:
    """The fingerprints in one run's folder. `title` names the data in messages.

    Of `LazyProblems` there is one for all of them: of their order and texts, not of pictures in other files.
    With `read_only` nothing is written. Files of pictures are read once, unless they change.
    """

    folder: Path
    title: str
    read_only: bool = False
    _pictures: dict[tuple[str, int, int], str] = field(default_factory=dict, init=False, repr=False)

    def check(self, key: str, problems: Sequence[Problem]) -> None:
        """Compares the rows with those of the same `key` when the run began, or keeps them if it is new.

        Raises UserError that says how many rows differ in what.
        """
        file = self.folder / FINGERPRINTS
        kept = read_json_file(file) if file.is_file() else {}
        lazy = isinstance(problems, LazyProblems)
        now = (
            {problem.id: self._row(problem) for problem in problems}
            if not lazy
            else {ALL_ROWS: f"{len(problems)} {problems.digest()}"}
        )
        if key not in kept:
            if not self.read_only:
                write_json(file, kept | {key: now}, indent=None)
            return
        if differences := describe_differences(kept[key], now):
            raise UserError(
                f"{self.title} has changed since the run began ({differences}); "
                "start a new run, or put the file back"
            )

    def _row(self, problem: Problem) -> str:
        """Digests of question, answer, choices and pictures, with a space between."""
        question = [problem.question, problem.turns] if problem.turns else problem.question
        answer = [problem.answer, problem.answer_type]
        pictures = ",".join(self._picture(image) for image in problem.images)
        return f"{_digest(question)} {_digest(answer)} {_digest(problem.choices)} {pictures}"

    def _picture(self, image: ImageSource) -> str:
        """A digest of a picture's bytes; of one that was drawn in memory its size."""
        if isinstance(image, Image.Image):
            return f"{image.width}x{image.height}"
        if isinstance(image, EncodedImage):
            return _digest(image.data)
        try:
            facts = image.stat()
            known = str(image), facts.st_size, facts.st_mtime_ns
            if known not in self._pictures:
                self._pictures[known] = _digest(_sample_file(image, facts.st_size))
            return self._pictures[known]
        except OSError:  # who opens it says so, with the row
            return "unreadable"


def _digest(value: Any) -> str:
    content = (
        value
        if isinstance(value, bytes)
        else json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    )
    return hashlib.blake2b(content, digest_size=5).hexdigest()


def _sample_file(file: Path, size: int) -> bytes:
    """The size of a file and its bytes; of a large one four pieces, its beginning and end among them."""
    with file.open("rb") as handle:
        if size <= 4 * _PIECE:
            return f"{size} ".encode() + handle.read()
        pieces = []
        for part in range(4):
            handle.seek((size - _PIECE) * part // 3)
            pieces.append(handle.read(_PIECE))
        return f"{size} ".encode() + b"".join(pieces)


def describe_differences(was: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs between the rows of a file then and now (id -> digests), in words; "" if nothing does."""
    if ALL_ROWS in was or ALL_ROWS in now:
        counts = [rows[ALL_ROWS].split(" ")[0] if ALL_ROWS in rows else len(rows) for rows in (was, now)]
        return "" if was == now else f"{counts[0]} rows then, {counts[1]} now, and they differ"
    shared = [name for name in was if name in now]
    differing = {
        part: [name for name in shared if was[name].split(" ")[place] != now[name].split(" ")[place]]
        for place, part in enumerate(COMPARED)
    }
    found = [f"{len(rows)} of {len(shared)} {part}" for part, rows in differing.items() if rows]
    first = next((name for rows in differing.values() for name in rows), None)
    gone, new = len(was) - len(shared), len(now) - len(shared)
    found += [f"{gone} of {len(was)} rows gone"] * (gone > 0) + [f"{new} rows new"] * (new > 0)
    if not found and list(was) != list(now):
        return "its rows are in another order"
    return ", ".join(found) + (f", the first in row {first!r}" if first is not None else "")


@dataclass(frozen=True)
class CheckedSource:
    """A source whose rows are compared with the run's fingerprints whenever they are read."""

    source: Source
    fingerprints: Fingerprints

    @property
    def skipped(self) -> Mapping[str, str]:
        """Bad rows that the source left out so far: row -> reason."""
        return getattr(self.source, "skipped", {})

    def problems(self, selection: Selection, seed: int) -> Sequence[Problem]:
        """See `Source`. Raises UserError for rows that have changed since the run began."""
        problems = self.source.problems(selection, seed)
        self.fingerprints.check(f"{selection} seed {seed}", problems)
        return problems
