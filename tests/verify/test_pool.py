"""The pool: order, deadline, memory, replacement, and every place it may be called from."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from openvlt.errors import UserError
from openvlt.types import Verdict
from openvlt.verify import pool, verify_batch

pytestmark = pytest.mark.deadline
ROOT = Path(__file__).parents[2]
HANGS = ("(x+y+z)^{2}", "<answer>(x+y+z)^{4000}</answer>")
PATIENT_S = 600.0  # a deadline that nothing here meets


def test_order_is_kept() -> None:
    items = [(str(i), f"<answer>{i if i % 3 else i + 1}</answer>") for i in range(500)]
    expected = [Verdict.CORRECT if i % 3 else Verdict.WRONG for i in range(500)]
    for count in (0, 1, 3):
        assert verify_batch(items, workers=count, deadline_s=PATIENT_S) == expected


@pytest.mark.parametrize("count", [0, 2])
def test_an_overrun_costs_its_own_verdict_only(count: int) -> None:
    items = [
        ("7", "<answer>7</answer>"),
        HANGS,
        ("x=1", "<answer>x=1</answer>"),
        HANGS,
        (r"y=\frac{1}{x}", "<answer>xy=1</answer>"),
    ]
    expected = [Verdict.CORRECT, Verdict.TIMEOUT, Verdict.CORRECT, Verdict.TIMEOUT, Verdict.CORRECT]
    assert verify_batch(items, workers=count, deadline_s=0.4) == expected


def _state(pid: int) -> str:
    """The state letter that the kernel shows for a process: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_deadline_counts_cpu_seconds_of_the_worker() -> None:
    """A worker that gets no processor for longer than the deadline still gives its verdict."""
    deadline_s = 0.1
    workers = pool.Pool("grade", 1)
    try:
        item = {"gold": "7", "response": "<answer>7</answer>"}
        pid = workers.workers[0].pid
        os.kill(pid, signal.SIGSTOP)
        while _state(pid) != "T":
            time.sleep(0.001)
        found: list[pool.WorkerReply] = []
        thread = threading.Thread(target=lambda: found.extend(workers.map([item], deadline_s)))
        thread.start()
        thread.join(2 * deadline_s)
        assert thread.is_alive() and not found
        os.kill(pid, signal.SIGCONT)
        thread.join()
        assert found == [("done", "correct")] and workers.workers[0].pid == pid
    finally:
        workers.close()


def test_a_worker_that_dies_is_replaced() -> None:
    workers = pool.Pool("grade", 2)
    try:
        pid = workers.workers[0].pid
        subprocess.run(["kill", "-9", str(pid)], check=True)
        items = [{"gold": "7", "response": "<answer>7</answer>"}] * 40
        answers = workers.map(items, PATIENT_S)
        assert sum(answer == ("done", "correct") for answer in answers) >= 39
        assert pid not in {worker.pid for worker in workers.workers}
        assert workers.map(items, PATIENT_S) == [("done", "correct")] * 40
    finally:
        workers.close()


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = subprocess.run(
        [
            sys.executable,
            "-c",
            "import resource, openvlt.verify.worker as w\n"
            "resource.setrlimit(resource.RLIMIT_AS, (w.MEMORY, w.MEMORY))\n"
            "try:\n bytearray(600 * 2**20)\nexcept MemoryError:\n print('refused')",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert limits.stdout.strip() == "refused"


def test_threads_share_the_pool() -> None:
    found: list[list[Verdict]] = []
    items = [(str(i), f"<answer>{i}</answer>") for i in range(100)]
    threads = [
        threading.Thread(target=lambda: found.append(verify_batch(items, workers=2, deadline_s=PATIENT_S)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[Verdict.CORRECT] * 100] * 4


def _symbolic() -> Verdict:
    """The verdict of a question for sympy, with time enough on a busy machine."""
    return verify_batch([(r"y=\frac{1}{x}", "<answer>xy=1</answer>")], workers=0, deadline_s=PATIENT_S)[0]


def _verify_here(answers: Connection) -> None:
    nine = verify_batch([("7", "<answer>7</answer>")] * 9, workers=1, deadline_s=PATIENT_S)
    answers.send((_symbolic(), nine))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_daemonic_processes_have_their_own(method: str) -> None:
    """A data-loader worker is such a process; it may be forked while the parent's pool is in use."""
    assert _symbolic() is Verdict.CORRECT
    context = multiprocessing.get_context(method)
    answers, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_verify_here, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of its answers
    assert answers.recv() == (Verdict.CORRECT, [Verdict.CORRECT] * 9)
    process.join()
    assert _symbolic() is Verdict.CORRECT


def test_wrong_items_are_the_users_mistake() -> None:
    for items in (
        ["12"],
        [{"gold": "12"}],
        [{"gold": "1", "response": "1", "choice": []}],
        [("1", "2", "3")],
        [("1",)],
    ):
        with pytest.raises(UserError):
            verify_batch(items, workers=0, deadline_s=1)
    with pytest.raises(UserError):
        verify_batch([("1", "1")], workers=-1, deadline_s=1)


def test_no_processes_are_left_behind() -> None:
    script = (
        "from openvlt.verify import verify_batch\nfrom openvlt.verify.pool import get_pool\n"
        "verify_batch([('7','7')]*4, workers=2, deadline_s=600)\nprint(get_pool('grade', 2).parent.pid)"
    )
    pid = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert not Path(f"/proc/{pid}").exists()


def test_importing_is_light() -> None:
    script = "import sys, openvlt.verify\nprint([m for m in ('sympy', 'mpmath', 'torch', 'numpy') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_command_line() -> None:
    command = [
        sys.executable,
        "-m",
        "openvlt.verify",
        "B",
        "<answer>12</answer>",
        "--choices",
        "10 cm",
        "12 cm",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "correct" in result.stdout and "option B" in result.stdout


IMPORTS = (
    "import openvlt.verify.extract.extractor",
    "import openvlt.verify.extract",
    "from openvlt.verify.extract import patterns",
    "from openvlt.verify.extract.sentence import find_value",
    "import importlib; importlib.import_module('openvlt.verify.extract.conclusion')",
    "import openvlt.verify",
)


@pytest.mark.parametrize("first", IMPORTS)
def test_extract_is_the_function_whatever_is_imported_first(first: str) -> None:
    """`openvlt.verify.extract` is a package too; the name in `openvlt.verify` must stay the function."""
    script = (
        f"{first}\nfrom openvlt.verify import extract\nassert extract('The answer is 12.') == '12'\n"
        + "\n".join(IMPORTS)
        + "\nimport openvlt.verify\nassert openvlt.verify.extract is extract and patterns.CLAIMS\n"
        "assert sorted(openvlt.verify.__all__) == ['Verdict', 'explain', 'extract', 'verify', 'verify_batch']"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
