"""One axis for all stages, tables where they are due, and no tracker that ends a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from openvlt.errors import UserError
from openvlt.trackers.base import refuse_password, require_packages
from openvlt.trackers.mlflow import MLflowTracker
from openvlt.trackers.recorder import Recorder, collect_scores
from openvlt.trackers.session import STATE, build_trackers, find_tags, record_run
from tests.helpers.configs import compose
from tests.helpers.trackers import Notebook

NAN = float("nan")
SCORE = {"accuracy": 0.5, "interval": [0.25, 0.75], "n": 8, "correct": 4, "levels": {}}


def stage(name: str, *, steps: int | None = None, evaluation: dict | None = None, counts: dict | None = None):
    training = None if steps is None else {"steps": steps}
    return {"stage": name, "training": training, "evaluation": evaluation, "distillation": counts}


def row(step: int, images: list[str]) -> dict[str, Any]:
    return {"step": step, "problem": "q", "question": "Why?", "kept": True, "reward": 1.0, "images": images}


# --- the axis -----------------------------------------------------------------------------------------------------------


def test_stages_follow_each_other_on_one_axis() -> None:
    tracker = Notebook()
    recorder = Recorder({"mine": tracker})
    traces = recorder.begin_stage("traces")
    traces.end(stage("traces", counts={"traces": 7, "by": {"correct": 7}}))
    for name, steps in (("sft", 2), ("grpo", 3)):
        part = recorder.begin_stage(name)
        for step in range(1, steps + 1):
            part.log_metrics({"loss": step / 10, "kl": NAN}, step)
        part.end(stage(name, steps=steps, evaluation=SCORE))
    assert tracker.series("sft/loss") == [(1, 0.1), (2, 0.2)]
    assert tracker.series("grpo/loss") == [(3, 0.1), (4, 0.2), (5, pytest.approx(0.3))]
    assert tracker.series("grpo/kl") == []  # it doesn't apply
    assert tracker.series("traces/traces") == [(0, 7)] and not tracker.series("traces/by")
    assert tracker.series("sft/heldout_low") == [(2, 0.25)] and tracker.series("grpo/heldout_n") == [(5, 8)]


def test_a_stage_s_held_out_table_has_a_row_for_each_level() -> None:
    tracker = Notebook()
    part = Recorder({"mine": tracker}).begin_stage("base")
    level = {"accuracy": 1.0, "interval": [0.3, 1.0], "n": 2, "correct": 2}
    part.end(stage("base", evaluation=SCORE | {"levels": {"3": level}}))
    assert tracker.tables == [
        (
            "base/heldout",
            [
                {"questions": "all", "accuracy": 0.5, "low": 0.25, "high": 0.75, "n": 8},
                {"questions": "level 3", "accuracy": 1.0, "low": 0.3, "high": 1.0, "n": 2},
            ],
            0,
        )
    ]


def test_the_final_scores_are_those_of_the_last_stage_that_is_no_control() -> None:
    other = SCORE | {"accuracy": 0.125}
    stages = [stage("base", evaluation=SCORE), stage("grpo1", evaluation=other), stage("traces2")]
    scores = collect_scores([*stages, stage("control_sft2", evaluation=SCORE)])
    assert scores["final/accuracy"] == scores["grpo1/accuracy"] == 0.125
    assert scores["control_sft2/high"] == scores["base/high"] == 0.75
    assert collect_scores([stage("traces")]) == {}


# --- rollouts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "every, steps, shown",
    [
        (10, range(1, 31), [1, 10, 20, 30]),
        (10, range(1, 30, 4), [1, 13, 21]),  # four updates of each rollout
        (1, range(1, 4), [1, 2, 3]),
        (0, range(1, 4), []),
    ],
)
def test_tables_of_rollouts_come_every_so_many_steps(every: int, steps: range, shown: list[int]) -> None:
    tracker = Notebook()
    part = Recorder({"mine": tracker}, rollouts_every=every).begin_stage("grpo")
    for step in steps:
        part.log_rollouts([row(step - 1, [])], step, Path("home"))
    assert [step for _, _, step in tracker.tables] == shown


def test_pictures_are_columns_as_many_as_the_row_with_the_most_has() -> None:
    tracker = Notebook()
    part = Recorder({"mine": tracker}, rollouts_every=1).begin_stage("grpo")
    part.log_rollouts([row(0, []), row(0, ["images/a.png", "../b.png"])], 1, Path("home"))
    part.log_rollouts([], 2, Path("home"))  # grpo.transcripts=0
    ((name, table, step),) = tracker.tables
    assert (name, step) == ("grpo/rollouts", 1)
    assert [list(one) for one in table] == [
        ["step", "problem", "question", "picture", "picture2", "reward"]
    ] * 2
    assert [(one["picture"], one["picture2"]) for one in table] == [
        (None, None),
        (Path("home/images/a.png"), Path("home/../b.png")),
    ]


# --- failures -----------------------------------------------------------------------------------------------------------


def test_a_tracker_that_fails_is_told_of_once_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, bad, gone = Notebook(), Notebook(fails_at=2), []
    recorder = Recorder({"bad": bad, "good": good}, forget=gone.append)
    part = recorder.begin_stage("sft")
    for step in (1, 2, 3):
        part.log_metrics({"loss": 1.0}, step)
    recorder.log_file(Path("report.html"))
    recorder.finish(done=True)
    assert len(good.metrics) == 3 and good.end == ({}, True) and gone == ["bad"]
    assert len(bad.metrics) == 1 and not bad.files and bad.end is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "warning: bad follows this run no more (ConnectionError: no route to host); the run goes on, and its "
        "files hold everything"
    )


def test_what_the_user_ends_is_ended() -> None:
    class Slow(Notebook):
        def log_metrics(self, values: Any, step: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Recorder({"slow": Slow()}).begin_stage("sft").log_metrics({"loss": 1.0}, 1)


def test_a_missing_package_is_told_with_the_command_that_installs_it() -> None:
    with pytest.raises(UserError) as told:
        require_packages("mlflow", "no_such_module=its-package", "json")
    assert str(told.value) == (
        "logger=mlflow: no_such_module isn't installed; python -m pip install its-package json, "
        "or take others, such as logger=csv"
    )
    require_packages("mlflow", "json")


# --- over a run's life --------------------------------------------------------------------------------------------------


def begin(folder: Path, **loggers: Any) -> tuple[Any, dict[str, Any]]:
    """A run's folder, and a configuration with these loggers (their settings) and notebooks for them."""
    (folder / "overrides").write_text("+experiment=iter1\n+recipe=[papo,pearl]\nlogger=[csv]\n")
    config = compose()
    config.logger = OmegaConf.create(loggers)
    return config, {name: Notebook() for name in loggers}


