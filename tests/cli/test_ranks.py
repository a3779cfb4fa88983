"""Two processes, one rank each: the same run as with one, interrupted and continued too."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from openvlt.config.resolvers import CONF
from openvlt.trainer.metrics import read_metrics
from tests.helpers.entry_scripts import ITER1, ROOT, Cli, environment
from tests.helpers.readers import run_watched

CLOCKS = {"elapsed_s", "generate_s", "reward_s", "tokens_per_s", "memory_gib"}


def score(stage: Path) -> dict:
    return json.loads((stage / "results.json").read_text())["evaluation"]


def rows(stage: Path) -> int:
    file = stage / "metrics.csv"
    return len(file.read_text().splitlines()) - 1 if file.is_file() else 0


@pytest.mark.slow
def test_two_ranks_interrupted_and_resumed_end_like_one(cli: Cli, iter1: Path, tmp_path: Path) -> None:
    arguments = cli.argv(
        "train.py", "+experiment=iter1", *ITER1, f"paths.runs={tmp_path / 'runs'}", "trainer.devices=2"
    )
    command = [sys.executable, *arguments]
    env = environment() | {"TMPDIR": str(tmp_path)}
    first = subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a shell's background job ignores it
    )
    while not any(rows(stage) for stage in tmp_path.glob("runs/iter1/*/03-grpo1")):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGINT)  # as a terminal does
    _, said = first.communicate()
    assert first.returncode == 130 and said.startswith("\ninterrupted; ") and said.count("\n") == 2, said
    resume = shlex.split(re.search(r"python (train\.py resume=.*)", said)[1])
    done = subprocess.run([sys.executable, *resume], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("finished before: skipped") == 3, (
        done.stdout + done.stderr
    )

    (folder,) = (tmp_path / "runs" / "iter1").iterdir()  # one run, however many processes
    assert not list(tmp_path.glob("openvlt-*")), "a rank left its own folder behind"
    for stage in ("02-sft1", "03-grpo1"):
        one, two = (load_file(run / stage / "model" / "model.safetensors") for run in (iter1, folder))
        far = {name: float((one[name] - two[name]).abs().max() / one[name].abs().max()) for name in one}
        assert max(far.values()) < 1e-3, far  # rounding of sums in another order, grown over the steps
        assert score(folder / stage)["n"] == score(iter1 / stage)["n"]
        here, there = (read_metrics(run / stage / "metrics.csv") for run in (folder, iter1))
        for now, then in zip(here, there, strict=True):
            assert now.keys() == then.keys()
            for name in now.keys() - CLOCKS:
                assert now[name] == pytest.approx(then[name], rel=2e-2, abs=2e-3, nan_ok=True), (
                    stage,
                    now["step"],
                    name,
                )


@pytest.mark.slow
def test_a_mistake_with_two_ranks_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    begun = cli.process(
        "train.py",
        "+experiment=smoke",
        "data=jsonl",
        f"data.path={tmp_path / 'none.jsonl'}",
        "trainer.devices=2",
    )
    assert "none.jsonl" in begun.error


RANKS = """
import sys
from pathlib import Path
from openvlt import distributed
from openvlt.cli import launch, ranks
from openvlt.cli.errors import report_errors
from openvlt.errors import UserError

if not distributed.is_launched():
    sys.exit(launch.launch(sys.argv, 2, Path(sys.argv[0]).parent))
ranks._MAIN_FIRST_S = ranks._KILLED_FIRST_S = 0  # nothing may depend on how long a rank waits
ranks.join_ranks("cpu")
with report_errors((UserError,), ()):
    if sys.argv[1] in ("both", f"only {distributed.rank()}"):
        raise UserError("a mistake")
    if sys.argv[1] == f"bug {distributed.rank()}":
        raise RuntimeError("a bug")
    distributed.barrier()
