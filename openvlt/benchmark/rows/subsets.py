"""A benchmark's subsets: which configuration and split of a data set holds their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Subset:
    """One split of one configuration of a data set; `images` as in `data.columns.images`."""

    path: str
    split: str
    name: str | None = None
    revision: str | None = None
    images: tuple[Any, ...] = ("image",)

    @property
    def label(self) -> str:
        """The configuration's name, else the split's."""
        return self.name or self.split
