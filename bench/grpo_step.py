"""One GRPO step against peers: ours, plain Hugging Face row by row, TRL's trainer (two ways).

Command: `python bench/grpo_step.py [--long] [--rounds N]`, with `pip install trl==1.16.0` beside
requirements.txt (bench-only). Same weights, problems and forced lengths. Log-probabilities and gradients are
compared first; then all arms take turns in one process. Writes bench/results/grpo_step.json, or with `--long`
(one prompt of about 1,190 tokens, 8 completions of 256; ours with and without
`model.gradient_checkpointing=selective`, and TRL with its label-only head) grpo_step_long.json.

TRL scores label positions only on CUDA; on a CPU its stock code scores every position. `trl_labels` patches
the CPU run to what CUDA does and is the comparison that counts. Memory is the peak that one update adds,
each arm in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import torch  # noqa: E402
from shapes import (  # noqa: E402
    ROOT,
    Open,
    Setting,
    clock,
    commit,
    make_model,
    make_problems,
    renderer,
    rss_mib,
    summary,
    write,
)
from torch import Tensor  # noqa: E402

from openvlt.data.prompts import pad_right  # noqa: E402
from openvlt.grpo.collect.ops import micro_batches  # noqa: E402
from openvlt.model.load import VLM  # noqa: E402
from openvlt.model.shared_prefix.logprob import completion_logp  # noqa: E402
from openvlt.model.transformers_range import enable_checkpointing  # noqa: E402
from openvlt.rollout.base import Sampling  # noqa: E402
from openvlt.rollout.hf import HFGenerator  # noqa: E402
from openvlt.rollout.prefix import PrefixGenerator  # noqa: E402

ARMS = ("ours", "naive", "trl_labels", "trl_stock")
IN_MEMORY = (*ARMS, "ours_split", "ours_selective")
LONG = Setting(prompts=1, new_tokens=256, side=924, words=56)
LONG_ARMS = ("ours", "ours_selective", "trl_labels")


class Ours:
    """What `openvlt.grpo` does with a batch; `rows` per micro-batch.

    `selective` is `model.gradient_checkpointing=selective`.
    """

    generator: Any = PrefixGenerator()

    def __init__(
        self, setting: Setting, rows: int = 10**6, selective: bool = False, vlm: VLM | None = None
    ) -> None:
        self.setting, self.rows, self.vlm = setting, rows, vlm or make_model(setting)
        if selective:
            enable_checkpointing(self.vlm.model, selective=True)
        self.problems, self.renderer = make_problems(setting), renderer(self.vlm)
        learned = [value for value in self.vlm.model.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, lr=0.0)
        self.vlm.model.train()
        self.version = 0

    def rollout(self) -> tuple[Any, Tensor, Tensor, Tensor]:
        """Problems in, prompts and completions out."""
        prompts, self.version = self.renderer.prompts(self.problems), self.version + 1
        sampling = Sampling(n=self.setting.group, max_new_tokens=self.setting.new_tokens)
        said = self.generator.generate(self.vlm, self.problems, prompts, sampling, self.version)
        ids, mask = pad_right([each.token_ids for each in said], self.vlm.pad_id)
        return prompts, ids, mask, torch.arange(len(self.problems)).repeat_interleave(self.setting.group)

    def logp(
        self, prompts: Any, ids: Tensor, mask: Tensor, group: Tensor, slope: Tensor | None = None
    ) -> Tensor:
        return completion_logp(self.vlm, prompts, ids, mask, group, slope_NT=slope)[0]

    def gradients(self, batch: tuple[Any, Tensor, Tensor, Tensor], advantage: Tensor) -> None:
        """DAPO's loss, first update after a rollout."""
        prompts, ids, mask, group = batch
        for rows in micro_batches(group, self.rows):
            groups, local = group[rows].unique(return_inverse=True)
            slope = -advantage[rows, None] * mask[rows] / mask.sum()
            logp = self.logp(prompts.select(groups.tolist()), ids[rows], mask[rows], local, slope)
            ((logp - logp.detach()).exp() * slope).sum().backward()

    def update(self, batch: Any) -> None:
        self.gradients(batch, torch.linspace(-1, 1, len(batch[1])))
        self.step()

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.vlm.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Naive(Ours):
    """Hugging Face's own generate and forward: every completion has its own prompt, images and logits."""

    generator = HFGenerator()

    def logp(
        self, prompts: Any, ids: Tensor, mask: Tensor, group: Tensor, slope: Tensor | None = None
    ) -> Tensor:
        rows = prompts.select(group.tolist())
        types = torch.cat([rows.token_type_PL, torch.zeros_like(ids)], 1)
        self.vlm.core.model.rope_deltas = None
        logits = self.vlm.model(
            input_ids=torch.cat([rows.ids_PL, ids], 1),
            attention_mask=torch.cat([rows.mask_PL, mask], 1),
            mm_token_type_ids=types,
            **rows.vision,
            use_cache=False,
            logits_to_keep=ids.shape[1] + 1,
        ).logits[:, :-1]
        return (
            logits.masked_fill(self.vlm.banned_V(), -torch.inf)
            .log_softmax(-1)
            .gather(2, ids[..., None])[..., 0]
        )


