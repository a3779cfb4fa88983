"""Rollouts against the size of a group: ours (vision and prompt once per problem) and Hugging Face's generate, which TRL calls too.

Command: `python bench/rollout.py [--rounds N]`, three minutes on one core. Greedy and sampled completions of both must be equal first; then
both take turns on the same draws. Completions have a fixed length. Writes bench/results/rollout.json.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
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


def same(vlm: Any, problems: list[Any], prompts: Any) -> int:
    """Tokens of greedy and of sampled completions, equal in both arms; stops the bench where they are not."""
    total = 0
    for sampling in (Sampling(1, 16, greedy=True), Sampling(2, 16)):
        said = {
            name: [each.token_ids for each in arm.generate(vlm, problems, prompts, sampling, 0)]
            for name, arm in ARMS.items()
        }
        if said["prefix"] != said["hf"]:
            raise SystemExit(f"not the same completions: {said}")
        total += sum(map(len, said["hf"]))
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
    compared, rows = same(vlm, problems, prompts), []
    for group in GROUPS:
        sampling, seconds = Sampling(group, setting.new_tokens), {name: [] for name in ARMS}
        for turn in range(rounds):
            for name in sorted(ARMS, reverse=bool(turn % 2)):
                seconds[name].append(
                    clock(lambda: ARMS[name].generate(vlm, problems, prompts, sampling, turn))[0]
                )  # noqa: B023
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
