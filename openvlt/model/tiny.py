"""The embedded model: Qwen2.5-VL's architecture at a million parameters, made and pretrained on this machine.

It is saved as a plain Hugging Face folder, so nothing downstream treats it differently from a large model. It
is cached under `cache`, keyed by everything that decides its weights: made once (about three CPU minutes),
then reused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from openvlt import distributed
from openvlt.data.images import open_images
from openvlt.model.families import QWEN2_5_VL
from openvlt.model.hf_types import HFModel
from openvlt.model.load import VLM, PretrainedModel
from openvlt.model.processor import ImageOnlyProcessor, image_only_class
from openvlt.model.strategy import Strategy
from openvlt.types import Trace

END, PAD = "<|im_end|>", "<|endoftext|>"
SPECIAL = (
    "<|im_start|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")  # ordinary tokens: they survive skip_special_tokens
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of the embedded model; `vocabulary` counts special tokens and tags, too."""

    hidden: int = 96
    layers: int = 4
    heads: int = 3
    kv_heads: int = 1
    mlp: int = 288
    vision_hidden: int = 96
    vision_layers: int = 3
    vision_heads: int = 3
    vision_mlp: int = 192
    vocabulary: int = 400
    context: int = 8192
    patch: int = 14
    min_pixels: int = 56 * 56
    max_pixels: int = 112 * 112
    initializer_range: float = 0.05


def make_tokenizer(corpus: Iterable[str], vocabulary: int) -> Qwen2Tokenizer:
    """Learns a byte-level BPE tokenizer from `corpus`, with Qwen's special tokens; it can encode any text."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL) - len(TAGS) - 2,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    bpe.train_from_iterator(corpus, trainer)
    learned = json.loads(bpe.to_str())["model"]
    settings: dict[str, Any] = {  # transformers' annotations are narrower than what it takes
        "vocab": learned["vocab"],
        "merges": [tuple(merge) for merge in learned["merges"]],
        "unk_token": None,
        "eos_token": END,
        "pad_token": PAD,
        "extra_special_tokens": list(SPECIAL),
    }
    tokenizer = Qwen2Tokenizer(**settings)
    tokenizer.add_tokens(list(TAGS))
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer


def make_processor(tokenizer: Qwen2Tokenizer, sizes: TinyConfig) -> ImageOnlyProcessor:
    """Makes the processor; images are resized to an area between the bounds of `sizes`."""
    size = {"shortest_edge": sizes.min_pixels, "longest_edge": sizes.max_pixels}
    images = Qwen2VLImageProcessorPil(patch_size=sizes.patch, merge_size=2, temporal_patch_size=2, size=size)
    return image_only_class(QWEN2_5_VL)(images, tokenizer, chat_template=CHAT_TEMPLATE)


def make_config(tokenizer: Qwen2Tokenizer, sizes: TinyConfig) -> Qwen2_5_VLConfig:
    """Makes the config; rotary sections in Qwen's proportions (1/4 time, the rest height and width)."""
    token = cast(Callable[[str], int], tokenizer.convert_tokens_to_ids)
    half = sizes.hidden // sizes.heads // 2
    side = (half - half // 4) // 2
    text = dict(
        vocab_size=16 * math.ceil(len(tokenizer) / 16),
        hidden_size=sizes.hidden,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=sizes.context,
        rms_norm_eps=1e-6,
        rope_parameters=dict(
            rope_type="default", rope_theta=10000.0, mrope_section=[half - 2 * side, side, side]
        ),
        bos_token_id=None,
        eos_token_id=token(END),
        pad_token_id=token(PAD),
        tie_word_embeddings=True,
        initializer_range=sizes.initializer_range,
    )
    vision = dict(
        depth=sizes.vision_layers,
        hidden_size=sizes.vision_hidden,
        intermediate_size=sizes.vision_mlp,
        num_heads=sizes.vision_heads,
        patch_size=sizes.patch,
        spatial_merge_size=2,
        temporal_patch_size=2,
        window_size=8 * sizes.patch,
        out_hidden_size=sizes.hidden,
        fullatt_block_indexes=list(range(1, sizes.vision_layers, 2)),
        initializer_range=sizes.initializer_range,
    )
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )


def make_vlm(corpus: Iterable[str], sizes: TinyConfig, seed: int) -> VLM:
    """Makes a randomly initialised model with its processor; the global random state is left as it was."""
    tokenizer = make_tokenizer(corpus, sizes.vocabulary)
    config = make_config(tokenizer, sizes)
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return VLM(cast(HFModel, model), make_processor(tokenizer, sizes), "tiny")


