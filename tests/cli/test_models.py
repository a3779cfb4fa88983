"""Faults of models and training that once ended in silence: every one stops the run, or is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openvlt.trainer.replay import main as replay
from tests.helpers.entry_scripts import FIGURES

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def base(vlm, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("base") / "model"
    vlm.save(path)
    return path


def drop(tensors: dict) -> dict:
    return {name: value for name, value in tensors.items() if "layers.0.self_attn.q_proj" not in name}


def poison(tensors: dict) -> dict:
    name = next(name for name in tensors if "input_layernorm" in name)
    return tensors | {name: torch.full_like(tensors[name], torch.nan)}


FAULTS = {
    "missing": (drop, "2 of 57 tensors are not in the checkpoint"),
    "prefixed": (lambda tensors: {f"module.{name}": value for name, value in tensors.items()}, 'begin with "module."'),
    "nan": (poison, "outputs are not numbers"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_checkpoint_is_never_scored(cli, base, tmp_path, fault):
    change, words = FAULTS[fault]
    folder = shutil.copytree(base, tmp_path / "broken")
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})
    before = set((cli.work / "runs").rglob("results.json"))
    done = cli("evaluate.py", f"model={folder}", *FIGURES)
    assert done.status == 2 and words in done.error and str(folder) in done.error
    assert set((cli.work / "runs").rglob("results.json")) == before


def test_a_model_that_answers_nothing_readable_is_told(cli, base):
    """Random weights: 8 tokens of noise, cut off. The accuracy of 0 isn't left without a word."""
    done = cli("evaluate.py", f"model={base}", "name=told", *FIGURES).ok()
    (sentence,) = json.loads((cli.newest("told") / "results.json").read_text())["findings"]
    assert "answers were cut off at the token limit" in sentence and f"warning: {sentence}" in done.out


SMOKE = ("+experiment=smoke", "iteration.stages.sft.settings.batch_size=4", *FIGURES)


def test_a_diverging_run_publishes_nothing(cli, capsys):
    done = cli("train.py", *SMOKE, "name=diverged", "sft.optimizer.learning_rate=1e30", "sft.optimizer.muon_learning_rate=1e30")  # fmt: skip
    assert done.status == 2 and "sft, step 2: the loss is nan" in done.error
    assert "published nothing" in done.error
    stage = cli.newest("diverged") / "01-sft"
    assert (stage / "not_finite.pt").is_file()
    assert not (stage / "model").exists() and not (stage / "results.json").exists()
    file = done.error.rpartition("openvlt.trainer.replay ")[2]
    assert Path(file).name == "not_finite.pt"
    assert replay([str(stage / "not_finite.pt")]) == 0  # not finite again
    assert "step 2 of the run: loss" in capsys.readouterr().out


def test_half_of_a_tied_pair_is_refused_before_the_run(cli):
    before = set((cli.work / "runs").rglob("*"))
    done = cli("train.py", *SMOKE, "name=tied", "adapter=lora", "adapter.target_modules=[q_proj,lm_head]")
    assert done.status == 2 and "head and embedding are one tensor" in done.error
    assert "+adapter.modules_to_save=[lm_head]" in done.error
    assert set((cli.work / "runs").rglob("*.jsonl")) <= before  # not a stage ran
