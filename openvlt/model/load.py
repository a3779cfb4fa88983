"""Loading a `VLM`, a vision-language model with its processor, from a Hugging Face folder or hub id."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import AutoConfig, AutoModelForImageTextToText, ProcessorMixin
from transformers.utils import logging as transformers_logging

from openvlt.errors import UserError, first_line
from openvlt.model import families
from openvlt.model.families import MODEL_PARTS, find_family, part_parameters
from openvlt.model.hf_types import HFModel
from openvlt.model.processor import ImageOnlyProcessor, load_processor, save_processor
from openvlt.model.transformers_range import enable_checkpointing
from openvlt.model.weights import check_finite, check_takes_images, choose_attention, load_weights

transformers_logging.disable_progress_bar()  # one bar a stage is enough


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
        config = self.core.config
        named = [getattr(config, name, None) for name in ("image_token_id", "video_token_id")]
        known = [mark for mark in named if mark is not None and mark < size]
        for token_id in [*self._mark_ids(), *known, self.pad_id]:
            banned_V[token_id] = token_id not in self.stop_ids
        return banned_V

    def _mark_ids(self) -> list[int]:
        """Ids of those of the family's marks that the tokenizer has.

        They are looked up one by one: the whole vocabulary as a dict takes longer than a small model's step.
        """
        names, to_id = self.tokenizer.convert_ids_to_tokens, self.tokenizer.convert_tokens_to_ids
        found = [(token, to_id(token)) for token in find_family(self.core.config).marks]
        return [number for token, number in found if number is not None and names(number) == token]

    def merge_adapter(self) -> HFModel:
        """Merges an adapter into the weights, in place, and returns the plain model."""
        if not hasattr(self.model, "merge_and_unload"):
            return self.model
        with _quiet_peft():
            return self.model.merge_and_unload()

    def save(self, folder: Path) -> None:
        """Writes a plain Hugging Face checkpoint; an adapter is merged into the weights first.

        Raises UserError, before anything is written, when a weight is NaN or infinite.
        """
        if isinstance(self.model, FSDPModule):
            raise RuntimeError("one process can't save shards; save openvlt.model.shard.plain_copy(vlm)")
        model = self.merge_adapter()
        check_finite(
            model, "the trained model", "it isn't saved; lower the learning rate, and look at metrics.csv"
        )
        _declare_tying(model)
        model.save_pretrained(folder)
        save_processor(self.processor, folder)


def is_tied(model: HFModel) -> bool:
    """Whether head and input embedding are one tensor."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _declare_tying(model: HFModel) -> None:
    """Has the config say whether head and embedding are one: training only one of them parts them."""
    for config in (model.config, model.config.get_text_config()):
        if hasattr(config, "tie_word_embeddings"):
            config.tie_word_embeddings = is_tied(model)


@dataclass(frozen=True)
class PretrainedModel:
    """What `conf/model/*.yaml` builds: where the base model is and how any checkpoint of it is loaded.

    `freeze` lists parts that stay fixed, out of vision, projector and language. `dtype` is the name of a
    torch dtype, or "auto". `attn_implementation` is a name that transformers knows, or "auto": flash-attn
    where it can be used, else SDPA. `shape` is the folder of a shipped config under `openvlt/model/shapes`.
    `gradient_checkpointing` is False, True or "selective" (see `enable_checkpointing`).
    """

    path: str
    dtype: str = "float32"
    attn_implementation: str = "sdpa"
    freeze: tuple[str, ...] = ()
    min_pixels: int | None = None
    max_pixels: int | None = None
    gradient_checkpointing: bool | str = False
    device: str = "auto"
    shape: str | None = None

    def __post_init__(self) -> None:
        if self.gradient_checkpointing not in (True, False, "selective"):
            raise UserError(
                f"model.gradient_checkpointing={self.gradient_checkpointing}; choose from false, true (every "
                "layer is computed twice) and selective (all but matrix products and attention)"
            )

    def build_on_meta(self) -> HFModel:
        """Builds the architecture on the meta device, from the shipped config or else that of `path`.

        Nothing is allocated, and with a shipped config nothing is downloaded.
        """
        path = str(Path(__file__).parent / "shapes" / self.shape) if self.shape else self.path
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
        return cast(HFModel, model)

    def base_path(self) -> str:
        """The base checkpoint that every SFT starts from."""
        return self.path

    def load(self, path: str | Path | None = None, *, adapter: Any = None) -> VLM:
        """Loads the base model or a later checkpoint of it, ready for training.

        `adapter` (a PEFT config) is put on top if given. `device` auto is the first GPU, or the CPU without
        one. Raises UserError for a checkpoint that isn't whole, or whose weights aren't numbers.
        """
        path = str(path or self.base_path())
        processor = self.load_processor(path)
        attention = self.attn_implementation
        if attention == "auto":
            attention = choose_attention(path, self.dtype, self.torch_device())
        model = load_weights(path, dtype=self.dtype, attn_implementation=attention)
        model = model.to(self.torch_device())
        check_finite_weights(model, path)
        check_vocabulary(VLM(model, processor, path))
        return VLM(self.prepare(model, adapter), processor, path)

    def torch_device(self) -> torch.device:
        """Where the weights go: `device`, of which auto is the first GPU, or the CPU without one."""
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(auto if self.device == "auto" else self.device)

    def load_processor(self, path: str | Path | None = None) -> ProcessorMixin:
        """Loads the processor of the base model or of a later checkpoint, with this model's image sizes."""
        path = str(path or self.base_path())
        check_takes_images(path)
        return load_processor(path, min_pixels=self.min_pixels, max_pixels=self.max_pixels)

    def prepare(self, model: HFModel, adapter: Any) -> HFModel:
        """Prepares a loaded model for training: freezes parts, sets checkpointing, adds the adapter."""
        freeze(model, self.freeze)
        if self.gradient_checkpointing:
            enable_checkpointing(model, selective=self.gradient_checkpointing == "selective")
        return add_adapter(model, adapter)

    @property
    def max_image_pixels(self) -> int | None:
        """The largest area of an image in pixels; None where the processor's own bound holds."""
        return self.max_pixels


