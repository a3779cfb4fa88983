"""The batches and records that the folders of the package hand to each other.

Shapes: P problems, G completions per problem (groups may differ in size), N rows (completions) of one rollout
batch, L prompt tokens, T completion tokens (padded on the right), I images. A tensor's name ends in its
shape: `reward_N`, `mask_NT`. Every batch is frozen and checks its own shapes, so that a wrong one stops where
it is made.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor


class Verdict(enum.Enum):
    """The verifier's verdict on one response. Only CORRECT is worth 1; a crash is never a verdict."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    UNPARSED = "unparsed"
    TIMEOUT = "timeout"


class Origin(enum.IntEnum):
    """Where a row of a rollout batch comes from.

    The policy, a given text, an earlier rollout batch, a self-made task, or a row that is only compared with.
    """

    POLICY = 0
    INJECTED = 1
    REPLAYED = 2
    AUXILIARY = 3
    REWARD_ONLY = 4


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of a picture's file, as a row held them. They are decoded whenever the picture is opened."""

    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Problem:
    """A question with its images and its gold answer.

    `images` are paths, encoded pictures, or pictures in memory (generated data); `data.images.open_image`
    opens them all. `level` is the difficulty that a source declares (None: unknown); `meta` holds what only
    that source has. `turns` are the turns of a conversation before the question, (role, text) each.
    `<image>` in a text is the place of an image; without such marks all images stand first. `place` is the
    row's, for errors: its file and line.
    """

    id: str
    question: str
    answer: str
    images: tuple[Path | EncodedImage | Image, ...] = ()
    choices: tuple[str, ...] | None = None
    answer_type: str | None = None
    source: str = ""
    level: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[tuple[str, str], ...] = ()
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class Completion:
    """Generated tokens and their text: values only, no state shared with the generator.

    `token_ids` end with the stop token when `finished`. `logp` is the behaviour policy's log-probability of
    each of them under the distribution that was sampled from (temperature and bans applied); empty without
    one.
    """

    token_ids: tuple[int, ...]
    text: str
    finished: bool
    logp: tuple[float, ...] = ()


@dataclass(frozen=True)
class Trace:
    """A verified response kept for SFT, with its problem and where it came from (stage, teacher, filter)."""

    problem: Problem
    response: str
    origin: str = ""


def _check(owner: object, expected: tuple[int, ...], *names: str) -> None:
    """Raises ValueError for a field, or an entry of a mapping, that is there and has another shape."""
    for name in names:
        for place, column in _entries(name, getattr(owner, name)):
            if tuple(column.shape) != expected:
                raise ValueError(
                    f"{type(owner).__name__}.{place}: expected {expected}, got {tuple(column.shape)}"
                )


def _entries(name: str, value: Any) -> list[tuple[str, Tensor]]:
    """The tensors of a field, each with its name: none for None, one for a tensor, all of a mapping."""
    if isinstance(value, Mapping):
        return [(f"{name}[{key!r}]", column) for key, column in value.items()]
    return [] if value is None else [(name, value)]


def _check_advantage(owner: ScoredRollouts | GRPOBatch) -> None:
    (rows, tokens), shape = owner.ids_NT.shape, tuple(owner.adv_NT.shape)
    if shape not in ((rows, tokens), (rows, 1)):
        raise ValueError(
            f"{type(owner).__name__}.adv_NT: expected ({rows}, {tokens}) or ({rows}, 1), got {shape}"
        )


