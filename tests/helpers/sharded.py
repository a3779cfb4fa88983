"""What several processes compute with a sharded model, and what one process computes without: run by tests/model/test_shard.py.

Every check runs the same code in every number of processes. They are forked from one process that has the imports behind it.
"""

from __future__ import annotations

import copy
import datetime
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch.distributed.fsdp import FSDPModule

from openvlt import distributed
from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.errors import UserError
from openvlt.grpo.parts.rollout_correction import RolloutCorrection
from openvlt.grpo.train import train_grpo
from openvlt.model.load import VLM, PretrainedModel, add_adapter, freeze
from openvlt.model.shard import is_sharded, local_bytes, plain_copy, to_whole, whole_weights
from openvlt.model.strategy import Strategy
from openvlt.model.transformers_range import enable_checkpointing
from openvlt.rollout.base import Sampling, generating
from openvlt.rollout.distributed import generate_on_ranks
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.runs.saved_model import save_model
from openvlt.sft.module import SFT
from openvlt.trainer.loop import TrainingLoop
from openvlt.trainer.metrics import read_metrics
from openvlt.trainer.optimizer import adamw, constant, muon
from openvlt.types import Trace
from tests.helpers.algorithms import (
    forked,
    make_algorithm,
    questions,
    tiny_model,
    verdicts_by_parity,
)
from tests.helpers.aside import aside
from tests.helpers.tiny_families import make_tiny

FAMILY = ("gemma3", "llava_onevision")  # whole rows, and shared prefixes with weights that nothing uses
ADAM, MUON = partial(adamw, learning_rate=1e-3), partial(muon, learning_rate=1e-3, muon_learning_rate=0.01)


def loop(shard: str, replicas: int = 1, **changes: Any) -> TrainingLoop:
    strategy = Strategy(shard, replicas)
    return TrainingLoop(accelerator="cpu", progress=False, strategy=strategy, checkpoint_every=2, **changes)


def traces(amount: int) -> list[Trace]:
    """Ragged traces; every second is without a picture, so that a process can have none at all."""
    found = []
    for number, problem in enumerate(questions(amount)):
        shown = replace(problem, images=()) if number % 2 else problem
        found.append(Trace(shown, f"<think>{'so ' * (number % 4)}</think><answer>{problem.answer}</answer>"))
    return found


def tiny_family(dtype: torch.dtype, name: str) -> VLM:
    """A random model of a family; its tower isn't a group of its own."""
    vlm = make_tiny(name)
    return VLM(vlm.model.to(dtype), vlm.processor, name)


def state(vlm: VLM) -> dict[str, torch.Tensor]:
    return {name: to_whole(value.detach()).clone() for name, value in vlm.model.named_parameters()}