def follow(folder: Path, *, finished: bool = False, **loggers: Any) -> dict[str, Notebook]:
    """One process of a run of two stages, the first of which is over; its trackers."""
    config, trackers = begin(folder, **loggers)
    with record_run(trackers, config, folder, finished=finished) as recorder:
        over = recorder.begin_stage("sft")
        over.replay([{"step": 1.0, "loss": 0.5}, {"step": 2.0, "loss": 0.25}])
        over.end(stage("sft", steps=2, evaluation=SCORE), only_behind=True)
        if not finished:
            recorder.begin_stage("grpo").log_metrics({"loss": 0.125}, 1)
    return trackers


def test_a_tracker_that_comes_later_is_given_what_is_over(tmp_path: Path) -> None:
    first = follow(tmp_path, old={"project": "a"})["old"]
    assert first.series("sft/loss") == [(1, 0.5), (2, 0.25)] and not first.run.known
    again = follow(tmp_path, old={"project": "a"}, new={})
    assert again["old"].run.known and again["old"].run.id == first.run.id == tmp_path.name
    assert again["old"].series("sft/loss") == [] and not again["old"].tables
    assert again["new"].series("sft/loss") == [(1, 0.5), (2, 0.25)]
    assert again["new"].series("grpo/loss") == again["old"].series("grpo/loss") == [(3, 0.125)]
    assert follow(tmp_path, old={"project": "b"})["old"].series("sft/loss") != []  # another place
    assert follow(tmp_path, new={})["new"].series("sft/loss") != []  # it has missed a process


def test_of_a_finished_run_only_new_trackers_are_told(tmp_path: Path) -> None:
    follow(tmp_path, old={})
    before = (tmp_path / STATE).stat().st_mtime_ns
    assert follow(tmp_path, finished=True, old={})["old"].run is None
    assert (tmp_path / STATE).stat().st_mtime_ns == before
    late = follow(tmp_path, finished=True, old={}, new={})
    assert late["old"].run is None and late["new"].end == ({}, True)


