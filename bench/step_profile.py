"""Where the time of our GRPO step goes, and how near it is to what the machine can do.

Command: `python bench/step_profile.py [--short]`. The model and the sizes of `bench/grpo_step.py --long`
(with `--short` those without it). Update and rollout are profiled op by op. Matrix products are held to the
rate of one large product, a rollout also to the rate at which weights can be read. Writes
bench/results/step_profile.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import torch  # noqa: E402
from grpo_step import LONG, Ours, make  # noqa: E402
from shapes import Setting, clock, write  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

KINDS = {  # parts of an op's name, in this order
    "attention": ("scaled_dot_product", "bmm", "softmax"),
    "matrix products": ("mm", "linear", "convolution"),
    "copies": ("copy", "cat", "index", "clone", "gather", "scatter", "reorder", "fill", "zero"),
    "optimiser": ("_foreach", "lerp", "addcdiv", "addcmul", "norm"),
}


def kind_of(name: str) -> str:
    """The kind of an op; elementwise and all else is `rest`."""
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "rest")


def shares(work: Callable[[], Any]) -> dict[str, float]:
    """The share of each kind of op in the time of `work`; `python` is what no op accounts for."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
    found = dict.fromkeys([*KINDS, "rest"], 0.0)
    for event in profiler.key_averages():
        found[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    found["python"] = max(0.0, seconds - sum(found.values()))
    return {kind: round(value / seconds, 3) for kind, value in found.items()}


def product_rate(rows: int, width: int, other: int) -> float:
    """GFLOP/s of (rows, width) @ (width, other), the best of five."""
    left, right = torch.randn(rows, width), torch.randn(width, other)
    best = min(clock(lambda: left @ right)[0] for _ in range(5))
    return 2 * rows * width * other / best / 1e9


def read_rate(gigabytes: float = 1.0) -> float:
    """GB/s at which float32 numbers are read and summed, the best of five."""
    values = torch.ones(int(gigabytes * 1e9 / 4))
    return gigabytes / min(clock(values.sum)[0] for _ in range(5))


def measure(ours: Ours) -> dict[str, Any]:
    """Shares, and rates beside the machine's."""
    setting, config = ours.setting, ours.vlm.core.config.get_text_config()
    ours.rollout()
    rolled, batch = clock(ours.rollout)
    with FlopCounterMode(display=False) as counter:
        ours.update(batch)
    products = sum(
        flop for op, flop in counter.get_flop_counts()["Global"].items() if "scaled_dot" not in str(op)
    )
    updated, _ = clock(lambda: ours.update(batch))
    shape = (setting.group * setting.new_tokens, config.hidden_size, config.intermediate_size)
    split = {"update": shares(lambda: ours.update(batch)), "rollout": shares(ours.rollout)}
    in_products = updated * split["update"]["matrix products"]
    decoded = sum(value.numel() for value in ours.vlm.core.get_decoder().parameters()) * setting.new_tokens
    decoding = rolled * split["rollout"]["matrix products"]
    return {
        "seconds": {"update": round(updated, 2), "rollout": round(rolled, 2)},
        "shares": split,
        "gflop_per_s": {
            "one_product": round(product_rate(*shape)),
            "products_of_update": round(products / in_products / 1e9),
            "whole_update": round(products / updated / 1e9),
            "products_of_decoding": round(2 * decoded * setting.prompts * setting.group / decoding / 1e9),
        },
        "gb_per_s": {
            "reading": round(read_rate(), 1),
            "weights_in_products_of_decoding": round(4 * decoded / decoding / 1e9, 1),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the sizes of grpo_step.py without --long")
    setting = Setting() if parser.parse_args().short else LONG
    torch.set_num_threads(1)
    ours = make("ours", setting)
    write("step_profile", setting, measure(ours))


if __name__ == "__main__":
    main()
