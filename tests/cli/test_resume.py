"""Going on with a run: everything comes from its folder, what has changed since is named, and what is over stays as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.entry_scripts import FIGURES, Cli
from tests.helpers.stub_server import requests, stub_server


def rows(answer: str = "3", amount: int = 16) -> list[dict]:
    return [
        {"id": f"q{n}", "question": "How many bars?", "answer": answer, "images": ["a.png"]}
        for n in range(amount)
    ]


def write(file: Path, content: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in content))


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a folder, with its time."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


@pytest.mark.slow
def test_a_run_goes_on_only_over_the_rows_it_began_with(cli: Cli, tmp_path: Path) -> None:
    """A run of train.py that has lost its GRPO stage, as if it had been killed there."""
    Image.new("RGB", (60, 60), "red").save(tmp_path / "a.png")
    write(tmp_path / "work.jsonl", rows())
    words = ["data=jsonl", f"data.path={tmp_path / 'work.jsonl'}", "evaluation.selection.amount=2"]
    cli("train.py", "+experiment=smoke", *words, f"paths.runs={tmp_path}").ok()
    folder = next((tmp_path / "smoke").iterdir())
    shutil.rmtree(folder / "02-grpo")
    (folder / "results.json").unlink()
    write(tmp_path / "work.jsonl", rows("4"))
    before = state(folder)
    error = cli("train.py", f"resume={folder}", tiny=False).error
    assert (
        "work.jsonl has changed since the run began (16 of 16 answers" in error
        and "put the file back" in error
    )
    note, after = folder / "state.json", state(folder)
    # nothing is lost, and nothing added but how the run stands, and its page
    assert {Path(file).name for file in before if before[file] != after.get(file)} <= {
        note.name,
        "report.html",
    }
    assert before.keys() == after.keys()
    assert json.loads(note.read_text())["state"] == "failed" and "has changed since" in note.read_text()
    write(tmp_path / "work.jsonl", rows())
    (tmp_path / "a.png").touch()  # the same bytes
    done = cli("train.py", f"resume={folder}", tiny=False).ok()
    assert done.out.count("finished before: skipped") == 2 and (folder / "results.json").is_file()
    (tmp_path / "work.jsonl").unlink()  # a finished run needs no data
    before = state(folder)
    done = cli("train.py", f"resume={folder}", tiny=False).ok()
    assert done.out.count("finished before: skipped") == 3 and state(folder) == before


# --- distill.py ---------------------------------------------------------------------------------------------------------


SMALL = [*FIGURES, "select.amount=6", "select.levels=[1]"]


def test_a_finished_distillation_adds_nothing(cli: Cli) -> None:
    """Not the default one's captions and chains, and no model is loaded; `test_distill.py` resumes one that isn't finished."""
    cli("distill.py", "distill=gold", *SMALL, "name=over").ok()
    folder = cli.newest("over")
    before = state(folder)
    done = cli("distill.py", f"resume={folder}", tiny=False).ok()
    assert "finished before: nothing to do" in done.out and state(folder) == before


@pytest.mark.slow
def test_a_served_run_goes_on_with_its_own_server(cli: Cli, tmp_path: Path) -> None:
    name, words = (
        "served-on",
        ["distill=served", "distill.reason.server.endpoints.model=m", "distill.samples=2"],
    )
    given = [
        "~distill.caption",
        "+distill.caption={_target_: openvlt.distill.writers.scripted.GivenCaptions}",
    ]
    with stub_server(tmp_path / "log") as url:
        words += [*given, *SMALL, f"distill.reason.server.endpoints.urls=[{url}]", f"name={name}"]
        cli("distill.py", *words).ok()
        folder = cli.newest(name)
        before = state(folder)
        assert "nothing to do" in cli("distill.py", f"resume={folder}", tiny=False).ok().out
        assert requests(tmp_path / "log").total() == 12 and state(folder) == before
        chains = (folder / "reason.jsonl").read_text().splitlines(keepends=True)
        (folder / "reason.jsonl").write_text("".join(chains[:5]))  # as if it had been killed there
        (folder / "results.json").unlink()
        cli("distill.py", f"resume={folder}", tiny=False).ok()
        assert requests(tmp_path / "log").total() == 12 + 7
        again = (folder / "reason.jsonl").read_text().splitlines(keepends=True)
        assert sorted(again) == sorted(chains)
        (folder / "reason.jsonl").write_text("".join(chains[:5]))
        (folder / "results.json").unlink()
    error = cli("distill.py", f"resume={folder}", tiny=False).error
    assert f"no server answers at {url}" in error and (folder / "reason.jsonl").is_file()
    (folder / "reason.jsonl").unlink()
    error = cli("distill.py", f"resume={folder}", tiny=False).error
    assert "reason.jsonl is missing or empty, though later stages used its answers" in error


def test_a_distillation_of_changed_rows_is_stopped(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [row | {"images": []} for row in rows(amount=4)])
    own = ["data=jsonl", f"data.path={tmp_path / 'rows.jsonl'}", "select.amount=null", "select.levels=null"]
    cli("distill.py", "distill=gold", *own, "name=changed").ok()
    folder = cli.newest("changed")
    (folder / "results.json").unlink()
    write(tmp_path / "rows.jsonl", [row | {"images": []} for row in rows("4", amount=4)])
    for words in ([], ["inspect=true"]):
        error = cli("distill.py", f"resume={folder}", *words, tiny=False).error
        assert "rows.jsonl has changed since the run began (4 of 4 answers" in error
    error = cli("distill.py", f"resume={folder}", "distill.samples=3", tiny=False).error
    assert "made with another config" in error


# --- evaluate.py --------------------------------------------------------------------------------------------------------


def test_a_benchmarks_changed_rows_are_not_scored_with_the_old_answers(
    cli: Cli, picture: Callable[..., str], tmp_path: Path
) -> None:
    row = {"question": "How many?", "options": [], "level": 1, "subject": "counting"}
    image = picture("0.png", size=60)

    def write_rows(answer: str) -> None:
        write(
            tmp_path / "test.jsonl",
            [{"id": str(n), "answer": answer, "image": image, **row} for n in range(2)],
        )

    write_rows("1")
    words = ["benchmark=mathvision", f"data_dir={tmp_path}", "name=changing"]
    cli("evaluate.py", *words).ok()
    folder = cli.newest("changing")
    (folder / "results.json").unlink()
    write_rows("2")
    for again in ([f"resume={folder}"], words):  # by its folder, and by the same command
        error = cli("evaluate.py", *again, tiny=again is words).error
        assert "the data of mathvision has changed since the run began (2 of 2 answers" in error
