"""How a run stands: `state.json` in its folder says running, finished, failed or stopped, and since when."""

from __future__ import annotations

import contextlib
import os
import platform
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openvlt.errors import UserError, first_line
from openvlt.storage.atomic import read_json_file, write_json

RUN_STATE = "state.json"
LAST_LINES = 20  # of an error's traceback


@contextlib.contextmanager
def record_state(folder: Path) -> Iterator[None]:
    """Writes `state.json` at the beginning and at the end of the block.

    A run that has finished before keeps its own. An exception makes it failed, with the error and its last
    lines; Ctrl-C and SIGTERM make it stopped.
    """
    there = (folder / "results.json").is_file() and (folder / RUN_STATE).is_file()
    if there and read_json_file(folder / RUN_STATE).get("state") == "finished":
        yield
        return
    write_state(folder, "running", pid=os.getpid(), host=platform.node())
    try:
        yield
    except KeyboardInterrupt:
        write_state(folder, "stopped")
        raise
    except BaseException as error:
        if folder.is_dir():
            write_state(folder, "failed", **describe_error(error))
        raise
    finish_state(folder)


def finish_state(folder: Path) -> None:
    """Writes that the run is finished, where that isn't written yet."""
    if not (folder / RUN_STATE).is_file() or read_json_file(folder / RUN_STATE)["state"] != "finished":
        write_state(folder, "finished")


def write_state(folder: Path, state: str, **more: Any) -> None:
    """Writes the folder's state with the time since which it holds, in seconds since 1970."""
    write_json(folder / RUN_STATE, {"state": state, "since": round(time.time(), 1), **more})


def describe_error(error: BaseException) -> dict[str, Any]:
    """An exception's sentence, its kind, and the last lines of its traceback."""
    text = "".join(traceback.format_exception(error)).splitlines()
    kind = "" if isinstance(error, UserError) else type(error).__name__
    sentence = first_line(str(error)) if str(error).strip() else type(error).__name__
    return {"error": sentence, "kind": kind, "lines": text[-LAST_LINES:]}
