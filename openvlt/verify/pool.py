"""Disposable worker processes: kept warm, killed at the deadline, replaced at once. No signals, so any thread may use
them.

Works in the main thread, in other threads, in daemonic processes and after a fork (a forked process starts its own
pool): processes are started by `subprocess`, never by `multiprocessing`, which forbids children to daemons.
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
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHUNK = 32
"""Items sent to a worker at once; it answers each on its own, so the deadline is per item."""
_ROOT = str(Path(__file__).parents[2])


class _Worker:
    """One child process, the items it still owes and when it last answered."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid, self.channel = pid, channel
        self.received = bytearray()
        self.owed: deque[int] = deque()
        self.since = 0.0

    def give(self, items: Sequence[Any], indices: Sequence[int]) -> None:
        """Sends items; a worker that died meanwhile is noticed when its answers are read."""
        self.owed.extend(indices)
        self.since = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.channel.sendall(pickle.dumps([items[i] for i in indices]))

    def receive(self) -> list[Any] | None:
        """The answers that have arrived whole; None if the process is gone."""
        try:
            data = self.channel.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            return None
        self.received += data
        self.since = time.monotonic()
        answers = []
        while len(self.received) >= 4 and len(self.received) >= 4 + (
            size := int.from_bytes(self.received[:4])
        ):
            answers.append(pickle.loads(self.received[4 : 4 + size]))
            del self.received[: 4 + size]
        return answers


class Pool:
    """`count` workers for one task (`judge` or `symbolic`); `map` may be called from any thread, one call at a time."""

    def __init__(self, task: str, count: int) -> None:
        self.lock = threading.Lock()
        ours, theirs = socket.socketpair()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH")))),
            "PYTHONSAFEPATH": "1",
        }
        command = [sys.executable, "-m", "openvlt.verify.worker", task]
        self.parent = subprocess.Popen(command, stdin=theirs, env=environment, start_new_session=True)
        theirs.close()
        self.control = ours
        self._expect(b"ready")
        self.workers = [self._spawn() for _ in range(count)]

    def map(self, items: Sequence[Any], deadline_s: float) -> list[tuple[str, Any]]:
        """`(kind, answer)` per item, in order; `("done", "timeout")` for each that overran. Raises RuntimeError for a
        bug."""
        with self.lock:
            results: list[tuple[str, Any] | None] = [None] * len(items)
            waiting = deque(range(len(items)))
            share = max(1, min(CHUNK, len(items) // (2 * len(self.workers)) or 1))
            while waiting or any(worker.owed for worker in self.workers):
                for worker in self.workers:
                    if waiting and not worker.owed:
                        worker.give(items, [waiting.popleft() for _ in range(min(share, len(waiting)))])
                self._collect(results, waiting, deadline_s)
            return results

    def _collect(self, results: list[Any], waiting: deque[int], deadline_s: float) -> None:
        """Waits for one round of answers; kills and replaces who overran or died."""
        busy = [worker for worker in self.workers if worker.owed]
        patience = min(worker.since for worker in busy) + deadline_s - time.monotonic()
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.channel, selectors.EVENT_READ, worker)
            ready = [key.data for key, _ in selector.select(max(0.0, patience))]
        for worker in ready:
            if not self._receive(worker, results):
                self._replace(worker, results, waiting)
        for worker in busy:
            if worker not in ready and time.monotonic() - worker.since >= deadline_s:
                self._replace(worker, results, waiting)

    def _receive(self, worker: _Worker, results: list[Any]) -> bool:
        """Takes what a worker has sent; False if it died."""
        answers = worker.receive()
        for kind, answer in answers or ():
            if kind == "bug":
                self._discard(worker)
                raise RuntimeError(f"the verifier failed on an item; this is a bug:\n{answer}")
            results[worker.owed.popleft()] = (kind, answer)
        return answers is not None

    def _replace(self, worker: _Worker, results: list[Any], waiting: deque[int]) -> None:
        results[worker.owed.popleft()] = ("done", "timeout")
        waiting.extendleft(reversed(worker.owed))
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
        """Closes this process's ends only (after a fork the pool belongs to the parent)."""
        for worker in self.workers:
            worker.channel.close()
        self.control.close()


_pools: dict[tuple[str, int], Pool] = {}
_lock = threading.Lock()


def pool(task: str, count: int) -> Pool:
    """The process-wide pool of a task and size, started on first use and kept."""
    with _lock:
        if (task, count) not in _pools:
            _pools[task, count] = Pool(task, count)
        return _pools[task, count]


def close_pools() -> None:
    """Ends every pool of this process; the next use starts them anew."""
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
