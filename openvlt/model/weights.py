"""Loading the weights of a model folder or hub id: all there, of the right shape, and numbers."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoModelForImageTextToText
from transformers.utils import logging as transformers_logging
from transformers.utils.import_utils import is_flash_attn_2_available

from openvlt import distributed
from openvlt.errors import UserError, first_line
from openvlt.model.checkpoint_files import check_model_files, check_model_path, find_adapter_base
from openvlt.model.families import find_family
from openvlt.model.hf_types import HFModel

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


# what transformers, safetensors and torch raise for files that they can't read
LOAD_ERRORS = (
    OSError,
    ValueError,
    ImportError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    SafetensorError,
    StrictDataclassError,
)


def choose_attention(path: str, dtype: str, device: torch.device) -> str:
    """transformers' name of flash-attn where a model can use it, else of SDPA; prints which, once."""
    config = AutoConfig.from_pretrained(find_adapter_base(path) or path, trust_remote_code=False)
    half = (config.dtype if dtype == "auto" else getattr(torch, dtype, None)) in (
        torch.float16,
        torch.bfloat16,
    )
    if device.type != "cuda":
        reason = "there is no GPU"
    elif not is_flash_attn_2_available():
        reason = "flash-attn isn't installed"
    elif not half:
        reason = "the weights aren't in 16 bits"
    elif not find_family(cast(Any, config)).flash_attention:
        reason = f"{config.model_type}'s mask needs it"
    else:
        _print_once("attention: flash-attn")
        return "flash_attention_2"
    _print_once(f"attention: PyTorch's SDPA, since {reason}")
    return "sdpa"


@functools.cache
def _print_once(line: str) -> None:
    if distributed.is_main():
        print(line, flush=True)


def load_weights(
    path: str, *, dtype: str, attn_implementation: str | None, architecture: Any = AutoModelForImageTextToText
) -> HFModel:
    """Loads the model of a folder or hub id, on the CPU; an adapter's folder with its base, merged.

    `architecture` is transformers' Auto class. Raises UserError for an unknown dtype, files that are missing
    or broken, another architecture, and tensors that are missing or have another shape than the config says.
    """
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UserError(f"model.dtype={dtype!r} is no torch dtype; use float32, bfloat16, float16 or auto")
    check_folder(path)
    settings = {"dtype": dtype, "attn_implementation": attn_implementation}
    if (base := _check_base(path)) is not None:
        return _load_adapter(path, base, {**settings, "architecture": architecture})
    try:
        with _quiet_transformers():
            model, info = architecture.from_pretrained(
                path,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
                **settings,
            )
    except LOAD_ERRORS as error:
        raise UserError(
            f"model {path!r} can't be loaded: {first_line(error)}; check the path, the hub id or the network"
        ) from error
    check_loaded(model, info, path)
    return cast(HFModel, model)


def check_folder(path: str) -> None:
    """Raises UserError for a path that can't be a model, and for broken files in its folder."""
    check_model_path(path)
    if Path(path).is_dir():
        check_model_files(Path(path))


def _check_base(path: str) -> str | None:
    """The base model of an adapter's folder, checked; None for a whole model."""
    base = find_adapter_base(path)
    if base is not None:
        try:
            check_folder(base)
        except UserError as error:
            raise UserError(
                f"{path} is an adapter of {base!r}, and that base can't be used: {error}"
            ) from error
    return base


def check_takes_images(path: str) -> None:
    """As `check_folder`, and raises UserError for a model that takes no images."""
    check_folder(path)
    try:
        config = AutoConfig.from_pretrained(_check_base(path) or path, trust_remote_code=False)
    except LOAD_ERRORS as error:
        raise UserError(
            f"model {path!r}: its config.json can't be read ({first_line(error)}); check the path, the hub "
            "id or the network"
        ) from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not hasattr(config, "auto_map"):
        raise UserError(
            f"{path}: config.json describes a {config.model_type!r} model, which takes no images; give a "
            "vision-language model such as Qwen2.5-VL (a text model can write chains: docs/distill.md)"
        )


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Inside, transformers prints errors only: `check_loaded` says in a sentence what its table says."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _load_adapter(path: str, base: str, settings: dict[str, Any]) -> HFModel:
    """The base model with the adapter of a folder merged into it. Raises UserError where they don't fit."""
    from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    model = load_weights(base, **settings)
    try:
        wrapped = get_peft_model(cast(Any, model), PeftConfig.from_pretrained(path))
        found = set_peft_model_state_dict(wrapped, load_peft_weights(path, device="cpu"))
    except (*LOAD_ERRORS, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: the adapter doesn't fit its base {base!r} ({first_line(error)}); take the base that it "
            "was trained on"
        ) from error
    missing = [name for name in found.missing_keys if ".default" in name]
    if missing or found.unexpected_keys:
        raise UserError(
            f"{path}: the adapter doesn't fit its base {base!r}: {len(missing)} of its tensors are missing, "
            f"{len(found.unexpected_keys)} have no place ({[*missing, *found.unexpected_keys][0]}); take the "
            "base that it was trained on"
        )
    return cast(HFModel, wrapped.merge_and_unload())