def sft(
    folder: Path, shard: str, *, optimizer: Callable = ADAM, frozen: Sequence[str] = (), adapter: bool = False,
    dtype: torch.dtype = torch.float32, replicas: int = 1, text_only: bool = False, tied: bool = True, steps: int = 3,
    model: Callable[[torch.dtype], VLM] = tiny_model, selective: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Three steps of SFT: weights, norms, and the bytes that this process holds before and after."""
    vlm = model(dtype)
    if selective:
        enable_checkpointing(vlm.model, selective=True)
    if replicas > distributed.world_size():
        replicas = 1
    freeze(vlm.model, frozen)
    if not tied:
        vlm.core.config.tie_word_embeddings = vlm.core.config.text_config.tie_word_embeddings = False
        vlm.core.lm_head.weight = torch.nn.Parameter(vlm.core.lm_head.weight.detach().flip(0))
    if adapter:
        settings = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "qkv"])
        torch.manual_seed(0)
        vlm = VLM(add_adapter(vlm.model, settings), vlm.processor, vlm.path)
    before = local_bytes(vlm.model.parameters())
    rows = [replace(row, problem=replace(row.problem, images=())) if text_only else row for row in traces(4 * steps)]  # fmt: skip
    training = SFT(loop(shard, replicas), PromptStyle(), optimizer, constant, batch_size=4, micro_batch=1, warmup_ratio=0.0)  # fmt: skip
    training.train(vlm, rows, folder=folder, seed=1)
    found: dict[str, Any] = {
        "weights": state(vlm),
        "norms": [row["grad_norm"] for row in read_metrics(folder / "metrics.csv")],
        "bytes": (before, local_bytes(vlm.model.parameters())),
        "cut": [name for name, part in vlm.model.named_modules() if isinstance(part, FSDPModule)],
    }
    if adapter:
        prompts = Renderer(vlm.processor, PromptStyle()).prompts(questions(1))
        with generating(vlm.model), vlm.model.disable_adapter():
            found["adapter off"] = vlm.core(input_ids=prompts.ids_PL[:, :4]).logits
    save_model(vlm, folder)
    with generating(vlm.model):
        found["bytes whole"] = local_bytes(vlm.model.parameters())
    found["bytes after"] = local_bytes(vlm.model.parameters())
    return found


def grpo(folder: Path, case: str, shard: str, ahead: bool = False) -> dict[str, Any]:
    """Three steps of GRPO, rollouts and reference included: weights and all metrics."""
    sizes = {
        "steps": 3,
        "prompts_per_rollout": 6,
        "prompts_per_update": 6,
        "micro_batch": 3,
        "warmup_ratio": 0,
    }
    settings = make_algorithm(case, **sizes, optimizer={"learning_rate": 0.01})
    settings = replace(settings, fit=loop(shard))
    vlm = tiny_model(torch.float32)
    if ahead:
        settings = replace(settings, generator=aside(vlm), rollout_correction=RolloutCorrection())
    reference = VLM(copy.deepcopy(vlm.model), vlm.processor, vlm.path) if settings.needs_reference else None
    with verdicts_by_parity():
        train_grpo(settings, vlm, questions(12), reference=reference, folder=folder, seed=1)
    rows = read_metrics(folder / "metrics.csv")
    cut = [is_sharded(one.model) for one in (vlm, reference) if one is not None]
    return {"weights": state(vlm), "rows": rows, "cut": cut}


def rollouts(folder: Path, shard: str, amount: int) -> dict[str, Any]:
    """Completions of so many problems, of unequal length, with their log-probabilities."""
    vlm = tiny_model(torch.float32)
    loop(shard).prepare(vlm)
    prompts = Renderer(vlm.processor, PromptStyle()).prompts(questions(amount))
    sampling = Sampling(n=2, max_new_tokens=24, stop=("e",))
    done = generate_on_ranks(PrefixGenerator(max_rows=2), vlm, questions(amount), prompts, sampling, 3)
    return {
        "tokens": [one.token_ids for one in done],
        "logp": [one.logp for one in done],
        "at rest": local_bytes(vlm.model.parameters()),
    }


def flags(folder: Path, shard: str) -> dict[str, Any]:
    """Whether every group adds its gradients up; and that whole weights may be asked for twice."""
    vlm = tiny_model(torch.float32)
    loop(shard).prepare(vlm)
    groups = [part for part in vlm.model.modules() if isinstance(part, FSDPModule)]
    held = [group._get_fsdp_state()._fsdp_param_group for group in groups]
    with whole_weights(vlm.model):
        with whole_weights(vlm.model):
            pass
        whole = local_bytes(vlm.model.parameters())
    return {
        "sums": [(one.gradient_divide_factor, one.force_sum_reduction_for_comms) for one in held],
        "whole": whole,
        "rest": local_bytes(vlm.model.parameters()),
    }


def copied(folder: Path, shard: str) -> dict[str, Any]:
    """A plain copy of a sharded model: parameters, buffers, and what is trained."""
    vlm = tiny_model(torch.float32)
    freeze(vlm.model, ["vision"])
    loop(shard).prepare(vlm)
    plain = plain_copy(vlm)
    if not distributed.is_main():
        return {}
    trained = {name: value.requires_grad for name, value in plain.model.named_parameters()}
    return {
        "state": dict(plain.model.state_dict()),
        "buffers": dict(plain.model.named_buffers()),
        "trained": trained,
    }


def loaded(
    folder: Path, shard: str, *, tied: bool = True, adapter: bool = False, dtype: str = "float32",
    frozen: Sequence[str] = (), replicas: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """A checkpoint that is read by one process and cut at once: all that the model holds, and what it computes."""
    path = folder / "checkpoint"
    if distributed.is_main():
        vlm = tiny_model(getattr(torch, dtype))
        if not tied:
            vlm.core.config.tie_word_embeddings = vlm.core.config.text_config.tie_word_embeddings = False
            vlm.core.lm_head.weight = torch.nn.Parameter(vlm.core.lm_head.weight.detach().flip(0))
        vlm.core.generation_config.max_new_tokens = 7
        vlm.save(path)
    distributed.barrier()
    replicas = min(replicas, distributed.world_size())
    read: list[str] = []

    class Counted(PretrainedModel):
        def load(self, path: Any = None, *, adapter: Any = None) -> VLM:
            read.append(str(path))
            return super().load(path, adapter=adapter)

    torch.manual_seed(distributed.rank())
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "qkv"], init_lora_weights="gaussian") if adapter else None  # fmt: skip
    if adapter and distributed.world_size() == 1:
        torch.manual_seed(0)
    model = Counted(str(path), dtype=dtype, freeze=tuple(frozen), device="cpu")
    vlm = loop(shard, replicas).load(model, str(path), adapter=settings)
    prompts = Renderer(vlm.processor, PromptStyle()).prompts(questions(2))
    with generating(vlm.model), torch.no_grad():
        logits = vlm.core(input_ids=prompts.ids_PL[:, :4]).logits
        features = vlm.core.get_image_features(**prompts.vision).pooler_output
    buffers = [
        {name: value.clone() for name, value in one.items()}
        for one in distributed.all_gather([dict(vlm.model.named_buffers())])
    ]
    for wrong in ("there/is/none", str(folder)):
        try:
            loop(shard, replicas).load(model, wrong)
        except UserError as error:
            refused = str(error)
    return {
        "read": distributed.all_gather(read[:1]),
        "state": state(vlm),
        "trained": {name: value.requires_grad for name, value in vlm.model.named_parameters()},
        "buffers": buffers,
        "logits": logits,
        "features": torch.cat(list(features)),
        "generation": distributed.all_gather([vlm.core.generation_config.max_new_tokens]),
        "attention": distributed.all_gather([vlm.core.config._attn_implementation]),
        "mode": distributed.all_gather([vlm.model.training]),
        "refused": distributed.all_gather([refused]),
    }


class Killed(Exception):
    pass


def resumed(folder: Path, shard: str, dies: int | None) -> dict[str, Any]:
    """Four steps of SFT in `folder`, killed before step `dies`, or from the checkpoint that is there."""

    class Mortal(TrainingLoop):
        def run(self, module: Any, make: Callable[[int], Any], folder: Path, **options: Any) -> None:
            def mortal(step: int) -> Any:
                if step == dies:
                    raise Killed
                return make(step)

            super().run(module, mortal, folder, **options)

    vlm, settings = tiny_model(torch.float32), loop(shard)
    fit = Mortal(accelerator="cpu", progress=False, strategy=settings.strategy, checkpoint_every=2)
    training = SFT(fit, PromptStyle(), MUON, constant, batch_size=4, micro_batch=2, warmup_ratio=0.5)
    try:
        training.train(vlm, traces(16), folder=folder, seed=1)
    except Killed:
        return {}
    return {"weights": state(vlm)}


CHECKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    **{f"sft {shard}": partial(sft, shard=shard) for shard in ("none", "gradients", "weights")},
    "sft muon": partial(sft, shard="weights", optimizer=MUON),
    "sft selective": partial(sft, shard="weights", selective=True),
    "sft frozen": partial(sft, shard="weights", frozen=["vision", "projector"]),
    "sft lora": partial(sft, shard="weights", adapter=True),
    "sft lora replicate": partial(sft, shard="none", adapter=True),
    "sft untied": partial(sft, shard="weights", tied=False),
    **{f"sft {name}": partial(sft, shard="weights", model=partial(tiny_family, name=name)) for name in FAMILY},
    "sft text": partial(sft, shard="weights", text_only=True),
    "sft hybrid": partial(sft, shard="weights", optimizer=MUON, replicas=2),
    "sft half": partial(sft, shard="weights", dtype=torch.bfloat16),
    **{f"grpo {case} {shard}": partial(grpo, case=case, shard=shard) for case in ("paper", "replay") for shard in ("none", "weights")},
    "grpo ahead": partial(grpo, case="paper", shard="weights", ahead=True),
    **{f"rollouts {amount}": partial(rollouts, shard="weights", amount=amount) for amount in (1, 3)},
    "flags": partial(flags, shard="weights"),
    "copied": partial(copied, shard="weights"),
    "loaded": partial(loaded, shard="weights"),
    "loaded untied": partial(loaded, shard="weights", tied=False),
    "loaded frozen": partial(loaded, shard="gradients", frozen=["vision"]),
    "loaded half": partial(loaded, shard="weights", dtype="bfloat16", adapter=True),
    "loaded hybrid": partial(loaded, shard="weights", replicas=2),
    "whole run": partial(resumed, shard="weights", dies=None),
}  # fmt: skip
FEW = [
    "sft weights",
    *(f"sft {name}" for name in FAMILY),
    "grpo paper weights",
    "grpo ahead",
    "rollouts 3",
    "flags",
    "copied",
    "loaded",
    "whole run",
]
HYBRID = ["sft hybrid", "loaded hybrid"]  # two replicas of two shards each
UNEVEN = ["sft weights", "sft muon", "sft lora", "rollouts 1", "grpo replay weights"]


def process(rank: int, world: int, folder: Path, names: Sequence[str]) -> None:
    """The checks of one process; the main one leaves what it found."""
    torch.set_num_threads(1)
    if world > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ.update({name: str(value) for name, value in place.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"})
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder / f'meeting{world}'}", rank=rank, world_size=world,
            timeout=datetime.timedelta(seconds=120),
        )  # fmt: skip
    found = {}
    for name in names:
        place = folder / str(world) / name.replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        found[name] = run_check(name, place, folder, world)
    if rank == 0:
        torch.save(found, folder / f"found{world}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


def run_check(name: str, place: Path, folder: Path, world: int) -> dict[str, Any]:
    if not name.startswith("resume"):
        return CHECKS[name](place)
    other = int(name.split()[1])  # killed on so many processes, resumed on these
    if distributed.is_main():
        shutil.copytree(folder / f"killed{other}", place, dirs_exist_ok=True)
    distributed.barrier()
    return resumed(place, "weights", None)


def killed(rank: int, world: int, folder: Path) -> None:
    """A training that is killed after its second step, on so many processes."""
    (folder / f"killed{world}").mkdir(exist_ok=True)
    CHECKS[f"killed {world}"] = lambda place: resumed(folder / f"killed{world}", "weights", 2)
    process(rank, world, folder, [f"killed {world}"])


def together(function: Callable[..., None], world: int, *arguments: Any) -> None:
    children = [forked(function, rank, world, *arguments) for rank in range(world)]
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit(f"{function.__name__} failed on {world} processes")


if __name__ == "__main__":  # python tests/helpers/sharded.py FOLDER few|all
    here, every = Path(sys.argv[1]), sys.argv[2] == "all"
    chosen = list(CHECKS) if every else FEW
    for size in (1, 2) if every else (2,):
        together(killed, size, here)
        (here / f"meeting{size}").unlink(missing_ok=True)
    together(process, 1, here, [*chosen, "resume 2"])
    together(process, 2, here, [*chosen, *(["resume 1", "resume 2"] if every else [])])
    if every:
        together(process, 3, here, [*UNEVEN, "loaded untied"])
        together(process, 4, here, HYBRID)
