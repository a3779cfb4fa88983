"""Which rows make batch k: a function of seed and step alone, so that any step can be made again."""

from __future__ import annotations

import math

import torch


def batch_rows(size: int, batch_size: int, step: int, seed: int, *, drop_last: bool = False) -> list[int]:
    """Row numbers of batch `step`; every epoch is a new permutation of `size` rows.

    The last batch of an epoch may be smaller, unless `drop_last` leaves its rows out of that epoch.
    """
    per_epoch = size // batch_size if drop_last else math.ceil(size / batch_size)
    epoch, place = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(size, generator=generator)
    return order[place * batch_size : (place + 1) * batch_size].tolist()
