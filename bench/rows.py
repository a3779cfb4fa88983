"""Files of 10^4, 10^5 and 10^6 rows: how long until their problems are there, and until a run's first step.

Command: `python bench/rows.py`, about three minutes on two cores, three more where the embedded base model
isn't made yet. A row names one of 1,000 pictures. Each measurement is a process of its own: `source` reads
the file and takes all of its training rows, `first_step` is `train.py +experiment=own data.path=<file>` until
SFT has made a step. Writes bench/results/rows.json: seconds, and the peak of resident memory in MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
SIZES = (10_000, 100_000, 1_000_000)
PICTURES = 1000
PATIENCE_S = 600
SMALL_BATCH = ("sft.batch_size=8", "sft.micro_batch=8")  # the base model has few of these answers right
SOURCE = """
import json, re, sys, time
began = time.perf_counter()
from openvlt.data.rows.columns import Columns
from openvlt.data.sources.base import Selection
from openvlt.data.sources.local import LocalRows
source = LocalRows(sys.argv[1], Columns(images=("images", "file_name")), heldout=0.1)
problems = source.problems(Selection(), 1)
problems[0]
seconds = time.perf_counter() - began
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024
print(json.dumps({"rows": len(problems), "seconds": round(seconds, 2), "peak_mib": peak}))
"""


def write_rows(count: int, folder: Path) -> dict[str, Path]:
    """The same rows as .jsonl, as .parquet, and as a folder with metadata.jsonl; by kind."""
    import pyarrow
    from pyarrow import parquet

    (folder / "images").mkdir(parents=True)
    for number in range(PICTURES):
        colour = (number % 256, number // 4 % 256, 7 * number % 256)
        Image.new("RGB", (56, 56), colour).save(folder / "images" / f"{number}.png")
    rows = [
        {
            "id": f"q{number}",
            "question": f"How many circles are there in picture {number}?",
            "answer": str(number % 17),
            "images": f"images/{number % PICTURES}.png",
        }
        for number in range(count)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    for name, column in (("rows.jsonl", "images"), ("metadata.jsonl", "file_name")):
        with (folder / name).open("w") as file:
            for row in rows:
                file.write(json.dumps(row | {column: row["images"]}) + "\n")
    return {"jsonl": folder / "rows.jsonl", "parquet": folder / "rows.parquet", "folder": folder}


def measure_source(path: Path) -> dict[str, Any]:
    """Seconds and memory until all training rows of a file are selected, imports included."""
    command = [sys.executable, "-c", SOURCE, str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure_first_step(path: Path, runs: Path, *words: str) -> dict[str, Any]:
    """Seconds from the start of train.py until metrics.csv has a step of SFT, and the peak of memory."""
    command = [sys.executable, "train.py", "+experiment=own", f"data.path={path}", *words]
    command += [f"paths.runs={runs}", "trainer.progress=false", *SMALL_BATCH]
    with (runs.parent / "run.log").open("w") as log:
        began = time.perf_counter()
        run = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
        try:
            while not any(len(file.read_text().splitlines()) > 1 for file in runs.rglob("metrics.csv")):
                if run.poll() is not None or time.perf_counter() - began > PATIENCE_S:
                    sys.exit(f"no step was made:\n{(runs.parent / 'run.log').read_text()}")
                time.sleep(0.1)
            seconds, peak = time.perf_counter() - began, peak_mib(run.pid)
        finally:
            run.send_signal(signal.SIGINT)
            run.wait()
    shutil.rmtree(runs)
    return {"seconds": round(seconds, 1), "peak_mib": peak}


def peak_mib(process: int) -> int:
    """The largest resident memory that a process has had."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    sizes = parser.parse_args().rows
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for count in sizes:
            folder = Path(place) / str(count)
            files, runs = write_rows(count, folder), folder / "runs"
            if not results:  # makes the base model where there is none yet, and is not counted
                measure_first_step(files["jsonl"], runs)
            found = {f"source_{kind}": measure_source(path) for kind, path in files.items()}
            found["first_step_jsonl"] = measure_first_step(files["jsonl"], runs)
            results[str(count)] = found
            print(count, json.dumps(found), flush=True)
            shutil.rmtree(folder)
    record = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    out = ROOT / "bench" / "results" / "rows.json"
    out.write_text(json.dumps({**record, "rows": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
