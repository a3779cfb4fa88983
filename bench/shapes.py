"""The model, prompts and measuring tools that the speed benchmarks share.

A random Qwen2.5-VL of about 69 M parameters with a vocabulary of 32,000; prompts of about 395 tokens, of
which 324 are an image's.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration

from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.model.load import VLM
from openvlt.model.tiny import TinyConfig, make_config, make_processor, make_tokenizer
from openvlt.types import Problem

ROOT = Path(__file__).parents[1]
WORDS = (
    "what is the area of the red triangle if its base is four "
    "and its height is three times the side of the blue square"
).split()
BENCH = TinyConfig(
    hidden=512, layers=12, heads=8, kv_heads=2, mlp=2048,
    vision_hidden=256, vision_layers=6, vision_heads=4, vision_mlp=860,
    vocabulary=400, max_pixels=504 * 504, min_pixels=504 * 504, initializer_range=0.02,
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One point of a benchmark. `side` is an image's in pixels (28 a token), `words` the question's words."""

    prompts: int = 2
    group: int = 8
    new_tokens: int = 128
    side: int = 504
    words: int = 26
    vocabulary: int = 32000


class Forced(VLM):
    """Has no stop token: every completion has the full length."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return (-1,)


class Open(Forced):
    """Bans nothing, as peers do."""

    def banned_V(self) -> torch.Tensor:
        return torch.zeros_like(super().banned_V())


def make_model(setting: Setting, shape: TinyConfig = BENCH) -> VLM:
    """Makes a model with random weights; its tokenizer has a token for every id of the vocabulary."""
    tokenizer = make_tokenizer(WORDS * 20, shape.vocabulary)
    tokenizer.add_tokens([f"<{number}>" for number in range(setting.vocabulary - len(tokenizer))])
    config = make_config(tokenizer, shape)
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = (
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    area = {"shortest_edge": setting.side**2, "longest_edge": setting.side**2}
    processor = make_processor(tokenizer, shape)
    processor.image_processor.size = area
    return Forced(model, processor, "bench")


def make_problems(setting: Setting) -> list[Problem]:
    """Problems of random images and random words."""
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (setting.side, setting.side, 3), dtype=np.uint8))
        for _ in range(setting.prompts)
    ]
    return [
        Problem(f"p{i}", " ".join(rng.choice(WORDS, setting.words)), "1", (image,))
        for i, image in enumerate(images)
    ]


def renderer(vlm: VLM) -> Renderer:
    """The renderer of training: problems to prompts."""
    return Renderer(vlm.processor, PromptStyle())


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of this thread's CPU (other jobs on the machine don't count), and the result."""
    began = time.thread_time()
    result = work()
    return time.thread_time() - began, result


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": round(statistics.median(seconds), 3),
        "low": round(min(seconds), 3),
        "high": round(max(seconds), 3),
    }


def rss_mib(peak: bool = False) -> float:
    """Resident memory of this process, now or at its peak."""
    key = "VmHWM" if peak else "VmRSS"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def write(name: str, setting: Setting, results: dict[str, Any], **versions: str) -> None:
    """Writes bench/results/<name>.json: results, hardware and versions."""
    record = {
        "setting": asdict(setting),
        "hardware": f"{_cpu()}, one thread of {os.cpu_count()}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **versions,
        },
        "unit": "CPU seconds of one thread; other jobs ran on the machine's other core",
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        **results,
    }
    folder = ROOT / "bench" / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def commit(root: Path = ROOT) -> str:
    """The short hash of the commit checked out in `root`."""
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo").read_text()
    return next(line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name"))
