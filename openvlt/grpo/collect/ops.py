"""Operations on rows of rollouts: selecting, concatenating, cutting into micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from openvlt import distributed
from openvlt.types import Completion, Prompts, Rollouts

AnyRollouts = TypeVar("AnyRollouts", bound=Rollouts)

_WHOLE = ("problems", "prompts", "policy_version")  # every other field of rollouts has one entry per row


def take_rows(rollouts: AnyRollouts, rows_N: Tensor) -> AnyRollouts:
    """The rows where `rows_N` (bool) is true; problems and prompts stay as they are."""
    rows = rows_N.nonzero()[:, 0].tolist()
    return replace(rollouts, **{name: _take(value, rows) for name, value in _row_columns(rollouts).items()})


def take_groups(rollouts: AnyRollouts, groups: Sequence[int]) -> AnyRollouts:
    """These problems, in this order, with all their rows."""
    number = {group: place for place, group in enumerate(groups)}
    kept_N = torch.tensor([group in number for group in rollouts.group_N.tolist()], dtype=torch.bool)
    kept = take_rows(rollouts, kept_N)
    return replace(
        kept,
        problems=tuple(rollouts.problems[group] for group in groups),
        prompts=rollouts.prompts.select(groups),
        group_N=torch.tensor([number[group] for group in kept.group_N.tolist()], dtype=torch.long),
    )


def concat_rollouts(parts: Sequence[AnyRollouts]) -> AnyRollouts:
    """One rollout batch of all problems and rows, in order.

    The policy version is the newest. A column that one part doesn't have is None; entries of a mapping that
    the first part has, all have.
    """
    if len(parts) == 1:
        return parts[0]
    width, starts = max(part.ids_NT.shape[1] for part in parts), [0]
    for part in parts:
        starts.append(starts[-1] + len(part.problems))
    columns = [_row_columns(_pad_tokens(part, width)) for part in parts]
    joined = {name: _join([part[name] for part in columns]) for name in columns[0]}
    joined["group_N"] = torch.cat([part.group_N + start for part, start in zip(parts, starts, strict=False)])
    return replace(
        parts[0],
        **joined,
        problems=sum((part.problems for part in parts), ()),
        prompts=concat_prompts([part.prompts for part in parts]),
        policy_version=max(part.policy_version for part in parts),
    )


def _row_columns(rollouts: Rollouts) -> dict[str, Any]:
    """The fields with one entry per row, by name."""
    return {
        column.name: getattr(rollouts, column.name)
        for column in fields(rollouts)
        if column.name not in _WHOLE
    }


def _take(value: Any, rows: list[int]) -> Any:
    """The entries of a column, or of every column in a mapping, at these rows."""
    if isinstance(value, Mapping):
        return {name: _take(column, rows) for name, column in value.items()}
    if isinstance(value, tuple):
        return tuple(value[row] for row in rows)
    return None if value is None else value[rows]


def _join(values: list[Any]) -> Any:
    """One column of several parts, or one mapping of columns, below each other."""
    if any(value is None for value in values):
        return None
    if isinstance(values[0], Mapping):
        return {name: _join([value[name] for value in values]) for name in values[0]}
    return sum(values, ()) if isinstance(values[0], tuple) else torch.cat(values)


def _pad_tokens(rollouts: AnyRollouts, width: int) -> AnyRollouts:
    """The same rows with completions padded to `width`, and the advantage at every token."""
    shape = rollouts.ids_NT.shape

    def pad(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: pad(column) for name, column in value.items()}
        per_token = isinstance(value, Tensor) and value.ndim == 2
        return pad_to_width(value.expand(shape), width) if per_token else value

    return replace(rollouts, **{name: pad(value) for name, value in _row_columns(rollouts).items()})


def pad_to_width(value_NT: Tensor, width: int) -> Tensor:
    """Padded on the right with zeros: (N,width)."""
    return torch.nn.functional.pad(value_NT, (0, width - value_NT.shape[1]))


def concat_prompts(parts: Sequence[Prompts]) -> Prompts:
    """Prompts of several batches, padded on the left to the longest."""
    width = max(part.ids_PL.shape[1] for part in parts)

    def join(name: str) -> Tensor:
        columns = [getattr(part, name) for part in parts]
        return torch.cat(
            [torch.nn.functional.pad(column, (width - column.shape[1], 0)) for column in columns]
        )

    with_images = [part.vision for part in parts if part.vision]
    # features are kept only where all parts with images have them
    shared = [
        name
        for name in (with_images[0] if with_images else ())
        if all(name in vision for vision in with_images)
    ]
    return Prompts(
        *(join(name) for name in ("ids_PL", "mask_PL", "token_type_PL")),
        images_P=torch.cat([part.images_P for part in parts]),
        vision={name: _join_padded([vision[name] for vision in with_images]) for name in shared},
    )


def _join_padded(values: Sequence[Tensor]) -> Tensor:
    """Rows of all tensors, with zeros behind in dimensions in which some are shorter (an image's tiles)."""
    largest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]

    def pad(value: Tensor) -> Tensor:
        missing = [size - own for size, own in zip(largest, value.shape[1:], strict=True)]
        return torch.nn.functional.pad(value, [side for count in reversed(missing) for side in (0, count)])

    return torch.cat([pad(value) for value in values])


def stack_behaviour_logp(completions: Sequence[Completion], mask_NT: Tensor) -> Tensor | None:
    """Log-probabilities (N,T) that completions were sampled with.

    NaN in rows without; None when no row has any.
    """
    if not any(completion.logp for completion in completions):
        return None
    logp_NT = torch.zeros(mask_NT.shape)
    for row, completion in enumerate(completions):
        missing = len(completion.logp) != len(completion.token_ids)
        logp_NT[row, : len(completion.token_ids)] = torch.nan if missing else torch.tensor(completion.logp)
    return logp_NT


def micro_batches(group_N: Tensor, rows: int) -> list[Tensor]:
    """Row indices of this rank's whole groups, at most `rows` together (a larger group stands alone)."""
    parts: list[list[int]] = []
    for group in distributed.take_share(group_N.unique().tolist()):
        members = (group_N == group).nonzero()[:, 0].tolist()
        if parts and len(parts[-1]) + len(members) <= rows:
            parts[-1] += members
        else:
            parts.append(members)
    return [torch.tensor(part) for part in parts]
