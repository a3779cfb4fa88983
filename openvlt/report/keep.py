"""Keeps a run's page up to date while it runs: after each stage, every minute inside one, and at its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.report.collect.runs import last_write
from openvlt.report.index import write_index
from openvlt.report.write import REPORT, write_report

WRITE_EVERY_S = 60.0
WRITE_LEAST_S = 10.0  # between two writes: stages may be short


@contextlib.contextmanager
def keep_report(
    folder: Path, runs: Path, *, every_s: float = WRITE_EVERY_S, least_s: float = WRITE_LEAST_S
) -> Iterator[None]:
    """Inside, a process of its own writes the page of the run in `folder`; at the end this one does.

    It then writes the index of `runs` too. The folder may not be there yet, and may be gone at the end. A
    page that can't be written is a warning: the run goes on. Other ranks than the main one do nothing.
    """
    if not distributed.is_main():
        yield
        return
    stop = threading.Event()
    follower = threading.Thread(target=_follow, args=(folder, stop, every_s, least_s), daemon=True)
    follower.start()
    try:
        yield
    finally:
        stop.set()
        follower.join()
        if (folder / "config.yaml").is_file():
            _write_last(folder, runs)


def _write_last(folder: Path, runs: Path) -> None:
    page = folder / REPORT
    if page.is_file() and page.stat().st_mtime >= last_write(folder):
        return
    try:
        write_report(folder)
        if folder.resolve().is_relative_to(runs.resolve()):
            write_index(runs)
    except UserError as error:
        print(f"warning: {page}: {error}", file=sys.stderr, flush=True)


def _follow(folder: Path, stop: threading.Event, every_s: float, least_s: float) -> None:
    """Starts a process that writes the page when it is due, and waits for it."""
    written, stages, warned = time.monotonic(), 0, False
    while not stop.wait(min(1.0, least_s)):
        waited, there = time.monotonic() - written, len(list(folder.glob("*/results.json")))
        if waited < least_s or (waited < every_s and there == stages):
            continue
        if not (folder / "config.yaml").is_file():
            continue
        fault = _write_aside(folder, stop)
        if fault and not warned:
            warned = True
            print(f"warning: {folder / REPORT} is not up to date: {fault}", file=sys.stderr, flush=True)
        written, stages = time.monotonic(), there


def _write_aside(folder: Path, stop: threading.Event) -> str:
    """Writes the page in a process of its own, which ends with the run; its last line where it failed."""
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    writer = subprocess.Popen(
        [sys.executable, "-m", "openvlt.report", "--only-page", str(folder)],
        env=os.environ | {"PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while True:
        try:
            _, said = writer.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            if stop.is_set():
                writer.send_signal(signal.SIGTERM)
                writer.communicate()
                return ""
            continue
        return said.strip().rpartition("\n")[2] if writer.returncode else ""
