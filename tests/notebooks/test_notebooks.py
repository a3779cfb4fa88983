"""Every notebook runs from top to bottom, shortened by settings only."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SHORT = (
    "data.lesson_amount=640 sft.epochs=1 grpo.steps=2 grpo.prompts_per_rollout=8 grpo.prompts_per_update=8 grpo.group_size=4 "
    "evaluation.selection.amount=60 trainer.progress=false distill=gold distill@self_distill=gold "
    + " ".join(
        f"cycles.{cycle}.{what}={value}"
        for cycle in ("one", "two", "three")
        for what, value in (("traces.amount", 40), ("problems.amount", 24), ("sft", "{}"), ("grpo", "{}"))
    )
)


def run(name: str) -> nbformat.NotebookNode:
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    NotebookClient(
        notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}
    ).execute()
    return notebook


def test_every_notebook_is_run_here() -> None:
    names = ["01_quickstart", "02_reflection_cut", "03_losses", "04_verifier", "05_evaluate"]
    assert sorted(file.stem for file in NOTEBOOKS.glob("*.ipynb")) == names


def test_verifier() -> None:
    outputs = [output for cell in run("04_verifier.ipynb").cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
def test_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENVLT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("OPENVLT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENVLT_NOTEBOOK_OVERRIDES", SHORT)
    notebook = run("01_quickstart.ipynb")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    assert "questions:" in outputs[-1]["text"]


SMALL = (
    "model.training=null ++model.sizes.hidden=48 ++model.sizes.mlp=96 ++model.sizes.layers=2 ++model.sizes.vision_hidden=48 "
    "++model.sizes.vision_mlp=96 ++model.sizes.vision_layers=2 data.kinds=[bars] data.levels=[1] data.lesson_amount=0 "
    "evaluation.selection.amount=24 tokens.caption=8 tokens.response=8 sft.epochs=4 sft.optimizer.learning_rate=0.02 sft.batch_size=16 "
    "sft.micro_batch=16 grpo.steps=2 grpo.prompts_per_rollout=4 grpo.prompts_per_update=4 distill=gold distill@self_distill=gold "
    + " ".join(
        f"cycles.one.{what}.levels=[1] cycles.one.{what}.amount={amount}"
        for what, amount in (("traces", 64), ("problems", 16))
    )
)


@pytest.mark.slow
def test_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENVLT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("OPENVLT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENVLT_NOTEBOOK_OVERRIDES", SMALL)
    outputs = [output for cell in run("05_evaluate.ipynb").cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    text = "".join(output.get("text", "") for output in outputs)
    assert text.count("McNemar p") == 2 and "protocol openvlthinker" in text and "blank image" in text


CUT = [  # a random model and known captions: what the filters do to the chains is real, the accuracies aren't
    *(
        "~distill.caption",
        "+distill.caption={_target_: openvlt.distill.writers.scripted.GivenCaptions}",
        "model.training=null",
    ),
    *(
        "++model.sizes.hidden=48",
        "++model.sizes.layers=2",
        "cycles.one.traces.amount=60",
        "cycles.one.sft={}",
        "sft.epochs=1",
    ),
    *("sft.batch_size=16", "sft.micro_batch=16", "evaluation.selection.amount=24", "tokens.response=8"),
]


@pytest.mark.slow
def test_reflection_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENVLT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("OPENVLT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENVLT_NOTEBOOK_OVERRIDES", "|".join(CUT))
    monkeypatch.setenv("OPENVLT_NOTEBOOK_SEEDS", "1")
    outputs = [output for cell in run("02_reflection_cut.ipynb").cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "reflections cut" in outputs[-1]["text"] and "Wait" in outputs[-1]["text"]


@pytest.mark.slow
def test_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENVLT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("OPENVLT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENVLT_NOTEBOOK_OVERRIDES", SMALL)
    monkeypatch.setenv("OPENVLT_NOTEBOOK_METHODS", "paper gspo")
    monkeypatch.setenv("OPENVLT_NOTEBOOK_SEEDS", "1")
    outputs = [output for cell in run("03_losses.ipynb").cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    said = "".join(output.get("text", "") for output in outputs)
    assert (
        said.startswith("2 runs")
        and said.count("gspo") == 2
        and "SFT (start)" in said
        and "ratio max" in said
    )
