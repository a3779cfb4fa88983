"""Sharded weights: PyTorch's FSDP2 around the model, with one door for every pass that learns.

FSDP2 gathers the weights of a group of modules in hooks around the group's call. The project calls inner
parts of a model (embedding, layers, head), so that the outermost hooks would never run; a pass with gradient
therefore goes through `pass_through`. Passes without gradient (rollouts, scoring, evaluation) run inside
`whole_weights`, where each process holds all weights and sends nothing.

Losses are divided by a step's totals, so gradients are added up over processes, never averaged.
"""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.model.families import language_model, shares_prefix
from openvlt.model.hf_types import HFModel
from openvlt.model.load import VLM, is_tied
from openvlt.model.strategy import Strategy

_Part = TypeVar("_Part")
_DOOR = "run_sharded"  # the method of the outermost module that opens its weights for a function


def shard_model(vlm: VLM, strategy: Strategy) -> None:
    """Cuts weights, gradients and what an optimiser will hold into one shard per process, in place.

    A frozen vision tower stays whole on every process and sends nothing. Groups are the decoder layers, the
    blocks of a trained tower, the rest of it, an embedding that isn't the head too, and everything
    else. With `strategy.shard` gradients, weights are whole from a step's first pass to its end. Does nothing
    to a model that is cut already. Raises UserError for a model whose tower can't be cut, and for a number of
    processes that `strategy.replicas` doesn't divide.
    """
    if not is_sharded(vlm.model):
        cut_model(vlm, strategy, vlm.device.type)
        begin_sharded(vlm.model)


def cut_model(vlm: VLM, strategy: Strategy, device: str) -> None:
    """The first half of `shard_model`, which weights on the meta device may go through; `device` computes."""
    model, tower = vlm.model, _find_tower(vlm.core)
    keep, cut = strategy.shard == "gradients", tower is not None and _is_cut(tower, strategy)
    options: dict[str, Any] = {
        "mesh": _make_mesh(device, strategy.replicas),
        # of weights in 16 bits: the sums over processes are in 32
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
    }
    if vlm.core.dtype.itemsize > 2:
        del options["mp_policy"]
    ignored: set[nn.Parameter] = set()
    groups = decoder_layers(vlm.core)
    if tower is not None and cut:
        groups += [*getattr(tower, "blocks", ()), tower]
    elif tower is not None:
        ignored = set(tower.parameters())
    if not is_tied(vlm.core):  # else the head holds it too, and a weight is in one group
        groups.append(vlm.core.get_input_embeddings())
    for group in groups:
        fully_shard(group, **options, reshard_after_forward=not keep)
    setattr(model, _DOOR, types.MethodType(_run, model))
    # the head's weight is read after the layers, and again in the backward pass
    fully_shard(model, **options, reshard_after_forward=False, ignored_params=ignored)
    register_fsdp_forward_method(model, _DOOR)
    setattr(model, "_stays_open", keep)  # noqa: B010  a plain attribute, read by `whole_weights`
    for part in _sharded_parts(model):
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
        part.set_reshard_after_backward(not keep, recurse=False)


def begin_sharded(model: nn.Module) -> None:
    """The second half of `shard_model`, when the weights are there."""
    with torch.no_grad():
        pass_through(model, lambda: None)  # FSDP2 makes the first module that runs its outermost one
    close_weights(model)


def _run(model: nn.Module, function: Callable[[], Any]) -> Any:
    return function()


def check_replicas(replicas: int, processes: int) -> None:
    """Raises UserError where the processes don't make so many equal groups."""
    if processes % replicas:
        raise UserError(
            f"strategy.replicas={replicas}, but the number of processes is {processes}; give a divisor of it"
        )


