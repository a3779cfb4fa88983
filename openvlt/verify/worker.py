"""The process behind a pool: it forks disposable children and, on request, kills them.

`pool.Pool` starts it as `python -m openvlt.verify.worker TASK`, with a socket as standard input. It imports
what the task needs once. A child is then a fork of a few milliseconds with everything loaded and used once,
so that none of this counts towards an item's deadline. A child ends itself at the deadline, by a timer of its
own CPU seconds. Children are killed only here, by the process that will reap them, so that a reused process
number can never be hit.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

from openvlt.verify.pool import WorkerReply

MEMORY = 512 * 2**20
"""Address space of a child in bytes; an item that would need more gets TIMEOUT."""
Handler = Callable[[Any], WorkerReply]
"""The function of a task: one item in, one reply out."""


def _load_grader() -> Handler:
    from openvlt.verify.api import grade_response, make_reply
    from openvlt.verify.grade.numeric import high_precision

    high_precision()  # imports mpmath
    return lambda item: make_reply(grade_response(**item))


_FIRST_QUESTIONS = (("y = 1/x", "xy = 1"), ("x^2 < 4", "(-2, 2)"), (r"\sin 2x", r"2 \sin x \cos x"))


def _load_sympy() -> Handler:
    from openvlt.verify.grade.symbolic import decide
    from openvlt.verify.parse.reader import read_answer

    for gold, answer in _FIRST_QUESTIONS:  # imports sympy and fills its caches
        decide(read_answer(gold), read_answer(answer))
    return lambda question: ("done", decide(*question).value)


TASKS = {"grade": _load_grader, "symbolic": _load_sympy}


def serve_task(task: str) -> None:
    """Answers `spawn` (with a socket) and a process number to kill, until the other side closes."""
    control = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handle = TASKS[task]()
    gc.freeze()
    children: set[int] = set()
    control.sendall(b"ready")
    while True:
        message, fds, _, _ = socket.recv_fds(control, 64, 1)
        if not message:
            break
        if fds:
            child = _spawn(control, fds[0], handle)
            children.add(child)
            control.sendall(b"%16d" % child)
        else:
            child = int(message)
            children.discard(child)
            _kill(child)
            control.sendall(b"%16d" % child)
    for child in children:
        _kill(child)


def _kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _spawn(control: socket.socket, fd: int, handle: Handler) -> int:
    child = os.fork()
    if child:
        os.close(fd)
        return child
    try:
        control.close()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        _serve(socket.socket(fileno=fd), handle)
    finally:
        os._exit(0)


def _serve(channel: socket.socket, handle: Handler) -> None:
    """Replies to each item of every list that arrives.

    The process ends when an item has used its deadline of CPU seconds. Out of memory is a timeout, any other
    exception a bug.
    """
    stream = channel.makefile("rb")
    while True:
        try:
            deadline_s, items = pickle.load(stream)
        except EOFError:
            return
        for item in items:
            signal.setitimer(signal.ITIMER_PROF, deadline_s)  # SIGPROF ends the process: no handler is set
            try:
                reply = handle(item)
            except MemoryError:
                reply = ("done", "timeout")
            except Exception:  # noqa: BLE001  (raised again in the calling process)
                reply = ("bug", traceback.format_exc())
            signal.setitimer(signal.ITIMER_PROF, 0)
            data = pickle.dumps(reply)
            channel.sendall(len(data).to_bytes(4) + data)


if __name__ == "__main__":
    serve_task(sys.argv[1])
