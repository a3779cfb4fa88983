"""A GRPO step of Qwen2.5-VL's real shapes on one GPU, with random weights: right, how fast, how much memory?

Command: `python bench/gpu.py [--sizes 3b 7b] [--rounds N] [--out FILE]`; some minutes on an H100 or H200.
For each size, in this order:

1. log-probabilities of the shared-prefix forward against transformers' own forward, in bfloat16 and float32;
2. rollouts by our generator and by Hugging Face's `generate`, in turns;
3. scoring and backward of a step, with gradient checkpointing.

Peak memory is taken of 2 and 3. Completions have a fixed length. Writes bench/results/gpu.json.
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
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import torch  # noqa: E402
import transformers  # noqa: E402
from shapes import BENCH, ROOT, WORDS, Forced, Setting, commit, make_problems, renderer  # noqa: E402
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration  # noqa: E402

from openvlt.data.prompts import pad_right  # noqa: E402
from openvlt.model.load import VLM  # noqa: E402
from openvlt.model.shared_prefix.logprob import completion_logp  # noqa: E402
from openvlt.model.tiny import make_processor, make_tokenizer  # noqa: E402
from openvlt.model.transformers_range import enable_checkpointing  # noqa: E402
from openvlt.rollout.base import Sampling, generating  # noqa: E402
from openvlt.rollout.hf import HFGenerator  # noqa: E402
from openvlt.rollout.prefix import PrefixGenerator  # noqa: E402
from openvlt.types import Prompts  # noqa: E402

SETTING = Setting(prompts=8, group=8, new_tokens=256, side=504, words=60, vocabulary=0)
GENERATORS = {"prefix": PrefixGenerator(), "hf": HFGenerator()}
GIB = 2**30


class Fixed(Forced):
    """Every completion has the full length, and may hold any token that isn't a mark."""

    def banned_V(self) -> torch.Tensor:
        banned_V = super().banned_V()
        banned_V[len(self.tokenizer) :] = False
        return banned_V


def make_model(size: str) -> VLM:
    """Qwen2.5-VL of this size with random bfloat16 weights on the GPU, and a processor that fits it."""
    config = AutoConfig.from_pretrained(ROOT / "openvlt" / "model" / "shapes" / f"qwen2_5_vl_{size}")
    tokenizer = make_tokenizer(WORDS * 20, BENCH.vocabulary)
    for name, mark in {"image": "image_pad", "video": "video_pad"}.items():
        setattr(config, f"{name}_token_id", tokenizer.convert_tokens_to_ids(f"<|{mark}|>"))
    for name in ("vision_start", "vision_end"):
        setattr(config, f"{name}_token_id", tokenizer.convert_tokens_to_ids(f"<|{name}|>"))
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    processor = make_processor(tokenizer, BENCH)
    area = {"shortest_edge": SETTING.side**2, "longest_edge": SETTING.side**2}
    processor.image_processor.size = area
    return Fixed(model, processor, size)


