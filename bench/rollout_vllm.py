"""rollout=vllm on a CPU: how long new weights take, and tokens per CPU second beside our own generator.

Command: `python bench/rollout_vllm.py [--rounds N] [--python PATH]`, after `make vllm-env`; five minutes on
two cores. A sanity check at a small size, no comparison of engines: vLLM is made for GPUs. Greedy tokens are
compared first. Then the arms take turns, each with new weights in every round: `prefix`, and a server that
gets the same model as files and over a process group. CPU seconds are those of all processes that take part.
Writes bench/results/rollout_vllm.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import torch  # noqa: E402
from shapes import Setting, make_model, make_problems, renderer, write  # noqa: E402

from openvlt.model.export import write_untied_model  # noqa: E402
from openvlt.model.load import VLM  # noqa: E402
from openvlt.rollout.base import Sampling  # noqa: E402
from openvlt.rollout.distributed import generate_on_ranks  # noqa: E402
from openvlt.rollout.prefix import PrefixGenerator  # noqa: E402
from openvlt.rollout.vllm import VLLMGenerator  # noqa: E402
from openvlt.serving.vllm.client import VLLMServer  # noqa: E402
from openvlt.serving.vllm.process import ServerOptions, start_servers  # noqa: E402

SETTING = Setting(prompts=16, group=8, new_tokens=72, side=112, words=26, vocabulary=2000)
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(root: int) -> float:
    """CPU seconds so far of a process and of all that descend from it, for as long as they live."""
    parents, used = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
        used[int(folder.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(used.get(member, 0.0) for member in family)


def stir(vlm: VLM, seed: int) -> None:
    """New weights, as an update makes them."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in vlm.core.parameters():
            weight.add_(torch.randn_like(weight) * 0.01 * weight.std().nan_to_num(0))


def take_round(vlm: VLM, generator: Any, problems: Any, prompts: Any, seed: int) -> dict[str, float]:
    """Seconds of new weights and of a rollout, and its tokens per CPU second of all processes."""
    sampling = Sampling(SETTING.group, SETTING.new_tokens)
    start = time.perf_counter()
    if hasattr(generator, "sync"):
        generator.sync(vlm)
    synced, used = time.perf_counter(), cpu_seconds(os.getpid())
    done = generator.generate(vlm, problems, prompts, sampling, seed)
    ended, tokens = time.perf_counter(), sum(len(one.token_ids) for one in done)
    return {
        "sync_s": synced - start,
        "rollout_s": ended - synced,
        "tokens_per_s": tokens / (ended - synced),
        "tokens_per_cpu_s": tokens / (cpu_seconds(os.getpid()) - used),
    }


def check_equal(vlm: VLM, arms: dict[str, Any], problems: Any, prompts: Any) -> None:
    """Ends the program unless all arms say the same, greedily."""
    greedy = Sampling(1, SETTING.new_tokens, greedy=True)
    answers = {
        name: [one.token_ids for one in generate_on_ranks(generator, vlm, problems, prompts, greedy, 1)]
        for name, generator in arms.items()
    }
    equal = {
        name: sum(a == b for a, b in zip(found, answers["prefix"], strict=True))
        for name, found in answers.items()
    }
    if min(equal.values()) < len(problems):
        sys.exit(f"greedy tokens differ: {equal} of {len(problems)} are as with prefix")


def main(rounds: int, python: str) -> None:
    """Compares, then measures, the arms in turns."""
    torch.set_num_threads(1)
    vlm: VLM = make_model(SETTING)
    vlm = VLM(vlm.model, vlm.processor, vlm.path)
    problems = make_problems(SETTING)
    prompts = renderer(vlm).prompts(problems)
    rows: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        model.mkdir()
        write_untied_model(vlm, model)
        options = ServerOptions(python=python, dtype="float32", max_model_len=1024)
        ((url, process),) = start_servers(str(model), options, [None], logs=Path(folder) / "logs")
        try:
            VLLMServer(url).wait(600, process)
            arms = {
                "prefix": PrefixGenerator(),
                "vllm, files": VLLMGenerator([url]),
                "vllm, group": VLLMGenerator([url], weights="group"),
            }
            check_equal(vlm, arms, problems, prompts)
            for number in range(rounds):
                for name, generator in arms.items():
                    stir(vlm, 10 * number + len(name))
                    rows.setdefault(name, []).append(take_round(vlm, generator, problems, prompts, number))
        finally:
            process.stop()
    found = {
        name: {key: round(statistics.median(one[key] for one in all_of_it), 3) for key in all_of_it[0]}
        for name, all_of_it in rows.items()
    }
    millions = sum(weight.numel() for weight in vlm.core.parameters()) / 1e6
    write(
        "rollout_vllm",
        SETTING,
        {"rounds": rounds, "parameters_m": round(millions, 1), "arms": found},
        vllm="0.32.0",
    )
    for name, values in found.items():
        print(f"{name:<12}", values)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=str(Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"))
    given = parser.parse_args()
    main(given.rounds, given.python)
