"""state.json: how a run stands, also after an error or Ctrl-C."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from openvlt.errors import UserError
from openvlt.runs.state import LAST_LINES, record_state


def state_of(folder: Path) -> dict:
    return json.loads((folder / "state.json").read_text())


def test_a_run_is_running_and_then_finished(tmp_path):
    with record_state(tmp_path):
        assert state_of(tmp_path)["state"] == "running" and state_of(tmp_path)["pid"] == os.getpid()
    assert state_of(tmp_path).keys() == {"state", "since"} and state_of(tmp_path)["state"] == "finished"


def test_an_error_is_kept_with_its_last_lines_and_goes_on(tmp_path):
    with pytest.raises(ValueError, match="bad"), record_state(tmp_path):
        raise ValueError("bad" + "\nmore" * 30)
    state = state_of(tmp_path)
    assert (state["state"], state["kind"], state["error"]) == ("failed", "ValueError", "bad")
    assert len(state["lines"]) == LAST_LINES and state["lines"][-1] == "more"


def test_a_user_s_mistake_is_its_sentence(tmp_path):
    with pytest.raises(UserError), record_state(tmp_path):
        raise UserError("lower the learning rate")
    assert (state_of(tmp_path)["kind"], state_of(tmp_path)["error"]) == ("", "lower the learning rate")


def test_ctrl_c_stops(tmp_path):
    with pytest.raises(KeyboardInterrupt), record_state(tmp_path):
        raise KeyboardInterrupt
    assert state_of(tmp_path)["state"] == "stopped"


def test_a_finished_run_that_is_resumed_keeps_its_state(tmp_path):
    with record_state(tmp_path):
        (tmp_path / "results.json").write_text("{}")
    before = (tmp_path / "state.json").read_text()
    with record_state(tmp_path):
        assert (tmp_path / "state.json").read_text() == before
    with record_state(tmp_path):
        pass
    assert (tmp_path / "state.json").read_text() == before
