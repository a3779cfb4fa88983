"""What can be wrong with data, with the facts as attributes. Which settings mend it is added by `openvlt.cli.errors`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvlt.errors import UserError


class DataError(UserError):
    """A UserError made of facts: a dataclass whose text is its sentence. It can be pickled, as every error of a worker is."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self.__dataclass_fields__)


@dataclass(eq=False)
class UnknownSplit(DataError):
    """A data set on disk has other splits than the one asked for."""

    path: Path | str
    split: str
    there: Collection[str]

    def __str__(self) -> str:
        return f"{self.path} has no split {self.split!r}, but {sorted(self.there)}"


@dataclass(eq=False)
class UnavailableDataSet(DataError):
    """A data set can't be loaded, for a reason that `datasets` gives in one line or several."""

    path: Path | str
    split: str
    reason: str

    def __str__(self) -> str:
        return f"data set {self.path}, split {self.split!r}, can't be loaded: {self.reason}"
