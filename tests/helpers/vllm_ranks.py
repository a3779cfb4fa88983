"""Two processes train with sharded weights, with our own generator and with a vLLM server: `python vllm_ranks.py FOLDER URL`.

Decoding is greedy, so that both see the same completions. FOLDER holds the model, and gets `found.pt`: the metrics of every run.
"""

from __future__ import annotations

import datetime
import os
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.train import train_grpo
from openvlt.model.load import PretrainedModel
from openvlt.model.shard import local_bytes
from openvlt.model.strategy import Strategy
from openvlt.reward import reward
from openvlt.rollout.base import Sampling
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.rollout.vllm import VLLMGenerator
from openvlt.trainer.loop import TrainingLoop
from openvlt.trainer.metrics import read_metrics
from openvlt.types import Completion, Problem, Verdict
from tests.helpers.algorithms import make_algorithm, questions
from tests.helpers.sharded import together

SIZES = {
    "steps": 4,
    "group_size": 1,
    "prompts_per_rollout": 6,
    "prompts_per_update": 3,
    "micro_batch": 2,
    "warmup_ratio": 0,
}


@dataclass(frozen=True)
class GreedyGRPO(GRPO):
    @property
    def sampling(self) -> Sampling:
        return Sampling(1, self.max_new_tokens, greedy=True)


class Watched(VLLMGenerator):
    """Notes what the process holds of the policy and the reference while the server generates."""

    def generate(self, vlm, *rest):
        HELD.append(local_bytes(vlm.model.parameters()))
        return super().generate(vlm, *rest)


HELD: list[int] = []


def verify_sum(
    problems: Sequence[Problem], completions: Sequence[Completion], **_: object
) -> tuple[Verdict, ...]:
    """In the verifier's place: a coin that problem and tokens decide."""
    pairs = zip(problems, completions, strict=True)
    coins = [(zlib.crc32(problem.id.encode()) + sum(one.token_ids)) % 2 for problem, one in pairs]
    return tuple(Verdict.CORRECT if coin else Verdict.WRONG for coin in coins)


def train(folder: Path, generator: object) -> list[dict[str, float]]:
    made = make_algorithm("reinforce_pp", **SIZES, optimizer={"learning_rate": 0.01})
    loop = TrainingLoop(accelerator="cpu", progress=False, strategy=Strategy("weights"))
    given = {entry.name: getattr(made, entry.name) for entry in fields(made)}
    settings = GreedyGRPO(**{**given, "fit": loop, "generator": generator})
    path = str(folder / "model")
    vlm, reference = (loop.load(PretrainedModel(path, device="cpu"), path) for _ in range(2))
    reward.verify_completions = verify_sum  # all first tokens are alike here
    rest = local_bytes(vlm.model.parameters())
    train_grpo(settings, vlm, questions(12), reference=reference, folder=folder, seed=1)
    assert set(HELD) <= {rest}, "weights of other processes lay here while the server generated"
    return read_metrics(folder / "metrics.csv")


def rank(number: int, world: int, folder: Path, url: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world)
    )
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=number, world_size=world, timeout=datetime.timedelta(seconds=120)
    )  # fmt: skip
    found = {}
    for name, generator in {
        "prefix": PrefixGenerator(),
        "files": Watched([url]),
        "group": Watched([url], weights="group"),
    }.items():
        place = folder / name
        place.mkdir(exist_ok=True)
        if not (place / "model").exists() and number == 0:
            (place / "model").symlink_to(folder / "model")
        torch.distributed.barrier()
        found[name] = train(place, generator)
    assert len(HELD) >= 4
    if number == 0:
        torch.save(found, folder / "found.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    together(rank, 2, Path(sys.argv[1]), sys.argv[2])
