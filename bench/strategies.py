"""One update under each strategy on two CPU processes against one process: right, how fast, how much memory?

Command: `python bench/strategies.py [--rounds N]`; two minutes on two cores. Every arm takes the same steps
of SFT (AdamW) on a random model of 69 M parameters, a process with one thread each. First the losses, the
gradient norms and the weights after three steps are compared with one process. Then the arms take turns:
seconds of a step, and the bytes that a process holds between steps (weights and optimiser states) and at its
peak (all of its memory, of which 0.9 GiB are Python and its libraries). Writes bench/results/strategies.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import torch  # noqa: E402
from shapes import Setting, make_model, make_problems, renderer, rss_mib, summary, write  # noqa: E402

from openvlt.model.shard import local_bytes, shard_model, to_whole  # noqa: E402
from openvlt.model.strategy import Strategy  # noqa: E402
from openvlt.sft.module import SFTModule  # noqa: E402
from openvlt.trainer.module import Optimisation  # noqa: E402
from openvlt.trainer.optimizer import adamw, constant  # noqa: E402
from openvlt.types import Trace  # noqa: E402

SETTING = Setting(prompts=8, group=1, new_tokens=24, side=252, words=26, vocabulary=32000)
ARMS = {"one process": None, "replicate": "none", "gradients": "gradients", "shard": "weights"}
CHECKED, TIMED, MICRO_BATCH = 3, 5, 2
MIB = 2**20


def update(arm: str, rank: int, place: Path, results: Any) -> None:
    """Takes the steps of one arm as one of its processes, and puts what it measured into `results`."""
    torch.set_num_threads(1)
    if (shard := ARMS[arm]) is not None:
        store = f"file://{place / 'store'}"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    vlm = make_model(SETTING)
    traces = [Trace(problem, "so the area is " * 6) for problem in make_problems(SETTING)]
    batch = renderer(vlm).sft_batch(traces, SETTING.new_tokens)
    if shard in ("gradients", "weights"):
        shard_model(vlm, Strategy(shard))
    module = SFTModule(vlm, Optimisation(partial(adamw, learning_rate=1e-4), constant), 99, MICRO_BATCH)
    optimizers: Any = module.configure_optimizers()[0]
    stubs: Any = module  # the module without a trainer around it
    stubs.optimizers, stubs.lr_schedulers, stubs.manual_backward = (
        lambda: optimizers,
        list,
        torch.Tensor.backward,
    )
    norms, seconds, weights = [], [], {}
    for step in range(CHECKED + TIMED):
        began = time.perf_counter()
        module.training_step(batch, step)
        seconds.append(time.perf_counter() - began)
        norms.append((module.metrics["loss"], module.metrics["grad_norm"]))
        if step == CHECKED - 1:
            weights = {name: to_whole(value.detach()).clone() for name, value in vlm.model.named_parameters()}
    state = [
        value for part in optimizers[0].state.values() for value in part.values() if torch.is_tensor(value)
    ]
    held = local_bytes([*vlm.model.parameters(), *state])
    if rank == 0:
        torch.save(weights, place / f"{arm}.pt")
        results.put((norms[:CHECKED], seconds[CHECKED:], held / MIB, rss_mib(peak=True)))
    if shard is not None:
        torch.distributed.destroy_process_group()


def run(arm: str, folder: Path) -> tuple[Any, ...]:
    """Runs an arm's processes; returns what its first one measured, and its weights after three steps."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ranks = range(1 if ARMS[arm] is None else 2)
        processes = [context.Process(target=update, args=(arm, rank, Path(place), results)) for rank in ranks]
        for process in processes:
            process.start()
        found = results.get(timeout=600)
        for process in processes:
            process.join()
            if process.exitcode:
                sys.exit(f"{arm}: a process ended with status {process.exitcode}")
        return *found, torch.load(Path(place) / f"{arm}.pt", weights_only=True)


def difference(found: tuple[Any, ...], expected: tuple[Any, ...]) -> dict[str, float]:
    """The largest relative differences of losses, norms, and weights (of a tensor's largest value)."""
    pairs = zip(found[0], expected[0], strict=True)
    numbers = [[abs(a / b - 1) for a, b in zip(here, there, strict=True)] for here, there in pairs]
    weights = [
        float((found[4][name] - value).abs().max() / value.abs().max()) for name, value in expected[4].items()
    ]
    loss, norm = (max(column) for column in zip(*numbers, strict=True))
    return {"loss": loss, "grad_norm": norm, "weights": max(weights)}


def main(rounds: int) -> None:
    """Compares, then measures, the arms in turns."""
    os.environ["OMP_NUM_THREADS"] = "1"
    measured: dict[str, list[tuple[Any, ...]]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for arm, all_of_it in measured.items():
                found = run(arm, Path(folder))
                all_of_it.append(found if number == 0 else (*found[:4], None))
    expected = measured["one process"][0]
    apart = {arm: difference(found[0], expected) for arm, found in measured.items()}
    if any(
        part["loss"] > 1e-5 or part["grad_norm"] > 1e-4 or part["weights"] > 1e-3 for part in apart.values()
    ):
        sys.exit(f"the strategies compute other numbers than one process: {apart}")
    rows: dict[str, Any] = {}
    for arm, found in measured.items():
        seconds = summary([value for one in found for value in one[1]])
        rows[arm] = {
            "difference": apart[arm],
            "step_s": seconds,
            "at_rest_mib": round(found[0][2], 1),
            "peak_mib": round(statistics.median(one[3] for one in found), 1),
        }
    one = cast(dict[str, Any], rows["one process"])
    for row in rows.values():
        row["ratio"] = {
            "step": round(row["step_s"]["median"] / one["step_s"]["median"], 2),
            "at_rest": round(row["at_rest_mib"] / one["at_rest_mib"], 2),
            "peak": round(row["peak_mib"] / one["peak_mib"], 2),
        }
    write("strategies", SETTING, {"unit": "seconds, a thread per process; MiB per process", "arms": rows})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args().rounds)
