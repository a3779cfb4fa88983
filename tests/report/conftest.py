"""Small run folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.run_folders import evaluation, result


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """`write_run(results, name=, files={"01-sft1/metrics.csv": text}, done=)` gives the folder of a run of seed 3."""

    def write(
        results: Sequence[Mapping[str, Any]],
        *,
        name: str = "run",
        files: Mapping[str, str] | None = None,
        seed: int = 3,
    ) -> Path:
        folder = tmp_path / name
        for number, one in enumerate(results):
            stage = folder / f"{number:02d}-{one['stage']}"
            stage.mkdir(parents=True)
            (stage / "results.json").write_text(json.dumps(one))
        everything = {"name": "study", "scale": "tiny", "seed": seed, "stages": results}
        (folder / "results.json").write_text(json.dumps(everything))
        for file, text in (files or {}).items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(text)
        return folder

    return write


@pytest.fixture
def three() -> list[dict[str, Any]]:
    """base 20 %, sft1 40 %, grpo1 50 % of 100 questions."""
    return [
        result("base", "base", evaluation(20, interval=(0.133, 0.289))),
        result("sft1", "sft", evaluation(40), "base"),
        result("grpo1", "grpo", evaluation(50), "sft1"),
    ]
