"""A GRPO step of Qwen2.5-VL's real shapes on one GPU, with random weights: right, how fast, how much memory?

Command: `python bench/gpu.py [--sizes 3b 7b] [--rounds N] [--minutes M] [--out FILE]`; docs/gpu.md says what
the machine needs. For each size, in this order:

1. log-probabilities of the shared-prefix forward against transformers' own forward, in bfloat16 and float32;
2. rollouts by our generator and by Hugging Face's `generate`, in turns;
3. whole optimiser steps with gradient checkpointing, under LoRA (plain and selective) and (3B) of all
   weights, and their peak of memory against what `plan=true` says;
4. the same steps under LoRA by TRL's trainer, where TRL is installed.

Completions have a fixed length. A part that doesn't begin within the minutes, or can't run here, is written
down with the reason. The status is 1 when an equality is broken. `--short` does the same with a small model,
on a CPU as well, in less than a minute: it shows that the file works, and its times mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import grpo_step  # noqa: E402
import hydra  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from omegaconf import DictConfig, OmegaConf  # noqa: E402
from shapes import BENCH, ROOT, WORDS, Forced, Setting, commit, make_problems, renderer  # noqa: E402
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration  # noqa: E402

from openvlt.config.build import build  # noqa: E402
from openvlt.config.resolvers import CONF  # noqa: E402
from openvlt.data.prompts import pad_right  # noqa: E402
from openvlt.memory.estimate import MemoryPlan  # noqa: E402
from openvlt.model.load import VLM, add_adapter, freeze  # noqa: E402
from openvlt.model.shared_prefix.logprob import completion_logp  # noqa: E402
from openvlt.model.tiny import make_config, make_processor, make_tokenizer  # noqa: E402
from openvlt.model.transformers_range import enable_checkpointing  # noqa: E402
from openvlt.rollout.base import Sampling, generating  # noqa: E402
from openvlt.rollout.hf import HFGenerator  # noqa: E402
from openvlt.rollout.prefix import PrefixGenerator  # noqa: E402
from openvlt.types import Prompts  # noqa: E402

GENERATORS = {"prefix": PrefixGenerator(), "hf": HFGenerator()}
GIB = 2**30
BOUNDS = {  # of log-probabilities; transformers' own bfloat16 error is about 0.025 at these sizes
    "float32_largest_difference": 1e-3,
    "bfloat16_mean_difference": 0.1,
}


@dataclass(frozen=True)
class Place:
    """Where and with which sizes everything runs."""

    device: str
    setting: Setting
    rounds: int
    deadline: float

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


LONG = Setting(prompts=8, group=8, new_tokens=256, side=504, words=60, vocabulary=0)
SHORT = Setting(prompts=2, group=2, new_tokens=16, side=112, words=20, vocabulary=0)


class Fixed(Forced):
    """Every completion has the full length, and may hold any token that isn't a mark."""

    def banned_V(self) -> torch.Tensor:
        banned_V = super().banned_V()
        banned_V[len(self.tokenizer) :] = False
        return banned_V


def model_config(size: str, tokenizer: Any) -> Any:
    """Qwen2.5-VL's config of this size, or that of the benchmarks' small model."""
    if size == "small":
        return make_config(tokenizer, BENCH)
    config = AutoConfig.from_pretrained(ROOT / "openvlt" / "model" / "shapes" / f"qwen2_5_vl_{size}")
    for name, mark in {"image": "image_pad", "video": "video_pad"}.items():
        setattr(config, f"{name}_token_id", tokenizer.convert_tokens_to_ids(f"<|{mark}|>"))
    for name in ("vision_start", "vision_end"):
        setattr(config, f"{name}_token_id", tokenizer.convert_tokens_to_ids(f"<|{name}|>"))
    return config


def make_model(size: str, place: Place) -> VLM:
    """A model of this size with random bfloat16 weights, and a processor that fits it."""
    tokenizer = make_tokenizer(WORDS * 20, BENCH.vocabulary)
    config = model_config(size, tokenizer)
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(place.device):
        model = Qwen2_5_VLForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    processor = make_processor(tokenizer, BENCH)
    area = place.setting.side**2
    processor.image_processor.size = {"shortest_edge": area, "longest_edge": area}
    return Fixed(model, processor, size)


