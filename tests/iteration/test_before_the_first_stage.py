"""What a run finds out before its first stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from openvlt.data.source import Selection
from openvlt.iteration.run import Iteration
from openvlt.iteration.stages import Base, Lab, Traces, Tune
from openvlt.types import UserError

LAB = Lab(model=None, source=None, sft=None, grpo=None, evaluation=None, seed=1)  # no stage gets as far as asking for a part


class Unanswered:
    """A distillation whose server isn't there."""

    def knock(self) -> None:
        raise UserError("no server answers")


@pytest.mark.parametrize(
    "later, said",
    [
        (Traces(author="base", distillation=Unanswered(), select=Selection()), "no server answers"),
        (Tune(traces=("traces0",)), "stage 'traces0' is neither in this run"),
        (Tune(traces=(), start="grpo0"), "stage 'grpo0' is neither in this run"),
    ],
)
def test_what_a_later_stage_lacks_is_told_at_once(later: Traces | Tune, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        Iteration({"base": Base(), "later": later}).run(LAB, tmp_path, runs=tmp_path, name="x", scale="tiny")
    assert not list(tmp_path.iterdir())


def test_a_finished_distillation_needs_no_server(tmp_path: Path) -> None:
    (tmp_path / "00-traces").mkdir()
    (tmp_path / "00-traces" / "results.json").write_text('{"stage": "traces"}')
    traces = Traces(author="base", distillation=Unanswered(), select=Selection())
    results = Iteration({"traces": traces}).run(LAB, tmp_path, runs=tmp_path, name="x", scale="tiny")
    assert results["stages"] == [{"stage": "traces"}]
