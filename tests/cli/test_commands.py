"""The console command, its helps, the doctor, the card of a model, and pushing one."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from omegaconf import OmegaConf

from openvlt.cli import commands, doctor
from openvlt.cli.push import push_model
from openvlt.cli.usage import COMMAND_EXAMPLES, OWN, SHARED, usage_text
from openvlt.runs.model_card import render_model_card, write_model_card
from openvlt.storage.atomic import write_json
from tests.helpers.configs import compose
from tests.helpers.entry_scripts import ROOT


def test_help_fits_a_screen_and_needs_no_torch() -> None:
    code = "import sys; from openvlt.cli.commands import run_command; run_command(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) < 30
    assert all(name in done.stdout for name in commands.COMMANDS)


@pytest.mark.parametrize("command", commands.COMMANDS.values(), ids=list(commands.COMMANDS))
def test_every_command_leads_to_a_function(command: commands.Command) -> None:
    module, _, name = command.function.partition(":")
    assert importlib.util.find_spec(module) is not None
    assert re.search(
        rf"^def {name}\(", Path(importlib.util.find_spec(module).origin).read_text(), re.MULTILINE
    )


def test_a_wrong_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run_command(["trian"]) == 2
    assert "did you mean openvlt train?" in capsys.readouterr().err
    assert commands.run_command(["data"]) == 2
    assert "did you mean openvlt data check?" in capsys.readouterr().err


def test_a_command_says_how_it_was_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["openvlt"])
    assert commands.run_command(["train", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: openvlt train ")


@pytest.mark.parametrize("name", COMMAND_EXAMPLES)
def test_the_settings_of_a_help_are_there(name: str) -> None:
    config = compose(name=name)
    text = usage_text(name, f"python {name}.py")
    assert len(text.splitlines()) < 60 and max(map(len, text.splitlines())) <= 110
    groups = {
        "+experiment",
        "+recipe",
        "data",
        "grpo",
        "rollout",
        "scale",
        "benchmark",
        "protocol",
        "view",
        "distill",
    }
    later = {
        "data.path",
        "reward.weights.<term>",
        "model.max_pixels",
        "model.freeze",
        "model.gradient_checkpointing",
    }
    for words, _ in (*OWN[name], *SHARED):
        for word in re.findall(r"(?:^| )(\+?[\w.<>]+=)", words):
            key = word.partition("=")[0]
            missing = OmegaConf.select(config, key, default="missing") == "missing"
            if name != "distill" or not key.startswith("distill.reason.server"):
                assert key in groups | later or not missing, key


@pytest.mark.parametrize(
    ("words", "first"), [("train.py --cfg job", "name: train"), ("-m openvlt --help", "openvlt ")]
)
def test_a_reader_that_goes_away_ends_it_quietly(words: str, first: str) -> None:
    command = f"{sys.executable} {words} | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith(first) and done.stderr == ""


def test_the_doctor_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.run_doctor([]) == 0
    said = capsys.readouterr().out
    assert "torch        2." in said and "GPU " in said and "GiB free" in said
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        assert doctor.run_doctor([]) == 1
        said = capsys.readouterr().out
        assert "NOT WRITABLE" in said and "everything that training" not in said
    monkeypatch.setattr(doctor, "NEEDED", ("torch", "no-such-package"))
    monkeypatch.setattr(doctor, "ENOUGH_GIB", 1e9)
    assert doctor.run_doctor([]) == 1
    captured = capsys.readouterr()
    assert "no-such-package is missing: python -m pip install" in captured.err and "LITTLE" in captured.out


# --- cards and pushing --------------------------------------------------------------------------------------------------

RECORDS = {
    "sft1": {"kind": "sft", "training": {"steps": 4, "traces": 9}, "evaluation": None},
    "grpo1": {
        "kind": "grpo",
        "training": {"steps": 3, "problems": 8},
        "evaluation": {"accuracy": 0.5, "n": 40, "interval": [0.35, 0.65]},
    },
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose last stage has a model."""
    config = compose("data=geometry3k")
    config.model = {"path": "Qwen/Qwen2.5-VL-3B-Instruct"}
    stage = tmp_path / "run" / "02-grpo1"
    (stage / "model").mkdir(parents=True)
    OmegaConf.save(config, tmp_path / "run" / "config.yaml")
    write_json(tmp_path / "run" / "manifest.json", {"command": ["train.py", "seed=3"], "commit": "abc"})
    write_json(stage / "results.json", RECORDS["grpo1"])
    for name in ("config.json", "model.safetensors", "secret.pt", ".env"):
        (stage / "model" / name).write_text("{}")
    write_model_card(stage, RECORDS)
    return tmp_path / "run"


