"""An append-only file of rows by key: it makes a stage of calls resumable, and repeated calls free."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.storage.jsonl import drop_partial_line
from openvlt.storage.locks import hold_lock

_WIDTH = 32
_LINE = re.compile(rb'\{"key": "([0-9a-f]{%d})"[,}]' % _WIDTH)


def content_key(*parts: Any) -> str:
    """32 hexadecimal digits that stand for these values: equal for equal content, in any process."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_WIDTH // 2).hexdigest()


class Ledger:
    """Rows of one file by key (`content_key`). A row is on disk when `append` returns.

    A half-written last line is cut off. Rows stay on disk: memory is 16 bytes a row. The first row of a key
    counts. Several processes may append to one file at a time: each holds the file's lock while it writes,
    and reads the others' rows first. A rank other than the main one writes nothing: it keeps the file's rows
    and its own in memory.
    """

    def __init__(self, file: Path) -> None:
        import numpy as np

        self.file = file
        self._handle: BinaryIO
        if distributed.is_main():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._handle = file.open("a+b")
        else:
            self._handle = io.BytesIO(file.read_bytes() if file.is_file() else b"")
        self._keys, self._places = np.empty(0, np.uint64), np.empty(0, np.uint64)
        self._recent: dict[int, int] = {}
        self._end = self._lines = 0
        with self._lock():
            pass

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()

    def __len__(self) -> int:
        return len(self._keys) + len(self._recent)

    def __contains__(self, key: str) -> bool:
        return self._place(key) is not None

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of this key, without the key; None when it isn't there."""
        place = self._place(key)
        if place is None:
            return None
        self._handle.seek(place)
        row = self._read(self._handle.readline())
        del row["key"]
        return row

    def append(self, key: str, row: Mapping[str, Any]) -> None:
        """Appends a row, unless its key is there."""
        if key in self:
            return
        line = json.dumps({"key": key, **row}, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        with self._lock():
            if key not in self:
                self._handle.seek(0, io.SEEK_END)
                self._handle.write(line)
                self._handle.flush()
                self._note(key, self._end)
                self._end, self._lines = self._end + len(line), self._lines + 1

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows, with their keys, in the order of `append`; one that is being written is left out."""
        with self._open_again() as lines:
            yield from (self._read(line) for line in lines if line.endswith(b"\n"))

    def _open_again(self) -> BinaryIO:
        """Reads what `append` has written, from the beginning."""
        memory = self._handle
        return io.BytesIO(memory.getvalue()) if isinstance(memory, io.BytesIO) else self.file.open("rb")

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            return json.loads(line)
        except ValueError as error:
            with self._open_again() as lines:
                number = next(number for number, each in enumerate(lines, 1) if each == line)
            raise UserError(
                f"{self.file}, line {number} is not valid JSON ({error}); "
                "restore the file, or remove that line"
            ) from error

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Holds the file's lock, notes the rows of others, and cuts off a line that a killed process left."""
        if isinstance(self._handle, io.BytesIO):
            if not self._end:
                self._handle.truncate(self._handle.getvalue().rfind(b"\n") + 1)
                self._scan()
            yield
            return
        with hold_lock(self._handle):
            self._handle.flush()  # forgets what was read ahead
            if os.fstat(self._handle.fileno()).st_size != self._end:
                drop_partial_line(self.file)
                self._scan()
            yield

    def _scan(self) -> None:
        self._handle.seek(self._end)
        for line in self._handle:
            found = _LINE.match(line)
            if found is None:
                raise UserError(
                    f"{self.file}, line {self._lines + 1} has no key, so this is no ledger; "
                    "restore the file, or move it away"
                )
            key = found[1].decode()
            if key not in self:
                self._note(key, self._end)
            self._end, self._lines = self._end + len(line), self._lines + 1

    def _note(self, key: str, place: int) -> None:
        """Notes where a row begins: in a dictionary, now and then moved to sorted arrays, a tenth in size."""
        import numpy as np

        self._recent[int(key[:16], 16)] = place
        if len(self._recent) >= 2048:
            keys = np.concatenate([self._keys, np.fromiter(self._recent.keys(), np.uint64)])
            places = np.concatenate([self._places, np.fromiter(self._recent.values(), np.uint64)])
            order = keys.argsort(kind="stable")
            self._keys, self._places, self._recent = keys[order], places[order], {}

    def _place(self, key: str) -> int | None:
        import numpy as np

        number = int(key[:16], 16)
        if number in self._recent:
            return self._recent[number]
        row = int(np.searchsorted(self._keys, np.uint64(number)))
        return int(self._places[row]) if row < len(self._keys) and int(self._keys[row]) == number else None
