"""Where a completion ends: at a stop token, or with the first token after which its text holds a stop string."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openvlt.model.load import VLM


class Stops:
    """The model's stop tokens and `strings`. A string of b bytes is looked for in the last b tokens: none stands for less than a byte."""

    def __init__(self, vlm: VLM, strings: Sequence[str]) -> None:
        self.ids, self.strings, self.decode = set(vlm.stop_ids), tuple(strings), vlm.tokenizer.decode
        self.ids_S = torch.tensor(vlm.stop_ids, device=vlm.device)
        self.window = max((len(string.encode()) for string in strings), default=0)

    def ended_rows(self, said_NT: Tensor) -> Tensor:
        """Bool (N,): rows whose newest token, the last column, ends them."""
        ended_N = torch.isin(said_NT[:, -1], self.ids_S)
        if not self.strings:
            return ended_N
        return ended_N | torch.tensor(
            [self._spelled(row) for row in said_NT[:, -self.window :].tolist()], device=ended_N.device
        )

    def end(self, row: Sequence[int]) -> int:
        """Length of a row up to and with the token that ends it; the whole row when none does."""
        return next((size for size in range(1, len(row) + 1) if self.finishes(row[:size])), len(row))

    def finishes(self, row: Sequence[int]) -> bool:
        """Whether the last token ends the row."""
        return row[-1] in self.ids or (bool(self.strings) and self._spelled(row[-self.window :]))

    def _spelled(self, tokens: Sequence[int]) -> bool:
        text = self.decode(tokens, skip_special_tokens=True)
        return any(string in text for string in self.strings)
