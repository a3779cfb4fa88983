"""Where a completion ends: at a stop token, or at the token that completes a stop string."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openvlt.model.load import VLM


class StopConditions:
    """The model's stop tokens and stop `strings`.

    A string of b bytes is searched in the last b tokens, since no token stands for less than a byte.
    """

    def __init__(self, vlm: VLM, strings: Sequence[str]) -> None:
        self.ids, self.strings, self.decode = set(vlm.stop_ids), tuple(strings), vlm.tokenizer.decode
        self.ids_S = torch.tensor(vlm.stop_ids, device=vlm.device)
        self.window = max((len(string.encode()) for string in strings), default=0)

    def find_ended_rows(self, ids_NT: Tensor) -> Tensor:
        """Bool (N,): rows that end with their newest token, the last column."""
        ended_N = torch.isin(ids_NT[:, -1], self.ids_S)
        if not self.strings:
            return ended_N
        rows = ids_NT[:, -self.window :].tolist()
        return ended_N | torch.tensor([self._has_stop_string(row) for row in rows], device=ended_N.device)

    def length_of(self, row: Sequence[int]) -> int:
        """Length of a row up to and with the token that ends it; the whole row when none does."""
        return next((size for size in range(1, len(row) + 1) if self.is_finished(row[:size])), len(row))

    def is_finished(self, row: Sequence[int]) -> bool:
        """Whether the last token ends the row."""
        return row[-1] in self.ids or (bool(self.strings) and self._has_stop_string(row[-self.window :]))

    def is_passed_over(self, row: Sequence[int]) -> bool:
        """Whether an earlier token than the last should have ended the row."""
        earlier = row[:-1]
        return not self.ids.isdisjoint(earlier) or (bool(self.strings) and self._has_stop_string(earlier))

    def _has_stop_string(self, tokens: Sequence[int]) -> bool:
        text = self.decode(tokens, skip_special_tokens=True)
        return any(string in text for string in self.strings)
