"""The memory of a model's passes, counted on the meta device: the same code runs over shapes without numbers.

So an estimate takes seconds and no memory, and counts what the installed transformers keeps for a backward
pass. Legend as in `packing.py`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from openvlt.model.hf_types import HFModel
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.attention import ATTENTION_NAME, PackedAttention
from openvlt.model.shared_prefix.forward import run_language_model
from openvlt.model.shared_prefix.logprob import CHUNK_LOGITS
from openvlt.model.shared_prefix.packing import Packing, pack
from openvlt.model.shared_prefix.vision_features import image_features, is_vision_trained
from openvlt.types import Prompts


@dataclass(frozen=True)
class PassSizes:
    """Sizes of one pass through the model: `prompts` prompts, each with `group` completions of `tokens`.

    A prompt has `text` tokens of text and `images` images of `side` x `side` tokens.
    """

    prompts: int
    group: int
    tokens: int
    text: int
    images: int
    side: int

    @property
    def prompt_tokens(self) -> int:
        """Tokens of one prompt."""
        return self.text + self.images * self.side**2

    @property
    def rows(self) -> int:
        """Completions in all."""
        return self.prompts * self.group


class MemoryTracker(TorchDispatchMode):
    """Counts bytes of tensors made inside it: those alive now (`current`), and the most so far (`peak`).

    Tensors in `known` don't count, nor do views.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._alive = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        devices = {tensor.device.type for tensor in _tensors(args)}
        if len(devices) > 1:  # indices lie on the CPU
            args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        result = func(*args, **kwargs)
        for tensor in _tensors((result,)):
            self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage._cdata not in self._alive:
            self._alive.add(storage._cdata)
            self.current += storage.nbytes()
            self.peak = max(self.peak, self.current)
            weakref.finalize(storage, self._discount, storage._cdata, storage.nbytes())

    def _discount(self, address: int, size: int) -> None:
        self._alive.discard(address)
        self.current -= size


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def wrap_as_fused(attend: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an attention function to keep what every fused kernel keeps for the backward pass.

    That is its inputs, its output and one number per query, never the scores.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        # here, and not around a whole pass: checkpointing recomputes outside such a mode
        with _FusedAttentionMode():
            return attend(*args, **kwargs)

    return run


VISION_ATTENTION = "openvlt_fused_estimate"
AttentionInterface.register(VISION_ATTENTION, wrap_as_fused(sdpa_attention_forward))


class _FusedAttentionMode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return func(*args, **(kwargs or {}))


def micro_batch_bytes(vlm: VLM, sizes: PassSizes) -> tuple[int, int]:
    """Bytes that a micro-batch keeps for its backward pass, and the most alive in both passes.

    Weights and their gradients don't count, nor does the head (see `head_bytes`). `vlm` is on the meta
    device.
    """
    known = list(vlm.model.parameters()) + list(vlm.model.buffers())
    for value in vlm.model.parameters():
        value.grad = torch.empty_like(value) if value.requires_grad else None
    with MemoryTracker([*known, *(value.grad for value in known if value.grad is not None)]) as tracker:
        hidden_MD = _run_pass(vlm, sizes)
        kept = tracker.current
        hidden_MD.backward(torch.empty_like(hidden_MD))
    return kept, tracker.peak


def head_bytes(vlm: VLM, sizes: PassSizes) -> int:
    """Bytes of the head at its peak.

    Logits of one chunk three times over, gradients of the hidden states and of the head's own weight. The
    latter is summed in 32 bits and then copied to a narrower weight's precision, when the logits are gone.
    """
    weight_VD = vlm.core.get_output_embeddings().weight
    (vocabulary, width), size, tokens = weight_VD.shape, weight_VD.element_size(), sizes.rows * sizes.tokens
    logits = min(tokens, max(1, CHUNK_LOGITS // vocabulary)) * vocabulary
    narrow = 2 * size if size < 4 else 0  # the products come and go in the weights' own precision
    learned = weight_VD.numel() if weight_VD.requires_grad else 0
    copied = learned * size if size < 4 else 0
    return max(logits * (12 + narrow), copied) + tokens * width * size + 4 * learned


def prefill_bytes(vlm: VLM, sizes: PassSizes) -> int:
    """Bytes of the packed pass over the prompts at its peak, with their keys and values."""
    with torch.no_grad(), MemoryTracker([*vlm.model.parameters(), *vlm.model.buffers()]) as tracker:
        _run_pass(vlm, replace(sizes, group=1, tokens=1), keep=True)
    return tracker.peak


def _run_pass(vlm: VLM, sizes: PassSizes, keep: bool = False) -> Tensor:
    """Hidden states (M,D) that predict each completion token, computed as `completion_hidden` does."""
    packing = _make_packing(sizes)
    count = sizes.prompts * sizes.text + sizes.rows * (sizes.tokens - 1)
    parts_SD = [vlm.core.get_input_embeddings()(torch.empty(count, dtype=torch.long, device="meta"))]
    vlm.core.set_attn_implementation({"text_config": ATTENTION_NAME, "vision_config": VISION_ATTENTION})
    # pixels go to the device with their prompts, whether the tower still has to read them or not
    prompts = _make_prompts(vlm.core, sizes)
    if sizes.images:
        parts_SD.append(_image_features(vlm, prompts, sizes).to(parts_SD[0].dtype))
    embeds_SD = torch.cat(parts_SD)
    positions_3BS = torch.empty(3, 1, len(embeds_SD), dtype=torch.long, device="meta")
    attend = wrap_as_fused(PackedAttention(packing, keep))
    hidden_BSD = run_language_model(vlm.core, embeds_SD[None], positions_3BS, attend)
    return hidden_BSD[0].index_select(0, packing.source_M)


def _image_features(vlm: VLM, prompts: Prompts, sizes: PassSizes) -> Tensor:
    """The tower's pass, or features stored earlier when it is frozen (see `store_vision_features`)."""
    if is_vision_trained(vlm):
        return image_features(vlm, prompts, recompute=sizes.group > 1)[0]
    width = vlm.core.get_input_embeddings().weight.shape[1]
    return torch.empty(sizes.prompts * sizes.images * sizes.side**2, width, device="meta")


def _make_packing(sizes: PassSizes) -> Packing:
    prompts = torch.ones(sizes.prompts, sizes.prompt_tokens, dtype=torch.long)
    rows = torch.ones(sizes.rows, sizes.tokens, dtype=torch.long)
    packing = pack(prompts, rows, torch.arange(sizes.prompts).repeat_interleave(sizes.group))
    blocks = tuple(replace(block, owner_N=block.owner_N.to("meta")) for block in packing.blocks)
    return replace(packing, blocks=blocks, source_M=packing.source_M.to("meta"))


def _make_prompts(core: HFModel, sizes: PassSizes) -> Prompts:
    """Prompts whose images are all of one size."""
    vision = core.config.vision_config
    patches = sizes.side * vision.spatial_merge_size
    grid = torch.tensor([[1, patches, patches]] * (sizes.prompts * sizes.images)).view(-1, 3)
    size = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.empty(len(grid) * patches**2, size, device="meta")
    ids_PL = torch.zeros(sizes.prompts, sizes.prompt_tokens, dtype=torch.long)
    images_P = torch.full((sizes.prompts,), sizes.images)
    return Prompts(ids_PL, ids_PL, ids_PL, images_P, {"pixel_values": pixels, "image_grid_thw": grid})
