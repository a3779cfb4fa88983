"""A forked process that works ahead: it opens images and cuts them into patches while this one trains."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from openvlt.data.errors import WorkerEnded
from openvlt.errors import UserError


class PrefetchWorker:
    """A forked process that calls `function(order)` for one order after the other.

    It has a copy of this process's memory as it was at the fork, so that only orders and results are pickled
    (tensors come in shared memory). Linux only: elsewhere a process can't be forked, and all that `function`
    holds would have to be pickled.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        from torch import multiprocessing

        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, self.connection, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.pending: deque[Any] = deque()

    @staticmethod
    def is_available(workers: int) -> bool:
        """Whether a process is wanted and can be had."""
        return workers > 0 and sys.platform == "linux"

    def submit(self, order: Any) -> None:
        """Has `function(order)` called as soon as the orders before it are done."""
        self.pending.append(order)
        self.connection.send(order)

    def result(self, order: Any) -> Any:
        """The result of a submitted order, None for one that wasn't. Orders submitted before it are dropped.

        Raises the UserError that `function` raised, RuntimeError for any other error of it.
        """
        while order in self.pending:
            done, (result, error) = self.pending.popleft(), self._receive()
            if done == order:
                if error is not None:
                    raise error
                return result
        return None

    def _receive(self) -> tuple[Any, Exception | None]:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join()
            raise WorkerEnded(self.process.exitcode) from error

    def close(self) -> None:
        """Kills the process, whatever it is doing."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def _serve(function: Callable[[Any], Any], parent: Connection, connection: Connection) -> None:
    """Answers orders until the other process is gone, however it ended."""
    import torch

    parent.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that trains
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # OpenMP's threads were not forked
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # nor were those of tokenizers, which would warn of it
    while True:
        try:
            connection.send(_call(function, connection.recv()))
        except (EOFError, ConnectionError):
            return


def _call(function: Callable[[Any], Any], order: Any) -> tuple[Any, Exception | None]:
    """The result and no error, or None and the error to raise in the other process."""
    try:
        return function(order), None
    except UserError as error:
        return None, error
    except Exception:
        return None, RuntimeError(f"in the worker that prepares images:\n{traceback.format_exc()}")
