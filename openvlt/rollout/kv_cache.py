"""Keys and values while decoding: each prompt's once, however many completions it has, and each row's own.

Legend: P prompts, R rows that are decoded, L prompt tokens (padded on the left), C places for own tokens, K key heads, G query heads of
one key head, D head size, Q the most rows of any prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROOM = 64  # places for own tokens at first; doubled when they are full, up to the longest completion


class PrefixCache:
    """`Attend` for one new token per row. Rows stand prompt by prompt; `owner_R` is each row's prompt."""

    def __init__(
        self, prefix: list[tuple[Tensor, Tensor]], mask_PL: Tensor, n: int, most_tokens: int
    ) -> None:
        """`prefix` holds each layer's keys and values (P,K,L,D); no row is fed more than `most_tokens`."""
        self.prefix, self.length, self.most_tokens = prefix, 0, most_tokens
        self.bias_PL = None if bool(mask_PL.all()) else torch.zeros_like(mask_PL, dtype=prefix[0][0].dtype)
        if self.bias_PL is not None:
            self.bias_PL.masked_fill_(mask_PL == 0, -torch.inf)
        prompts, kinds, _, size = prefix[0][0].shape
        room = min(ROOM, most_tokens)
        self.own = [
            tuple(half.new_empty(prompts * n, kinds, room, size) for half in layer) for layer in prefix
        ]
        self._stand(torch.arange(prompts, device=mask_PL.device).repeat_interleave(n))

    def _stand(self, owner_R: Tensor) -> None:
        """Gives every row its place among the rows of its prompt."""
        count_P = torch.bincount(owner_R, minlength=len(self.prefix[0][0]))
        first_P = count_P.cumsum(0) - count_P
        self.owner_R, self.most = owner_R, int(count_P.max())
        place_R = owner_R * self.most + torch.arange(len(owner_R), device=owner_R.device) - first_P[owner_R]
        self.place_R = None if len(owner_R) == len(count_P) * self.most else place_R

    def keep(self, rows: Tensor) -> None:
        """Only these rows go on (ascending); prompts without rows leave with the others."""
        alive, owner_R = self.owner_R[rows].unique(return_inverse=True)
        if len(alive) < len(self.prefix[0][0]):
            self.prefix = [tuple(half.index_select(0, alive) for half in layer) for layer in self.prefix]
            self.bias_PL = None if self.bias_PL is None else self.bias_PL[alive]
        self._move(rows, self.own[0][0].shape[2])
        self._stand(owner_R)

    def _move(self, rows: Tensor | slice, room: int) -> None:
        """Own keys and values of these rows to places for `room` tokens, layer by layer: two copies of one layer at a time, not of all."""
        for layer, halves in enumerate(self.own):
            self.own[layer] = tuple(self._moved(half, rows, room) for half in halves)

    def _moved(self, half: Tensor, rows: Tensor | slice, room: int) -> Tensor:
        used = half[rows, :, : self.length]
        moved = half.new_empty(len(used), half.shape[1], room, half.shape[3])
        moved[:, :, : self.length] = used
        return moved

    def advance(self) -> None:
        """The token that all layers have seen counts from now on."""
        self.length += 1
        if self.length == self.own[0][0].shape[2] < self.most_tokens:
            self._move(slice(None), min(2 * self.length, self.most_tokens))

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention (R,1,H,D) of each row's newest token over [its prompt; its own tokens]."""
        keys, values = (half[:, :, : self.length + 1] for half in self.own[layer])
        keys[:, :, -1:], values[:, :, -1:] = key, value
        query_RKGD = query.view(len(query), key.shape[1], -1, query.shape[3]) * scale
        prefix_keys, prefix_values = self.prefix[layer]
        before = self._to_prompts(query_RKGD) @ prefix_keys.transpose(2, 3)
        if self.bias_PL is not None:
            before = before + self.bias_PL[:, None, None]
        scores = torch.cat([self._to_rows(before), query_RKGD @ keys.transpose(2, 3)], 3)
        weight = scores.softmax(3, dtype=torch.promote_types(scores.dtype, torch.float32)).to(values.dtype)
        before, own = weight.split([prefix_keys.shape[2], self.length + 1], 3)
        seen = self._to_rows(self._to_prompts(before) @ prefix_values) + own @ values
        return seen.reshape(len(seen), 1, -1, seen.shape[3])  # of one prompt, the sum lies head by head

    def _to_prompts(self, rows_RKGX: Tensor) -> Tensor:
        """(R,K,G,X) to (P,K,Q*G,X): the rows of a prompt beside each other, so that its keys are read once for all of them."""
        _, kinds, heads, size = rows_RKGX.shape
        if self.place_R is not None:
            empty = rows_RKGX.new_zeros(len(self.prefix[0][0]) * self.most, kinds, heads, size)
            rows_RKGX = empty.index_copy_(0, self.place_R, rows_RKGX)
        return (
            rows_RKGX.view(-1, self.most, kinds, heads, size)
            .transpose(1, 2)
            .reshape(-1, kinds, self.most * heads, size)
        )

    def _to_rows(self, prompts_PKMX: Tensor) -> Tensor:
        """The way back: (P,K,Q*G,X) to (R,K,G,X)."""
        _, kinds, many, size = prompts_PKMX.shape
        rows = prompts_PKMX.view(-1, kinds, self.most, many // self.most, size).transpose(1, 2).flatten(0, 1)
        return rows if self.place_R is None else rows.index_select(0, self.place_R)
