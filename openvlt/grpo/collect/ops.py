"""Rows of rollouts: taking some, putting several rollouts together, and what they were sampled with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from openvlt.types import Completion, Prompts, Rollouts

_ROW = ("group_N", "reward_N", "keep_N", "adv_N", "origin_N", "sample_weight_N")
_TOKEN = ("ids_NT", "mask_NT", "behaviour_logp_NT", "adv_NT", "token_weight_NT")


def take_rows(rollouts: Rollouts, rows_N: Tensor) -> Rollouts:
    """The rows where `rows_N` (bool) is true; problems and prompts stay as they are."""
    index = rows_N.nonzero()[:, 0].tolist()
    tensors = {name: getattr(rollouts, name) for name in (*_ROW, *_TOKEN)}
    return replace(
        rollouts,
        **{name: None if value is None else value[index] for name, value in tensors.items()},
        **{
            kind: {name: value[index] for name, value in getattr(rollouts, kind).items()}
            for kind in ("rewards", "logp", "stats")
        },
        completions=tuple(rollouts.completions[row] for row in index),
        verdicts=tuple(rollouts.verdicts[row] for row in index) if rollouts.verdicts else (),
        view=tuple(rollouts.view[row] for row in index) if rollouts.view else (),
    )


def take_groups(rollouts: Rollouts, groups: Sequence[int]) -> Rollouts:
    """These problems, in this order, with all their rows."""
    number = {group: place for place, group in enumerate(groups)}
    kept = take_rows(
        rollouts, torch.tensor([group in number for group in rollouts.group_N.tolist()], dtype=torch.bool)
    )
    return replace(
        kept,
        problems=tuple(rollouts.problems[group] for group in groups),
        prompts=rollouts.prompts.select(groups),
        group_N=torch.tensor([number[group] for group in kept.group_N.tolist()], dtype=torch.long),
    )


def concat_rollouts(parts: Sequence[Rollouts]) -> Rollouts:
    """One rollout of all problems and rows, in order. The policy version is the newest; columns have to agree."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.ids_NT.shape[1] for part in parts)
    first, starts = parts[0], [0]
    for part in parts:
        starts.append(starts[-1] + len(part.problems))
    columns: dict[str, Tensor | None] = {}
    for name in (*_ROW, *_TOKEN):
        values = [getattr(part, name) for part in parts]
        absent = any(value is None for value in values)
        columns[name] = (
            None
            if absent
            else torch.cat([pad_to_width(value, width) if name in _TOKEN else value for value in values])
        )
    columns["group_N"] = torch.cat([part.group_N + start for part, start in zip(parts, starts, strict=False)])
    return replace(
        first,
        **columns,
        rewards={name: torch.cat([part.rewards[name] for part in parts]) for name in first.rewards},
        logp={
            name: torch.cat([pad_to_width(part.logp[name], width) for part in parts]) for name in first.logp
        },
        stats={
            name: torch.cat([pad_to_width(part.stats[name], width) for part in parts]) for name in first.stats
        },
        problems=sum((part.problems for part in parts), ()),
        prompts=concat_prompts([part.prompts for part in parts]),
        completions=sum((part.completions for part in parts), ()),
        verdicts=sum((part.verdicts for part in parts), ()),
        view=sum((part.view for part in parts), ()),
        policy_version=max(part.policy_version for part in parts),
    )


def pad_to_width(value_NT: Tensor, width: int) -> Tensor:
    """Padded on the right with zeros: (N,width)."""
    return torch.nn.functional.pad(value_NT, (0, width - value_NT.shape[1]))


def concat_prompts(parts: Sequence[Prompts]) -> Prompts:
    """Prompts of several batches, padded on the left to the longest."""
    width = max(part.ids_PL.shape[1] for part in parts)

    def left(name: str) -> Tensor:
        return torch.cat(
            [
                torch.nn.functional.pad(getattr(part, name), (width - getattr(part, name).shape[1], 0))
                for part in parts
            ]
        )

    seeing = [part.vision for part in parts if part.vision]
    shared = [
        name for name in (seeing[0] if seeing else ()) if all(name in vision for vision in seeing)
    ]  # features: all parts' or none's
    vision = {name: torch.cat([vision[name] for vision in seeing]) for name in shared}
    return Prompts(
        left("ids_PL"),
        left("mask_PL"),
        left("token_type_PL"),
        torch.cat([part.images_P for part in parts]),
        vision,
    )


def stack_behaviour_logp(completions: Sequence[Completion], mask_NT: Tensor) -> Tensor | None:
    """Log-probabilities (N,T) the completions were sampled with, NaN for rows without; None when no row has any."""
    if not any(completion.logp for completion in completions):
        return None
    logp_NT = torch.zeros(mask_NT.shape)
    for row, completion in enumerate(completions):
        missing = len(completion.logp) != len(completion.token_ids)
        logp_NT[row, : len(completion.token_ids)] = torch.nan if missing else torch.tensor(completion.logp)
    return logp_NT