@pytest.mark.parametrize("buffers", [True, False])
def test_after_a_kill_a_tracker_that_buffers_is_told_all_again(buffers: bool, tmp_path: Path) -> None:
    follow(tmp_path, mine={})
    state = json.loads((tmp_path / STATE).read_text())
    assert state == {"mine": {"settings": {}, "closed": True}}
    (tmp_path / STATE).write_text(json.dumps({"mine": {"settings": {}, "closed": False}}))
    config, trackers = begin(tmp_path, mine={})
    trackers["mine"].buffers = buffers
    with record_run(trackers, config, tmp_path, finished=False) as recorder:
        recorder.begin_stage("sft").replay([{"step": 1.0, "loss": 0.5}])
    assert trackers["mine"].run.known and trackers["mine"].series("sft/loss") == (
        [(1, 0.5)] if buffers else []
    )


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    follow(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["overrides"]


def test_a_run_that_fails_says_so_to_its_trackers(tmp_path: Path) -> None:
    config, trackers = begin(tmp_path, mine={})
    with pytest.raises(ValueError), record_run(trackers, config, tmp_path, finished=False):
        raise ValueError
    assert trackers["mine"].end == ({}, False)


def test_one_that_failed_is_given_everything_when_it_comes_back(tmp_path: Path) -> None:
    config, trackers = begin(tmp_path, mine={})
    trackers["mine"].fails_at = 1
    with record_run(trackers, config, tmp_path, finished=False) as recorder:
        recorder.begin_stage("sft").log_metrics({"loss": 1.0}, 1)
    assert follow(tmp_path, mine={})["mine"].series("sft/loss") == [(1, 0.5), (2, 0.25)]


def test_one_that_can_t_start_ends_the_run_with_the_cause(tmp_path: Path) -> None:
    class Refused(Notebook):
        def start(self, run: Any) -> str:
            raise ConnectionError("401: unauthorized")

    config, _ = begin(tmp_path, mine={})
    with (
        pytest.raises(UserError, match=r"logger=mine can't start \(ConnectionError: 401: unauthorized\)"),
        record_run({"mine": Refused()}, config, tmp_path, finished=False),
    ):
        pass


def test_a_run_is_found_by_its_experiment_recipe_and_scale(tmp_path: Path) -> None:
    config, trackers = begin(tmp_path, mine={})
    config.tracking.tags = ["ablation"]
    with record_run(trackers, config, tmp_path, finished=False):
        pass
    run = trackers["mine"].run
    assert run.tags == {"experiment": "iter1", "recipe": "papo+pearl", "scale": "tiny", "ablation": ""}
    assert (
        run.config["grpo"]["group_size"] == config.grpo.group_size and run.title == f"train-{tmp_path.name}"
    )
    assert find_tags("7b", ["grpo.steps=3"]) == {"scale": "7b"}


# --- settings -----------------------------------------------------------------------------------------------------------

NAMES = ["tensorboard", "wandb", "mlflow", "trackio"]


@pytest.mark.parametrize("chosen", [*NAMES, "csv", f"[csv,{','.join(NAMES)}]", "[]"])
def test_every_choice_of_trackers_composes(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # as if all were installed
    config = compose(f"logger={chosen}")
    trackers = build_trackers(config)
    assert list(trackers) == [name for name in NAMES if name in chosen]
    assert {type(tracker).__module__.rpartition(".")[2] for tracker in trackers.values()} == set(trackers)


def test_settings_that_can_t_be_are_told() -> None:
    with pytest.raises(UserError, match=r"logger\.wandb\.mode=of; choose from online, offline, disabled"):
        build_trackers(compose("logger=wandb", "logger.wandb.mode=of"))
    with pytest.raises(UserError, match=r"tracking\.rollouts_every=-1 is negative"):
        build_trackers(compose("tracking.rollouts_every=-1"))


@pytest.mark.parametrize("url", ["https://me:secret@host/path", "postgresql://me@host/db"])
def test_a_password_is_no_setting(url: str) -> None:
    with pytest.raises(UserError, match=r"logger\.mlflow\.uri holds a user name or password") as told:
        refuse_password("logger.mlflow.uri", url, "MLFLOW_TRACKING_PASSWORD")
    assert "secret" not in str(told.value)
    refuse_password("logger.mlflow.uri", "https://host/a@b", "")
    assert MLflowTracker(uri=url).uri == url  # building tells nothing: `check` does
