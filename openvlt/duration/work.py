"""The work of a model's passes in operations, bytes moved and bytes sent, counted from its shapes.

An operation is a multiplication or an addition: a matrix of W weights takes 2 W for a token, attention
4 x layers x width for a pair of tokens. Vision tower and prompt count once per problem where the prefix is
shared. The tower's own attention and everything that isn't a product of matrices is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from openvlt.duration.gpus import GPU, MACHINE, Efficiency
from openvlt.memory.shares import split_weights
from openvlt.model.load import VLM
from openvlt.model.shard import decoder_layers
from openvlt.model.shared_prefix.vision_features import is_vision_trained
from openvlt.model.strategy import Strategy


@dataclass(frozen=True)
class Shapes:
    """What of a model's shapes decides its work. Weights are counted, not bytes.

    `tower` is the work of a patch divided by 2: the merger sees one of `merge` patches. `width` is that of
    all heads together, `kv_bytes` are the keys and values of one token in all layers, `cut` the bytes that a
    strategy can cut, `learned` the trained weights and `moving` those of the language model's matrices and
    head that get a gradient of their own. With `recomputes`, a layer runs a second time in the backward pass.
    """

    layers: int
    layer_weights: int
    head: int
    tower: float
    merge: int
    width: int
    kv_bytes: int
    weight_bytes: int
    cut: int
    learned: int
    moving: int
    tower_learns: bool
    recomputes: bool

    @classmethod
    def of(cls, vlm: VLM, recomputes: bool) -> Shapes:
        """Those of a model of a family whose prefix is shared; it may be on the meta device."""
        core, layers = vlm.core, decoder_layers(vlm.core)
        text, vision, visual = core.config.get_text_config(), core.config.vision_config, core.model.visual
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        head = core.get_output_embeddings().weight
        matrices = [value for layer in layers for value in layer.parameters() if value.ndim > 1]
        merge = vision.spatial_merge_size**2
        merger = _count(visual.merger.parameters())
        trained = [value for value in vlm.model.parameters() if value.requires_grad]
        return cls(
            layers=len(layers),
            layer_weights=_count(matrices),
            head=head.numel(),
            tower=_count(visual.parameters()) - merger + merger / merge,
            merge=merge,
            width=text.num_attention_heads * size,
            kv_bytes=2 * len(layers) * text.num_key_value_heads * size * head.element_size(),
            weight_bytes=head.element_size(),
            cut=sum(value.numel() * value.element_size() for value in split_weights(vlm)[0]),
            learned=sum(value.numel() for value in trained),
            moving=_count(value for value in [*matrices, head] if value.requires_grad),
            tower_learns=is_vision_trained(vlm),
            recomputes=recomputes,
        )

    @property
    def per_token(self) -> int:
        """Weights that a generated token meets."""
        return self.layer_weights + self.head


def _count(values: Iterable[Tensor | nn.Parameter]) -> int:
    return sum(value.numel() for value in values if value.ndim > 1)


@dataclass(frozen=True)
class Texts:
    """`problems` problems with `image` image tokens in `prompt` tokens, and `group` answers of `tokens`.

    `most` is the longest that an answer may be.
    """

    problems: float
    group: int
    prompt: float
    image: float
    tokens: float
    most: int

    @property
    def rows(self) -> float:
        """Answers in all."""
        return self.problems * self.group

    @property
    def generated(self) -> float:
        """Tokens of all answers."""
        return self.rows * self.tokens


def tower_flop(shapes: Shapes, texts: Texts) -> float:
    """Operations of the vision tower, once per problem."""
    return 2 * texts.problems * texts.image * shapes.merge * shapes.tower


def prompt_flop(shapes: Shapes, texts: Texts) -> float:
    """Operations of the prompts' pass through the layers, once per problem."""
    attention = 4 * shapes.layers * shapes.width * texts.prompt**2 / 2
    return texts.problems * (2 * texts.prompt * shapes.layer_weights + attention)