def measure(place: Place, work: Callable[[], Any]) -> tuple[float, float | None, Any]:
    """Seconds, peak GiB of GPU memory (None without one), and the result."""
    gc.collect()
    if place.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    if place.on_gpu:
        torch.cuda.synchronize()
    took = time.perf_counter() - began
    return took, torch.cuda.max_memory_allocated() / GIB if place.on_gpu else None, result


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {
        name: round(f(values), 3) for name, f in (("median", statistics.median), ("low", min), ("high", max))
    }


def rows_of(vlm: VLM, prompts: Prompts, setting: Setting) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random completions of the full length: ids and mask (N,T), and each row's prompt (N,)."""
    rng = torch.Generator().manual_seed(1)
    allowed = (~vlm.banned_V()).nonzero()[:, 0].cpu()
    picked = torch.randint(len(allowed), (len(prompts) * setting.group, setting.new_tokens), generator=rng)
    ids = allowed[picked].tolist()
    ids_NT, mask_NT = pad_right(ids, vlm.pad_id)
    return ids_NT, mask_NT, torch.arange(len(prompts)).repeat_interleave(setting.group)


def plain_logp(vlm: VLM, prompts: Prompts, ids_NT: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N,T) by transformers' own forward, one prompt per row."""
    rows = len(ids_NT)
    text_NL = torch.cat([prompts.ids_PL, ids_NT], 1)
    marks_NL = torch.cat([prompts.token_type_PL, torch.zeros_like(ids_NT)], 1)
    mask_NL = torch.cat([prompts.mask_PL, torch.ones_like(ids_NT)], 1)
    logits = vlm.core(
        input_ids=text_NL,
        attention_mask=mask_NL,
        mm_token_type_ids=marks_NL,
        **prompts.vision,
        use_cache=False,
    ).logits[:, prompts.ids_PL.shape[1] - 1 : -1]
    logits = logits.float().masked_fill(vlm.banned_V(), -torch.inf)
    assert logits.shape[0] == rows
    return logits.log_softmax(-1).gather(2, ids_NT[..., None])[..., 0]


def check_scoring(vlm: VLM, place: Place) -> dict[str, Any]:
    """How far both forwards in bfloat16 are from each other, and each from float32 on the same weights."""
    prompts = renderer(vlm).prompts(make_problems(place.setting)[:1])
    two = replace(place.setting, group=2)
    ids_NT, mask_NT, group_N = (value.to(vlm.device) for value in rows_of(vlm, prompts, two))
    there, found = prompts.to(vlm.device), {}
    with torch.no_grad(), generating(vlm.model):
        for kind in (torch.bfloat16, torch.float32):
            vlm.model.to(kind)
            shared = completion_logp(vlm, there, ids_NT, mask_NT, group_N)[0]
            naive = plain_logp(vlm, there.select([0, 0]), ids_NT)
            found[kind] = shared.float(), naive.float()
    vlm.model.to(torch.bfloat16)
    (shared, naive), (exact, exact_naive) = found[torch.bfloat16], found[torch.float32]
    differences = {
        "float32_largest_difference": float((exact - exact_naive).abs().max()),
        "bfloat16_mean_difference": float((shared - naive).abs().mean()),
        "bfloat16_error_shared": float((shared - exact).abs().mean()),
        "bfloat16_error_transformers": float((naive - exact).abs().mean()),
    }
    broken = [name for name, bound in BOUNDS.items() if not differences[name] <= bound]
    return {**differences, "broken": broken}


def time_rollouts(vlm: VLM, place: Place) -> dict[str, Any]:
    """Tokens per second and peak memory of both generators, in turns."""
    setting = place.setting
    problems = make_problems(setting)
    prompts = renderer(vlm).prompts(problems)
    sampling = Sampling(setting.group, setting.new_tokens)
    seconds, peaks = {name: [] for name in GENERATORS}, {name: [] for name in GENERATORS}
    for turn in range(place.rounds + 1):
        for name in sorted(GENERATORS, reverse=bool(turn % 2)):
            work = GENERATORS[name]
            took, peak, _ = measure(
                place,
                lambda: work.generate(vlm, problems, prompts, sampling, turn),  # noqa: B023
            )
            if turn:
                seconds[name].append(took)
                peaks[name].append(peak)
    tokens = setting.prompts * setting.group * setting.new_tokens
    return {name: summarise(values, peaks[name], tokens) for name, values in seconds.items()}