def check_loaded(model: nn.Module, info: Mapping[str, Any], path: str) -> None:
    """Raises UserError unless a checkpoint holds the model: every tensor, of its shape, and none too many.

    `info` is what transformers returns with `output_loading_info`; a tied head isn't missing there. Prints a
    warning about tensors of parts that the model doesn't have, such as a value head.
    """
    if wrong := sorted(info["mismatched_keys"]):
        name, found, expected = wrong[0]
        raise UserError(
            f"{path}: {len(wrong)} tensor{'s' * (len(wrong) > 1)} of another shape than config.json says, "
            f"the first {name} {tuple(found)}, expected {tuple(expected)}; take weights and config.json "
            "from the same model"
        )
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing:
        total = len(model.state_dict())
        raise UserError(
            f"{path}: {len(missing)} of {total} tensors are not in the checkpoint, which would be random "
            f"({_first(missing)}); {explain_missing(missing, unexpected)}"
        )
    if inside := [name for name in unexpected if _is_inside(model, name)]:
        adapter = any("lora_" in name for name in inside)
        cause = "an adapter's, merge it first" if adapter else "config.json describes another model"
        raise UserError(
            f"{path}: {len(inside)} tensors of the checkpoint have no place in the model "
            f"({_first(inside)}): {cause}; take weights and config.json from the same model"
        )
    if unexpected:
        print(
            f"warning: {path} holds {len(unexpected)} tensors of a part that the model doesn't have "
            f"({_first(unexpected)}); they are not used",
            flush=True,
        )


def explain_missing(missing: Collection[str], unexpected: Collection[str]) -> str:
    """The likely cause that tensors are missing, and the fix.

    `unexpected` are the names in the checkpoint that fit nowhere.
    """
    if not unexpected:
        if list(missing) == ["lm_head.weight"]:
            return (
                "if the model shares head and embedding, set tie_word_embeddings to true in config.json, "
                "else a file of weights is missing"
            )
        return "a file of weights was forgotten, or is of another model; download the model again"
    count = f"all {len(unexpected)} names" if len(unexpected) > 1 else "the name"
    prefix = os.path.commonprefix(list(unexpected)).rpartition(".")[0] + "."
    if prefix != "." and not any(name.startswith(prefix) for name in missing):
        return (
            f'{count} that fit nowhere begin with "{prefix}", as a wrapper (DDP, DeepSpeed, FSDP, '
            "torch.compile, PEFT) leaves them; rename them without it and save the model again"
        )
    first = next(iter(unexpected))
    if longer := next((name for name in missing if name.endswith(f".{first}")), None):
        return (
            f'{count} that fit nowhere lack the beginning "{longer.removesuffix(first)}"; '
            "save the whole model, not a part of it"
        )
    return (
        f"{count} in it fit nowhere ({_first(unexpected)}): weights of another architecture, or saved by "
        "another version of transformers; take weights and config.json from the same model"
    )


def _is_inside(model: nn.Module, name: str) -> bool:
    """Whether a tensor would belong to a layer that the model has, or to one more layer of a list."""
    parts = name.split(".")[:-1]
    owner = model
    for part in parts:
        inner = owner._modules.get(part)
        if inner is None:
            break
        owner = inner
    return owner is not model and (isinstance(owner, nn.ModuleList) or not owner._modules)


def check_finite(model: nn.Module, what: str, fix: str) -> None:
    """Raises UserError when a weight of the model is NaN or infinite.

    `what` names the model, `fix` the way out. One pass without a copy.
    """
    if bad := find_not_finite(model.named_parameters()):
        raise UserError(
            f"{what}: {len(bad)} tensor{'s hold' if len(bad) > 1 else ' holds'} NaN or infinite numbers "
            f"({_first(bad)}), so that its outputs are not numbers; {fix}"
        )


@torch.no_grad()
def find_not_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of tensors that hold a NaN or an infinity. The device is waited for once."""
    filled = [(name, value) for name, value in named if value.dtype in FLOAT_DTYPES and value.numel()]
    filled = [(name, value) for name, value in filled if not value.is_meta]
    if not filled:
        return []
    extremes = [torch.stack(torch.aminmax(value)).double() for _, value in filled]  # NaN passes through both
    device = extremes[0].device
    finite = torch.stack([pair.to(device) for pair in extremes]).isfinite().all(1).tolist()
    return [name for (name, _), is_finite in zip(filled, finite, strict=True) if not is_finite]


def _first(names: Iterable[str]) -> str:
    """The first three of the names."""
    names = list(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
