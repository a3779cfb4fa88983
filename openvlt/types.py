"""The shared vocabulary of the whole project: what one room hands to the next.

Legend of shapes: P problems, G completions per problem (ragged allowed), N rows of one rollout batch, L prompt tokens,
T completion tokens (padded on the right), I images. A tensor's name ends in its shape: `adv_N`, `mask_NT`.
Every batch is frozen and checks its own shapes, so that a wrong one stops where it is made and not three rooms later.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor


class Verdict(enum.Enum):
    """What the verifier says of one response. Only CORRECT is worth 1; a crash is never a verdict."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    UNPARSED = "unparsed"
    TIMEOUT = "timeout"


class Origin(enum.IntEnum):
    """Where a row of a rollout comes from: the policy, a given text, an earlier rollout, a self-made task, or only to be compared with."""

    POLICY = 0
    INJECTED = 1
    REPLAYED = 2
    AUXILIARY = 3
    REWARD_ONLY = 4


@dataclass(frozen=True)
class Problem:
    """One question. `images` are paths, or pictures already in memory (generated data); opened by `data.images.open_image`.

    `level` is the difficulty a source declares (None: unknown); `meta` holds what only that source knows.
    """

    id: str
    question: str
    answer: str
    images: tuple[Path | Image, ...] = ()
    choices: tuple[str, ...] | None = None
    answer_type: str | None = None
    source: str = ""
    level: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """One generated answer: values only, no state shared with the generator that made it.

    `token_ids` end with the stop token when `finished`; `logp` is the behaviour policy's log-probability of each of them
    under the distribution that was sampled from (temperature and bans applied), empty when the generator gives none.
    """

    token_ids: tuple[int, ...]
    text: str
    finished: bool
    logp: tuple[float, ...] = ()


@dataclass(frozen=True)
class Trace:
    """A response to learn by imitation: the problem, what to say, and where it came from (stage, teacher, filter)."""

    problem: Problem
    response: str
    origin: str = ""


def _check(owner: object, expected: tuple[int, ...], *names: str) -> None:
    """Raises ValueError for a field, or an entry of a mapping, that is there and has another shape."""
    for name in names:
        value = getattr(owner, name)
        columns = (
            {f"{name}[{key!r}]": column for key, column in value.items()}
            if isinstance(value, Mapping)
            else {name: value}
        )
        for place, column in columns.items():
            if column is not None and tuple(column.shape) != expected:
                raise ValueError(
                    f"{type(owner).__name__}.{place}: expected {expected}, got {tuple(column.shape)}"
                )


