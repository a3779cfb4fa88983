"""Reads the transaction log of an offline run of Weights & Biases (`run-<id>.wandb`), as `wandb sync` would.

It is LevelDB's log format with a header of its own, and protocol buffers in it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEAD = 32768, struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class WandbRun:
    """What a log holds: the run's record, its rows with the JSON values of their keys, summary, artifacts, axes."""

    id: str = ""
    name: str = ""
    group: str = ""
    tags: tuple[str, ...] = ()
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[tuple[str, list[str]]] = field(default_factory=list)
    axes: dict[str, str] = field(default_factory=dict)

    def series(self, name: str) -> list[tuple[int, Any]]:
        """(step, value) of a key, on the axis that the run defined."""
        axis = self.axes["*"]
        return [(row[axis], row[name]) for row in self.rows if name in row]


def read_wandb_file(file: Path) -> WandbRun:
    """The run in a log file."""
    from wandb.proto.wandb_internal_pb2 import Record

    run = WandbRun()
    for data in read_records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name, run.group = record.run.run_id, record.run.display_name, record.run.run_group
            run.tags = tuple(record.run.tags)
            run.config |= _values(record.run.config.update)
        elif kind == "history":
            run.rows.append(_values(record.history.item))
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "metric":
            run.axes[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
        elif kind == "artifact":
            run.artifacts.append(
                (record.artifact.name, [entry.path for entry in record.artifact.manifest.contents])
            )
    return run


def read_records(data: bytes) -> Iterator[bytes]:
    """The records of a log; a half-written last one is left out."""
    assert data[:4] == b":W&B", data[:7]
    place, parts = 7, b""
    while place + HEAD.size <= len(data):
        if (left := BLOCK - place % BLOCK) < HEAD.size:
            place += left
            continue
        _, size, kind = HEAD.unpack_from(data, place)
        place += HEAD.size
        if place + size > len(data):
            return
        parts = (b"" if kind in (FULL, FIRST) else parts) + data[place : place + size]
        place += size
        if kind in (FULL, LAST):
            yield parts


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
