"""The contract of reward terms and their services: one number, or one text, for each that was asked."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openvlt.errors import UserError

LARGEST_REWARD = 1e6  # a number beyond it is a mistake, such as a sum of token ids
NUMBER_KINDS = (numbers.Real, np.bool_)


def read_numbers(value: Any, who: str, count: int, *, what: str = "completions", nan: bool = True) -> Tensor:
    """What `who` returned for `count` completions, as float32 (count,) on the CPU.

    It may be a tensor, an array or a list of numbers or switches. Raises UserError, with the name of `who`,
    for everything else: another length, None, words, infinity, numbers beyond `LARGEST_REWARD`, NaN unless
    `nan`.
    """
    expected = f"one number for each of {count} {what}"
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float64))
    elif isinstance(value, (list, tuple)):
        value = _stack(value, who, expected)
    if not isinstance(value, Tensor) or value.is_complex():
        raise UserError(f"{who} returned {_show(value)}, not {expected} (a tensor or a list)")
    if tuple(value.shape) != (count,):
        raise UserError(f"{who} returned a tensor of shape {tuple(value.shape)}, not {expected}: ({count},)")
    column_N = value.detach().to("cpu", torch.float64)
    for row, number in enumerate(column_N.tolist()):
        if abs(number) > LARGEST_REWARD or (math.isnan(number) and not nan):
            fix = f"give a finite number of at most {LARGEST_REWARD:g}" + (
                ", or NaN where it doesn't apply" if nan else ""
            )
            raise UserError(f"{who} returned {number:g} at place {row} of {count}; {fix}")
    return column_N.float()


def read_texts(value: Any, who: str, count: int) -> list[str]:
    """What `who` returned for `count` texts. Raises UserError unless it is one text for each."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UserError(f"{who} returned {_show(value)}, not a list of {count} texts")
    if len(value) != count:
        raise UserError(f"{who} returned {len(value)} texts for {count} that it was asked; give one for each")
    if odd := next(((row, text) for row, text in enumerate(value) if not isinstance(text, str)), None):
        raise UserError(f"{who} returned {_show(odd[1])} at place {odd[0]} of {count}, not a text")
    return list(value)


def _stack(values: Sequence[Any], who: str, expected: str) -> Tensor:
    """A list of numbers as a tensor; single numbers may be Python's, numpy's or torch's."""
    plain = [value.item() if isinstance(value, Tensor) and value.ndim == 0 else value for value in values]
    for row, number in enumerate(plain):
        if not isinstance(number, NUMBER_KINDS):
            raise UserError(f"{who} returned {_show(number)} at place {row}, not {expected}")
    return torch.tensor([float(number) for number in plain], dtype=torch.float64)


def _show(value: Any) -> str:
    """A value in a message."""
    if value is None:
        return "nothing (None)"
    if isinstance(value, (str, *NUMBER_KINDS)):
        return repr(value)[:60]
    return f"a {type(value).__name__}"