@dataclass(frozen=True)
class Prompts:
    """Rendered prompts of P problems, padded on the left, as the processor made them.

    `token_type_PL` marks image tokens with 1 (m-rope needs it), `images_P` counts the images of each problem, `vision` holds what
    the processor returned for all images in reading order (`pixel_values`, for Qwen also `image_grid_thw` of shape (I, 3)), and the
    vision tower's features where they were computed already (`store_vision_features`).
    """

    ids_PL: Tensor
    mask_PL: Tensor
    token_type_PL: Tensor
    images_P: Tensor
    vision: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = tuple(self.ids_PL.shape)
        _check(self, shape, "mask_PL", "token_type_PL")
        _check(self, shape[:1], "images_P")
        grid = self.vision.get("image_grid_thw")
        if grid is not None and tuple(grid.shape) != (int(self.images_P.sum()), 3):
            raise ValueError(
                f"Prompts.image_grid_thw: expected ({int(self.images_P.sum())}, 3), got {tuple(grid.shape)}"
            )

    def __len__(self) -> int:
        return self.ids_PL.shape[0]

    def to(self, device: Any) -> Prompts:
        """The same prompts on another device."""
        move = {
            name: getattr(self, name).to(device)
            for name in ("ids_PL", "mask_PL", "token_type_PL", "images_P")
        }
        return Prompts(**move, vision={name: value.to(device) for name, value in self.vision.items()})

    def select(self, rows: Sequence[int]) -> Prompts:
        """These problems (repeats allowed), each with its own images; padding that all of them share is cut off."""
        import torch

        index = torch.as_tensor(list(rows), dtype=torch.long, device=self.ids_PL.device)
        pad = int(self.mask_PL[index].argmax(1).min()) if len(index) else 0
        text = {name: getattr(self, name)[index][:, pad:] for name in ("ids_PL", "mask_PL", "token_type_PL")}
        vision = {name: self._select_images(value, rows) for name, value in self.vision.items()}
        return Prompts(
            **text, images_P=self.images_P[index], vision={k: v for k, v in vision.items() if v.shape[0]}
        )

    def _select_images(self, value: Tensor, rows: Sequence[int]) -> Tensor:
        """The leading rows of `value` that belong to the images of these problems (one per image, or a share of its patches)."""
        import torch

        images = self.images_P.tolist()
        sizes = torch.ones(sum(images), dtype=torch.long)
        grid = self.vision.get("image_grid_thw")
        if grid is not None and value.shape[0] != len(sizes):
            patches = grid.prod(-1).cpu()
            sizes = (
                patches * len(value) // patches.sum()
            )  # features are fewer than patches, by a factor that all images share
        parts = value.split([int(part.sum()) for part in sizes.split(images)])
        return torch.cat([parts[int(row)] for row in rows]) if len(rows) else value[:0]


@dataclass(frozen=True)
class SFTBatch:
    """N prompts and the responses to imitate; `target_NT` counts (1) the tokens whose loss is taken."""

    prompts: Prompts
    ids_NT: Tensor
    mask_NT: Tensor

    def __post_init__(self) -> None:
        _check(self, tuple(self.ids_NT.shape), "mask_NT")
        if len(self.prompts) != self.ids_NT.shape[0]:
            raise ValueError(f"SFTBatch: {len(self.prompts)} prompts for {self.ids_NT.shape[0]} responses")


@dataclass(frozen=True)
class Rollouts:
    """N completions of P problems with the columns that the steps of GRPO fill one by one (`with_`).

    `group_N` is the index of each row's problem; `rewards` holds one (N,) tensor per term, NaN where a term does not apply.
    `logp` holds log-probabilities of the sampled tokens under other models or views (old, ref, view names), `stats` other (N,T) numbers
    (entropy, ...). The advantage is `adv_N`, or `adv_NT` where it differs from token to token.
    """

    problems: tuple[Problem, ...]
    completions: tuple[Completion, ...]
    prompts: Prompts
    ids_NT: Tensor
    mask_NT: Tensor
    group_N: Tensor
    policy_version: int
    behaviour_logp_NT: Tensor | None = None
    verdicts: tuple[Verdict, ...] = ()
    rewards: Mapping[str, Tensor] = field(default_factory=dict)
    reward_N: Tensor | None = None
    keep_N: Tensor | None = None
    logp: Mapping[str, Tensor] = field(default_factory=dict)
    adv_N: Tensor | None = None
    adv_NT: Tensor | None = None
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    origin_N: Tensor | None = None
    view: tuple[str, ...] = ()
    token_weight_NT: Tensor | None = None
    sample_weight_N: Tensor | None = None

    def __post_init__(self) -> None:
        rows, tokens = self.ids_NT.shape
        _check(
            self, (rows, tokens), "mask_NT", "behaviour_logp_NT", "adv_NT", "token_weight_NT", "logp", "stats"
        )
        _check(
            self, (rows,), "group_N", "reward_N", "keep_N", "adv_N", "origin_N", "sample_weight_N", "rewards"
        )
        if len(self.problems) != len(self.prompts):
            raise ValueError(f"Rollouts: {len(self.problems)} problems but {len(self.prompts)} prompts")
        if len(self.completions) != rows or (self.verdicts and len(self.verdicts) != rows):
            raise ValueError(
                f"Rollouts: {rows} rows, {len(self.completions)} completions, {len(self.verdicts)} verdicts"
            )

    def with_(self, **columns: Any) -> Rollouts:
        """A copy with these columns filled; unknown names raise."""
        return replace(self, **columns)

    @property
    def advantage(self) -> Tensor:
        """(N,1), or (N,T) where it differs from token to token."""
        return self.adv_N[:, None] if self.adv_NT is None else self.adv_NT


