"""Runs the entry scripts in forks of one process that has the heavy imports behind it: a run costs its own second, not eight of imports.

One JSON object a line on stdin, one line back: {argv, out, err, pause} starts a fork and gives its process id; {pid} waits until that
one has ended and gives its exit status, or null when it has paused. A fork does what `python train.py ...` does: its own arguments, its
own standard files, the script as `__main__`, tracebacks and exit statuses as the interpreter makes them; only the tidying up of a process
that is over is left out.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path

from omegaconf import OmegaConf

from tests.helpers.configs import compose

HEAVY = """torch lightning transformers transformers.trainer_utils peft pandas pyarrow.parquet pyarrow.dataset matplotlib.pyplot PIL.Image
openvlt.iteration.runner openvlt.iteration.stages openvlt.report.keep openvlt.report.figures openvlt.cli.evaluate openvlt.cli.distill""".split()


def pause_once(folder: str, pattern: str, lines: int) -> None:
    """Stops this process when it opens any file while those in `folder` that match `pattern` hold so many lines, once.

    So a test ends a run in a known state, however busy the machine is.
    """
    owner, waiting = os.getpid(), True

    def look(event: str, _: tuple) -> None:
        nonlocal waiting
        if event != "open" or not waiting or os.getpid() != owner:
            return
        waiting = False  # meanwhile: reading the files opens them
        if sum(len(file.read_bytes().splitlines()) for file in Path(folder).glob(pattern)) >= lines:
            os.kill(owner, signal.SIGSTOP)
        else:
            waiting = True

    sys.addaudithook(look)


def run(job: dict) -> int:
    """The script to its end; its exit status."""
    for number, file in ((1, job["out"]), (2, job["err"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = job["argv"]
    os.setsid()  # a group of its own, as a shell gives it
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell starts background jobs with Ctrl-C ignored; a user's isn't
    if job["pause"]:
        pause_once(*job["pause"])
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def warm_up() -> None:
    """Imports what runs import, and composes a configuration: Hydra's parsers learn while they read."""
    for name in HEAVY:
        importlib.import_module(name)
    sys.modules["PIL.Image"].init()
    for script in ("train", "evaluate", "distill"):
        OmegaConf.to_container(compose(name=script), resolve=True)


warm_up()
gc.freeze()  # or every fork would copy what the collector touches
print("ready", flush=True)

while line := sys.stdin.readline():
    job = json.loads(line)
    if "pid" in job:
        _, status = os.waitpid(job["pid"], os.WUNTRACED)
        paused = os.WIFSTOPPED(status)
        print(json.dumps(None if paused else os.waitstatus_to_exitcode(status)), flush=True)
    elif child := os.fork():
        print(child, flush=True)
    else:
        status = run(job)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