class TRL(Ours):
    """TRL's GRPOTrainer, its own methods on its own batches.

    `labels`: the head scores completion positions only, as on CUDA.
    """

    def __init__(self, setting: Setting, labels: bool, vlm: VLM | None = None) -> None:
        super().__init__(setting, vlm=vlm)
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        self.labels = labels
        rows = [
            {"prompt": [{"role": "user", "content": each.question}], "image": each.images[0]}
            for each in self.problems
        ]
        config = GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=setting.prompts * setting.group,
            num_generations=setting.group,
            max_completion_length=setting.new_tokens,
            generation_kwargs={"min_new_tokens": setting.new_tokens, "top_k": 0},
            beta=0.0,
            loss_type="dapo",
            temperature=1.0,
            use_cpu=self.vlm.device.type == "cpu",
            bf16=False,
            report_to=[],
            gradient_checkpointing=False,
        )
        self.trainer = GRPOTrainer(
            model=self.vlm.model,
            processing_class=self.vlm.processor,
            args=config,
            train_dataset=Dataset.from_list(rows),
            reward_funcs=[lambda completions, **_: [float(index % 3) for index in range(len(completions))]],
        )
        self.trainer.current_gradient_accumulation_steps = 1
        self.inputs = [row for row in rows for _ in range(setting.group)]

    def rollout(self) -> dict[str, Any]:
        with self._head():
            return self.trainer._generate_and_score_completions(self.inputs)

    def update(self, batch: dict[str, Any]) -> None:
        self.backward(batch)
        self.step()

    def backward(self, batch: dict[str, Any]) -> None:
        with self._head():
            self.trainer.compute_loss(self.trainer.model, batch).backward()

    @contextlib.contextmanager
    def _head(self) -> Iterator[None]:
        from trl.trainer import utils

        plain = utils._use_triton
        utils._use_triton = (lambda device: True) if self.labels else plain
        try:
            yield
        finally:
            utils._use_triton = plain


def make(arm: str, setting: Setting) -> Ours:
    """One arm of the comparison. `ours_split` is ours with one group per micro-batch."""
    makers = {
        "ours": lambda: Ours(setting),
        "ours_split": lambda: Ours(setting, rows=setting.group),
        "ours_selective": lambda: Ours(setting, selective=True),
        "naive": lambda: Naive(setting),
        "trl_labels": lambda: TRL(setting, labels=True),
        "trl_stock": lambda: TRL(setting, labels=False),
    }
    return makers[arm]()


def equality(setting: Setting) -> dict[str, float]:
    """Our log-probabilities and gradients against TRL's own, on TRL's completions.

    Nothing is banned, since TRL bans nothing.
    """
    theirs, ours = TRL(setting, labels=True), Ours(setting)
    ours.vlm = Open(ours.vlm.model, ours.vlm.processor, "open")
    batch = theirs.rollout()
    prompts = ours.renderer.prompts(ours.problems)
    group = torch.arange(setting.prompts).repeat_interleave(setting.group)
    rows = (prompts, batch["completion_ids"], batch["completion_mask"].long(), group)
    theirs.backward(batch)
    ours.gradients(rows, batch["advantages"])
    with torch.no_grad(), theirs._head():
        keys = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        extra = {key: batch[key] for key in keys}
        logp = theirs.trainer._get_per_token_logps_and_entropies(
            theirs.trainer.model, ids, mask, setting.new_tokens, **extra
        )[0]
        own = ours.logp(*rows)
    pairs = zip(ours.vlm.model.parameters(), theirs.vlm.model.parameters(), strict=True)
    gap = [
        ((one.grad - other.grad).abs().max() / other.grad.abs().max()).item()
        for one, other in pairs
        if other.grad.abs().max() > 1e-9
    ]
    found = {
        "logp_max_difference": (logp - own).abs().max().item(),
        "gradient_max_relative_difference": max(gap),
    }
    if found["logp_max_difference"] > 1e-3 or found["gradient_max_relative_difference"] > 1e-3:
        raise SystemExit(f"not the same computation: {found}")
    return found


