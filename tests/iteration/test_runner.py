"""What a run finds out before its first stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from openvlt.data.sources.base import Selection
from openvlt.errors import UserError
from openvlt.iteration.context import StageContext
from openvlt.iteration.runner import Study
from openvlt.iteration.stages import DistillStage, EvaluateBase, SFTStage

LAB = StageContext(
    model=None, source=None, sft=None, grpo=None, evaluation=None, seed=1
)  # no stage gets as far as asking for a part


class Unanswered:
    """A distillation whose server isn't there."""

    def check_servers(self) -> None:
        raise UserError("no server answers")


@pytest.mark.parametrize(
    "later, said",
    [
        (DistillStage(teacher="base", distillation=Unanswered(), select=Selection()), "no server answers"),
        (SFTStage(traces=("traces0",)), "stage 'traces0' is neither in this run"),
        (SFTStage(traces=(), start="grpo0"), "stage 'grpo0' is neither in this run"),
    ],
)
def test_what_a_later_stage_lacks_is_told_at_once(
    later: DistillStage | SFTStage, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        Study({"base": EvaluateBase(), "later": later}).run(
            LAB, tmp_path, runs=tmp_path, name="x", scale="tiny"
        )
    assert not list(tmp_path.iterdir())


def test_a_finished_distillation_needs_no_server(tmp_path: Path) -> None:
    (tmp_path / "00-traces").mkdir()
    (tmp_path / "00-traces" / "results.json").write_text('{"stage": "traces"}')
    traces = DistillStage(teacher="base", distillation=Unanswered(), select=Selection())
    results = Study({"traces": traces}).run(LAB, tmp_path, runs=tmp_path, name="x", scale="tiny")
    assert results["stages"] == [{"stage": "traces"}]


def test_a_resumed_run_keeps_to_the_run_that_it_continued(tmp_path: Path) -> None:
    def finished(name: str) -> Path:
        stage = tmp_path / "iter1" / name / "00-sft1"
        stage.mkdir(parents=True)
        for place in (stage, stage.parent):
            (place / "results.json").write_text('{"seed": 1}')
        return stage.parent

    class Seen(EvaluateBase):
        def run(self, context: StageContext, *_: object) -> dict:
            return {
                "evaluation": None,
                "distillation": {"traces": 0, "problems": 0},
                "found": str(context.folder("sft1")),
            }

    def run(stage: str) -> dict:
        iteration = Study({stage: Seen()}, previous="iter1")
        return iteration.run(LAB, folder, runs=tmp_path, name="x", scale="tiny")

    folder = tmp_path / "x"
    folder.mkdir()
    first = finished("20260101-000000-a")
    assert run("one")["previous"] == str(first)
    later = finished("20260102-000000-b")
    again = run("two")
    assert again["stages"][0]["found"] == str(first / "00-sft1") and again["previous"] == str(first)
    (folder / "previous.json").unlink()
    assert run("three")["previous"] == str(later)
    shutil.rmtree(later)
    assert run("three")["previous"] == str(later)  # finished: it needs nothing of it
    (folder / "results.json").unlink()
    with pytest.raises(UserError, match="b, which isn't there any more; put it back"):
        run("three")