def _make_mesh(device: str, replicas: int) -> DeviceMesh:
    """The processes in a row, or `replicas` rows of them that hold the same shards."""
    processes = distributed.world_size()
    check_replicas(replicas, processes)
    if replicas == 1:
        return init_device_mesh(device, (processes,))
    sizes, names = (replicas, processes // replicas), ("replicas", "shards")
    return init_device_mesh(device, sizes, mesh_dim_names=names)


def _is_cut(tower: nn.Module, strategy: Strategy) -> bool:
    trained = any(weight.requires_grad for weight in tower.parameters())
    if trained and strategy.tower == "whole":
        raise UserError(
            "strategy.tower=whole, but the vision tower is trained; freeze it "
            "(model.freeze=[vision,projector]), or use strategy.tower=auto"
        )
    return trained or strategy.tower == "cut"


def decoder_layers(core: HFModel) -> list[nn.Module]:
    """The decoder layers."""
    return list(cast(nn.ModuleList, language_model(core).layers))


def _find_tower(core: HFModel) -> nn.Module | None:
    # a process without images doesn't call one that runs in the model's own forward: no group of its own
    return getattr(core.model, "visual", None) if shares_prefix(core) else None


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard_model` cut the weights of the model, or of this part of one."""
    return isinstance(model, FSDPModule)


def _sharded_parts(model: nn.Module) -> list[FSDPModule]:
    return [part for part in model.modules() if isinstance(part, FSDPModule)]


def pass_through(model: nn.Module, run: Callable[[], Any]) -> Any:
    """What `run` returns: tensors in a tuple, list or dict. It may use every weight of the model."""
    return getattr(model, _DOOR)(run) if is_sharded(model) else run()


@contextlib.contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Inside, every weight is a plain whole tensor on every process, and no pass sends a message.

    All processes enter and leave it together. Nothing may be written to the weights: they are copies. May be
    entered again inside. Of a model that isn't cut nothing changes.
    """
    parts = _sharded_parts(model)
    if not parts or getattr(model, "_is_whole", False):
        yield
        return
    root: Any = model
    root._is_whole = True
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        root._is_whole = False
        close_weights(model)
        for part in parts:
            part.set_reshard_after_forward(not root._stays_open and part is not model, recurse=False)


def close_weights(model: nn.Module) -> None:
    """Gives back what was gathered of the other processes' shards."""
    for part in _sharded_parts(model):
        part.reshard()


def match_parts(model: nn.Module, parts: Sequence[_Part], filler: _Part) -> Iterator[tuple[_Part, float]]:
    """This process's micro-batches with factor 1, then as many with factor 0 as another process has more of.

    Every pass through a sharded model is a row of messages that all processes must send alike. `filler` is a
    micro-batch for a process that has none. With no micro-batch anywhere, and for a model that isn't cut,
    nothing is added.
    """
    # asked before the first pass, which may send other messages
    most = max(distributed.all_gather([len(parts)])) if is_sharded(model) else 0
    yield from ((part, 1.0) for part in parts)
    for _ in range(most - len(parts)):
        yield parts[-1] if parts else filler, 0.0


def to_whole(value: Tensor) -> Tensor:
    """The whole of a tensor that is cut over processes, on all of them; another tensor as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def shard_like(value: Tensor, target: Tensor) -> Tensor:
    """This process's shard of a whole tensor, cut as `target` is; sends nothing."""
    from torch.distributed.tensor import distribute_tensor

    assert isinstance(target, DTensor)
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)


def gather_state(model: nn.Module) -> dict[str, Tensor]:
    """The whole state dict on the CPU of the main process, empty on the others; all take part."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))


def local_bytes(values: Iterable[Tensor]) -> int:
    """The bytes of these tensors that this process holds at present."""
    held = (value.to_local() if isinstance(value, DTensor) else value for value in values)
    return sum(value.numel() * value.element_size() for value in held)


def add_up_gradients(model: nn.Module) -> None:
    """Makes the gradients of a step those of all processes. Those of a sharded model are summed already."""
    if is_sharded(model):
        close_weights(model)
        return
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    if distributed.world_size() == 1 or not learned:
        return
    used = torch.tensor([float(weight.grad is not None) for weight in learned], device=learned[0].device)
    distributed.all_reduce([used])
    # one without a gradient on any process keeps None, so that an optimiser skips it as with one process
    touched = [weight for weight, processes in zip(learned, used.tolist(), strict=True) if processes]
    for weight in touched:
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    distributed.all_reduce(cast(Tensor, weight.grad) for weight in touched)


def _has_adapter(model: nn.Module) -> bool:
    """Whether an adapter is on the model, and not merged into it yet."""
    if not hasattr(model, "peft_config"):
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(part, BaseTunerLayer) for part in model.modules())


def plain_class(model: HFModel) -> type:
    """The model's class, without what sharding mixes in."""
    return next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))


def plain_copy(vlm: VLM) -> VLM:
    """On the main process a copy of a sharded model with plain whole weights, on the CPU; all take part.

    Of a model that isn't cut, and on other processes, the model itself.
    """
    if not is_sharded(vlm.model):
        return vlm
    source: Any = vlm.model if _has_adapter(vlm.model) else vlm.core
    state = gather_state(source)
    if not distributed.is_main():
        return vlm
    original: Any = plain_class(vlm.core)
    model = original(copy.deepcopy(vlm.core.config))
    if source is not vlm.core:
        from peft import get_peft_model

        (settings,) = source.peft_config.values()
        model = get_peft_model(model, copy.deepcopy(settings))
    trained = {name: weight.requires_grad for name, weight in source.named_parameters()}
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    for name, weight in model.named_parameters():
        weight.requires_grad_(trained[name])
    model.train(vlm.model.training)
    return VLM(model, vlm.processor, vlm.path)