@dataclass(frozen=True)
class Prompts:
    """Rendered prompts of P problems, padded on the left, as the processor made them.

    `token_type_PL` marks image tokens with 1 (m-rope needs it); `images_P` counts the images of each problem.
    `vision` holds what the processor returned for all images in reading order (`pixel_values`, for Qwen also
    `image_grid_thw` of shape (I, 3)), and the vision tower's features where they were computed already
    (`store_vision_features`).
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
        """These problems (repeats allowed), each with its own images; padding that all share is cut off."""
        import torch

        index = torch.as_tensor(list(rows), dtype=torch.long, device=self.ids_PL.device)
        pad = int(self.mask_PL[index].argmax(1).min()) if len(index) else 0
        text = {name: getattr(self, name)[index][:, pad:] for name in ("ids_PL", "mask_PL", "token_type_PL")}
        vision = {name: self._select_images(value, rows) for name, value in self.vision.items()}
        return Prompts(
            **text, images_P=self.images_P[index], vision={k: v for k, v in vision.items() if v.shape[0]}
        )

    def _select_images(self, value: Tensor, rows: Sequence[int]) -> Tensor:
        """The rows of `value` for these problems' images: one per image, or a share as of the image tokens.

        The share is that of the patches where a grid counts them. Raises ValueError where there is neither.
        """
        import torch

        images_P, grid = self.images_P.cpu(), self.vision.get("image_grid_thw")
        if len(value) == int(images_P.sum()):
            weight_P = images_P
        elif grid is not None:
            patches = grid.prod(-1).cpu().split(images_P.tolist())
            weight_P = torch.stack([part.sum() for part in patches])
        else:
            weight_P = self.token_type_PL.sum(1).cpu()
        total = int(weight_P.sum())
        if total == 0 or bool((weight_P * len(value) % total).any()):
            raise ValueError(
                f"Prompts: {len(value)} rows of vision inputs can't be shared out to prompts with "
                f"{images_P.tolist()} images and {weight_P.tolist()} image tokens"
            )
        parts = value.split((weight_P * len(value) // total).tolist())
        return torch.cat([parts[int(row)] for row in rows]) if len(rows) else value[:0]


@dataclass(frozen=True)
class SFTBatch:
    """N prompts and the responses to imitate; `mask_NT` counts (1) the tokens whose loss is taken."""

    prompts: Prompts
    ids_NT: Tensor
    mask_NT: Tensor

    def __post_init__(self) -> None:
        _check(self, tuple(self.ids_NT.shape), "mask_NT")
        if len(self.prompts) != self.ids_NT.shape[0]:
            raise ValueError(f"SFTBatch: {len(self.prompts)} prompts for {self.ids_NT.shape[0]} responses")


@dataclass(frozen=True)
class Rollouts:
    """N completions of P problems, as generated.

    `group_N` is the index of each row's problem, `origin_N` an `Origin`, `view` the name of the image view
    that a row was generated from. `behaviour_logp_NT` is NaN in rows without log-probabilities, None when no
    row has any.
    """

    problems: tuple[Problem, ...]
    completions: tuple[Completion, ...]
    prompts: Prompts
    ids_NT: Tensor
    mask_NT: Tensor
    group_N: Tensor
    origin_N: Tensor
    view: tuple[str, ...]
    policy_version: int
    behaviour_logp_NT: Tensor | None = None

    def __post_init__(self) -> None:
        rows = self.ids_NT.shape[0]
        _check(self, tuple(self.ids_NT.shape), "mask_NT", "behaviour_logp_NT")
        _check(self, (rows,), "group_N", "origin_N")
        if len(self.problems) != len(self.prompts):
            raise ValueError(f"Rollouts: {len(self.problems)} problems but {len(self.prompts)} prompts")
        if len(self.completions) != rows or len(self.view) != rows:
            raise ValueError(
                f"Rollouts: {rows} rows, {len(self.completions)} completions, {len(self.view)} views"
            )

    def with_(self, **columns: Any) -> Self:
        """A copy with these columns replaced; unknown names raise."""
        return replace(self, **columns)

    @property
    def row_problems(self) -> list[Problem]:
        """The problem of each row."""
        return [self.problems[group] for group in self.group_N.tolist()]

    def with_verdicts(self, verdicts: Sequence[Verdict]) -> ScoredRollouts:
        """The rollouts with their verdicts; every later column has the value that changes nothing.

        These are: no reward term and so reward NaN, every row kept, advantage 0, weights 1.
        """
        import torch

        rows = len(self.completions)
        return ScoredRollouts(
            **{column.name: getattr(self, column.name) for column in fields(Rollouts)},
            verdicts=tuple(verdicts),
            rewards={},
            reward_N=torch.full((rows,), torch.nan),
            keep_N=torch.ones(rows, dtype=torch.bool),
            adv_NT=torch.zeros(rows, 1),
            token_weight_NT=torch.ones(self.ids_NT.shape),
            sample_weight_N=torch.ones(rows),
        )


@dataclass(frozen=True, kw_only=True)
class ScoredRollouts(Rollouts):
    """Rollouts with verdicts, rewards, log-probabilities and advantages.

    `Rollouts.with_verdicts` begins one. `rewards` holds one (N,) tensor per term, NaN where a term does not
    apply; `reward_N` combines them. `keep_N` is false where the group filter dropped the group. `logp` holds
    log-probabilities of the sampled tokens under other models or views by name (old, ref, the views'),
    `stats` other (N,T) numbers (entropy, sym_kl:<view>). `adv_NT` is (N,1) where a completion has one
    advantage. `token_weight_NT` and `sample_weight_N` multiply the loss.
    """

    verdicts: tuple[Verdict, ...]
    rewards: Mapping[str, Tensor]
    reward_N: Tensor
    keep_N: Tensor
    adv_NT: Tensor
    token_weight_NT: Tensor
    sample_weight_N: Tensor
    logp: Mapping[str, Tensor] = field(default_factory=dict)
    stats: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.ids_NT.shape[0]
        _check(self, tuple(self.ids_NT.shape), "token_weight_NT", "logp", "stats")
        _check(self, (rows,), "rewards", "reward_N", "keep_N", "sample_weight_N")
        _check_advantage(self)
        if len(self.verdicts) != rows:
            raise ValueError(
                f"Rollouts: {rows} rows, {len(self.completions)} completions, {len(self.verdicts)} verdicts"
            )


@dataclass(frozen=True)
class Totals:
    """Denominators of one optimiser step over all its micro-batches and ranks."""

    tokens: int
    sequences: int


@dataclass(frozen=True)
class ScoringBatch:
    """N completions whose log-probabilities are computed, in whole groups.

    `group_N` is the index of each row's prompt.
    """

    prompts: Prompts
    ids_NT: Tensor
    mask_NT: Tensor
    group_N: Tensor

    TOKEN_COLUMNS: ClassVar[tuple[str, ...]] = ("ids_NT", "mask_NT")

    def __post_init__(self) -> None:
        _check(self, tuple(self.ids_NT.shape), *self.TOKEN_COLUMNS)
        _check(self, (self.ids_NT.shape[0],), "group_N")
        if len(self) and int(self.group_N.max()) >= len(self.prompts):
            raise ValueError(
                f"{type(self).__name__}.group_N names prompt {int(self.group_N.max())} of {len(self.prompts)}"
            )

    def __len__(self) -> int:
        return self.ids_NT.shape[0]

    def part(self, rows: Tensor, device: Any) -> Self:
        """These rows on `device`, with their own prompts only, cut to their longest completion.

        Everything that counts the whole step (totals) stays as it is.
        """
        groups, local_N = self.group_N[rows].unique(return_inverse=True)
        width = max(1, int(self.mask_NT[rows].sum(1).max()))
        return replace(
            self,
            prompts=self.prompts.select(groups.tolist()).to(device),
            group_N=local_N.to(device),
            **self._map_tokens(lambda column_NT: column_NT[rows, :width].to(device)),
        )

    def _map_tokens(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Every (N,T) column that is there, alone or in a mapping, after `change`."""
        changed: dict[str, Any] = {}
        for name in self.TOKEN_COLUMNS:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                changed[name] = {key: change(column_NT) for key, column_NT in value.items()}
            elif value is not None:
                changed[name] = change(value)
        return changed


@dataclass(frozen=True, kw_only=True)
class GRPOBatch(ScoringBatch):
    """The rows of one optimiser step, ready for the loss: everything that needs no gradient is in it already.

    `adv_NT` is (N,1) where a completion has one advantage. `weight_NT` multiplies the loss, `counted_NT`
    marks the tokens of its denominator. `old_logp_NT` None means "the policy that is being updated" (first
    update after a rollout: the ratio is exactly 1); `ref_logp_NT` and `behaviour_logp_NT` are None where
    nobody computed them. `views` are log-probabilities under image views, `marks` the tokens of each
    auxiliary loss. `totals`, `mark_totals` and `trained_tokens` (tokens of all rows, the metrics'
    denominator, at least 1) are the whole step's, so that any split into micro-batches gives the same
    gradient.
    """

    adv_NT: Tensor
    weight_NT: Tensor
    counted_NT: Tensor
    policy_version: int
    totals: Totals
    trained_tokens: int
    old_logp_NT: Tensor | None = None
    ref_logp_NT: Tensor | None = None
    behaviour_logp_NT: Tensor | None = None
    views: Mapping[str, Tensor] = field(default_factory=dict)
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    mark_totals: Mapping[str, Totals] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    TOKEN_COLUMNS: ClassVar[tuple[str, ...]] = (
        *ScoringBatch.TOKEN_COLUMNS,
        *("weight_NT", "counted_NT", "old_logp_NT", "ref_logp_NT", "behaviour_logp_NT", "views", "marks"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_advantage(self)

    def _map_tokens(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        return {**super()._map_tokens(change), "adv_NT": change(self.adv_NT)}
