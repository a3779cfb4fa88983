"""Pools of disposable worker processes, which are kept warm, end at their deadline and are replaced at once.

A deadline is in CPU seconds of the worker, which keeps it itself: a busy machine delays a verdict but never
changes it. The calling process uses no signals, so a pool works in any thread. It also works in daemonic
processes and after a fork, where the forked process starts its own pool. Processes are started by
`subprocess`, because `multiprocessing` forbids children to daemonic processes.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import selectors
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

WorkerReply = tuple[str, Any]
"""A worker's answer to one item: `("done", verdict)`, `("pending", two values)`, `("bug", traceback)`."""
CHUNK = 32
"""Items sent to a worker at once. It replies to each one separately, so the deadline is per item."""
_ROOT = str(Path(__file__).parents[2])


class _Worker:
    """One child process and the items it has not replied to yet."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid, self.channel = pid, channel
        self.received = bytearray()
        self.unanswered: deque[int] = deque()

    def send(self, items: Sequence[Any], indices: Sequence[int], deadline_s: float) -> None:
        """Sends items to the process; `receive` notices if it has died."""
        self.unanswered.extend(indices)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.channel.sendall(pickle.dumps((deadline_s, [items[i] for i in indices])))

    def receive(self) -> list[WorkerReply] | None:
        """The replies that have arrived completely; None if the process is gone."""
        try:
            data = self.channel.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            return None
        self.received += data
        replies = []
        while len(self.received) >= 4 and len(self.received) >= 4 + (
            size := int.from_bytes(self.received[:4])
        ):
            replies.append(pickle.loads(self.received[4 : 4 + size]))
            del self.received[: 4 + size]
        return replies


class Pool:
    """`count` workers for one task, "grade" or "symbolic". Any thread may call `map`, one at a time."""

    def __init__(self, task: str, count: int) -> None:
        self.lock = threading.Lock()
        ours, theirs = socket.socketpair()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH")))),
            "PYTHONSAFEPATH": "1",
        }
        command = [sys.executable, "-m", "openvlt.verify.worker", task]
        self.parent = subprocess.Popen(
            command, stdin=theirs.fileno(), env=environment, start_new_session=True
        )
        theirs.close()
        self.control = ours
        self._expect(b"ready")
        self.workers = [self._spawn() for _ in range(count)]

    def map(self, items: Sequence[Any], deadline_s: float) -> list[WorkerReply]:
        """One reply per item, in order; `("done", "timeout")` for each item over its deadline.

        `deadline_s` is in CPU seconds of the worker, counted from when it takes up the item.
        Raises RuntimeError if a worker reports a bug.
        """
        with self.lock:
            results: list[WorkerReply | None] = [None] * len(items)
            waiting = deque(range(len(items)))
            share = max(1, min(CHUNK, len(items) // (2 * len(self.workers)) or 1))
            while waiting or any(worker.unanswered for worker in self.workers):
                for worker in self.workers:
                    if waiting and not worker.unanswered:
                        indices = [waiting.popleft() for _ in range(min(share, len(waiting)))]
                        worker.send(items, indices, deadline_s)
                self._collect(results, waiting)
            return cast(list[WorkerReply], results)

    def _collect(self, results: list[WorkerReply | None], waiting: deque[int]) -> None:
        """Waits for one round of replies; replaces workers that have ended at a deadline or otherwise."""
        with selectors.DefaultSelector() as selector:
            for worker in self.workers:
                if worker.unanswered:
                    selector.register(worker.channel, selectors.EVENT_READ, worker)
            ready = [key.data for key, _ in selector.select()]
        for worker in ready:
            if not self._receive(worker, results):
                self._replace(worker, results, waiting)

    def _receive(self, worker: _Worker, results: list[WorkerReply | None]) -> bool:
        """Stores the replies that a worker has sent; False if it died."""
        replies = worker.receive()
        for kind, answer in replies or ():
            if kind == "bug":
                self._discard(worker)
                raise RuntimeError(f"the verifier failed on an item; this is a bug:\n{answer}")
            results[worker.unanswered.popleft()] = (kind, answer)
        return replies is not None

    def _replace(self, worker: _Worker, results: list[WorkerReply | None], waiting: deque[int]) -> None:
        results[worker.unanswered.popleft()] = ("done", "timeout")
        waiting.extendleft(reversed(worker.unanswered))
        self._discard(worker)

    def _discard(self, worker: _Worker) -> None:
        worker.channel.close()
        self.control.sendall(b"%d" % worker.pid)
        self._expect(b"%16d" % worker.pid)
        self.workers[self.workers.index(worker)] = self._spawn()

    def _spawn(self) -> _Worker:
        ours, theirs = socket.socketpair()
        socket.send_fds(self.control, [b"spawn"], [theirs.fileno()])
        theirs.close()
        return _Worker(int(self._read(16)), ours)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.control.recv(size - len(data))
            if not part:
                raise RuntimeError(
                    f"the verifier's worker process ended with status {self.parent.wait()}; "
                    "its own message stands above"
                )
            data += part
        return data

    def _expect(self, data: bytes) -> None:
        got = self._read(len(data))
        if got != data:
            raise RuntimeError(f"the verifier's worker process said {got!r}, expected {data!r}")

    def close(self) -> None:
        """Ends all processes of the pool."""
        self.forget()
        self.parent.wait()

    def forget(self) -> None:
        """Closes only this process's ends of the sockets: after a fork the pool belongs to the parent."""
        for worker in self.workers:
            worker.channel.close()
        self.control.close()


_pools: dict[tuple[str, int], Pool] = {}
_lock = threading.Lock()


def get_pool(task: str, count: int) -> Pool:
    """The pool of a task and size that this process shares; started on first use and kept."""
    with _lock:
        if (task, count) not in _pools:
            _pools[task, count] = Pool(task, count)
        return _pools[task, count]


def close_pools() -> None:
    """Ends every pool of this process; the next use starts a new one."""
    with _lock:
        while _pools:
            _pools.popitem()[1].close()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    while _pools:
        _pools.popitem()[1].forget()


atexit.register(close_pools)
os.register_at_fork(after_in_child=_after_fork)
