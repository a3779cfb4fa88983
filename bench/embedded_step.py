"""A GRPO step of the quickstart's size, now and at an earlier commit: the embedded model, 32 x 8 completions.

Command: `git worktree add ../before c00acd5; python bench/embedded_step.py ../before`, two minutes on one
core. The commits take turns, each turn a process of its own on one thread. Completions have the same lengths
at both commits. Writes bench/results/embedded_step.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TURNS = 3
ONE = """
import inspect, json, random, sys, time
import torch
try:
    from openvlt.data.prompts import PromptStyle, Renderer, pad_right
    from openvlt.data.synthetic.figures import generate_figures
    from openvlt.model.shared_prefix.logprob import completion_logp
    from openvlt.model.tiny import TinyConfig, make_vlm
    from openvlt.rollout.base import Sampling
except ImportError:  # names of earlier commits
    from openvlt.data.figures import generate as generate_figures
    from openvlt.data.render import PromptStyle, Renderer, pad_right
    from openvlt.model.logprob import completion_logp
    from openvlt.model.tiny import Shape as TinyConfig, make_vlm
    from openvlt.rollout.generator import Sampling
from openvlt.rollout.prefix import PrefixGenerator

torch.set_num_threads(1)
problems = generate_figures(32, split="train", seed=3)
texts = [f"{each.question} {each.answer}" for each in generate_figures(300, split="train", seed=4)]
vlm = make_vlm(texts, TinyConfig(), 0)
vlm.model.train()
prompts = Renderer(vlm.processor, PromptStyle()).prompts(problems)
group = torch.arange(32).repeat_interleave(8)
rng = random.Random(0)
lengths = [rng.randint(12, 56) for _ in group]
has_slope = "slope_NT" in inspect.signature(completion_logp).parameters
seconds = {"rollout": [], "update": []}
for turn in range(5):
    began = time.thread_time()
    completions = PrefixGenerator().generate(vlm, problems, prompts, Sampling(8, 56), turn)
    generated = time.thread_time()
    rows = [(each.token_ids * 56)[:length] for each, length in zip(completions, lengths)]
    ids, mask = pad_right(rows, vlm.pad_id)
    for half in range(2):
        rows = torch.arange(128 * half, 128 * half + 128)
        width, part = int(mask[rows].sum(1).max()), prompts.select(range(16 * half, 16 * half + 16))
        slope = {"slope_NT": mask[rows, :width].float()} if has_slope else {}
        part_ids, part_mask, part_group = ids[rows, :width], mask[rows, :width], group[rows] - 16 * half
        logp, _ = completion_logp(vlm, part, part_ids, part_mask, part_group, **slope)
        logp.sum().backward()
    vlm.model.zero_grad()
    if turn:
        seconds["rollout"].append(generated - began)
        seconds["update"].append(time.thread_time() - generated)
print(json.dumps(seconds))
"""


def turn(root: Path) -> dict[str, list[float]]:
    """CPU seconds of four steps at one commit, after one to warm up."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", ONE]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    roots = {"before": Path(sys.argv[1]).resolve(), "now": ROOT}
    seconds = {name: {"rollout": [], "update": []} for name in roots}
    for number in range(TURNS):
        for name in sorted(roots, reverse=bool(number % 2)):
            for part, values in turn(roots[name]).items():
                seconds[name][part] += values
    sys.path[:0] = [str(ROOT), str(ROOT / "bench")]
    from shapes import Setting, commit, summary, write

    found = {
        name: {part: summary(values) for part, values in parts.items()} for name, parts in seconds.items()
    }
    ratio = {
        part: round(found["before"][part]["median"] / found["now"][part]["median"], 2)
        for part in ("rollout", "update")
    }
    commits = {name: commit(root) for name, root in roots.items()}
    write(
        "embedded_step",
        Setting(32, 8, 56, 56, 0, 400),
        {"commits": commits, "seconds": found, "before_over_now": ratio},
    )


if __name__ == "__main__":
    main()