def answer_flop(shapes: Shapes, texts: Texts) -> float:
    """Operations of the answers' tokens through the layers and the head."""
    attended = texts.prompt + texts.tokens / 2
    return texts.generated * (2 * shapes.per_token + 4 * shapes.layers * shapes.width * attended)


def forward_flop(shapes: Shapes, texts: Texts) -> float:
    """Operations of scoring: a frozen tower's features are stored since the rollout."""
    tower = tower_flop(shapes, texts) if shapes.tower_learns else 0.0
    return tower + prompt_flop(shapes, texts) + answer_flop(shapes, texts)


def update_flop(shapes: Shapes, texts: Texts) -> float:
    """Operations of forward and backward pass.

    A backward pass costs a forward pass for gradients of what goes in, and one for those of the weights
    themselves, where they are trained. A trained tower runs once more in it, and so do layers that are
    recomputed.
    """
    learning = shapes.moving / shapes.per_token
    own = prompt_flop(shapes, texts) + answer_flop(shapes, texts)
    tower = 4 * tower_flop(shapes, texts) if shapes.tower_learns else 0.0
    return tower + own * (2 + learning + shapes.recomputes)


@dataclass(frozen=True)
class Phase:
    """One kind of work of each device, `times` times: operations, bytes moved in memory, bytes sent.

    Decoding has `steps` (of a batch whose answers all have the mean length, times the batches) and at most
    `most_steps`; each moves `step_bytes`, and launches `launches` layers where Python does it.
    """

    name: str
    flop: float = 0.0
    moved: float = 0.0
    sent: float = 0.0
    steps: float = 0.0
    most_steps: float = 0.0
    step_bytes: float = 0.0
    launches: int = 0
    times: float = 1.0

    def repeat(self, times: float) -> Phase:
        """The same phase so many times as often."""
        return replace(self, times=self.times * times)

    def limits(self, gpu: GPU, share: Efficiency, devices: int) -> dict[str, float]:
        """Seconds that each resource needs, all times together."""
        steps = min(self.most_steps, share.longest * self.steps)
        link = gpu.link if devices <= MACHINE else gpu.network
        return {
            "computing": self.times * self.flop / (gpu.rate * share.rate),
            "memory": self.times * (self.moved + steps * self.step_bytes) / (gpu.bandwidth * share.bandwidth),
            "messages": self.times * self.sent / (link * share.link),
            "Python": self.times * steps * self.launches * share.launch,
        }

    def seconds(self, gpu: GPU, share: Efficiency, devices: int) -> float:
        """Seconds of all times: the larger of computing and memory, then what doesn't overlap with it."""
        needs = self.limits(gpu, share, devices)
        here, messages = max(needs["computing"], needs["memory"]) + needs["Python"], needs["messages"]
        return max(here, messages) + (1 - share.overlap) * min(here, messages)


@dataclass(frozen=True)
class Messages:
    """Bytes that a device sends, by what it does."""

    gather: float = 0.0
    per_part: float = 0.0
    per_step: float = 0.0


def count_messages(shapes: Shapes, strategy: Strategy, devices: int) -> Messages:
    """Bytes sent by each of `devices` devices under a strategy that isn't `auto`.

    `gather`: all weights at once, for a rollout or a scoring pass. `per_part`: a micro-batch's weights, in
    the forward and in the backward pass, and its gradients in 32 bits, which are cut at once. `per_step`:
    gradients between devices that hold the same, sent and received in a ring.
    """
    gradients = 4.0 * shapes.learned
    if devices == 1:
        return Messages()
    if strategy.shard == "none":
        return Messages(per_step=2 * gradients * (devices - 1) / devices)
    inside = max(1, devices // strategy.replicas)
    share = (inside - 1) / inside
    gather, cut = shapes.cut * share, gradients * share
    copies = min(strategy.replicas, devices)
    ring = 2 * gradients / inside * (copies - 1) / copies
    if strategy.shard == "gradients":
        return Messages(gather, 0.0, gather + cut + ring)
    return Messages(gather, 2 * gather + cut, ring)
