"""Rollouts against group size: ours, with one prompt pass per problem, and Hugging Face's generate (TRL's).

Command: `python bench/rollout.py [--rounds N]`, three minutes on one core. Greedy and sampled completions of
both must be equal first; then both take turns on the same draws. Completions have a fixed length. Writes
bench/results/rollout.json.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import torch  # noqa: E402
from shapes import Setting, clock, make_model, make_problems, renderer, summary, write  # noqa: E402

from openvlt.rollout.base import Sampling  # noqa: E402
from openvlt.rollout.hf import HFGenerator  # noqa: E402
from openvlt.rollout.prefix import PrefixGenerator  # noqa: E402

GROUPS = (1, 2, 4, 8, 16)
ARMS = {"prefix": PrefixGenerator(), "hf": HFGenerator()}


def count_equal_tokens(vlm: Any, problems: list[Any], prompts: Any) -> int:
    """The number of tokens of greedy and sampled completions; stops the bench when the arms differ."""
    total = 0
    for sampling in (Sampling(1, 16, greedy=True), Sampling(2, 16)):
        ids = {
            name: [each.token_ids for each in arm.generate(vlm, problems, prompts, sampling, 0)]
            for name, arm in ARMS.items()
        }
        if ids["prefix"] != ids["hf"]:
            raise SystemExit(f"not the same completions: {ids}")
        total += sum(map(len, ids["hf"]))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    setting = Setting(prompts=1, new_tokens=32)
    vlm, problems = make_model(setting), make_problems(setting)
    prompts = renderer(vlm).prompts(problems)
    compared, rows = count_equal_tokens(vlm, problems, prompts), []
    for group in GROUPS:
        sampling, seconds = Sampling(group, setting.new_tokens), {name: [] for name in ARMS}
        for turn in range(rounds):
            for name in sorted(ARMS, reverse=bool(turn % 2)):
                work = partial(ARMS[name].generate, vlm, problems, prompts, sampling, turn)
                seconds[name].append(clock(work)[0])
        ratio = summary([hf / ours for hf, ours in zip(seconds["hf"], seconds["prefix"], strict=True)])
        speed = {
            name: round(group * setting.new_tokens / summary(values)["median"], 1)
            for name, values in seconds.items()
        }
        rows.append(
            {
                "group": group,
                "seconds": {name: summary(v) for name, v in seconds.items()},
                "tokens_per_s": speed,
                "ratio": ratio,
            }
        )
        print(rows[-1], flush=True)
    write(
        "rollout",
        replace(setting, group=0),
        {"equal_tokens": compared, "prompt_tokens": prompts.ids_PL.shape[1], "groups": rows},
    )


if __name__ == "__main__":
    main()
