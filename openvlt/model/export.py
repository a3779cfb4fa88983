"""The weights as a checkpoint holds them, one tensor at a time, with adapters merged."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from openvlt.errors import UserError
from openvlt.model.families import find_family
from openvlt.model.hf_types import HFModel
from openvlt.model.load import VLM, is_tied
from openvlt.model.processor import save_processor
from openvlt.model.shard import plain_class

FILE_BYTES = 2 << 30
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def merged_weights(vlm: VLM) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of every weight of the plain model; a layer under an active adapter merged, as a copy.

    The names are those of a checkpoint. A tied head comes as a tensor of its own. Of a sharded model only
    inside `whole_weights`. Raises UserError for an adapter of a kind that has no merged weight.
    """
    saved_names = find_family(vlm.core.config).saved_names
    for name, value in _weights_below(vlm.core, ""):
        old, new = next((pair for pair in saved_names if name.startswith(pair[0])), ("", ""))
        yield f"{new}{name.removeprefix(old)}", value
    if is_tied(vlm.core):
        yield "lm_head.weight", vlm.core.get_output_embeddings().weight.detach().clone()


def _weights_below(
    module: nn.Module, name: str, seen: set[int] | None = None
) -> Iterator[tuple[str, Tensor]]:
    seen = set() if seen is None else seen
    plain, copied = _without_adapter(module, name)
    for own, value in plain.named_parameters(recurse=False):
        if copied or id(value) not in seen:
            seen.add(id(value))
            yield f"{name}{own}", value.detach()
    if not copied:
        for own, child in plain.named_children():
            yield from _weights_below(child, f"{name}{own}.", seen)


def _without_adapter(module: nn.Module, name: str) -> tuple[nn.Module, bool]:
    """The layer that an adapter's module stands for, and whether it is a merged copy."""
    if not type(module).__module__.startswith("peft."):
        return module, False
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    if isinstance(module, BaseTunerLayer):
        if not _is_active(module):
            return module.get_base_layer(), False
        merged: Any = copy.deepcopy(module)
        merged.merge()
        return merged.get_base_layer(), True
    if isinstance(module, ModulesToSaveWrapper):
        active = None if module._disable_adapters else next(iter(module.active_adapters), None)
        return (module.original_module if active is None else module.modules_to_save[active]), False
    raise UserError(
        f"rollout=vllm can't merge {type(module).__name__} at {name.rstrip('.')}; use rollout=prefix"
    )


@torch.no_grad()
def weights_digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of names, shapes, types and bits: equal weights have equal ones, on every process and machine.

    Every tensor is read once, where it lies: its bits, as integers, are added up in blocks of 4,096, and the
    sums weighted by their place.
    """
    digest, sums = hashlib.blake2b(digest_size=8), []
    for name, value in named:
        digest.update(f"{name}|{tuple(value.shape)}|{value.dtype}|".encode())
        sums.append(_bit_sum(value))
    if sums:
        device = sums[0].device
        digest.update(torch.stack([value.to(device) for value in sums]).cpu().numpy().tobytes())
    return digest.hexdigest()


def _bit_sum(value: Tensor) -> Tensor:
    bits = value.contiguous().view(_BITS[value.element_size()]).flatten()
    whole = len(bits) // 4096 * 4096
    blocks = bits[:whole].view(-1, 4096).sum(1, dtype=torch.int64)
    places = torch.arange(1, len(blocks) + 1, device=bits.device) * 0x9E3779B1
    rest = bits[whole:].long() * torch.arange(1, len(bits) - whole + 1, device=bits.device)
    return (blocks * places).sum() + rest.sum() * 31


def write_weights(named: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Writes safetensors files of at most 2 GiB or one tensor; the folder is there and empty before."""
    part: dict[str, Tensor] = {}
    size = number = 0
    for name, value in named:
        bytes_ = value.numel() * value.element_size()
        if part and size + bytes_ > FILE_BYTES:
            save_file(part, folder / f"weights-{number:05d}.safetensors")
            part, size, number = {}, 0, number + 1
        part[name] = value.contiguous().cpu()
        size += bytes_
    save_file(part, folder / f"weights-{number:05d}.safetensors")


def write_untied_model(vlm: VLM, folder: Path) -> None:
    """Writes the whole model as a Hugging Face folder in which the head is a tensor of its own."""
    config = copy.deepcopy(vlm.core.config)
    for part in (config, config.get_text_config()):
        part.tie_word_embeddings = False
    cast(Any, config).architectures = [plain_class(vlm.core).__name__]
    cast(Any, config).save_pretrained(folder)
    vlm.core.generation_config.save_pretrained(folder)
    save_processor(vlm.processor, folder)
    write_weights(merged_weights(vlm), folder)


def has_adapter(model: HFModel) -> bool:
    """Whether a PEFT adapter is on the model and switched on."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(
        isinstance(part, BaseTunerLayer) and _is_active(part) for part in cast(nn.Module, model).modules()
    )


def _is_active(layer: Any) -> bool:
    """Whether an adapter's layer adds to its base layer's output."""
    return bool(not layer.disable_adapters and layer.active_adapters and not layer.merged)
