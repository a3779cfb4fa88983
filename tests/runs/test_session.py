"""The files that a run begins with, and those that its stages leave: what is cut off or missing is named when it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from openvlt import distributed
from openvlt.config.resolvers import load_config
from openvlt.errors import UserError
from openvlt.iteration.runner import _check_outputs
from openvlt.iteration.stages import GRPOStage, SFTStage, _read_stage_traces
from openvlt.runs.session import _check_sight, _check_start, start_run
from tests.helpers.configs import compose


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has begun."""
    with start_run(compose("evaluation.selection.amount=3"), tmp_path / "run") as folder:
        _check_start(folder)
        assert load_config(folder / "config.yaml").evaluation.selection.amount == 3
    return tmp_path / "run"


def cut(name: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:-40])


@pytest.mark.parametrize(
    "spoil, said",
    [
        (cut("config.yaml"), "config.yaml isn't as the run wrote it, but cut off or edited; put it back"),
        (lambda run: (run / "config.yaml").write_text(""), "config.yaml isn't as the run wrote it"),
        (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe"), "config.yaml isn't as the run wrote it"),
        (cut("manifest.json"), "manifest.json is cut off or damaged .*; put it back, or start a new run"),
        (lambda run: (run / "manifest.json").write_text("[1]"), "manifest.json isn't a run's"),
        (lambda run: (run / "manifest.json").write_text("{}"), "manifest.json isn't a run's"),
        (lambda run: (run / "manifest.json").unlink(), "manifest.json is missing; put it back"),
    ],
)
def test_a_beginning_that_is_not_whole(run: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(run)
    with pytest.raises(UserError, match=said):
        _check_start(run)


@pytest.mark.parametrize("text", ["", "seed: 1\n", "- 1\n", "just a word"])
def test_a_config_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="config.yaml is cut off, or no run's; put it back"):
        load_config(tmp_path / "config.yaml")


def test_a_mistake_removes_a_new_run_but_never_one_that_is_resumed(tmp_path: Path) -> None:
    def fail() -> None:
        with start_run(compose(), tmp_path / "run"):
            raise UserError("no such row")

    with pytest.raises(UserError):
        fail()
    assert not (tmp_path / "run").exists()
    with start_run(compose(), tmp_path / "run"):
        pass
    with pytest.raises(UserError):
        fail()
    assert (tmp_path / "run" / "config.yaml").is_file()


def test_a_finished_stage_whose_output_is_gone(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("traces", "sft")}
    records = {"traces": {"training": None, "distillation": {"traces": 2}}, "sft": {"training": {"steps": 1}}}
    for name, folder in folders.items():
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(records[name]))
    with pytest.raises(UserError, match="traces.jsonl is missing, though traces is finished; put it back"):
        _check_outputs(SFTStage(("traces",)), folders)
    with pytest.raises(UserError, match="sft/model is missing or not whole, though the stage is finished"):
        _check_outputs(GRPOStage("sft", select=None), folders)
    row = {"id": "a", "question": "?", "answer": "1", "images": [], "response": "<answer>1</answer>"}
    for lines in (1, 2):
        rows = "".join(json.dumps(row | {"id": str(n)}) + "\n" for n in range(lines))
        (folders["traces"] / "traces.jsonl").write_text(rows)
        if lines == 1:
            with pytest.raises(UserError, match="traces.jsonl holds 1 traces, but 2 were written"):
                _read_stage_traces(folders["traces"])
    assert len(_read_stage_traces(folders["traces"])) == 2
    _check_outputs(SFTStage(("traces",)), folders)


@pytest.mark.parametrize("seen", [True, False])
def test_a_rank_that_does_not_see_the_run_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    """As a second machine, whose disk isn't shared, would find it."""
    folder = tmp_path / "run"
    folder.mkdir()

    def broadcast(token: str) -> str:
        if seen:
            (folder / token).touch()  # by the main rank
        return token

    for name, value in {
        "world_size": lambda: 2,
        "rank": lambda: 1,
        "is_main": lambda: False,
        "broadcast": broadcast,
        "barrier": lambda: None,
        "all_gather": list,
    }.items():
        monkeypatch.setattr(distributed, name, value)
    if seen:
        _check_sight(folder)
        return
    with pytest.raises(
        UserError, match=r"process 1 on .* can't see .*run, .* put paths.runs on a file system"
    ):
        _check_sight(folder)
