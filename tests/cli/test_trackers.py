"""Trackers of real runs, offline, read back with the clients' own readers; and what `resume=` makes of them."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from openvlt.trainer.metrics import read_metrics
from tests.helpers.entry_scripts import API_KEY, Cli
from tests.helpers.wandb_file import WandbRun, read_wandb_file

STEPS = {"sft": (0, 2), "grpo": (2, 3)}  # the first step and how many, of each stage of `smoke` on 16 rows
COLUMN = {"sft": "loss", "grpo": "generate_s"}  # one that differs from step to step
TIMES = re.compile(r".*(_s|memory_gib)")  # columns of metrics.csv that no seed decides


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The settings of a smoke run on rows with a picture."""
    folder = tmp_path_factory.mktemp("rows")
    Image.new("RGB", (60, 60), "red").save(folder / "a.png")
    lines = [
        {"id": f"q{n}", "question": "How many <b>|bars|?", "answer": str(n % 3), "images": ["a.png"]}
        for n in range(16)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = ["data=jsonl", f"data.path={folder / 'rows.jsonl'}", "evaluation.selection.amount=16"]
    return ["+experiment=smoke", *own, "tracking.rollouts_every=2"]


def own_tracker(fails_at: float) -> str:
    return f"+logger.mine={{_target_: tests.helpers.trackers.Notebook, fails_at: {fails_at}}}"


def csv_series(run: Path, stage: str) -> list[tuple[int, float]]:
    """The stage's `COLUMN` in its metrics.csv, on the whole run's axis."""
    (file,) = run.glob(f"*-{stage}/metrics.csv")
    return [(STEPS[stage][0] + int(row["step"]), row[COLUMN[stage]]) for row in read_metrics(file)]


def wandb_runs(run: Path) -> list[WandbRun]:
    return [read_wandb_file(file) for file in sorted(run.glob("wandb/offline-run-*/*.wandb"))]


def tensorboard_events(run: Path) -> Any:
    """TensorBoard's own reader over a run, with all events of each kind."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(
        str(run / "tensorboard"), size_guidance=dict.fromkeys(reader.STORE_EVERYTHING_SIZE_GUIDANCE, 0)
    )
    found.Reload()
    return found


def files_with(folder: Path, text: str) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


# --- Weights & Biases ---------------------------------------------------------------------------------------------------


def check_wandb(run: Path, found: WandbRun) -> None:
    """A whole smoke run in one log."""
    assert found.id == run.name and found.name == f"smoke-{run.name}" and found.exit_code == 0
    assert set(found.tags) == {"experiment=smoke", "scale=tiny"} and found.axes == {"*": "step"}
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert {key: found.config[key] for key in config} == config
    for stage, (first, count) in STEPS.items():
        assert found.series(f"{stage}/{COLUMN[stage]}") == pytest.approx(csv_series(run, stage))
        table = json.loads(one_file(run, f"{stage}/heldout_*.table.json").read_text())
        assert table["columns"] == ["questions", "accuracy", "low", "high", "n"] and table["data"][0][4] == 16
        assert found.series(f"{stage}/heldout_n") == [(first + count, 16)]
    outcomes = [dict(found.series(f"grpo/groups_{name}")) for name in ("all_wrong", "mixed", "all_right")]
    assert all(
        sum(shares) == pytest.approx(1) for shares in zip(*(one.values() for one in outcomes), strict=True)
    )
    final = json.loads((run / "results.json").read_text())["stages"][-1]["evaluation"]
    scores = [found.summary[f"final/{name}"] for name in ("accuracy", "low", "high", "n")]
    assert scores == pytest.approx([final["accuracy"], *final["interval"], final["n"]])
    assert (f"report-{run.name}", ["report.html"]) in found.artifacts
    pictures = [files for name, files in found.artifacts if "rollouts" in name]
    assert len(pictures) == 2 and all(any(file.endswith(".png") for file in files) for files in pictures)
    assert [step for step, _ in found.series("grpo/rollouts/ncols")] == [3, 4]  # the stage's steps 1 and 2


def one_file(run: Path, pattern: str) -> Path:
    (file,) = run.glob(f"wandb/offline-run-*/files/media/table/{pattern}")
    return file


def check_rollouts(columns: list[str], rows: list[list[Any]]) -> None:
    assert columns[columns.index("question") + 1] == "picture"
    assert {
        "step",
        "problem",
        "gold",
        "response",
        "verdict",
        "reward",
        "reward_accuracy",
        "advantage",
    } <= set(columns)
    assert len(rows) == 2 * 4  # two groups of four
    assert {row[columns.index("verdict")] for row in rows} <= {"correct", "wrong", "no_answer", "unparsed"}


def test_a_run_stands_in_weights_and_biases_as_in_its_files(cli: Cli, rows: list[str]) -> None:
    done = cli("train.py", *rows, "logger=wandb", own_tracker(4)).ok()
    run = cli.newest("smoke")
    (found,) = wandb_runs(run)
    check_wandb(run, found)
    table = json.loads(min(run.glob("wandb/*/files/media/table/grpo/rollouts_*")).read_text())
    check_rollouts(table["columns"], table["data"])
    assert {row[table["columns"].index("picture")] for row in table["data"]} == {
        "Image"
    }  # the artifacts have them, see above
    assert files_with(run, API_KEY) == []
    assert (
        done.out.count(f"upload it with: wandb sync {run}/wandb/offline-run-*") == 2
    )  # at the start and at the end
    # the other tracker failed at the second step of GRPO: the run went on, and nothing else lacks it
    assert done.out.count("warning: mine follows this run no more (ConnectionError: no route to host)") == 1
    assert len(csv_series(run, "grpo")) == 3
    assert list(json.loads((run / "trackers.json").read_text())) == ["wandb"]


# --- all of them --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_trackers_at_once(cli: Cli, rows: list[str]) -> None:
    pytest.importorskip("tensorboard")
    cli("train.py", *rows, "logger=[csv,tensorboard,wandb]").ok()
    run = cli.newest("smoke")
    check_wandb(run, *wandb_runs(run))
    events = tensorboard_events(run)
    check_scalars(run)
    texts = [
        event.tensor_proto.string_val[0].decode() for event in events.Tensors("grpo/rollouts/text_summary")
    ]
    head, _, *lines = texts[0].split("\n")
    check_rollouts(head.strip("| ").split(" | "), [line.strip("| ").split(" | ") for line in lines])
    assert "&lt;b&gt;&#124;bars&#124;?" in texts[0] and "| picture_1 |" in texts[0]
    assert [event.step for event in events.Images("grpo/rollouts/picture_1")] == [3, 4]
    assert {
        "config/text_summary",
        "tags/text_summary",
        "summary/text_summary",
        "report.html/text_summary",
    } <= set(events.Tags()["tensors"])
    assert (
        "| final/accuracy |" in events.Tensors("summary/text_summary")[0].tensor_proto.string_val[0].decode()
    )
    assert files_with(run, API_KEY) == []
    plain(cli, rows, run)


def plain(cli: Cli, rows: list[str], tracked: Path) -> None:
    """The same run without trackers: they changed nothing that it computes, and left nothing in it."""
    cli("train.py", *rows).ok()
    run = cli.newest("smoke")
    assert not {"tensorboard", "wandb", "trackers.json"} & {file.name for file in run.iterdir()}
    for stage in STEPS:
        one, other = (read_metrics(next(folder.glob(f"*-{stage}/metrics.csv"))) for folder in (run, tracked))
        for left, right in zip(one, other, strict=True):
            assert [f"{k} {v}" for k, v in left.items() if not TIMES.fullmatch(k)] == [
                f"{k} {v}" for k, v in right.items() if not TIMES.fullmatch(k)
            ]


def scalars(run: Path, stage: str) -> tuple[list[int], list[float]]:
    """Steps and values of the stage's `COLUMN` in TensorBoard, in order."""
    events = tensorboard_events(run).Scalars(f"{stage}/{COLUMN[stage]}")
    return [event.step for event in events], [event.value for event in events]


def times(run: Path) -> dict[Path, int]:
    """When each file was written; the logs of W&B's client end a moment after the run."""
    files = (file for file in run.rglob("*") if file.is_file() and file.suffix != ".log")
    return {file: file.stat().st_mtime_ns for file in files}


def check_scalars(run: Path) -> None:
    for stage in STEPS:
        steps, values = zip(*csv_series(run, stage), strict=True)
        assert scalars(run, stage) == (list(steps), pytest.approx(list(values)))


@pytest.mark.slow
def test_trackers_change_at_resume(cli: Cli, rows: list[str]) -> None:
    """A run that is killed in its GRPO stage goes on with another tracker beside its own."""
    pytest.importorskip("tensorboard")
    place = cli.work / "runs" / "killed"
    started = cli.start(
        *("train.py", *rows, "name=killed", "logger=wandb", "trainer.checkpoint_every=1"),
        pause=(place, "*/*-grpo/metrics.csv", 3),  # the head and two steps
    )
    started.at_pause().end_by(signal.SIGKILL, everyone=True)
    run = cli.newest("killed")
    assert wandb_runs(run)[0].exit_code is None  # and it lacks what the client hadn't written
    begun = read_metrics(next(run.glob("*-grpo/metrics.csv")))
    cli("train.py", f"resume={run}", "logger=[tensorboard,wandb]", tiny=False).ok()
    second = wandb_runs(run)[1]
    assert second.id == run.name and second.exit_code == 0
    for stage in STEPS:  # all of it, those steps too that the first process took
        assert second.series(f"{stage}/{COLUMN[stage]}") == pytest.approx(csv_series(run, stage))
    assert csv_series(run, "grpo")[0][1] == begun[0]["generate_s"]
    check_scalars(run)
    before = times(run)
    cli(
        "train.py", f"resume={run}", "logger=[tensorboard,wandb]", tiny=False
    ).ok()  # finished: nobody is told
    assert times(run) == before
    shutil.rmtree(run / "02-grpo")  # as if it had ended before that stage
    (run / "results.json").unlink()
    done = cli(
        "train.py", f"resume={run}", "logger=tensorboard", "tracking.rollouts_every=0", tiny=False
    ).ok()
    assert len(wandb_runs(run)) == 2 and "wandb" not in done.out
    check_scalars(run)  # TensorBoard shows nothing of the GRPO stage before
    assert scalars(run, "grpo")[1] != [value for _, value in second.series("grpo/generate_s")]
    error = cli("train.py", f"resume={run}", "logger=tensorboard", "grpo.steps=9", tiny=False).error
    assert "made with another config" in error and "logger" not in error


@pytest.mark.slow
def test_a_sweep_is_one_group_and_of_several_processes_one_logs(cli: Cli, rows: list[str]) -> None:
    words = ("logger=wandb", "name=group", "trainer.accelerator=cpu", "trainer.devices=2")
    cli("train.py", *rows, *words, "-m", "seed=1,2").ok()
    found = [wandb_runs(run) for run in sorted((cli.work / "runs" / "group").iterdir()) if run.is_dir()]
    groups = {run.group for (run,) in found}
    assert len(found) == 2 and len(groups) == 1 and groups != {""}


@pytest.mark.slow
def test_mlflow_keeps_a_run(cli: Cli, rows: list[str]) -> None:
    mlflow = pytest.importorskip("mlflow")
    for package in ("sqlalchemy", "alembic"):
        pytest.importorskip(package)
    done = cli("train.py", *rows, "logger=mlflow", "name=mlflow").ok()
    run = cli.newest("mlflow")
    (run / "results.json").unlink()
    shutil.rmtree(run / "02-grpo")
    cli("train.py", f"resume={run}", tiny=False).ok()  # the same run again
    mlflow.set_tracking_uri(f"sqlite:///{cli.work / 'runs' / 'mlflow.db'}")
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("openvlt").experiment_id])
    own, data = found.info.run_id, found.data
    assert f"run {own}; look at it with: mlflow ui --backend-store-uri sqlite:///" in done.out
    assert found.info.run_name == f"mlflow-{run.name}" and found.info.status == "FINISHED"
    assert (data.tags["experiment"], data.tags["scale"]) == ("smoke", "tiny")
    assert data.params["grpo.group_size"] == "8" and data.metrics["final/n"] == 16
    for stage in STEPS:
        series = {
            metric.step: metric.value for metric in client.get_metric_history(own, f"{stage}/{COLUMN[stage]}")
        }
        assert series == pytest.approx(dict(csv_series(run, stage)))
    names = {file.path for file in client.list_artifacts(own)}
    assert {"config.yaml", "report.html", "grpo", "sft", "table_images"} <= names
    table = json.loads(Path(client.download_artifacts(own, "grpo/rollouts.json")).read_text())
    check_rollouts(table["columns"], table["data"][:8])
    assert len(table["data"]) == 2 * 2 * 8  # two tables of each process
    assert table["data"][0][3]["type"] == "image"
    assert files_with(cli.work / "runs", API_KEY) == []


