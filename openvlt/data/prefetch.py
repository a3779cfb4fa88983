"""Work done before its result is asked for, by a forked process: images are opened and cut while this process trains."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from openvlt.errors import UserError


class PrefetchWorker:
    """A process that knows what this one knew when it was made, and answers orders one after the other with `work(order)`.

    Orders are pickled, results too but for tensors, which come in shared memory. On Linux only: elsewhere a process can't be forked, and
    what `work` holds would have to be pickled.
    """

    def __init__(self, work: Callable[[Any], Any]) -> None:
        from torch import multiprocessing

        context = multiprocessing.get_context("fork")
        self.ours, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, self.ours, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.begun: deque[Any] = deque()

    @staticmethod
    def possible(workers: int) -> bool:
        """Whether a process for this is wanted and can be had."""
        return workers > 0 and sys.platform == "linux"

    def begin(self, order: Any) -> None:
        """Has `work(order)` done as soon as the orders before it are."""
        self.begun.append(order)
        self.ours.send(order)

    def get(self, order: Any) -> Any:
        """The result of an order that was begun, None of one that wasn't; orders begun before it are forgotten.

        Raises the UserError that the work met, RuntimeError for any other end of it.
        """
        while order in self.begun:
            begun, (result, error) = self.begun.popleft(), self._received()
            if begun == order:
                if error is not None:
                    raise error
                return result
        return None

    def _received(self) -> tuple[Any, Exception | None]:
        try:
            return self.ours.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join()
            raise UserError(
                f"the worker that prepares images ended (exit status {self.process.exitcode}): too little memory, or too little in "
                "/dev/shm? trainer.workers=0 does without it"
            ) from error

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self.ours.close()
        self.process.kill()
        self.process.join()


def _serve(work: Callable[[Any], Any], ours: Connection, theirs: Connection) -> None:
    """Answers until the other side is gone, however it went."""
    import torch

    ours.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that trains
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # OpenMP's threads were not forked
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # nor were those of tokenizers, which would say so
    while True:
        try:
            theirs.send(_outcome(work, theirs.recv()))
        except (EOFError, ConnectionError):
            return


def _outcome(work: Callable[[Any], Any], order: Any) -> tuple[Any, Exception | None]:
    try:
        return work(order), None
    except UserError as error:
        return None, error
    except Exception:
        return None, RuntimeError(f"in the worker that prepares images:\n{traceback.format_exc()}")
