"""Every algorithm and recipe on a tiny model in float64: two updates of one rollout, and the gradient of a policy that has moved since.

Run by pytest with one process, and by `apart` with two ranks, which must find the same numbers; there the golden curve is run, too.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import OmegaConf
from torch import Tensor

from openvlt import distributed
from openvlt.config.build import build
from openvlt.config.resolvers import CONF, ROOT
from openvlt.data.synthetic import figures
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.experience import Experience
from openvlt.grpo.module import GRPOModule
from openvlt.grpo.train import build_tasks, train_grpo
from openvlt.model.load import VLM
from openvlt.model.shard import add_up_gradients, match_parts, pass_through, shard_model, to_whole
from openvlt.model.strategy import Strategy
from openvlt.model.tiny import TinyConfig, make_vlm
from openvlt.reward import reward
from openvlt.trainer.metrics import read_metrics
from openvlt.trainer.module import add_logged
from openvlt.types import Completion, GRPOBatch, Problem, Verdict

SMALL = TinyConfig(
    hidden=32, layers=1, heads=2, mlp=48, vision_hidden=32, vision_layers=1, vision_heads=2, vision_mlp=48
)
ALGORITHMS = sorted(file.stem for file in (CONF / "grpo").glob("*.yaml"))
RECIPES: dict[str, list[str]] = {
    "vppo": [],
    "papo": [],
    "noisy_rollout": [],
    "visurf": [],
    "vogue": [
        *("grpo.advantage_shaping.uncertainty.weight=0.1", "grpo.advantage_shaping.uncertainty.limit=0.5"),
        *("grpo.advantage_shaping.entropy.weight=0.01", "grpo.rollout_plan.more.noisy.n.end=1"),
    ],
    "pearl": ["grpo.advantage_shaping.perceived.auxiliary=0.5"],
    "ssl4rl": [],
    "replay": [],
}
MIXED = [  # parts of many methods at once
    "+grpo.auxiliary_losses.entropy={_target_: openvlt.grpo.parts.auxiliary_losses.EntropyBonus, coefficient: 0.01}",
    "+grpo.auxiliary_losses.right={_target_: openvlt.grpo.parts.auxiliary_losses.SFTLoss, coefficient: 0.1, rows: correct}",
    "+grpo.advantage_shaping.cut={_target_: openvlt.grpo.parts.advantage_shaping.drop_truncated, _partial_: true}",
    "+grpo.advantage_shaping.sharp={_target_: openvlt.grpo.parts.advantage_shaping.keep_top_entropy, _partial_: true, share: 0.5}",
    "+grpo.rollout_correction={_target_: openvlt.grpo.parts.rollout_correction.RolloutCorrection, level: sequence, action: mask, cap: 3.0}",
    "grpo.denominator=selected",
    "grpo.kl=0.1",
]
CASES = {
    **{name: [f"grpo={name}"] for name in ALGORITHMS},
    **{name: [f"+recipe={name}", *more] for name, more in RECIPES.items()},
}
CASES["mixed"] = ["grpo=paper", *MIXED]


GOLDEN = Path(__file__).with_name("golden_paper.json")
CURVE = ("loss", "grad_norm", "reward", "kl", "entropy")


def verify_parity(
    problems: Sequence[Problem], completions: Sequence[Completion], **_: Any
) -> tuple[Verdict, ...]:
    """In the verifier's place: correct if the first token's id is even, which any model manages, and can learn."""
    return tuple(
        Verdict.CORRECT if completion.token_ids[0] % 2 == 0 else Verdict.WRONG for completion in completions
    )


@contextlib.contextmanager
def verdicts_by_parity() -> Iterator[None]:
    """Rewards come from `verify_parity`."""
    verify, reward.verify_completions = reward.verify_completions, verify_parity
    try:
        yield
    finally:
        reward.verify_completions = verify


def tiny_model(dtype: torch.dtype = torch.float64) -> VLM:
    """A random model of some ten thousand parameters whose images matter."""
    made = make_vlm([f"{problem.question} {problem.answer}" for problem in questions(12)] * 3, SMALL, seed=0)
    with torch.no_grad():
        for name, value in made.model.named_parameters():
            if value.ndim == 2 and ("layers" in name or "visual" in name):
                value.mul_(3)
    return VLM(made.model.to(dtype), made.processor, made.path)


def questions(amount: int) -> list[Problem]:
    return figures.generate_figures(amount, split="train", seed=3)


@functools.cache
def composed(case: str) -> dict[str, Any]:
    """The case's settings as its files say, at a size for tests: half a second each, so once in a process, and handed to others."""
    sizes = ["prompts_per_rollout=8", "prompts_per_update=4", "micro_batch=1000", "steps=20"]
    words = [
        *CASES[case],
        *(f"grpo.{size}" for size in sizes),
        "++grpo.group_size=3",
        "tokens.response=5",
        "trainer.progress=false",
    ]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", overrides=words)
    return OmegaConf.to_container(config.grpo, resolve=True)


def make_algorithm(case: str, **changes: Any) -> GRPO:
    return build(OmegaConf.merge(composed(case), changes), "grpo")


