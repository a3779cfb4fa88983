"""Runs whose second rank may only read in the run's folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.helpers.entry_scripts import ROOT, Cli, environment

READS_ONLY = """
import os, sys
from pathlib import Path

folder, told = os.environ["WATCHED"], False

def refuse(event, arguments):
    global told
    writes = event.startswith(("os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink", "os.truncate"))
    if event == "open":
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(flags, int) else mode and set(mode) & set("wa+")
    if not (event == "open" or writes) or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return
    place = os.path.abspath(os.fsdecode(arguments[0]))
    if not place.startswith(folder + os.sep) or "last.ckpt" in place:  # to whose shards every rank writes
        return
    depth = place.removeprefix(folder).count(os.sep)
    if writes and depth > 2:  # Hydra makes the run's own folder
        raise PermissionError(13, f"{event}: this rank may only read", place)
    if not told:
        told = True
        Path(folder).with_name("read").touch()

if os.environ.get("RANK", "0") != "0":
    sys.addaudithook(refuse)
"""


def run_watched(cli: Cli, place: Path, *words: str) -> Path:
    """The folder of a run with two ranks, of which the second is refused every write in it."""
    (place / "hook").mkdir()
    (place / "hook" / "sitecustomize.py").write_text(READS_ONLY)
    runs = place / "runs"
    arguments = cli.argv(*words, f"paths.runs={runs}", "name=watched", "trainer.devices=2")
    env = environment() | {"PYTHONPATH": str(place / "hook"), "WATCHED": str(runs / "watched")}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (runs / "read").exists(), "the second rank read nothing: is it watched at all?"
    (folder,) = (runs / "watched").iterdir()
    return folder