def timings(setting: Setting, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Seconds of all arms, which take turns; the order turns by one each round.

    The equality check before has warmed all code up but `naive`'s.
    """
    arms = {arm: make(arm, setting) for arm in names}
    seconds: dict[str, dict[str, list[float]]] = {
        arm: {"rollout": [], "update": [], "step": []} for arm in names
    }
    for turn in range(rounds):
        for arm in (*names[turn % len(names) :], *names[: turn % len(names)]):
            rolled, batch = clock(arms[arm].rollout)
            updated, _ = clock(lambda: arms[arm].update(batch))  # noqa: B023
            print(f"round {turn}: {arm:<10} rollout {rolled:6.2f}  update {updated:6.2f}", flush=True)
            for name, value in (("rollout", rolled), ("update", updated), ("step", rolled + updated)):
                seconds[arm][name].append(value)
    ratio = {
        arm: {
            name: summary([a / b for a, b in zip(values, seconds["ours"][name], strict=True)])
            for name, values in seconds[arm].items()
        }
        for arm in names
    }
    return {
        "seconds": {arm: {k: summary(v) for k, v in parts.items()} for arm, parts in seconds.items()},
        "times_ours": ratio,
    }


def added_memory(arm: str, setting: Setting) -> float:
    """MiB that one update adds at its peak, in this process, which should be fresh.

    The optimiser's state is made before.
    """
    made = make(arm, setting)
    for parameter in made.vlm.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    batch = made.rollout()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = rss_mib()
    made.update(batch)
    return rss_mib(peak=True) - before


def memory_of(arms: Sequence[str], long: bool) -> dict[str, int]:
    """`added_memory` of each arm, in a process of its own."""
    command = [sys.executable, __file__, *["--long"] * long, "--memory"]
    return {
        arm: int(
            subprocess.run([*command, arm], check=True, capture_output=True, text=True).stdout.split()[-1]
        )
        for arm in arms
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long", action="store_true", help="a long prompt and long completions")
    parser.add_argument(
        "--memory", choices=IN_MEMORY, help="only print the MiB that one update of this arm adds"
    )
    parser.add_argument(
        "--again",
        nargs="+",
        choices=IN_MEMORY,
        help="measure these arms' memory again and keep all else of the file",
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    name = "grpo_step_long" if asked.long else "grpo_step"
    setting, arms = (LONG, LONG_ARMS) if asked.long else (Setting(), ARMS)
    if asked.memory:
        print(round(added_memory(asked.memory, setting)))
        return
    if asked.again:
        file = ROOT / "bench" / "results" / f"{name}.json"
        record = json.loads(file.read_text())
        was, now = record["update_adds_mib"], memory_of(asked.again, asked.long)
        record["update_adds_mib"] = was | now
        before = {arm: was[arm] for arm in now}
        record["update_adds_mib_again"] = {
            "arms": asked.again,
            "date": time.strftime("%Y-%m-%d"),
            "commit": commit(),
            "was": before,
        }
        file.write_text(json.dumps(record, indent=1) + "\n")
        print(record["update_adds_mib"])
        return
    from trl import __version__ as trl_version

    memory = memory_of(arms if asked.long else IN_MEMORY, asked.long)  # while this process is small
    print(memory, flush=True)
    same = equality(setting)
    print(same, flush=True)
    write(
        name,
        setting,
        {"equality": same, "update_adds_mib": memory, **timings(setting, arms, asked.rounds)},
        trl=trl_version,
    )


if __name__ == "__main__":
    main()
