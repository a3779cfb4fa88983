"""Hostile answers: each under a second, within memory, executing nothing, wherever the verifier is called from."""

from __future__ import annotations

import multiprocessing
import resource
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from openvlt.types import Verdict
from openvlt.verify import explain, verify, verify_batch
from tests.helpers.hostile_answers import inputs

pytestmark = pytest.mark.deadline
DEADLINE_S, LIMIT_S, LIMIT_KB = 0.2, 1.0, 512 * 1024
LEAST = 300
SAMPLE = slice(0, None, 7)
"""What is tried again from another thread and process: every kind is tried once, and in workers."""


@pytest.fixture(scope="module")
def canary() -> Iterator[Path]:
    """A place for code to write to; a digit in its path could be the gold answer, as in pytest's twelfth folder."""
    letters = bytes(97 + byte % 26 for byte in secrets.token_bytes(12)).decode()
    folder = Path(tempfile.gettempdir()) / f"canary-{letters}"
    folder.mkdir()
    yield folder / "bird"
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def hostile(canary: Path) -> list[tuple[str, str, str]]:
    return list(inputs(str(canary)))


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Starting the symbolic worker once is not part of any answer's second."""
    verify(r"y=\frac{1}{x}", "<answer>xy=1</answer>")


def _verify_all(hostile: list[tuple[str, str, str]]) -> list[tuple[str, float, Verdict]]:
    """Name, CPU seconds of this thread, verdict; a worker's seconds are bounded by the deadline (test_pool)."""
    found = []
    for name, gold, response in hostile:
        start = time.thread_time()
        verdict = verify_batch([(gold, response)], workers=0, deadline_s=DEADLINE_S)[0]
        found.append((name, time.thread_time() - start, verdict))
    return found


def _slow(found: list[tuple[str, float, Verdict]]) -> list[tuple[str, float, Verdict]]:
    return [each for each in found if each[1] > LIMIT_S - DEADLINE_S]


@pytest.fixture(scope="module")
def results(hostile: list[tuple[str, str, str]]) -> tuple[list[tuple[str, float, Verdict]], int]:
    """The verdicts in the main thread, and by how many KB they made this process grow."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = _verify_all(hostile)
    return found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def test_there_are_enough_kinds(hostile: list[tuple[str, str, str]]) -> None:
    assert len({name for name, _, _ in hostile}) >= LEAST


def test_each_is_answered_within_a_second_in_the_main_thread(
    results: tuple[list[tuple[str, float, Verdict]], int],
) -> None:
    found, grown = results
    assert not _slow(found) and grown < LIMIT_KB


def test_none_is_correct(
    hostile: list[tuple[str, str, str]], results: tuple[list[tuple[str, float, Verdict]], int]
) -> None:
    """Only the kinds that aren't the right answer in brackets, boxes or invisible characters."""
    kinds = ("code", "operators", "environments", "relations", "powers", "factorials", "giants")
    short = {name for name, gold, _ in hostile if name.startswith(kinds) and len(gold) < 100}
    assert (
        len(short) > 100
        and [name for name, _, verdict in results[0] if name in short and verdict is Verdict.CORRECT] == []
    )


def test_within_a_second_in_a_thread(hostile: list[tuple[str, str, str]]) -> None:
    found: list[tuple[str, float, Verdict]] = []
    thread = threading.Thread(target=lambda: found.extend(_verify_all(hostile[SAMPLE])))
    thread.start()
    thread.join()
    assert len(found) == len(hostile[SAMPLE]) and not _slow(found)


def _child(hostile: list[tuple[str, str, str]], answers: Connection) -> None:
    verify(r"y=\frac{1}{x}", "<answer>xy=1</answer>")
    answers.send(_verify_all(hostile))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_within_a_second_in_a_daemonic_process(hostile: list[tuple[str, str, str]], method: str) -> None:
    context = multiprocessing.get_context(method)
    answers, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(hostile[SAMPLE], theirs), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of its answers
    found = answers.recv()
    process.join()
    assert len(found) == len(hostile[SAMPLE]) and not _slow(found)


def test_a_pool_of_workers_survives_them_all_in_order(hostile: list[tuple[str, str, str]]) -> None:
    items = [
        item for _, gold, response in hostile for item in ((gold, response), ("7", "<answer>7</answer>"))
    ]
    verdicts = verify_batch(items, workers=2, deadline_s=DEADLINE_S)
    assert len(verdicts) == len(items) and set(verdicts[1::2]) == {Verdict.CORRECT}


PIECES = [
    "is ",
    "the is ",
    "is: ",
    "A, ",
    "A or B also C ",
    "was but ",
    "not 3 ",
    "if 3, 4 ",
    "are 5 and ",
    "twenty-because",
    "ab",
]


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(
    "around", ["{}", "<answer>{}</answer>", "<answer>{}10</answer>", "<answer>(B) {}?</answer>"]
)
def test_repeated_phrases_take_less_than_a_second(piece: str, around: str) -> None:
    """No pattern may try every way to split a repetition (three of them did, for ever); with and without options."""
    for length, choices in (
        (120, None),
        (120, ["3 or 4", "5", "march"]),
        (2_000, None),
        (2_000, ["3 or 4", "5", "march"]),
    ):
        start = time.thread_time()  # of this thread alone, however busy the machine
        explain("B", around.format(piece * (length // len(piece))), choices=choices)
        assert time.thread_time() - start < LIMIT_S


def test_no_code_was_executed(hostile: list[tuple[str, str, str]], tmp_path: Path) -> None:
    canary = tmp_path / "bird"
    for _, gold, response in (item for item in inputs(str(canary)) if item[0].startswith("code")):
        explain(gold, response, choices=["12", "13"])
        explain(response, gold)
        explain(response, response)
    assert not canary.exists()
