"""A user's mistake: one sentence with the fix on stderr, an exit status that isn't 0, and no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.entry_scripts import CYCLES, FIGURES, ITER1, Cli

EVALUATE = ["evaluation.selection.split=train", "evaluation.selection.amount=null"]


# --- words on the command line ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script, words, said",
    [
        ("train.py", ["grpo.stepz=3"], ["no setting 'grpo.stepz'", "steps"]),
        ("train.py", ["grpo.denominator=sum"], ["grpo.denominator='sum'", "all", "kept"]),
        ("train.py", ["grpo=papr"], ["'grpo/papr'", "did you mean paper?"]),
        ("train.py", ["--experiment", "smoke"], ["write +experiment=smoke"]),
        ("train.py", ["trainer.device=gpu0"], ["no setting 'trainer.device'", "trainer.devices"]),
        ("train.py", ["model=runs/nope"], ["model=runs/nope: there is no such run folder"]),
        ("train.py", ["experiment=iter9"], ["'experiment/iter9'", "iter1", "quickstart"]),
        ("train.py", ["iteration.stages.sft1.settings={epoch: 2}"], ["sft1", "epoch", "epochs"]),
        ("train.py", ["+iteration.stages.sft1.start=sft0"], ["sft0"]),
        ("train.py", ["iteration.previous=nowhere"], ["'nowhere'", "iteration.previous="]),
        ("train.py", ["scale=7b"], ["reasoner", "reasoner="]),
        ("train.py", ["data.levels=[7]"], ["7", "level"]),
        ("train.py", ["evaluation.selection.split=tset"], ["tset", "test"]),
        ("train.py", ["model.freeze=[eyes]"], ["eyes", "vision", "projector", "language"]),
        ("train.py", ["trainer.accelerator=abacus"], ["abacus"]),
        ("train.py", ["threads=0"], ["threads=0", "null"]),
        ("train.py", ["seed=-1"], ["seed=-1; give a whole number from 0"]),
        (
            "train.py",
            ["+cycles.one.grpo.steps=ten"],
            ["cycles.one.grpo.steps='ten' is no int"],
        ),
        (
            "train.py",
            ["cycles.one.traces.amount=many"],
            ["cycles.one.traces.amount='many' is no int or null"],
        ),
        ("evaluate.py", ["data=jsonl"], ["data.path", "data.path=<"]),
        ("evaluate.py", ["limit=3"], ["limit needs a benchmark; add benchmark=<name>"]),
        (
            "evaluate.py",
            ["responses=said.jsonl", "view=blank_image", "+judge.url=x"],
            ["responses, judge, view need a benchmark"],
        ),
        ("evaluate.py", ["compare="], ["names 0 runs; give two: compare=A,B"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_word_that_cannot_be(
    cli: Cli, script: str, words: list[str], said: list[str], tmp_path: Path
) -> None:
    tiny = script == "train.py" and not any(word.startswith("scale=") for word in words)
    places = [f"paths.runs={tmp_path}", *([] if tiny else [f"paths.cache={cli.work / 'cache'}"])]
    settings = [*FIGURES, *CYCLES] if tiny else []
    given = {word.partition("=")[0] for word in words}
    error = cli(
        script,
        *places,
        *(word for word in settings if word.partition("=")[0] not in given),
        *words,
        tiny=tiny,
    ).error
    for part in said:
        assert part in error, error
    assert not list(tmp_path.iterdir())  # no run that `resume=latest` would find, and no empty folder


def test_experiments_meet_in_one_way_only(cli: Cli) -> None:
    """Two experiments can't both be the study; the second one is not dropped without a word."""
    assert "experiment" in cli("train.py", "+experiment=iter1", "+experiment=iter2").error


# --- rows ---------------------------------------------------------------------------------------------------------------


def row(number: int, image: str, **columns: object) -> dict[str, object]:
    return {
        "id": f"row-{number}",
        "question": f"What is {number} + 1?",
        "answer": str(number + 1),
        "images": [image],
        **columns,
    }


@pytest.fixture
def rows(picture: Callable[..., str], tmp_path: Path) -> Callable[..., Path]:
    """`rows(change)` writes four good rows, lets `change(list)` spoil them, and gives the file."""

    def write(change: Callable[[list], None] = lambda rows: None, name: str = "rows.jsonl") -> Path:
        good = [row(number, picture(f"{number}.png", size=60)) for number in range(4)]
        change(good)
        (tmp_path / name).write_text(
            "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in good)
        )
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    "spoil, said",
    [
        (
            lambda rows: rows.__setitem__(2, '{"id": "row-2", "question":'),
            ["rows.jsonl, line 3", "not valid JSON"],
        ),
        (
            lambda rows: rows[1].update(images=["gone.png"]),
            ["row-1", "gone.png", "does not exist", "relative to the data file"],
        ),
        (
            lambda rows: [line.pop("question") for line in rows],
            ["no column question", "data.columns.question"],
        ),
        (lambda rows: rows[2].update(id="row-1"), ["'row-1' occurs twice"]),
    ],
    ids=["broken line", "no image", "no column", "same id"],
)
def test_a_bad_row_is_named(
    cli: Cli, iter1: Path, rows: Callable[..., Path], spoil: Callable[[list], None], said: list[str]
) -> None:
    error = cli("evaluate.py", f"model={iter1}", "data=jsonl", f"data.path={rows(spoil)}", *EVALUATE).error
    for part in said:
        assert part in error, error