def summarise(seconds: list[float], peaks: list[float | None], tokens: int) -> dict[str, Any]:
    """Seconds, tokens per second, and the highest peak where there is a GPU."""
    known = [peak for peak in peaks if peak is not None]
    return {
        "seconds": spread(seconds),
        "tokens_per_s": round(tokens / statistics.median(seconds)),
        "peak_gib": round(max(known), 2) if known else None,
    }


def compose_run(size: str, place: Place, lora: bool, checkpointing: str) -> DictConfig:
    """The settings of a GRPO run at this size with our prompts and completions."""
    setting = place.setting
    words = [
        f"scale={'tiny' if size == 'small' else size}",
        f"grpo.group_size={setting.group}",
        f"grpo.prompts_per_rollout={setting.prompts}",
        f"grpo.prompts_per_update={setting.prompts}",
        f"grpo.micro_batch={2 * setting.group}",
        f"grpo.max_new_tokens={setting.new_tokens}",
        "grpo.kl=0",
        *([] if size == "small" else [f"model.gradient_checkpointing={checkpointing}"]),
        f"++model.max_pixels={setting.side**2}",
        f"expected.text={setting.words + 40}",
        *(["adapter=lora"] if lora else []),
        *(f"++model.sizes.{name}={value}" for name, value in vars(BENCH).items() if size == "small"),
    ]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", words)


def planned_gib(config: DictConfig) -> float:
    """What `plan=true` says for the update and the optimiser's step, whichever needs more."""
    phases = MemoryPlan.of(config).phases(build(OmegaConf.create(NO_CUT), "strategy"), 1)
    return max(sum(phases[name].values()) for name in ("GRPO", "GRPO step")) / GIB


NO_CUT = {"_target_": "openvlt.model.strategy.Strategy", "shard": "none"}


def prepare(vlm: VLM, config: DictConfig, lora: bool, checkpointing: str) -> VLM:
    """The model as it is trained: a fixed vision tower, an adapter, checkpointing."""
    freeze(vlm.core, ("vision", "projector"))
    if lora:
        vlm = Fixed(add_adapter(vlm.model, build(config.adapter, "adapter")), vlm.processor, vlm.path)
    enable_checkpointing(vlm.core, selective=checkpointing == "selective")
    vlm.model.train()
    return vlm


def time_trl(vlm: VLM, place: Place, size: str) -> dict[str, Any]:
    """TRL's own rollout and optimiser steps under LoRA, two prompts' groups at a time."""
    try:
        import trl
    except ImportError:
        return {"skipped": "TRL isn't installed (python -m pip install trl==1.16.0)"}
    config, setting = compose_run(size, place, True, "true"), place.setting
    two = replace(setting, prompts=2, vocabulary=0)
    theirs = grpo_step.TRL(two, labels=place.on_gpu, vlm=prepare(vlm, config, True, "true"))
    rolled, _, batch = measure(place, theirs.rollout)

    def step() -> None:
        for _ in range(0, setting.prompts, 2):
            theirs.backward(batch)
        theirs.step()

    runs = [measure(place, step) for _ in range(place.rounds + 1)][1:]
    tokens = setting.prompts * setting.group * setting.new_tokens
    found = summarise([took for took, _, _ in runs], [peak for _, peak, _ in runs], tokens)
    return {"trl": trl.__version__, **found, "rollout_of_two_prompts_seconds": round(rolled, 2)}


