"""Who may write: one process at a time, by locks of the file system, which end with the process that holds them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_NONE_HERE = (
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
)  # Lustre without flock, NFS without a lock service


@contextlib.contextmanager
def hold_lock(file: IO[Any], *, wait: bool = True) -> Iterator[None]:
    """The lock of `file` (open for writing) is held meanwhile. Raises BlockingIOError when another has it and `wait` is false.

    On a file system without locks nothing is held: only one process may write there.
    """
    held = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NONE_HERE:
            raise
        held = False
    try:
        yield
    finally:
        if held:
            fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """This process works in the folder, by the lock of its file `.lock`. Raises BlockingIOError when another one does."""
    with (
        (folder / ".lock").open("a") as file,
        hold_lock(file, wait=False),
    ):  # a folder can't be locked itself over NFS
        yield
