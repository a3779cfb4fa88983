"""The example of docs/grpo.md runs as it stands there, and is checked as our own parts are."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from openvlt.errors import UserError
from openvlt.grpo.collect.columns import call_with_columns
from tests.helpers.factories import algorithm, rollouts

PAGE = Path(__file__).parents[2] / "docs" / "grpo.md"


@pytest.fixture
def my_parts(tmp_path: Path) -> ModuleType:
    (code,) = re.findall(r"```python\n(# my_parts.py.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "my_parts.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location("my_parts", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_advantage_shaping_by_length_on_paper(my_parts: ModuleType):
    update = my_parts.longer_is_worse(torch.tensor([1, 3]), torch.tensor([0, 0]), weight=1.0)
    assert update.shift[:, 0].tolist() == pytest.approx([0.5, -0.5])
    made = rollouts([1.0, 0.0, 1.0, 0.0], lengths=[1, 3, 4, 4])
    after = call_with_columns(my_parts.longer_is_worse, made).apply(made)
    assert after.adv_NT[:, 0].tolist() == pytest.approx([1.05, -0.05, 1, 0])


def test_ones_own_advantage_declares_what_it_needs(my_parts: ModuleType):
    made = rollouts([1.0, 0.0, 0.5, 0.5])
    assert call_with_columns(my_parts.best_only, made).tolist() == [1, 0, 0, 0]
    assert algorithm(advantage=my_parts.best_only, advantage_shaping={"mine": my_parts.longer_is_worse})
    with pytest.raises(UserError, match="grpo.group_size=1 trains nothing under best_only"):
        algorithm(advantage=my_parts.best_only, group_size=1)