def test_a_corrupt_image_names_its_row(
    cli: Cli, iter1: Path, rows: Callable[..., Path], tmp_path: Path
) -> None:
    file = rows()
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:200])
    error = cli("evaluate.py", f"model={iter1}", "data=jsonl", f"data.path={file}", *EVALUATE).error
    assert "row-2" in error and "2.png" in error and "replace it or remove the row" in error


def test_a_missing_data_file(cli: Cli, iter1: Path, tmp_path: Path) -> None:
    error = cli(
        "evaluate.py", f"model={iter1}", "data=jsonl", f"data.path={tmp_path / 'no.jsonl'}", *EVALUATE
    ).error
    assert "no.jsonl does not exist" in error and "correct the path" in error


def test_held_out_rows_that_are_not_there(cli: Cli, iter1: Path, rows: Callable[..., Path]) -> None:
    error = cli(
        "evaluate.py",
        f"model={iter1}",
        "data=jsonl",
        f"data.path={rows()}",
        "evaluation.selection.amount=null",
    ).error
    assert "no test rows" in error and "data.test_path=" in error and "data.heldout=0.1" in error


def test_bad_rows_may_be_skipped_and_are_counted(cli: Cli, iter1: Path, rows: Callable[..., Path]) -> None:
    file = rows(lambda good: good[1].update(images=["gone.png"]))
    cli(
        "evaluate.py", f"model={iter1}", "data=jsonl", f"data.path={file}", "data.skip_bad=true", *EVALUATE
    ).ok()
    results = json.loads((cli.newest("evaluate") / "results.json").read_text())
    assert (
        results["n"] == 3 and len(results["skipped_rows"]) == 1 and "gone.png" in str(results["skipped_rows"])
    )


# --- models -------------------------------------------------------------------------------------------------------------


def test_a_model_folder_that_is_not_there(cli: Cli) -> None:
    error = cli("evaluate.py", "model=./no/such/folder", *FIGURES).error
    assert "./no/such/folder" in error and "no such folder" in error and "give a Hugging Face" in error


def test_a_hub_model_that_cannot_be_had(cli: Cli) -> None:
    error = cli("evaluate.py", "model=no-one/nothing", *FIGURES).error
    assert "no-one/nothing" in error and "hub id" in error and "copy them" not in error


def test_a_model_folder_without_processor(cli: Cli, iter1: Path, tmp_path: Path) -> None:
    shutil.copytree(iter1 / "02-sft1" / "model", tmp_path / "half")
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "half" / name).unlink()
    error = cli("evaluate.py", f"model={tmp_path / 'half'}", *FIGURES).error
    assert (
        str(tmp_path / "half") in error
        and "no usable processor" in error
        and "copy them from the base model" in error
    )


def test_a_model_folder_without_weights(cli: Cli, iter1: Path, tmp_path: Path) -> None:
    shutil.copytree(iter1 / "02-sft1" / "model", tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").unlink()
    error = cli("evaluate.py", f"model={tmp_path / 'half'}", *FIGURES).error
    assert str(tmp_path / "half") in error and "no weights there" in error


def test_a_run_folder_without_a_finished_stage(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run" / "00-base").mkdir(parents=True)
    error = cli("evaluate.py", f"model={tmp_path / 'run'}", *FIGURES).error
    assert "no model there" in error and "finished stage" in error


# --- sizes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, said",
    [
        (
            "sft.batch_size=200",
            ["batch_size=200 is larger than the data (128 traces)", "lower sft.batch_size"],
        ),
        ("+cycles.one.sft.batch_size=200", ["sft1", "batch_size=200", "128 traces"]),
    ],
)
def test_an_sft_batch_larger_than_the_data(cli: Cli, change: str, said: list[str]) -> None:
    error = cli("train.py", "iteration=cycle1", *FIGURES, *CYCLES, change).error
    for part in said:
        assert part in error, error


def test_a_rollout_larger_than_the_data(cli: Cli, iter1: Path, rows: Callable[..., Path]) -> None:
    small = [f"model={iter1}", "evaluation.selection.amount=4", "iteration.stages.grpo.shrink_batches=false"]
    done = cli("train.py", "+experiment=smoke", "data=jsonl", f"data.path={rows()}", *small)
    assert (
        "prompts_per_rollout=8 is larger than the data (4 problems)" in done.error
        and "lower it" in done.error
    )
    assert "sft: batches of 4, which is all there is" in done.out


def test_more_problems_than_rows_is_said_before_anything_runs(cli: Cli, rows: Callable[..., Path]) -> None:
    done = cli(
        "train.py", "+experiment=smoke", "data=jsonl", f"data.path={rows()}", "evaluation.selection.amount=5"
    )
    assert "5 problems wanted, 4 there" in done.error and "evaluation.selection.amount=null" in done.error
    assert "traces" not in done.out  # no stage has run


# --- places -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place, words",
    [("/proc/nowhere", []), ("{file}/runs", []), ("/proc/nowhere", ["seed=1,2", "-m"])],
    ids=["no permission", "below a file", "sweep"],
)
def test_a_place_that_cannot_be_written(cli: Cli, tmp_path: Path, place: str, words: list[str]) -> None:
    (tmp_path / "file").touch()
    place = place.format(file=tmp_path / "file")
    error = cli("train.py", *FIGURES, f"paths.runs={place}", *words).error
    assert place in error and "paths.runs=" in error


