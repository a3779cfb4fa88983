"""Measures distillation: how busy a slow server is kept, and memory by the number of problems.

Commands: `python bench/distill.py throughput [--rounds 3]`: 3,200 requests, 64 at once, to a stub of 200 ms
(a process of its own); the share of the ideal 320 a second, the client's CPU time per request, and the
machine's load meanwhile. `python bench/distill.py memory [--problems 100000]`: given captions, one procedural
chain each, verified, cut, selected and written; this process's resident memory while it goes through 1,000,
10,000 and all problems, each in a new folder. Both write their part of bench/results/distill.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
RESULT = ROOT / "bench" / "results" / "distill.json"
AT_ONCE, LATENCY_S, REQUESTS = 64, 0.2, 3200


# --- throughput ---------------------------------------------------------------------------------------------


def throughput(rounds: int) -> list[dict[str, float]]:
    from openvlt.serving.client import Server
    from openvlt.serving.protocol import ChatRequest, Endpoint
    from tests.helpers.stub_server import stub_server

    def asks(amount: int) -> Iterator[ChatRequest]:
        return (
            ChatRequest([{"role": "user", "content": f"question {number}"}], {"max_tokens": 16})
            for number in range(amount)
        )

    found = []
    with tempfile.TemporaryDirectory() as folder, stub_server(Path(folder) / "log", latency=LATENCY_S) as url:
        server = Server([Endpoint(url, "stub")], concurrency=AT_ONCE)
        sum(1 for _ in server.stream(asks(AT_ONCE)))  # imports
        for _ in range(rounds):
            load, began, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
            answered = sum(not reply.error for _, reply in server.stream(asks(REQUESTS)))
            took, own = time.perf_counter() - began, time.process_time() - cpu
            share = answered / took / (AT_ONCE / LATENCY_S)
            found.append(
                {"share": share, "seconds": took, "cpu_ms_per_request": 1000 * own / answered, "load": load}
            )
            print("  ".join(f"{name} {value:.3g}" for name, value in found[-1].items()), flush=True)
    return found


# --- memory -------------------------------------------------------------------------------------------------


class Stream(Sequence):
    """Problems made when they are read: sums of three coloured values, with captions that name them."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __len__(self) -> int:
        return self.amount

    def __getitem__(self, number: int) -> Any:
        from openvlt.types import Problem

        if number >= self.amount:
            raise IndexError(number)
        red, green, blue = number % 6, number // 6 % 6, number // 36 % 6
        meta = {"caption": f"red={red}, green={green}, blue={blue}"}
        return Problem(
            f"stream-{number}",
            "What is red + green + blue?",
            str(red + green + blue),
            answer_type="integer",
            meta=meta,
        )


class Watch(threading.Thread):
    """The largest resident memory of this process, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.over = 0.0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.05):
            self.peak = max(self.peak, resident())


def resident() -> float:
    """Megabytes of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory(problems: int) -> list[dict[str, float]]:
    return [measure_memory(amount) for amount in (1000, 10000, problems)]


def measure_memory(amount: int) -> dict[str, float]:
    """Distils so many problems and writes the data set; returns the memory that this took."""
    from openvlt.data.prompts import PromptStyle
    from openvlt.distill.cut import cut_reflections
    from openvlt.distill.dataset import write_dataset_files
    from openvlt.distill.pipeline import run_distillation
    from openvlt.distill.reason import write_chain
    from openvlt.distill.run import DistillationRun
    from openvlt.distill.select import keep_shortest
    from openvlt.distill.settings import Distillation
    from openvlt.distill.writers.scripted import GivenCaptions, ScriptedWriter

    settings = Distillation(
        ScriptedWriter(partial(write_chain)),
        cut_reflections,
        keep_shortest,
        caption=GivenCaptions(),
        samples=1,
    )
    watch, before, began = Watch(), resident(), time.perf_counter()
    watch.start()
    with tempfile.TemporaryDirectory() as folder:
        counts = run_distillation(settings, None, Stream(amount), folder=Path(folder), seed=1)
        with DistillationRun(settings, None, Path(folder), 1) as run:
            write_dataset_files(run.verify_and_select(Stream(amount)), Path(folder), PromptStyle())
        disk = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
    watch.over.set()
    watch.join()
    sizes = {
        "before_mb": before,
        "peak_mb": watch.peak,
        "disk_mb": disk,
        "seconds": time.perf_counter() - began,
    }
    found = {"problems": amount, "traces": counts["traces"], **sizes}
    print("  ".join(f"{name} {value:.0f}" for name, value in found.items()), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("throughput", "memory"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=100000)
    args = parser.parse_args()
    found = throughput(args.rounds) if args.part == "throughput" else memory(args.problems)
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    known = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(
        json.dumps({**known, "machine": machine, args.part: found}, indent=1) + "\n", encoding="utf-8"
    )
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