def time_steps(vlm: VLM, place: Place, size: str, lora: bool, checkpointing: str = "true") -> dict[str, Any]:
    """Optimiser steps on all completions, two prompts' groups at a time; the vision tower is fixed."""
    config, setting = compose_run(size, place, lora, checkpointing), place.setting
    vlm = prepare(vlm, config, lora, checkpointing)
    prompts = renderer(vlm).prompts(make_problems(setting))
    ids_NT, mask_NT, group_N = rows_of(vlm, prompts, setting)
    learned = [(name, value) for name, value in vlm.model.named_parameters() if value.requires_grad]
    optimizers = build(config.grpo.optimizer, "grpo.optimizer")(learned)

    def step() -> None:
        for first in range(0, setting.prompts, 2):
            rows = (group_N >= first) & (group_N < first + 2)
            part = prompts.select([first, first + 1]).to(vlm.device)
            columns = (value.to(vlm.device) for value in (ids_NT[rows], mask_NT[rows], group_N[rows] - first))
            completion_logp(vlm, part, *columns)[0].mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    before = [value.detach().clone() for _, value in learned[:8]]
    runs = [measure(place, step) for _ in range(place.rounds + 1)][1:]
    moved = any(not torch.equal(old, value) for old, (_, value) in zip(before, learned[:8], strict=True))
    tokens = setting.prompts * setting.group * setting.new_tokens
    found = summarise([took for took, _, _ in runs], [peak for _, peak, _ in runs], tokens)
    planned = planned_gib(config)
    peak = found["peak_gib"]
    found |= {"planned_gib": round(planned, 2), "peak_to_plan": peak and round(peak / planned, 2)}
    return {**found, "broken": [] if moved else ["no weight moved"]}


def bench(size: str, place: Place) -> dict[str, Any]:
    """All parts of one size; a part that can't run has `skipped` with the reason."""
    parts: dict[str, Callable[[VLM], dict[str, Any]]] = {
        "scoring": lambda vlm: check_scoring(vlm, place),
        "rollout": lambda vlm: time_rollouts(vlm, place),
        "lora_steps": lambda vlm: time_steps(vlm, place, size, lora=True),
        "lora_steps_selective": lambda vlm: time_steps(
            vlm, place, size, lora=True, checkpointing="selective"
        ),
        "full_steps": lambda vlm: time_steps(vlm, place, size, lora=False),
        "trl_lora_steps": lambda vlm: time_trl(vlm, place, size),
    }
    found: dict[str, Any] = {}
    for name, part in parts.items():
        if name == "full_steps" and size == "7b":
            found[name] = {"skipped": "all weights of a 7B model need several GPUs (plan=true)"}
        elif time.monotonic() > place.deadline:
            found[name] = {"skipped": "the minutes were over"}
        else:
            found[name] = run_part(part, size, place)
        print(f"{size} {name}: {json.dumps(found[name])}", flush=True)
    return found


def run_part(part: Callable[[VLM], dict[str, Any]], size: str, place: Place) -> dict[str, Any]:
    """One part on a model of its own, which is freed afterwards."""
    try:
        return part(make_model(size, place))
    except torch.OutOfMemoryError as error:
        return {"skipped": f"out of memory: {str(error).splitlines()[0]}"}
    finally:
        gc.collect()
        if place.on_gpu:
            torch.cuda.empty_cache()


def find_broken(record: dict[str, Any]) -> list[str]:
    """The equalities that don't hold, with their size and part."""
    sizes = {size: parts for size, parts in record.items() if size in ("3b", "7b", "small")}
    return [
        f"{size} {name}: {what}"
        for size, parts in sizes.items()
        for name, part in parts.items()
        for what in part.get("broken", ())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["3b", "7b"], choices=["3b", "7b"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=8.0, help="no part begins after these")
    parser.add_argument("--out", type=Path, help="bench/results/gpu.json unless --short")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--commit", help="its short name, where the folder is no git checkout")
    settings = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not settings.short:
        raise SystemExit("bench/gpu.py needs a GPU that torch sees; on a CPU, --short shows that it works")
    setting, rounds = (SHORT, 1) if settings.short else (LONG, settings.rounds)
    place = Place(device, setting, rounds, time.monotonic() + 60 * settings.minutes)
    out = settings.out or (None if settings.short else ROOT / "bench" / "results" / "gpu.json")
    record: dict[str, Any] = {
        "setting": dict(vars(setting)),
        "hardware": torch.cuda.get_device_name(0) if place.on_gpu else "CPU",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "date": time.strftime("%Y-%m-%d"),
        "commit": settings.commit or commit(),
    }
    for size in ["small"] if settings.short else settings.sizes:
        record[size] = bench(size, place)
        if out is not None:
            out.write_text(json.dumps(record, indent=1) + "\n")
    if broken := find_broken(record):
        raise SystemExit("broken: " + "; ".join(broken))


if __name__ == "__main__":
    main()
