"""What passes over a model need of memory, worked out on the meta device: the same code over shapes without weights or numbers.

So a plan takes seconds and no memory, and follows what the installed transformers keeps for a backward pass. Legend as in packing.py.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from openvlt.model.load import VLM
from openvlt.model.shared_prefix.attention import NAME, PackedAttention
from openvlt.model.shared_prefix.forward import language
from openvlt.model.shared_prefix.logprob import CHUNK_LOGITS
from openvlt.model.shared_prefix.packing import Packing, pack
from openvlt.model.shared_prefix.vision_features import image_features, trains
from openvlt.types import Prompts


@dataclass(frozen=True)
class Load:
    """What goes through the model at once: `prompts` of `text` tokens and `images` pictures of `side` x `side` tokens, and `group`
    completions of `tokens` each for every prompt."""

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


class Peak(TorchDispatchMode):
    """Bytes of the tensors made inside it: alive `now`, and the `most` at any time. `known` tensors don't count, nor do views."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.most = 0
        self._alive = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, more = args, kwargs or {}
        places = {tensor.device.type for tensor in _tensors(args)}
        if len(places) > 1:  # indices lie on the CPU
            given, more = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (given, more))
        made = func(*given, **more)
        for tensor in _tensors((made,)):
            self._see(tensor.untyped_storage())
        return made

    def _see(self, storage: Any) -> None:
        if storage._cdata not in self._alive:
            self._alive.add(storage._cdata)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, place: int, size: int) -> None:
        self._alive.discard(place)
        self.now -= size


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def is_fused(attend: Callable[..., Any]) -> Callable[..., Any]:
    """The same attention, but keeping what every fused kernel keeps: its inputs, its output and one number per query, never scores."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with _Fused():  # here, and not around a whole pass: checkpointing comes back without such a mode
            return attend(*args, **kwargs)

    return run


VISION = "openvlt_planned"
AttentionInterface.register(VISION, is_fused(sdpa_attention_forward))


class _Fused(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_BHSD: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen_BSHD = query_BHSD.transpose(1, 2).new_empty(query_BHSD.transpose(1, 2).shape)
        sums = query_BHSD.new_empty(query_BHSD.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query_BHSD, key, value, seen_BSHD, sums)
        return seen_BSHD.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def update(vlm: VLM, load: Load) -> tuple[int, int]:
    """Bytes that one micro-batch keeps for its backward pass, and the most alive in both passes; weights and their gradients not counted.

    Without the head, see `head`. `vlm` is on the meta device.
    """
    known = list(vlm.model.parameters()) + list(vlm.model.buffers())
    for value in vlm.model.parameters():
        value.grad = torch.empty_like(value) if value.requires_grad else None
    with Peak([*known, *(value.grad for value in known if value.grad is not None)]) as peak:
        hidden_MD = _hidden(vlm, load)
        kept = peak.now
        hidden_MD.backward(torch.empty_like(hidden_MD))
    return kept, peak.most


def head(vlm: VLM, load: Load) -> int:
    """Bytes of the head at its peak: logits of one chunk three times over, gradients of the hidden states and of its own weights."""
    weight_VD = vlm.core.get_output_embeddings().weight
    (vocabulary, width), size, tokens = weight_VD.shape, weight_VD.element_size(), load.rows * load.tokens
    logits = min(tokens, max(1, CHUNK_LOGITS // vocabulary)) * vocabulary
    narrow = 2 * size if size < 4 else 0  # the products come and go in the weights' own precision
    return (
        logits * (12 + narrow)
        + tokens * width * size
        + (weight_VD.numel() * 4 if weight_VD.requires_grad else 0)
    )


def prefill(vlm: VLM, load: Load) -> int:
    """Bytes of the packed pass over the prompts at its peak, their keys and values among them."""
    with torch.no_grad(), Peak([*vlm.model.parameters(), *vlm.model.buffers()]) as peak:
        _hidden(vlm, replace(load, group=1, tokens=1), keep=True)
    return peak.most


def _hidden(vlm: VLM, load: Load, keep: bool = False) -> Tensor:
    """What predicts every completion token (M,D), as `scored_hidden` makes it."""
    packing = _packing(load)
    count = load.prompts * load.text + load.rows * (load.tokens - 1)
    parts_SD = [vlm.core.get_input_embeddings()(torch.empty(count, dtype=torch.long, device="meta"))]
    vlm.core.set_attn_implementation({"text_config": NAME, "vision_config": VISION})
    pictures = _pictures(
        vlm.core, load
    )  # their pixels go to the device with their prompts, whether the tower reads them or has done so
    if load.images:
        parts_SD.append(_features(vlm, pictures, load).to(parts_SD[0].dtype))
    embeds_SD = torch.cat(parts_SD)
    positions_3BS = torch.empty(3, 1, len(embeds_SD), dtype=torch.long, device="meta")
    return language(vlm.core, embeds_SD[None], positions_3BS, is_fused(PackedAttention(packing, keep)))[
        0
    ].index_select(0, packing.source_M)


def _features(vlm: VLM, pictures: Prompts, load: Load) -> Tensor:
    """The tower's pass, or what came of it earlier when it is frozen (`with_features`)."""
    if trains(vlm):
        return image_features(vlm, pictures)[0]
    width = vlm.core.get_input_embeddings().weight.shape[1]
    return torch.empty(load.prompts * load.images * load.side**2, width, device="meta")


def _packing(load: Load) -> Packing:
    prompts = torch.ones(load.prompts, load.prompt_tokens, dtype=torch.long)
    rows = torch.ones(load.rows, load.tokens, dtype=torch.long)
    plan = pack(prompts, rows, torch.arange(load.prompts).repeat_interleave(load.group))
    blocks = tuple(replace(block, owner_N=block.owner_N.to("meta")) for block in plan.blocks)
    return replace(plan, blocks=blocks, source_M=plan.source_M.to("meta"))


def _pictures(core: nn.Module, load: Load) -> Prompts:
    """Prompts whose images are of one size."""
    vision = core.config.vision_config
    patches = load.side * vision.spatial_merge_size
    grid = torch.tensor([[1, patches, patches]] * (load.prompts * load.images)).view(-1, 3)
    size = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.empty(len(grid) * patches**2, size, device="meta")
    ids_PL = torch.zeros(load.prompts, load.prompt_tokens, dtype=torch.long)
    images_P = torch.full((load.prompts,), load.images)
    return Prompts(ids_PL, ids_PL, ids_PL, images_P, {"pixel_values": pixels, "image_grid_thw": grid})
