"""Loading a `VLM`, a vision-language model with its processor, from a Hugging Face folder or hub id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, ProcessorMixin
from transformers.utils import logging as transformers_logging

from openvlt.errors import UserError, first_line
from openvlt.model.hf_types import HFModel
from openvlt.model.processor import load_processor, save_processor

transformers_logging.disable_progress_bar()  # one bar a stage is enough

VISION_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
    "<|im_start|>",
)


@dataclass(frozen=True)
class VLM:
    """A model with its processor. `model` may be wrapped by PEFT; `core` is the Hugging Face model inside."""

    model: HFModel
    processor: ProcessorMixin
    path: str

    @property
    def core(self) -> HFModel:
        """The Hugging Face model, without an adapter's wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.core.parameters()).device

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion: the generation config's, else the tokenizer's end of turn."""
        stop = self.core.generation_config.eos_token_id
        stop = self.tokenizer.eos_token_id if stop is None else stop
        return tuple(stop) if isinstance(stop, (list, tuple)) else (stop,)

    @property
    def pad_id(self) -> int:
        """The padding token; a stop token where the tokenizer has none."""
        return self.stop_ids[0] if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def banned_V(self) -> Tensor:
        """Bool mask (V,) of tokens that are never generated: for vision or padding, and ids without a token.

        A sampled `<|image_pad|>` makes the next forward pass fail. The same mask is applied in sampling and
        in scoring.
        """
        size = self.core.get_output_embeddings().weight.shape[0]
        banned_V = torch.zeros(size, dtype=torch.bool, device=self.device)
        banned_V[len(self.tokenizer) :] = True
        known = self.tokenizer.get_vocab()
        for token_id in [known[token] for token in VISION_TOKENS if token in known] + [self.pad_id]:
            banned_V[token_id] = token_id not in self.stop_ids
        return banned_V

    def merge_adapter(self) -> HFModel:
        """Merges an adapter into the weights, in place, and returns the plain model."""
        return self.model.merge_and_unload() if hasattr(self.model, "merge_and_unload") else self.model

    def save(self, folder: Path) -> None:
        """Writes a plain Hugging Face checkpoint; an adapter is merged into the weights first."""
        self.merge_adapter().save_pretrained(folder)
        save_processor(self.processor, folder)


@dataclass(frozen=True)
class PretrainedModel:
    """What `conf/model/*.yaml` builds: where the base model is and how any checkpoint of it is loaded.

    `freeze` lists parts that stay fixed, out of vision, projector and language. `dtype` is the name of a
    torch dtype, or "auto". `shape` is the folder of a shipped config under `openvlt/model/shapes`.
    """

    path: str
    dtype: str = "float32"
    attn_implementation: str = "sdpa"
    freeze: tuple[str, ...] = ()
    min_pixels: int | None = None
    max_pixels: int | None = None
    gradient_checkpointing: bool = False
    device: str = "auto"
    shape: str | None = None

    def build_on_meta(self) -> HFModel:
        """Builds the architecture on the meta device, from the shipped config or else that of `path`.

        Nothing is allocated, and with a shipped config nothing is downloaded.
        """
        path = str(Path(__file__).parent / "shapes" / self.shape) if self.shape else self.path
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(path))
        return cast(HFModel, model)

    def base_path(self) -> str:
        """The base checkpoint that every SFT starts from."""
        return self.path

    def load(self, path: str | Path | None = None, *, adapter: Any = None) -> VLM:
        """Loads the base model or a later checkpoint of it, ready for training.

        `adapter` (a PEFT config) is put on top if given. `device` auto is the first GPU, or the CPU without
        one.
        """
        path = str(path or self.base_path())
        check_model_path(path)
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        processor = load_processor(path, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        model = load_weights(path, dtype=self.dtype, attn_implementation=self.attn_implementation).to(device)
        return VLM(self.prepare(model, adapter), processor, path)

    def prepare(self, model: HFModel, adapter: Any) -> HFModel:
        """Prepares a loaded model for training: freezes parts, sets checkpointing, adds the adapter."""
        freeze(model, self.freeze)
        if self.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        return add_adapter(model, adapter)

    @property
    def max_image_pixels(self) -> int | None:
        """The largest area of an image in pixels; None where the processor's own bound holds."""
        return self.max_pixels


def check_model_path(path: str) -> None:
    """Raises UserError when `path` can be neither a model folder nor a hub id (`name` or `owner/name`)."""
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise UserError(
            f"{path}: no config.json there; give a Hugging Face model folder, a run folder or a hub id"
        )
    if not Path(path).exists() and (path.count("/") > 1 or path.startswith((".", "/", "~"))):
        raise UserError(
            f"{path}: there is no such folder; give a Hugging Face model folder, a run folder or a hub id"
        )


def load_weights(path: str, *, dtype: str, attn_implementation: str) -> HFModel:
    """Loads the model of a folder or hub id.

    Raises UserError for a missing folder, missing files or an unknown dtype.
    """
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UserError(f"model.dtype={dtype!r} is no torch dtype; use float32, bfloat16, float16 or auto")
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype, attn_implementation=attn_implementation
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"model {path!r} can't be loaded: {first_line(error)}; check the path, the hub id or the network"
        ) from error
    return cast(HFModel, model)


def freeze(model: HFModel, parts: Sequence[str]) -> None:
    """Stops gradients of the named parts. Raises UserError for an unknown part or a model without it."""
    finders = {
        "vision": _find_vision_tower,
        "projector": _find_projector,
        "language": lambda model: model.model.language_model,
    }
    if unknown := set(parts) - set(finders):
        raise UserError(f"model.freeze names {sorted(unknown)}; parts are {sorted(finders)}")
    for part in parts:
        finders[part](model).requires_grad_(False)
    if "vision" in parts and "projector" not in parts and hasattr(_find_vision_tower(model), "merger"):
        _find_projector(model).requires_grad_(True)


def _find_vision_tower(model: HFModel) -> nn.Module:
    return _find_part(model.model, ("visual", "vision_tower", "vision_model"), "vision tower")


def _find_projector(model: HFModel) -> nn.Module:
    if hasattr(model.model, "visual"):
        return model.model.visual.merger
    return _find_part(model.model, ("multi_modal_projector", "connector", "mm_projector"), "projector")


def _find_part(module: nn.Module, names: Sequence[str], what: str) -> nn.Module:
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)
    raise UserError(f"{type(module).__name__} has no {what} under {list(names)}; remove it from model.freeze")


def add_adapter(model: HFModel, adapter: Any) -> HFModel:
    """Puts the model under a PEFT adapter (`conf/adapter/lora.yaml`); None leaves it as it is."""
    if adapter is None:
        return model
    from peft import get_peft_model

    return cast(HFModel, get_peft_model(cast(Any, model), adapter))