def test_a_cache_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = cli("evaluate.py", *FIGURES, f"paths.cache={tmp_path / 'file' / 'cache'}").error
    assert "file" in error and "paths.cache=" in error


def test_a_folder_that_is_no_run(cli: Cli, tmp_path: Path) -> None:
    error = cli("train.py", f"resume={tmp_path}", tiny=False).error
    assert f"resume={tmp_path}" in error and "no config.yaml" in error and "give a run folder" in error
    assert not list(tmp_path.iterdir())


def test_a_folder_to_resume_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    error = cli("train.py", f"resume={tmp_path / 'typo'}", tiny=False).error
    assert (
        "no config.yaml" in error and not (tmp_path / "typo").exists()
    )  # a slip of the pen leaves no folder


def test_the_newest_of_no_runs(cli: Cli, tmp_path: Path) -> None:
    error = cli("train.py", "resume=latest", f"paths.runs={tmp_path}", tiny=False).error
    assert "resume=latest" in error and "start one without resume" in error


def test_resuming_with_another_config(cli: Cli, iter1: Path) -> None:
    before = {file: file.read_bytes() for file in iter1.glob("*") if file.is_file()}
    error = cli("train.py", "+experiment=iter1", *ITER1, "grpo.loss.clip_high=0.28", f"resume={iter1}").error
    assert (
        "made with another config" in error
        and "grpo.loss.clip_high: 0.2, now 0.28" in error
        and "`resume=` alone" in error
    )
    assert "and " not in error.partition("(")[2].partition(")")[0]  # nothing else differs
    assert before == {file: file.read_bytes() for file in before}
    assert "seed: 1, now 2" in cli("train.py", "+experiment=iter1", *ITER1, "seed=2", f"resume={iter1}").error
    error = cli(
        "train.py", f"resume={iter1}", "paths.data=/elsewhere", tiny=False
    ).error  # what was given is named first
    assert "made with another config (paths.data: data, now /elsewhere; " in error


def test_resuming_with_the_same_config_is_fine(cli: Cli, iter1: Path) -> None:
    assert (
        cli("train.py", "+experiment=iter1", *ITER1, f"resume={iter1}")
        .ok()
        .out.count("finished before: skipped")
        == 4
    )


def test_resuming_another_scripts_run(cli: Cli, iter1: Path) -> None:
    """A folder of train.py is no run of distill.py: going on there would write one run into another's folder."""
    error = cli("distill.py", f"resume={iter1}", tiny=False).error
    assert str(iter1) in error
    assert not (iter1 / "traces.jsonl").exists()


# --- files of settings --------------------------------------------------------------------------------------------------


def test_a_settings_file_that_is_no_yaml(cli: Cli, tmp_path: Path) -> None:
    """A study of one's own, kept outside the repository."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nname: mine\nseed: [1\ngrpo:\n")
    error = cli("train.py", "+experiment=mine", "--config-dir", str(tmp_path)).error
    assert "mine.yaml, line " in error and "no valid YAML" in error


def test_a_settings_file_with_an_unknown_key(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nname: mine\ngrpo: {loss: {clip_hi: 0.28}}\n"
    )
    error = cli("train.py", "+experiment=mine", "--config-dir", str(tmp_path)).error
    assert "clip_hi" in error and "clip_high" in error


def test_the_traceback_is_there_for_who_asks(cli: Cli) -> None:
    """Processes of their own: the exit status and the words are what a shell sees."""
    done = cli.process("train.py", "grpo.stepz=3")
    assert done.status == 2 and "grpo.stepz" in done.error
    assert "Traceback" in cli.process("train.py", "grpo.stepz=3", OPENVLT_TRACEBACK="1").err