def test_the_card_says_what_the_model_is(run: Path) -> None:
    card = ModelCard.load(run / "02-grpo1" / "model" / "README.md")
    assert card.data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct" and card.data.tags == [
        "openvlt",
        "grpo",
        "sft",
    ]
    for words in (
        "python train.py seed=3",
        "commit abc",
        "50.0 (35.0-65.0), 40 problems",
        "| MIT |",
        "## Limits",
    ):
        assert words in card.text


def test_a_local_base_is_no_hub_id() -> None:
    config = compose()
    text = render_model_card(config, {"command": ["train.py"], "commit": None}, RECORDS)
    assert "base_model" not in text and "commit unknown" in text and "embedded model" in text


class Hub:
    """Stands in for `HfApi`."""

    sent: list[tuple[str, object]] = []

    def create_repo(self, repository: str, **settings: object) -> None:
        self.sent.append((repository, settings["private"]))

    def upload_folder(self, **settings: object) -> None:
        self.sent.append((str(settings["folder_path"]), settings["allow_patterns"]))


def test_a_model_is_pushed_with_its_card_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert push_model([str(run), "me/mine", "--dry-run"]) == 0 and not Hub.sent
    assert push_model([str(run), "me/mine", "--private"]) == 0
    files = ["README.md", "config.json", "model.safetensors"]
    assert Hub.sent == [("me/mine", True), (str(run / "02-grpo1" / "model"), files)]
    assert capsys.readouterr().out.endswith("https://huggingface.co/me/mine\n")


def test_what_can_not_be_pushed_is_one_sentence(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push_model([str(tmp_path / "none"), "me/mine"]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert push_model([str(run), "me/mine/more"]) == 2
    assert "give owner/name" in capsys.readouterr().err

    def fail(self: Hub, *_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(Hub, "create_repo", fail)
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert push_model([str(run), "me/mine"]) == 2
    assert "the hub didn't take it (no route); check the network" in capsys.readouterr().err


# --- the wheel ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_wheel_works_without_the_checkout(tmp_path: Path) -> None:
    """Built, installed into an environment of its own, and run in an empty folder, on two processes too."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "base.pth").write_text(str(Path(huggingface_hub.__file__).parents[1]))
    python = tmp_path / "env" / "bin" / "python"
    (wheel,) = tmp_path.glob("openvlt-*.whl")
    subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", wheel],
        check=True,
    )
    (tmp_path / "work" / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "work" / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [smoke, _self_]\nname: mine\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def openvlt(*words: str) -> str:
        done = subprocess.run(
            [tmp_path / "env" / "bin" / "openvlt", *words],
            cwd=tmp_path / "work", capture_output=True, text=True, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert str(site) in openvlt("doctor")
    tiny = [
        "model.training=null",
        "++model.sizes.hidden=48",
        "++model.sizes.layers=2",
        "trainer.progress=false",
    ]
    openvlt("train", "+experiment=mine", *tiny, "trainer.devices=2")
    (run,) = (tmp_path / "work" / "runs" / "mine").iterdir()
    assert "openvlt" in next(run.glob("*-grpo*/model/README.md")).read_text()
    assert openvlt("push", str(run), "me/mine", "--dry-run").count("safetensors") == 1
