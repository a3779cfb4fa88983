"""What a process holds of a model that is cut over several, and what it gathers of the others' shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from openvlt.model.load import VLM
from openvlt.model.shard import decoder_layers
from openvlt.model.strategy import Strategy


def byte_count(values: Iterable[Tensor]) -> int:
    """The bytes of these tensors."""
    return sum(value.numel() * value.element_size() for value in values)


@dataclass(frozen=True)
class Shares:
    """Between how many processes the weights are cut, and whether they are whole during a step."""

    processes: int = 1
    whole_in_step: bool = False

    @classmethod
    def of(cls, strategy: Strategy, count: int) -> Shares:
        """Those of `count` processes under a strategy that isn't `auto`."""
        if strategy.shard == "none":
            return cls()
        return cls(max(1, count // strategy.replicas), strategy.shard == "gradients")

    def bytes_at_rest(self, vlm: VLM) -> int:
        """Bytes of a model at rest: of what is cut one share."""
        cut, whole = split_weights(vlm)
        return byte_count(whole) + -(-byte_count(cut) // self.processes)

    def bytes_in_step(self, vlm: VLM) -> int:
        """Bytes that a pass with gradient gathers of the others' shares, and needs to sum gradients.

        Two layers, or all weights where they stay whole, and what lies outside of the layers; the gradients
        of the largest part in the weights' precision, and in 32 bits.
        """
        if self.processes == 1:
            return 0
        layers = [list(layer.parameters()) for layer in decoder_layers(vlm.core)]
        inside = {id(value) for layer in layers for value in layer}
        outside = [value for value in split_weights(vlm)[0] if id(value) not in inside]
        most = max(layers, key=byte_count)
        weights = self.bytes_in_rollout(vlm)
        if not self.whole_in_step:
            weights = min(weights, 2 * byte_count(most) + byte_count(outside))
        learned = [[value for value in part if value.requires_grad] for part in (most, outside)]
        summed = max(learned, key=byte_count)
        return weights + byte_count(summed) + 4 * sum(value.numel() for value in summed)

    def bytes_in_rollout(self, vlm: VLM) -> int:
        """Bytes that a rollout gathers: a copy of all that is cut, beside the shares."""
        return byte_count(split_weights(vlm)[0]) if self.processes > 1 else 0


def split_weights(vlm: VLM) -> tuple[list[Tensor], list[Tensor]]:
    """The weights that are cut, and those that stay whole: a frozen vision tower, and buffers."""
    whole: list[Tensor] = list(vlm.model.buffers())
    tower = getattr(vlm.core.model, "visual", None)
    if tower is not None and not any(value.requires_grad for value in tower.parameters()):
        whole += tower.parameters()
    kept = {id(value) for value in whole}
    return [value for value in vlm.model.parameters() if id(value) not in kept], whole