@pytest.mark.slow
def test_trackio_keeps_a_run(cli: Cli, rows: list[str], tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    place = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    words = (*rows, "logger=trackio", "name=trackio")
    done = cli.process("train.py", *words, **place).ok()
    run = cli.newest("trackio")
    (run / "results.json").unlink()
    shutil.rmtree(run / "02-grpo")
    cli.process("train.py", *words, f"resume={run}", **place).ok()
    logs = trackio_logs(f"trackio-{run.name}", place["TRACKIO_DIR"])
    assert "look at it with: trackio show --project openvlt" in done.out and "* Run finished" not in done.out
    for stage in STEPS:
        series = {
            log["step"]: log[f"{stage}/{COLUMN[stage]}"] for log in logs if f"{stage}/{COLUMN[stage]}" in log
        }
        assert series == pytest.approx(dict(csv_series(run, stage)))
    tables = [log["grpo/rollouts"]["_value"] for log in logs if "grpo/rollouts" in log]
    check_rollouts(list(tables[0][0]), [list(row.values()) for row in tables[0]])
    assert tables[0][0]["picture"]["_type"] == "trackio.image"
    assert [log["final/n"] for log in logs if "final/n" in log] == [16, 16]
    assert files_with(tmp_path, API_KEY) == []


def trackio_logs(name: str, folder: str) -> list[dict[str, Any]]:
    """What trackio's own storage holds of a run, read in another process: its folder is fixed at import."""
    import os
    import subprocess
    import sys

    code = "import json, sys, trackio; print(json.dumps(trackio.Api().runs('openvlt') and trackio.SQLiteStorage.get_logs('openvlt', sys.argv[1])))"
    env = {**os.environ, "TRACKIO_DIR": folder}
    done = subprocess.run(
        [sys.executable, "-c", code, name], capture_output=True, text=True, env=env, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])
