"""The plan of a packed sequence: prompts and their completions, each prompt once, without padding.

Legend: P prompts, N rows (completions), T completion tokens (padded), S tokens of the packed sequence, M
scored tokens. A row's fed tokens are all but its last, which predicts nothing. Groups whose prompts are
equally long stand together as a `Block`, because one call computes their attention: [prompts of the
block][their completions].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Groups of equally long prompts: `prompts` prompts of `length` tokens, then `fed` tokens of each row.

    `owner_N` is each row's prompt within the block. Rows are padded to the longest for attention; `real` are
    the places of the fed tokens among the padded ones (None: all rows are equally long).
    """

    prompts: int
    length: int
    fed: tuple[int, ...]
    owner_N: Tensor
    real: Tensor | None

    @property
    def width(self) -> int:
        """Fed tokens of the longest row."""
        return max(self.fed, default=0)

    def causal_mask(self, heads: int, dtype: torch.dtype) -> Tensor:
        """Additive mask (heads * width, length + width): the prompt, and own tokens up to the query's."""
        own = torch.full((self.width, self.width), -torch.inf, dtype=dtype, device=self.owner_N.device)
        own = own.triu(1)
        return torch.cat([own.new_zeros(self.width, self.length), own], 1).repeat(heads, 1)


@dataclass(frozen=True)
class Packing:
    """The plan of one packed sequence of S tokens.

    `prompt_tokens` index the batch's prompt tokens (P x L, flattened), `fed_tokens` its completion tokens (N
    x T, flattened). `order_S` puts [all prompt tokens, all fed tokens] in their packed order. `source_M` is
    the packed place that predicts each scored token, in the order of `mask_NT.nonzero()`. `sizes` are the
    tokens of each part: two per block, prompts and rows.
    """

    blocks: tuple[Block, ...]
    prompt_tokens: Tensor
    fed_tokens: Tensor
    order_S: Tensor
    source_M: Tensor
    sizes: tuple[int, ...]


def pack(mask_PL: Tensor, mask_NT: Tensor, group_N: Tensor) -> Packing:
    """Plans a packed batch from its masks. Prompts without rows stay in, for their vision features."""
    device = mask_PL.device
    lengths, counts = mask_PL.sum(1).tolist(), mask_NT.sum(1).tolist()
    fed = [max(0, count - 1) for count in counts]
    groups = group_N.tolist()
    rows_of: list[list[int]] = [[] for _ in lengths]
    for row, group in enumerate(groups):
        rows_of[group].append(row)
    prompt_at, fed_at = _starts(lengths), _starts(fed, sum(lengths))
    order: list[int] = []
    blocks, sizes, place = [], [], {}
    for length in sorted(set(lengths)):
        members = [prompt for prompt, count in enumerate(lengths) if count == length]
        rows = [row for prompt in members for row in rows_of[prompt]]
        for prompt in members:
            place["prompt", prompt] = len(order)
            order += range(prompt_at[prompt], prompt_at[prompt] + length)
        for row in rows:
            place["row", row] = len(order)
            order += range(fed_at[row], fed_at[row] + fed[row])
        blocks.append(_make_block(members, length, rows, fed, groups, device))
        sizes += [len(members) * length, sum(fed[row] for row in rows)]
    source: list[int] = []
    for row, group in enumerate(groups):
        if counts[row]:
            source.append(place["prompt", group] + lengths[group] - 1)
            source += range(place["row", row], place["row", row] + fed[row])
    fed_NT = mask_NT.bool().clone()
    fed_NT[torch.arange(len(fed), device=device), torch.tensor(fed, dtype=torch.long, device=device)] = False
    return Packing(
        blocks=tuple(blocks),
        prompt_tokens=mask_PL.flatten().nonzero()[:, 0],
        fed_tokens=fed_NT.flatten().nonzero()[:, 0],
        order_S=torch.tensor(order, device=device),
        source_M=torch.tensor(source, dtype=torch.long, device=device),
        sizes=tuple(sizes),
    )


def _starts(counts: Sequence[int], first: int = 0) -> list[int]:
    return list(accumulate(counts, initial=first))[:-1]


def _make_block(
    members: Sequence[int],
    length: int,
    rows: Sequence[int],
    fed: Sequence[int],
    groups: Sequence[int],
    device: torch.device,
) -> Block:
    counts = tuple(fed[row] for row in rows)
    owner = torch.tensor([members.index(groups[row]) for row in rows], dtype=torch.long, device=device)
    width, real = max(counts, default=0), None
    if any(count < width for count in counts):
        is_fed = torch.arange(width)[None] < torch.tensor(counts)[:, None]
        real = is_fed.flatten().nonzero()[:, 0].to(device)
    return Block(len(members), length, counts, owner, real)