def rolled(case: str, start: VLM) -> tuple[GRPO, VLM, GRPOBatch]:
    """The case's second batch of one rollout, and the model that has moved a little since."""
    settings, model = make_algorithm(case), copy.deepcopy(start.model)
    vlm = VLM(model, start.processor, start.path)
    reference = VLM(copy.deepcopy(model), start.processor, start.path) if settings.needs_reference else None
    if reference is not None:
        with torch.no_grad():
            reference.model.model.language_model.norm.weight.mul_(1.2)
    with verdicts_by_parity():
        experience = Experience(settings, vlm, reference)
        drawn = [task for problem in questions(8) for task in build_tasks(settings, problem, seed=1)]
        _, batches = experience.collect(
            drawn, seed=5, version=0, more=lambda: [replace(p, id=f"{p.id}'") for p in drawn]
        )
    with torch.no_grad():
        model.model.language_model.norm.weight.mul_(1.1)
    return settings, vlm, batches[1]


def gradient(
    settings: GRPO, vlm: VLM, batch: GRPOBatch, micro_batch: int, shard: str = "none"
) -> tuple[Tensor, dict[str, float]]:
    """Every parameter's gradient in one vector, and what is logged, as a step of this many rows at a time finds them."""
    vlm.model.zero_grad(set_to_none=True)
    if shard != "none":
        vlm = VLM(copy.deepcopy(vlm.model), vlm.processor, vlm.path)
        shard_model(vlm, Strategy(shard))
    module, logged = GRPOModule(vlm, replace(settings, micro_batch=micro_batch)), {}
    module.version = 1
    for rows, factor in match_parts(vlm.model, module.rows(batch), torch.zeros(1, dtype=torch.long)):
        loss, shares = pass_through(vlm.model, functools.partial(module.loss, module.part(batch, rows)))
        (loss * factor).backward()
        if factor:
            values = {"loss": loss, **shares}
            add_logged(logged, {name: float(value.detach()) for name, value in values.items()})
    add_up_gradients(vlm.model)
    found = [
        torch.zeros(p.shape, dtype=p.dtype).flatten() if p.grad is None else to_whole(p.grad).flatten()
        for p in vlm.model.parameters()
    ]
    together: dict[str, float] = {}
    for part in distributed.all_gather([logged]):
        add_logged(together, part)
    return torch.cat(found), together


def trained(case: str, start: VLM, folder: Path, steps: int) -> tuple[VLM, list[dict[str, float]]]:
    """The case trained as its files say, in float32 with a large learning rate: the model and the rows of metrics.csv."""
    settings = make_algorithm(
        case,
        steps=steps,
        prompts_per_rollout=16,
        prompts_per_update=4,
        optimizer={"learning_rate": 0.01},
        warmup_ratio=0,
    )
    vlm = VLM(copy.deepcopy(start.model).float(), start.processor, start.path)
    reference = (
        VLM(copy.deepcopy(vlm.model), start.processor, start.path) if settings.needs_reference else None
    )
    with verdicts_by_parity():
        train_grpo(settings, vlm, questions(32), reference=reference, folder=folder, seed=1)
    return vlm, read_metrics(folder / "metrics.csv")


def machine() -> dict[str, str]:
    """What decides the last bits of a run on a CPU."""
    cpu = Path("/proc/cpuinfo")
    named = (
        [
            line.partition(":")[2].strip()
            for line in cpu.read_text().splitlines()
            if line.startswith("model name")
        ]
        if cpu.is_file()
        else []
    )
    return {
        "cpu": named[0] if named else platform.processor(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


# --- in processes of their own, forked from one that has the imports behind it and has computed nothing yet --------------


def golden_run(file: Path) -> None:
    """Ten steps of grpo=paper, to the last bit."""
    with tempfile.TemporaryDirectory() as folder:
        _, rows = trained("paper", tiny_model(), Path(folder), 10)
    file.write_text(
        json.dumps(
            {"machine": machine(), "curve": [{name: row[name] for name in CURVE} for row in rows]}, indent=1
        )
        + "\n"
    )


def shared_gradients(
    settings: GRPO, vlm: VLM, batch: GRPOBatch
) -> dict[str, tuple[Tensor, dict[str, float]]]:
    """The gradient as two ranks find it, by what they cut."""
    return {shard: gradient(settings, vlm, batch, 6, shard) for shard in ("none", "gradients", "weights")}


def one_rank(number: int, folder: Path) -> None:
    """All cases' gradients as two gloo processes find them together."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=number, world_size=2
    )
    start = tiny_model()
    found = {case: shared_gradients(*rolled(case, start)) for case in CASES}
    if number == 0:
        torch.save(found, folder / "found.pt")
    torch.distributed.destroy_process_group()


def forked(function: Callable[..., None], *arguments: Any) -> int:
    """The process that runs the function; its status is 0 when that went well."""
    if child := os.fork():
        return child
    try:
        function(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def apart(folder: Path) -> None:
    """Two ranks' gradients of every case go to `found.pt` in the folder, the golden curve as it is now to `golden.json`."""
    (folder / "composed.pkl").write_bytes(pickle.dumps({case: composed(case) for case in CASES}))
    subprocess.run(
        [sys.executable, __file__, str(folder)],
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


if (
    __name__ == "__main__"
):  # `python tests/helpers/algorithms.py`: records the golden curve again, after a change that is meant to move it
    torch.set_num_threads(1)
    if len(sys.argv) == 1:
        children = [forked(golden_run, GOLDEN)]
    else:
        given = pickle.loads((Path(sys.argv[1]) / "composed.pkl").read_bytes())
        composed = given.__getitem__
        children = [
            forked(golden_run, Path(sys.argv[1]) / "golden.json"),
            *(forked(one_rank, rank, Path(sys.argv[1])) for rank in range(2)),
        ]
    sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
