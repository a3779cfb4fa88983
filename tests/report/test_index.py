"""The index of all runs, and the page that is kept while a run goes on."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from openvlt.errors import UserError
from openvlt.report import index as index_module
from openvlt.report.index import write_index
from openvlt.report.keep import keep_report
from tests.helpers.report_runs import write_big_run
from tests.report.test_page import Parts


def data_of(runs: Path) -> dict:
    return Parts(write_index(runs).read_text()).blocks["data"]


def test_every_run_is_listed_and_equal_questions_are_written_once(tmp_path):
    for seed in (1, 2):
        write_big_run(tmp_path, seed=seed, rows=20)
    data = data_of(tmp_path)
    assert [(run["seed"], run["state"], run["changes"][1]) for run in data["runs"]] == [
        (2, "finished", "seed=2"),
        (1, "finished", "seed=1"),
    ]
    assert data["runs"][0]["score"] == [0.5, 0.1, 0.9] and data["runs"][0]["seconds"] == 30
    assert len(data["questions"]) == 20 and data["runs"][0]["problems"] == data["runs"][1]["problems"]
    assert data["runs"][0]["answers"]["base"] == "1100000000" * 2


def test_a_run_that_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    folders = [write_big_run(tmp_path, seed=seed, rows=5) for seed in (1, 2)]
    write_index(tmp_path)
    read = []
    monkeypatch.setattr(
        index_module, "read_run", lambda folder: read.append(folder) or pytest.fail("not this one")
    )
    data_of(tmp_path)
    assert not read
    monkeypatch.undo()
    (folders[0] / "overrides").write_text("seed=9\n")
    os.utime(folders[0] / "overrides", (2e9, 2e9))
    assert [run["changes"] for run in data_of(tmp_path)["runs"]][1] == ["seed=9"]
    (tmp_path / index_module.CACHE).write_text("{broken")
    assert len(data_of(tmp_path)["runs"]) == 2


def test_a_broken_run_is_listed_with_the_reason(tmp_path):
    folder = write_big_run(tmp_path, rows=5)
    (folder / "results.json").write_text("{half")
    (run,) = data_of(tmp_path)["runs"]
    assert run["state"] == "failed" and "is not valid JSON" in run["headline"]


def test_links_that_lead_out_are_not_followed(tmp_path):
    outside = write_big_run(tmp_path / "elsewhere", rows=5)
    runs = tmp_path / "runs"
    (runs / "a").mkdir(parents=True)
    (runs / "a" / "one").symlink_to(outside)
    (runs / "b").symlink_to(outside.parent)
    assert data_of(runs)["runs"] == []
    with pytest.raises(UserError, match="no such folder"):
        write_index(tmp_path / "absent")


# --- while a run goes on --------------------------------------------------------------------------------------


def wait_for(found) -> None:
    done = threading.Event()
    for _ in range(600):
        if found():
            return
        done.wait(0.1)
    raise AssertionError("it never happened")


def test_the_page_is_written_after_a_stage_and_at_the_end(tmp_path):
    folder = write_big_run(tmp_path, rows=5)
    page = folder / "report.html"
    with keep_report(folder, tmp_path, every_s=1000, least_s=0.05):
        wait_for(page.is_file)  # its stages are there already
        (folder / "state.json").write_text(json.dumps({"state": "failed", "since": 1, "error": "it broke"}))
    assert "it broke" in page.read_text() and (tmp_path / "index.html").is_file()
    assert not list(folder.glob(".*.tmp"))
    before = page.stat().st_mtime_ns
    with keep_report(folder, tmp_path):
        pass
    assert page.stat().st_mtime_ns == before  # nothing was written since


def test_an_error_of_the_run_comes_through_and_an_unwritable_page_is_a_warning(tmp_path, capsys):
    folder = write_big_run(tmp_path, rows=5)
    (folder / "00-base" / "results.json").write_text("{half")
    with pytest.raises(ZeroDivisionError), keep_report(folder, tmp_path, every_s=0.05, least_s=0.05):
        wait_for(lambda: "is not up to date" in capsys.readouterr().err)
        raise ZeroDivisionError
    assert "is not valid JSON" in capsys.readouterr().err


def test_a_folder_that_never_came_is_left_alone(tmp_path):
    with keep_report(tmp_path / "absent", tmp_path, every_s=0.05, least_s=0.05):
        pass
    assert not (tmp_path / "absent").exists()