def check_finite_weights(model: HFModel, path: str) -> None:
    """Raises UserError when a loaded model has NaN or infinite weights."""
    half = ", or try model.dtype=bfloat16: float16 ends at 65504" if model.dtype == torch.float16 else ""
    check_finite(
        model, path, f"the checkpoint is broken, as a diverged run leaves it; take an earlier one{half}"
    )


def check_vocabulary(vlm: VLM) -> None:
    """Raises UserError when the tokenizer has tokens that the model has no embedding for.

    Also when its image token is another one than the model's.
    """
    rows = vlm.core.get_input_embeddings().weight.shape[0]
    tokens = vlm.tokenizer.get_vocab()
    token, largest = max(tokens.items(), key=lambda item: item[1])
    if largest >= rows:
        raise UserError(
            f"{vlm.path}: the tokenizer has ids up to {largest} ({token!r}), the model's embedding only "
            f"{rows} rows; call resize_token_embeddings and save the model, or take its own tokenizer"
        )
    config = vlm.core.config
    known = getattr(config, "image_token_id", None)
    name = "feature_token_id" if isinstance(vlm.processor, ImageOnlyProcessor) else "image_token_id"
    shown = getattr(vlm.processor, name, known)
    if known != shown:
        raise UserError(
            f"{vlm.path}: images are token {shown} to the tokenizer and {known} to the model (config.json); "
            "take config.json and tokenizer from the same model"
        )


def freeze(model: HFModel, parts: Sequence[str]) -> None:
    """Stops gradients of the named parts. Raises UserError for an unknown part or a model without it."""
    if unknown := set(parts) - set(MODEL_PARTS):
        raise UserError(f"model.freeze names {sorted(unknown)}; parts are {sorted(MODEL_PARTS)}")
    for weight in [weight for part in parts for weight in part_parameters(model, part)]:
        weight.requires_grad_(False)


def add_adapter(model: HFModel, adapter: Any) -> HFModel:
    """Puts the model under a PEFT adapter (`conf/adapter/lora.yaml`); None leaves it as it is.

    A layer's bare name (q_proj) means the language model's layers of that name, where it has any. Raises
    UserError for targets that the model doesn't have, and for one half of a tied head and embedding.
    """
    if adapter is None:
        return model
    from peft import get_peft_model

    adapter = _keep_to_language(model, adapter)
    shared = model.get_input_embeddings().weight if is_tied(model) else None
    try:
        with _quiet_peft():
            wrapped = get_peft_model(cast(Any, model), adapter)
    except ValueError as error:
        raise UserError(
            f"adapter: {first_line(error)}; adapter.target_modules names layers, as q_proj, or is a pattern "
            "that whole names match"
        ) from error
    if shared is not None:
        _refuse_tied_targets(wrapped, shared)
    return cast(HFModel, wrapped)


def _keep_to_language(model: HFModel, adapter: Any) -> Any:
    """The adapter, where a target's bare name is one of the language model's layers, only on these."""
    targets = getattr(adapter, "target_modules", None)
    if not isinstance(targets, (list, set, tuple)) or getattr(adapter, "exclude_modules", None):
        return adapter
    language = {id(module) for module in families.language_model(model).modules()}
    inner: dict[str, list[str]] = {"inside": [], "outside": []}
    for name, module in model.named_modules():
        inner["inside" if id(module) in language else "outside"].append(name)
    shared = {name.rpartition(".")[2] for name in inner["inside"]} & set(targets)
    excluded = [name for name in inner["outside"] if name.rpartition(".")[2] in shared]
    return dataclasses.replace(adapter, exclude_modules=excluded) if excluded else adapter


@contextlib.contextmanager
def _quiet_peft() -> Iterator[None]:
    """Inside, PEFT doesn't warn of tied embeddings, which are checked here and when the model is saved."""
    with warnings.catch_warnings():
        for start in ("Model has `tie_word", "Input and output embeddings", "`is_gradient_checkpointing`"):
            warnings.filterwarnings("ignore", message=start)
        yield


def _refuse_tied_targets(wrapped: nn.Module, shared: Tensor) -> None:
    """Raises UserError for an adapter on the head or the embedding where `shared` is the weight of both.

    Training would change one of the two, merging both.
    """
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in wrapped.named_modules():
        if not isinstance(module, BaseTunerLayer) or isinstance(module, TrainableTokensLayer):
            continue  # single tokens are trained in both at once
        if getattr(module.get_base_layer(), "weight", None) is shared:
            layer = name.rpartition(".")[2]
            raise UserError(
                f"adapter.target_modules has {layer}, but this model's head and embedding are one tensor: "
                "the adapter would train one of them and change both when it is merged; remove it there and "
                f"train it whole: +adapter.modules_to_save=[{layer}]"
            )
