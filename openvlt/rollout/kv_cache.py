"""Keys and values while decoding: each prompt's once, however many completions it has, and each row's own.

Legend: P prompts, R rows being decoded, L prompt tokens (padded on the left), C places for own tokens, K key
heads, G query heads of one key head, D head size, Q the most rows of any prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

INITIAL_PLACES = 64  # for a row's own tokens; doubled when they are full, up to the longest completion


class PrefixCache:
    """`Attend` for one new token per row. Rows stand prompt by prompt; `owner_R` is each row's prompt."""

    def __init__(self, prefix: list[tuple[Tensor, ...]], mask_PL: Tensor, n: int, max_tokens: int) -> None:
        """`prefix` holds each layer's keys and values (P,K,L,D); no row is fed more than `max_tokens`."""
        self.prefix, self.length, self.max_tokens = prefix, 0, max_tokens
        self.bias_PL = None if bool(mask_PL.all()) else torch.zeros_like(mask_PL, dtype=prefix[0][0].dtype)
        if self.bias_PL is not None:
            self.bias_PL.masked_fill_(mask_PL == 0, -torch.inf)
        prompts, key_heads, _, size = prefix[0][0].shape
        shape = (prompts * n, key_heads, min(INITIAL_PLACES, max_tokens), size)
        self.own = [tuple(half.new_empty(shape) for half in layer) for layer in prefix]
        self._place_rows(torch.arange(prompts, device=mask_PL.device).repeat_interleave(n))

    def _place_rows(self, owner_R: Tensor) -> None:
        """Gives every row its place among the rows of its prompt."""
        count_P = torch.bincount(owner_R, minlength=len(self.prefix[0][0]))
        first_P = count_P.cumsum(0) - count_P
        self.owner_R, self.rows_per_prompt = owner_R, int(count_P.max())
        place_R = (
            owner_R * self.rows_per_prompt
            + torch.arange(len(owner_R), device=owner_R.device)
            - first_P[owner_R]
        )
        self.place_R = None if len(owner_R) == len(count_P) * self.rows_per_prompt else place_R

    def keep(self, rows: Tensor) -> None:
        """Drops all other rows (`rows` ascend), and prompts that have none left."""
        alive, owner_R = self.owner_R[rows].unique(return_inverse=True)
        if len(alive) < len(self.prefix[0][0]):
            self.prefix = [tuple(half.index_select(0, alive) for half in layer) for layer in self.prefix]
            self.bias_PL = None if self.bias_PL is None else self.bias_PL[alive]
        self._copy_own(rows, self.own[0][0].shape[2])
        self._place_rows(owner_R)

    def _copy_own(self, rows: Tensor | slice, places: int) -> None:
        """Copies own keys and values of these rows to tensors for `places` tokens.

        Layer by layer, so that only one layer lies in memory twice.
        """
        for layer, halves in enumerate(self.own):
            self.own[layer] = tuple(self._copy_rows(half, rows, places) for half in halves)

    def _copy_rows(self, half: Tensor, rows: Tensor | slice, places: int) -> Tensor:
        used = half[rows, :, : self.length]
        copy = half.new_empty(len(used), half.shape[1], places, half.shape[3])
        copy[:, :, : self.length] = used
        return copy

    def advance(self) -> None:
        """Counts the token that all layers have been fed, and makes room for the next."""
        self.length += 1
        if self.length == self.own[0][0].shape[2] < self.max_tokens:
            self._copy_own(slice(None), min(2 * self.length, self.max_tokens))

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
        output = self._to_rows(self._to_prompts(before) @ prefix_values) + own @ values
        return output.reshape(len(output), 1, -1, output.shape[3])  # of one prompt, the sum lies head by head

    def _to_prompts(self, rows_RKGX: Tensor) -> Tensor:
        """(R,K,G,X) to (P,K,Q*G,X): a prompt's rows side by side, so that its keys are read once for all."""
        _, key_heads, heads, size = rows_RKGX.shape
        if self.place_R is not None:
            empty = rows_RKGX.new_zeros(len(self.prefix[0][0]) * self.rows_per_prompt, key_heads, heads, size)
            rows_RKGX = empty.index_copy_(0, self.place_R, rows_RKGX)
        return (
            rows_RKGX.view(-1, self.rows_per_prompt, key_heads, heads, size)
            .transpose(1, 2)
            .reshape(-1, key_heads, self.rows_per_prompt * heads, size)
        )

    def _to_rows(self, prompts_PKMX: Tensor) -> Tensor:
        """(P,K,Q*G,X) to (R,K,G,X): undoes `_to_prompts`."""
        _, key_heads, many, size = prompts_PKMX.shape
        rows = (
            prompts_PKMX.view(-1, key_heads, self.rows_per_prompt, many // self.rows_per_prompt, size)
            .transpose(1, 2)
            .flatten(0, 1)
        )
        return rows if self.place_R is None else rows.index_select(0, self.place_R)
