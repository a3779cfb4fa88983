"""A benchmark's rows: from the hub, or from a local folder of the same schema (JSON lines, JSON, Parquet, `save_to_disk`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Subset:
    """One split of one configuration of a data set; `images` are the columns that hold pictures, as in `data.columns.images`."""

    path: str
    split: str
    name: str | None = None
    revision: str | None = None
    images: tuple[Any, ...] = ("image",)

    @property
    def label(self) -> str:
        return self.name or self.split
