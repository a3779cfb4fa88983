"""How many CPU threads a run uses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from omegaconf import OmegaConf

from openvlt.runs.session import use_threads


@pytest.fixture(autouse=True)
def three() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("config, threads", [({"threads": 2}, 2), ({"threads": None}, 3), ({}, 3)])
def test_threads_are_what_the_config_says(config: dict, threads: int) -> None:
    use_threads(OmegaConf.create(config))
    assert torch.get_num_threads() == threads