"""


@pytest.mark.slow
@pytest.mark.parametrize("who", ["both", "only 1", "bug 0", "bug 1"])
def test_whichever_rank_fails_it_is_said_once(tmp_path: Path, who: str) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    env = environment() | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "ranks.py"), who]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if "bug" in who:
        assert done.returncode == 1 and done.stderr.count("Traceback") == done.stderr.count("a bug\n") == 1, (
            done.stderr
        )
    else:
        assert done.returncode == 2 and done.stderr == "error: a mistake\n", done.stderr


def test_a_rank_reports_unless_another_one_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from openvlt import distributed
    from openvlt.cli import ranks

    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    other = torch.distributed.TCPStore("127.0.0.1", store.port)
    monkeypatch.setattr(ranks, "_MAIN_FIRST_S", 0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    status = {ranks.STATUS_VARIABLE: str(tmp_path / "status")}

    def claim(rank: int, where: torch.distributed.TCPStore, end: int = 2) -> bool:
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(ranks, "_shared_store", lambda: where)
        return ranks.claim_report(end, status)

    assert claim(1, other, 130)  # the main one didn't come
    assert not claim(0, store) and not claim(2, other)
    assert (tmp_path / "status").read_text() == "130"  # which the launcher ends with
    store.delete_key(ranks._REPORTED)
    assert claim(0, store)
    monkeypatch.setattr(ranks, "_MAIN_FIRST_S", 3600)  # no wait where it has reported
    assert not claim(1, other)


SLURM = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NNODES": "2", "SLURM_JOB_ID": "77", "SLURM_NODELIST": "n[1-2]", "SLURM_JOB_NAME": "train"}  # fmt: skip


@pytest.mark.parametrize("tasks", ["4", "1"])
def test_tasks_of_slurm_are_the_ranks_and_a_single_one_is_none(
    monkeypatch: pytest.MonkeyPatch, tasks: str
) -> None:
    from openvlt import distributed
    from openvlt.cli.launch import adopt_cluster

    for name in (
        "WORLD_SIZE",
        "RANK",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "NODE_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
    ):
        monkeypatch.setenv(name, "x")  # to be put back afterwards
        monkeypatch.delenv(name)
    for name, value in (SLURM | {"SLURM_NTASKS": tasks}).items():
        monkeypatch.setenv(name, value)
    adopt_cluster()
    assert distributed.is_launched() == (tasks == "4")
    if tasks == "4":
        found = {name: os.environ[name] for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR")}  # fmt: skip
        assert found == {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "NODE_RANK": "1", "MASTER_ADDR": "n1"}  # fmt: skip
        assert int(os.environ["MASTER_PORT"]) > 1023


def test_tasks_that_slurm_has_not_placed_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from openvlt.cli.launch import adopt_cluster
    from openvlt.errors import UserError

    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="--ntasks-per-node"):
        adopt_cluster()


def test_a_job_starts_its_own_overrides_in_its_own_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from openvlt.cli.launch import job_command

    hydra = OmegaConf.create({"overrides": {"task": ["seed=2", "trainer.devices=2"]}})
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    folder = tmp_path / "it's, (a) run=1"
    script, *words = job_command(["/x/train.py"], folder)
    assert script == "/x/train.py" and words[:2] == ["seed=2", "trainer.devices=2"]
    parsed = {one.key_or_group: one.value() for one in OverridesParser.create().parse_overrides(words)}
    assert parsed["hydra.run.dir"] == str(folder) and parsed["hydra.mode"] == "RUN"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("train.py", "+experiment=smoke", "strategy=shard", "trainer.checkpoint_every=1"),
        ("distill.py", "distill=gold", "select.amount=6"),
        ("evaluate.py",),
    ],
    ids=lambda words: words[0],
)
def test_only_the_main_rank_writes_to_the_run_folder(
    cli: Cli, tmp_path: Path, words: tuple[str, ...]
) -> None:
    folder = run_watched(cli, tmp_path, *words)
    assert (folder / "results.json").is_file() and not list(folder.glob(".seen-*"))


LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "ray": "ray"}  # and the package of each


def sweep(cli: Cli, runs: Path, launcher: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Two jobs with two ranks each."""
    if launcher != "basic":
        pytest.importorskip(
            f"hydra_plugins.hydra_{LAUNCHERS[launcher]}_launcher",
            reason="python -m pip install -r requirements-sweep.txt",
        )
    arguments = cli.argv(
        *("train.py", "+experiment=smoke", "-m", "seed=1,2", "trainer.devices=2"),
        *(f"hydra/launcher={launcher}", f"paths.runs={runs}", *words),
    )
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment(), capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", *LAUNCHERS])
def test_each_job_of_a_sweep_has_its_own_ranks_and_folder(cli: Cli, tmp_path: Path, launcher: str) -> None:
    done = sweep(cli, tmp_path / "runs", launcher)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stdout + done.stderr
    folders = sorted((tmp_path / "runs" / "smoke").glob("*/results.json"))
    assert sorted(json.loads(file.read_text())["seed"] for file in folders) == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_mistake_in_jobs_that_run_elsewhere_is_one_sentence(
    cli: Cli, tmp_path: Path, launcher: str
) -> None:
    done = sweep(cli, tmp_path / "runs", launcher, "data=jsonl", f"data.path={tmp_path / 'none.jsonl'}")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "error: job 0 of this sweep ended with status 2; what it said stands above" in done.stderr
    logs = [file.read_text() for file in (tmp_path / "runs").glob("smoke/.submitit/*/*.err")]
    said = "".join([done.stdout, done.stderr, *logs])
    assert said.count(f"error: data file {tmp_path / 'none.jsonl'} does not exist") == 2


