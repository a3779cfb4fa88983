"""Fingerprints of rows: what has changed since a run began is told with its count, and nothing else is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvlt.data.fingerprint import FINGERPRINTS, CheckedSource, Fingerprints
from openvlt.data.sources.base import Selection
from openvlt.errors import UserError
from openvlt.types import EncodedImage, Problem


def noise(file: Path, seed: int, size: int = 8) -> Path:
    """An uncompressed picture: its file's size says nothing about what it shows."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture
def problems(tmp_path: Path) -> list[Problem]:
    files = [noise(tmp_path / f"{n}.bmp", n) for n in range(3)]
    return [Problem(f"q{n}", f"{n} + 1?", str(n + 1), (files[n],), ("1", "2", "3")) for n in range(3)]


def change(number: int, **fields: object) -> Callable[[list[Problem]], list[Problem]]:
    return lambda rows: [replace(row, **fields) if n == number else row for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda rows: [replace(row, answer="4") for row in rows], "3 of 3 answers, the first in row 'q0'"),
        (change(1, answer="9"), "1 of 3 answers, the first in row 'q1'"),
        (change(1, answer_type="integer"), "1 of 3 answers, the first in row 'q1'"),
        (change(2, question="2+1?"), "1 of 3 questions, the first in row 'q2'"),
        (change(0, choices=("1", "2", "4")), "1 of 3 choices, the first in row 'q0'"),
        (change(0, choices=None), "1 of 3 choices, the first in row 'q0'"),
        (change(0, images=()), "1 of 3 pictures, the first in row 'q0'"),
        (lambda rows: change(0, images=rows[0].images * 2)(rows), "1 of 3 pictures, the first in row 'q0'"),
        (lambda rows: rows[1:], "1 of 3 rows gone"),
        (lambda rows: [*rows, replace(rows[0], id="q7")], "1 rows new"),
        (change(1, id="other"), "1 of 3 rows gone, 1 rows new"),
        (lambda rows: rows[::-1], "its rows are in another order"),
        (lambda rows: noise(rows[1].images[0], 7) and rows, "1 of 3 pictures, the first in row 'q1'"),
        (lambda rows: rows[2].images[0].unlink() or rows, "1 of 3 pictures, the first in row 'q2'"),
    ],
    ids="answers answer type question choice choices picture twice gone new id order drawn lost".split(),
)
def test_what_has_changed_is_named(
    problems: list[Problem], tmp_path: Path, spoil: Callable[[list[Problem]], list[Problem]], said: str
) -> None:
    Fingerprints(tmp_path, "rows.jsonl").check("train", problems)
    kept = (tmp_path / FINGERPRINTS).read_bytes()
    with pytest.raises(UserError) as caught:
        Fingerprints(tmp_path, "rows.jsonl").check("train", spoil(problems))
    assert str(caught.value) == (
        f"rows.jsonl has changed since the run began ({said}); start a new run, or put the file back"
    )
    assert (tmp_path / FINGERPRINTS).read_bytes() == kept


def test_equal_rows_are_equal_wherever_and_whenever_their_pictures_were_written(
    problems: list[Problem], tmp_path: Path
) -> None:
    Fingerprints(tmp_path, "rows").check("train", problems)
    os.utime(problems[0].images[0], (1, 1))
    moved = problems[1].images[0].rename(tmp_path / "moved.bmp")
    same = change(1, images=(moved,))(problems)
    Fingerprints(tmp_path, "rows").check("train", same)
    Fingerprints(tmp_path, "rows").check("another selection", same[:2])
    odd = [Problem("odd", "half an emoji: \ud83d", "\0")]
    for _ in range(2):
        Fingerprints(tmp_path, "rows").check("odd", odd)


def test_a_large_picture_is_read_at_several_places(tmp_path: Path) -> None:
    large = Problem("large", "?", "1", (noise(tmp_path / "large.bmp", 1, 400),))
    Fingerprints(tmp_path, "rows").check("train", [large])
    content = bytearray(large.images[0].read_bytes())
    assert len(content) > 400_000
    content[-1] ^= 255
    large.images[0].write_bytes(content)
    with pytest.raises(UserError, match="1 of 1 pictures"):
        Fingerprints(tmp_path, "rows").check("train", [large])


def test_pictures_in_memory(tmp_path: Path) -> None:
    """Encoded ones are compared by their bytes, drawn ones by their size."""

    def encoded(seed: int) -> list[Problem]:
        return [Problem("q", "?", "1", (EncodedImage(noise(tmp_path / "any.bmp", seed).read_bytes()),))]

    def drawn(color: str, size: int) -> list[Problem]:
        return [Problem("q", "?", "1", (Image.new("RGB", (size, 8), color),))]

    for key, same, other in (
        ("encoded", encoded(1), encoded(2)),
        ("drawn", drawn("red", 8), drawn("red", 9)),
    ):
        Fingerprints(tmp_path, "rows").check(key, same)
        Fingerprints(tmp_path, "rows").check(key, same)
        with pytest.raises(UserError, match="1 of 1 pictures"):
            Fingerprints(tmp_path, "rows").check(key, other)


def test_a_source_is_compared_whenever_it_is_read(problems: list[Problem], tmp_path: Path) -> None:
    """A file that is corrected while a run is under way stops it at the next stage."""

    class Rows:
        def __init__(self) -> None:
            self.rows, self.skipped = problems, {"line 4": "no answer"}

        def problems(self, selection: Selection, seed: int) -> list[Problem]:
            return self.rows[: selection.amount]

    rows = Rows()
    source = CheckedSource(rows, Fingerprints(tmp_path, "rows.jsonl"))
    assert source.problems(Selection(), 1) == source.problems(Selection(), 1) == problems
    assert source.problems(Selection(amount=2), 1) == problems[:2] and source.skipped == rows.skipped
    rows.rows = change(2, answer="?")(problems)
    assert source.problems(Selection(amount=2), 1) == problems[:2]  # what isn't used may change
    with pytest.raises(UserError, match="1 of 3 answers, the first in row 'q2'"):
        source.problems(Selection(), 1)
    looking = CheckedSource(rows, Fingerprints(tmp_path / "nowhere", "rows.jsonl", read_only=True))
    assert looking.problems(Selection(), 1) == rows.rows and not (tmp_path / "nowhere").exists()