def measure(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, peak GiB of GPU memory, and the result."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return time.perf_counter() - began, torch.cuda.max_memory_allocated() / GIB, result


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {
        name: round(f(values), 3) for name, f in (("median", statistics.median), ("low", min), ("high", max))
    }


def rows_of(vlm: VLM, prompts: Prompts, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random completions of the full length: ids and mask (N,T), and each row's prompt (N,)."""
    rng = torch.Generator().manual_seed(1)
    rows = len(prompts) * group
    ids = torch.randint(0, 150_000, (rows, SETTING.new_tokens), generator=rng).tolist()
    ids_NT, mask_NT = pad_right(ids, vlm.pad_id)
    return ids_NT, mask_NT, torch.arange(len(prompts)).repeat_interleave(group)


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


def check_scoring(vlm: VLM) -> dict[str, float]:
    """How far both forwards in bfloat16 are from each other, and each from float32 on the same weights."""
    prompts = renderer(vlm).prompts(make_problems(SETTING)[:1])
    ids_NT, mask_NT, group_N = (value.to(vlm.device) for value in rows_of(vlm, prompts, 2))
    there, found = prompts.to(vlm.device), {}
    with torch.no_grad(), generating(vlm.model):
        for kind in (torch.bfloat16, torch.float32):
            vlm.model.to(kind)
            shared = completion_logp(vlm, there, ids_NT, mask_NT, group_N)[0]
            naive = plain_logp(vlm, there.select([0, 0]), ids_NT)
            found[kind] = shared.float(), naive.float()
    vlm.model.to(torch.bfloat16)
    (shared, naive), (exact, exact_naive) = found[torch.bfloat16], found[torch.float32]
    return {
        "float32_largest_difference": float((exact - exact_naive).abs().max()),
        "bfloat16_mean_difference": float((shared - naive).abs().mean()),
        "bfloat16_error_shared": float((shared - exact).abs().mean()),
        "bfloat16_error_transformers": float((naive - exact).abs().mean()),
    }


def time_rollouts(vlm: VLM, rounds: int) -> dict[str, Any]:
    """Tokens per second and peak memory of both generators, in turns."""
    problems = make_problems(SETTING)
    prompts = renderer(vlm).prompts(problems)
    sampling = Sampling(SETTING.group, SETTING.new_tokens)
    seconds, peaks = {name: [] for name in GENERATORS}, dict.fromkeys(GENERATORS, 0.0)
    for turn in range(rounds + 1):
        for name in sorted(GENERATORS, reverse=bool(turn % 2)):
            work = GENERATORS[name]
            took, peak, _ = measure(lambda: work.generate(vlm, problems, prompts, sampling, turn))  # noqa: B023
            if turn:
                seconds[name].append(took)
                peaks[name] = max(peaks[name], peak)
    tokens = SETTING.prompts * SETTING.group * SETTING.new_tokens
    return {
        name: {
            "seconds": spread(values),
            "tokens_per_s": round(tokens / statistics.median(values)),
            "peak_gib": round(peaks[name], 2),
        }
        for name, values in seconds.items()
    }


def time_update(vlm: VLM, rounds: int) -> dict[str, Any]:
    """Scoring and backward of all completions, two prompts' groups at a time, with gradient checkpointing."""
    prompts = renderer(vlm).prompts(make_problems(SETTING))
    ids_NT, mask_NT, group_N = rows_of(vlm, prompts, SETTING.group)
    enable_checkpointing(vlm.model)
    vlm.model.train()

    def step() -> None:
        for first in range(0, SETTING.prompts, 2):
            rows = (group_N >= first) & (group_N < first + 2)
            part = prompts.select([first, first + 1]).to(vlm.device)
            columns = (value.to(vlm.device) for value in (ids_NT[rows], mask_NT[rows], group_N[rows] - first))
            completion_logp(vlm, part, *columns)[0].mean().backward()
        vlm.model.zero_grad(set_to_none=True)

    runs = [measure(step) for _ in range(rounds + 1)][1:]
    tokens = SETTING.prompts * SETTING.group * SETTING.new_tokens
    seconds = [took for took, _, _ in runs]
    return {
        "seconds": spread(seconds),
        "tokens_per_s": round(tokens / statistics.median(seconds)),
        "peak_gib": round(max(peak for _, peak, _ in runs), 2),
    }


def bench(size: str, rounds: int) -> dict[str, Any]:
    """All measurements of one size."""
    vlm = make_model(size)
    weights = sum(value.numel() * value.element_size() for value in vlm.model.parameters()) / GIB
    found: dict[str, Any] = {"weights_gib": round(weights, 2), "scoring": check_scoring(vlm)}
    print(size, found, flush=True)
    found["rollout"] = time_rollouts(vlm, rounds)
    print(size, found["rollout"], flush=True)
    found["update"] = time_update(vlm, rounds)
    print(size, found["update"], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["3b", "7b"], choices=["3b", "7b"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "gpu.json")
    parser.add_argument("--commit", help="its short name, where the folder is no git checkout")
    settings = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(
            "bench/gpu.py needs a GPU that torch sees; bench/rollout.py and bench/grpo_step.py run on a CPU"
        )
    record: dict[str, Any] = {
        "setting": dict(vars(SETTING)),
        "hardware": torch.cuda.get_device_name(0),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "date": time.strftime("%Y-%m-%d"),
        "commit": settings.commit or commit(),
    }
    for size in settings.sizes:
        record[size] = bench(size, settings.rounds)
        settings.out.write_text(json.dumps(record, indent=1) + "\n")
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
