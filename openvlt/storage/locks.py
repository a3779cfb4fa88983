"""Locks of the file system: one process at a time may write. A lock ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

# Lustre without flock, NFS without a lock service
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def hold_lock(file: IO[Any], *, wait: bool = True) -> Iterator[None]:
    """Holds the lock of `file`, open for writing. Raises BlockingIOError if it is taken and `wait` is false.

    On a file system without locks nothing is held: only one process may write there.
    """
    held = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        held = False
    try:
        yield
    finally:
        if held:
            fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds the lock of the folder's file `.lock`. Raises BlockingIOError if another process has it."""
    with (folder / ".lock").open("a") as file, hold_lock(file, wait=False):  # NFS can't lock a folder itself
        yield