@dataclass(frozen=True)
class TinyModel(PretrainedModel):
    """`conf/model/tiny.yaml`: makes the base model on first use, then behaves like any pretrained folder.

    `corpus()` gives the texts that the tokenizer is learned from, `lessons(seed=...)` the traces to pretrain
    on. `training` has a method `train(vlm, traces, folder=, seed=, title=)`. Without lessons or training the
    weights stay random.
    """

    path: str = ""
    sizes: TinyConfig = TinyConfig()
    seed: int = 0
    cache: str = ".cache"
    corpus: Callable[[], Sequence[str]] = field(kw_only=True)
    lessons: Callable[..., Sequence[Trace]] | None = None
    training: Any = None

    def base_path(self) -> str:
        """The cached base model's folder, made now if it isn't there."""
        return self._base_folder

    def build_on_meta(self) -> HFModel:
        """Builds the architecture on the meta device; nothing is trained or cached."""
        tokenizer = make_tokenizer(self.corpus(), self.sizes.vocabulary)
        with torch.device("meta"):
            return cast(HFModel, Qwen2_5_VLForConditionalGeneration(make_config(tokenizer, self.sizes)))

    @property
    def max_image_pixels(self) -> int:
        """The largest area of an image in pixels."""
        return self.max_pixels or self.sizes.max_pixels

    @cached_property
    def _base_folder(self) -> str:
        """Makes the base model unless it is cached; a kill leaves nothing half-written under its name."""
        lessons, training = [], self.training
        if self.lessons is not None and training is not None:
            lessons = list(self.lessons(seed=self.seed))
        corpus = list(self.corpus())
        folder = Path(self.cache).absolute() / f"tiny-{self._key(corpus, lessons)}"
        if distributed.broadcast(folder.is_dir()):
            return str(folder)
        vlm = make_vlm(corpus, self.sizes, self.seed)
        if distributed.is_main():
            folder.parent.mkdir(parents=True, exist_ok=True)
        if lessons and training is not None:
            size = sum(parameter.numel() for parameter in vlm.model.parameters()) / 1e6
            print(
                f"making the embedded base model ({size:.2f} M parameters), once per seed: {folder}",
                flush=True,
            )
            self._pretrain(vlm, lessons, folder)
        if distributed.is_main():
            with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
                vlm.save(Path(aside) / "model")
                _move_to_cache(Path(aside) / "model", folder)
        distributed.barrier()  # the other ranks load it
        return str(folder)

    def _pretrain(self, vlm: VLM, lessons: Sequence[Trace], base: Path) -> None:
        """Trains in a folder beside the base's, which stays only where training left a step to replay."""
        main, start = distributed.is_main(), f"{base.name}-training-"
        folder = Path(distributed.broadcast(tempfile.mkdtemp(dir=base.parent, prefix=start) if main else ""))
        # it is small, and the same under every strategy
        training = replace(self.training, fit=replace(self.training.fit, strategy=Strategy("none")))
        try:
            training.train(vlm, lessons, folder=folder, seed=self.seed, title="base")
        finally:
            if main and not any(folder.glob("*.pt")):
                shutil.rmtree(folder)

    def _key(self, corpus: Sequence[str], lessons: Sequence[Trace]) -> str:
        """A hash of everything that decides the weights: sizes, seed, texts, images and training settings.

        How training is run (`fit`: devices, checkpoints, progress bar) doesn't count.
        """
        training = {} if self.training is None else describe_settings(self.training)[1]
        training.pop("fit", None)
        settings = [asdict(self.sizes), self.seed, list(corpus), training]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for trace in lessons[:200]:
            digest.update(f"{trace.problem.question}|{trace.response}".encode())
            for image in open_images(trace.problem):
                digest.update(image.tobytes())
        digest.update(str(len(lessons)).encode())
        return digest.hexdigest()[:12]


def _move_to_cache(model: Path, folder: Path) -> None:
    try:
        os.rename(model, folder)
    except OSError:
        if not folder.is_dir():  # else another run was first; its model is the same
            raise


def describe_settings(value: Any) -> Any:
    """Settings as plain data, the same in every process (a `repr` holds a function's address)."""
    if isinstance(value, partial):
        return [
            describe_settings(value.func),
            describe_settings(value.args),
            describe_settings(value.keywords),
        ]
    if is_dataclass(value):
        return [
            type(value).__qualname__,
            {entry.name: describe_settings(getattr(value, entry.name)) for entry in fields(value)},
        ]
    if isinstance(value, Mapping):
        return {str(key): describe_settings(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe_settings(item) for item in value]
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return value