@pytest.mark.parametrize("file", sorted(CONF.glob("hydra/launcher/*.yaml")), ids=lambda file: file.stem)
def test_a_launchers_file_composes_and_sets_what_the_launcher_has(file: Path) -> None:
    import dataclasses
    import importlib

    import hydra
    from omegaconf import OmegaConf

    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        words = [f"hydra/launcher={file.stem}", "trainer.devices=4"]
        composed = hydra.compose("train", overrides=words, return_hydra_config=True).hydra.launcher
    package = composed._target_.rpartition(".")[0].rpartition(".")[0]
    if file.stem == "submitit_slurm":
        assert composed.gpus_per_node == 4  # those of the run
    if package.endswith("_ray_launcher"):
        pytest.importorskip(package)  # it isn't installed for the tests
        return
    settings = importlib.import_module(f"{package}.config")
    known = {
        field.name
        for kind in vars(settings).values()
        if dataclasses.is_dataclass(kind)
        for field in dataclasses.fields(kind)
    }
    assert set(OmegaConf.load(file)) - {"_target_"} <= known


def test_a_launcher_that_is_not_installed_is_one_sentence(cli: Cli) -> None:
    said = cli("train.py", "-m", "seed=1,2", "hydra.launcher._target_=hydra_plugins.none.Launcher").error
    assert "pip install -r requirements-sweep.txt" in said


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_which_goes_on_later(cli: Cli, tmp_path: Path) -> None:
    arguments = cli.argv(
        "train.py",
        "+experiment=smoke",
        f"paths.runs={tmp_path / 'runs'}",
        "trainer.devices=2",
        "strategy=shard",
    )
    env = environment() | {"TMPDIR": str(tmp_path)}
    first = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    )
    while not any(rows(stage) for stage in tmp_path.glob("runs/smoke/*/*-sft")):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.05)
    ranks = [int(pid) for pid in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()]
    workers = [pid for pid in ranks if "train.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    _, said = first.communicate(timeout=60)
    assert (
        first.returncode == 137 and said.count("error: process 1 of this run ended by signal SIGKILL") == 1
    ), said
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    resume = shlex.split(re.search(r"python (train\.py resume=.*)", said)[1])
    done = subprocess.run([sys.executable, *resume], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.glob("openvlt-*")), "a rank left its own folder behind"


@pytest.mark.parametrize("devices", ["0", "many", "1.5"])
def test_devices_is_a_number_or_auto(cli: Cli, devices: str) -> None:
    said = cli("train.py", f"trainer.devices={devices}").error
    assert "trainer.devices" in said and "auto" in said


def test_auto_is_two_processes_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from openvlt.trainer.devices import process_count

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for cores, processes in ((16, 2), (2, 2), (1, 1), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert process_count("auto") == processes
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert process_count("auto") == 8


@pytest.mark.parametrize(
    "accelerator, gpus, said",
    [
        ("auto", 1, "has 1 GPU;"),
        ("gpu", 3, "has 3 GPUs;"),
        ("cpu", 1, None),
        ("auto", 0, None),
        ("auto", 4, None),
    ],
)
def test_more_processes_than_gpus_is_said_before_any_starts(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, gpus: int, said: str | None
) -> None:
    import torch

    from openvlt.errors import UserError
    from openvlt.trainer.devices import check_devices

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if said is None:
        check_devices(4, accelerator)
        return
    with pytest.raises(UserError, match=said):
        check_devices(4, accelerator)


def test_ranks_on_the_cpu_leave_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from openvlt import distributed
    from openvlt.cli import ranks
    from openvlt.errors import UserError

    begun = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: begun.append(number))
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, timeout: begun.append(backend)
    )
    monkeypatch.setattr(ranks.atexit, "register", lambda *_: None)
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "is_main", lambda: True)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # to be put back afterwards
    ranks.join_ranks("cpu")
    assert begun == ["gloo"]
    with pytest.raises(UserError, match=r"trainer\.devices=2, but this machine has 1 GPU"):
        ranks.join_ranks("auto")
    assert begun == ["gloo"]  # before the second GPU is asked for