@dataclass(frozen=True)
class Totals:
    """Denominators of one optimiser step over all its micro-batches and ranks."""

    tokens: int
    sequences: int


@dataclass(frozen=True)
class GRPOBatch:
    """The rows of one optimiser step, whole groups, ready for scoring: everything that needs no gradient is in it already.

    `old_logp_NT` None means "the policy that is being updated" (first update after a rollout: the ratio is exactly 1).
    `weight_NT` multiplies the loss (None: 1), `counted_NT` marks the tokens of its denominator (None: `mask_NT`); `views` are
    log-probabilities under image views, `marks` the tokens of each auxiliary loss. `totals` and `mark_totals` are the whole step's, so
    that any split into micro-batches gives the same gradient; `trained` counts the tokens of all its rows (metrics' denominator).
    """

    prompts: Prompts
    ids_NT: Tensor
    mask_NT: Tensor
    group_N: Tensor
    adv_N: Tensor | None
    policy_version: int
    totals: Totals
    adv_NT: Tensor | None = None
    weight_NT: Tensor | None = None
    counted_NT: Tensor | None = None
    old_logp_NT: Tensor | None = None
    ref_logp_NT: Tensor | None = None
    behaviour_logp_NT: Tensor | None = None
    views: Mapping[str, Tensor] = field(default_factory=dict)
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    mark_totals: Mapping[str, Totals] = field(default_factory=dict)
    trained: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    TOKEN_COLUMNS: ClassVar = (
        "ids_NT",
        "mask_NT",
        "adv_NT",
        "weight_NT",
        "counted_NT",
        "old_logp_NT",
        "ref_logp_NT",
        "behaviour_logp_NT",
    )

    def __post_init__(self) -> None:
        shape = tuple(self.ids_NT.shape)
        _check(self, shape, *self.TOKEN_COLUMNS, "views", "marks")
        _check(self, shape[:1], "group_N", "adv_N")
        if shape[0] and int(self.group_N.max()) >= len(self.prompts):
            raise ValueError(
                f"GRPOBatch.group_N names prompt {int(self.group_N.max())} of {len(self.prompts)}"
            )

    def __len__(self) -> int:
        return self.ids_NT.shape[0]

    @property
    def advantage(self) -> Tensor:
        """(N,1), or (N,T) where it differs from token to token."""
        return self.adv_N[:, None] if self.adv_NT is None else self.adv_NT

    def part(self, rows: Tensor, device: Any) -> GRPOBatch:
        """These rows with their own prompts only, on `device`, cut to their longest completion; totals stay the whole step's."""
        groups, local_N = self.group_N[rows].unique(return_inverse=True)
        width = max(1, int(self.mask_NT[rows].sum(1).max()))

        def cut(column_NT: Tensor | None) -> Tensor | None:
            return None if column_NT is None else column_NT[rows, :width].to(device)

        return replace(
            self,
            prompts=self.prompts.select(groups.tolist()).to(device),
            group_N=local_N.to(device),
            adv_N=None if self.adv_N is None else self.adv_N[rows].to(device),
            **{name: cut(getattr(self, name)) for name in self.TOKEN_COLUMNS},
            views={name: cut(column) for name, column in self.views.items()},
            marks={name: cut(column) for name, column in self.marks.items()},
            trained=self.trained_tokens,
        )

    @property
    def trained_tokens(self) -> int:
        """Tokens of the step's rows: the denominator of what is logged per token."""
        return max(1, int(self.mask_NT.sum()) if self.trained is None else self.trained)
