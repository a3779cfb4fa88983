"""A process that works ahead: its answers, what it says when it fails, and that it never outlives its owner."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from openvlt.data.prefetch import PrefetchWorker
from openvlt.errors import UserError

pytestmark = pytest.mark.skipif(
    not PrefetchWorker.is_available(1), reason="processes are forked on Linux only"
)


def work(order: tuple[str, float]) -> tuple[int, torch.Tensor]:
    what, number = order
    if what == "wrong":
        raise UserError(f"row {number}: no such image")
    if what == "broken":
        return 1 / 0
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid(), torch.full((3,), number)


@pytest.fixture
def ahead():
    made = PrefetchWorker(work)
    yield made
    made.close()
    assert made.process.exitcode is not None


def test_results_come_in_any_order_of_asking_and_others_are_forgotten(ahead):
    for number in (1.0, 2.0, 3.0, 4.0):
        ahead.submit(("made", number))
    assert ahead.result(("made", 9.0)) is None  # was never submitted: nothing is forgotten for it
    for number in (2.0, 4.0):
        pid, made = ahead.result(("made", number))
        assert pid != os.getpid() and made.tolist() == [number] * 3
    assert ahead.result(("made", 1.0)) is None and ahead.result(("made", 3.0)) is None


def test_what_goes_wrong_is_said_when_it_is_asked_for(ahead):
    for order in (("wrong", 7), ("made", 1.0), ("wrong", 8), ("broken", 0), ("made", 2.0)):
        ahead.submit(order)
    assert ahead.result(("made", 1.0)) is not None  # nobody asked for row 7
    with pytest.raises(UserError, match="row 8: no such image"):
        ahead.result(("wrong", 8))
    with pytest.raises(
        RuntimeError, match="in the worker that prepares images:(.|\n)*return 1 / 0(.|\n)*ZeroDivisionError"
    ):
        ahead.result(("broken", 0))
    assert ahead.result(("made", 2.0)) is not None
    ahead.submit(("killed", 0))
    with pytest.raises(UserError, match=r"ended \(exit status -9\): too little memory, or .*/dev/shm"):
        ahead.result(("killed", 0))


def test_the_worker_of_a_killed_process_ends():
    """Nobody closes it: its owner had no time to."""
    alive, theirs = os.pipe()  # the owner and its worker hold the other end
    owner = os.fork()
    if owner == 0:
        PrefetchWorker(work)
        os.write(theirs, b"made")
        signal.pause()
    os.close(theirs)
    assert os.read(alive, 4) == b"made"
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    assert os.read(alive, 4) == b""  # comes when the worker has ended
    os.close(alive)
