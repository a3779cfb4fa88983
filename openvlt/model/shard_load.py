"""Loading a model straight into shards: the main process reads it, and no other ever holds the whole."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.model.hf_types import HFModel
from openvlt.model.load import VLM, PretrainedModel
from openvlt.model.shard import begin_sharded, cut_model
from openvlt.model.strategy import Strategy


def load_shards(
    model: PretrainedModel, path: str, *, adapter: Any, strategy: Strategy, dtype: torch.dtype | None
) -> VLM:
    """This process's shards of a checkpoint, as `shard_model` would cut it; all processes take part.

    The main process reads the checkpoint into its memory and sends every tensor once. The others build the
    model without memory, and receive their shards. `dtype` is what weights are turned into, None for as they
    are read. Raises UserError on every process for what the main one can't read.
    """
    source = _read(model, path, copy.deepcopy(adapter), dtype) if distributed.is_main() else None
    outline = distributed.broadcast(source if source is None or isinstance(source, str) else _outline(source))
    if isinstance(outline, str):
        raise UserError(outline)
    assert isinstance(outline, _Outline) and not isinstance(source, str)
    vlm = VLM(model.prepare(outline.build(), adapter), model.load_processor(path), path)
    outline.set_dtypes(vlm.model)
    device = model.torch_device()
    cut_model(vlm, strategy, device.type)
    vlm.model.to_empty(device=device)
    cast(Any, vlm.core).tie_weights()
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(vlm.model, source.model.state_dict() if source is not None else {}, options=options)
    with torch.no_grad():
        for name, value in vlm.model.named_buffers():
            value.copy_(outline.buffers[name])
    begin_sharded(vlm.model)
    vlm.model.train(outline.training)
    return vlm


def _read(model: PretrainedModel, path: str, adapter: Any, dtype: torch.dtype | None) -> VLM | str:
    """The prepared model in this process's memory, or the sentence that says why there is none."""
    try:
        whole = replace(model, device="cpu").load(path, adapter=adapter)
    except UserError as error:
        return str(error)
    if dtype is not None:
        whole.model.to(dtype)
    return whole


@dataclass(frozen=True)
class _Outline:
    """What a model is beside its parameters: class, configs, buffers, and each parameter's dtype."""

    kind: type[nn.Module]
    config: Any
    generation_config: Any
    training: bool
    dtypes: dict[str, torch.dtype]
    buffers: dict[str, Tensor]

    def build(self) -> HFModel:
        """The bare model on the meta device."""
        with torch.device("meta"):
            core: Any = self.kind(self.config)
        core.generation_config = self.generation_config
        return cast(HFModel, core)

    def set_dtypes(self, model: nn.Module) -> None:
        """Gives every parameter of the prepared model, still on meta, the dtype that it was read in."""
        for name, value in model.named_parameters():
            value.data = value.data.to(self.dtypes[name])


def _outline(vlm: VLM) -> _Outline:
    return _Outline(
        type(vlm.core),
        vlm.core.config,
        vlm.core.generation_config,
        vlm.model.training,
        {name: value.dtype for name, value in vlm.model.named_parameters()},
        dict(vlm.model.named_buffers()),
    )
