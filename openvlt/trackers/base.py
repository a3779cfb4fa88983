"""What a tracker is: the protocol that each of this room's files fills, and what a run tells it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from PIL.Image import Image

from openvlt.data.images import open_image
from openvlt.errors import UserError

WIDEST = 640  # pixels of a picture's longer side in a table

TableRow = Mapping[str, Any]
"""A row of a table by column: numbers, texts, None, and pictures as the paths of their files."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of its run. `id` is unique, and the same after `resume=`.

    `config` is resolved. `known` says that the tracker has followed this run before.
    """

    id: str
    name: str
    folder: Path
    config: Mapping[str, Any]
    tags: Mapping[str, str]
    group: str | None = None
    known: bool = False

    @property
    def title(self) -> str:
        """The name under which a tracker shows it."""
        return f"{self.name}-{self.id}"


class Tracker(Protocol):
    """Shows a run elsewhere. `step` counts the whole run's optimiser steps, names are `<stage>/<name>`.

    Built from the settings of `conf/logger/*.yaml`, it needs its library from `check` on. Its client may
    raise anything: `Recorder` catches it. One that `buffers` may lose what it was told last when the process
    is killed, and is then told all of it again.
    """

    buffers: ClassVar[bool]

    def check(self) -> None:
        """Raises UserError when the library isn't installed or a setting can't be. Starts nothing."""
        ...

    def start(self, run: TrackedRun) -> str:
        """Opens the run, or the one of the same id again. Returns where it is, and how to upload it."""
        ...

    def log_metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def log_table(self, name: str, rows: Sequence[TableRow], step: int) -> None: ...

    def log_file(self, file: Path) -> None: ...

    def finish(self, summary: Mapping[str, float], done: bool) -> None:
        """Closes the run; `summary` holds its final scores, `done` says that it came to its end."""
        ...


def open_thumbnail(path: Path) -> Image:
    """A picture for a table, at most `WIDEST` pixels wide and high. Raises UserError if it can't be read."""
    image = open_image(path, path.name)
    image.thumbnail((WIDEST, WIDEST))
    return image


def lay_out_table(
    rows: Sequence[TableRow], show: Callable[[Image], Any]
) -> tuple[list[Any], list[list[Any]]]:
    """The header and the cells of a table; `show` turns a picture into a cell."""
    header = list(rows[0])
    cells = [[row[column] for column in header] for row in rows]
    shown = [
        [show(open_thumbnail(cell)) if isinstance(cell, Path) else cell for cell in row] for row in cells
    ]
    return header, shown


def require_packages(logger: str, *packages: str) -> None:
    """Raises UserError, with the command that installs them, when a package of a tracker is missing.

    A name may be `module=package` where they differ.
    """
    pairs = [(name.partition("=")[0], name.partition("=")[2] or name) for name in packages]
    if missing := [module for module, _ in pairs if importlib.util.find_spec(module) is None]:
        verb = "isn't" if len(missing) == 1 else "aren't"
        raise UserError(
            f"logger={logger}: {', '.join(missing)} {verb} installed; python -m pip install "
            f"{' '.join(package for _, package in pairs)}, or take others, such as logger=csv"
        )


def refuse_password(setting: str, url: str | None, instead: str) -> None:
    """Raises UserError for an address with a password in it, which would stand in the run's files."""
    if url and "@" in url.partition("://")[2].partition("/")[0]:
        raise UserError(
            f"{setting} holds a user name or password, which the run's files would keep; give the address "
            f"without it, and set {instead}"
        )
