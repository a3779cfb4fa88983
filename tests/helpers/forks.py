"""Runs the entry scripts in forks of one process that has the heavy imports behind it: a run costs its own second, not eight of imports.

One JSON object a line on stdin, one line back: {argv, out, err} starts a fork and gives its process id, {pid, wait} its exit status, or
null while it runs and `wait` is false. A fork does what `python train.py ...` does: its own arguments, its own standard files, the script
as `__main__`, tracebacks and exit statuses as the interpreter makes them; only the tidying up of a process that is over is left out.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback


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
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


for name in (
    "lightning",
    "torch",
    "transformers",
    "peft",
    "pyarrow.parquet",
    "openvlt.runs.session",
    "openvlt.report.page",
):
    importlib.import_module(name)
gc.freeze()  # or every fork would copy what the collector touches
print("ready", flush=True)

while line := sys.stdin.readline():
    job = json.loads(line)
    if "pid" in job:
        pid, status = os.waitpid(job["pid"], 0 if job["wait"] else os.WNOHANG)
        print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
    elif child := os.fork():
        print(child, flush=True)
    else:
        status = run(job)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
