"""The far side of `workers`: one parent process that forks disposable children and, on request, kills them.

Started by `workers.Pool` as `python -m openvlt.verify.worker TASK`, with a socket as standard input. It imports what
the task needs once; a child is then a fork of a few milliseconds with everything loaded. Children are killed only
here, by the process that will reap them, so that a recycled process number can never be hit.
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

MEMORY = 512 * 2**20
"""Address space of a child in bytes; what would need more ends as a TIMEOUT."""


def _judging() -> Callable[[Any], Any]:
    from openvlt.verify.core import explain

    def judge_one(item: dict[str, Any]) -> tuple[str, Any]:
        result = explain(**item)
        return ("pending", result.values) if result.pending else ("done", result.verdict.value)

    return judge_one


def _symbolic() -> Callable[[Any], Any]:
    import sympy  # noqa: F401  (loaded before forking)

    from openvlt.verify.grade.symbolic import decide

    return lambda question: ("done", decide(*question).value)


TASKS = {"judge": _judging, "symbolic": _symbolic}


def main(task: str) -> None:
    """Serves `spawn` (with a socket) and `kill` (with a process number) until the other side closes."""
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


def _spawn(control: socket.socket, fd: int, handle: Callable[[Any], Any]) -> int:
    child = os.fork()
    if child:
        os.close(fd)
        return child
    try:
        control.close()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _serve(socket.socket(fileno=fd), handle)
    finally:
        os._exit(0)


def _serve(channel: socket.socket, handle: Callable[[Any], Any]) -> None:
    """Answers lists of items one by one. Running out of memory is an answer; any other exception is reported as the
    bug it is."""
    stream = channel.makefile("rb")
    while True:
        try:
            items = pickle.load(stream)
        except EOFError:
            return
        for item in items:
            try:
                reply = handle(item)
            except MemoryError:
                reply = ("done", "timeout")
            except Exception:  # noqa: BLE001  (raised again in the calling process)
                reply = ("bug", traceback.format_exc())
            data = pickle.dumps(reply)
            channel.sendall(len(data).to_bytes(4) + data)


if __name__ == "__main__":
    main(sys.argv[1])
