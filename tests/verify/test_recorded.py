"""Agreement with the official verdicts on recorded model outputs; docs/verification.md argues the classes that differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openvlt.types import Verdict
from openvlt.verify import verify


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("model", ["InternLM-XComposer2-VL-CoT", "LLaVA-v1.5-13B"])
def test_mathvision(data_dir: Path, model: str) -> None:
    folder = data_dir / "recorded_outputs" / "mathvision"
    test = {row["id"]: row for row in rows(folder / "test.jsonl")}
    agreed = [
        (
            verify(test[row["id"]]["answer"], row["response"], choices=test[row["id"]]["options"] or None)
            is Verdict.CORRECT
        )
        == row["correct"]
        for row in rows(folder / f"{model}.jsonl")
    ]
    assert sum(agreed) / len(agreed) >= 0.985


@pytest.mark.parametrize(("model", "least"), [("bard", 0.97), ("llava_llama_2_13b", 0.90)])
def test_mathvista(data_dir: Path, model: str, least: float) -> None:
    """Agreement is lower: the official rule asks a language model and takes the nearest option for no answer."""
    folder = data_dir / "recorded_outputs" / "mathvista"
    test = {row["pid"]: row for row in rows(folder / "testmini.jsonl")}
    agreed = []
    for row in rows(folder / f"{model}.jsonl"):
        problem = test[row["pid"]]
        verdict = verify(
            problem["answer"], row["response"], choices=problem["choices"], answer_type=problem["answer_type"]
        )
        agreed.append((verdict is Verdict.CORRECT) == row["true_false"])
    assert sum(agreed) / len(agreed) >= least
