"""The promises of docs/security.md, one test each; that page names them."""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from openvlt.cli.train import train
from openvlt.data.errors import ImageOutside
from openvlt.data.rows import load
from openvlt.data.rows.columns import Columns
from openvlt.data.sources.base import Selection
from openvlt.data.sources.hub import HubRows
from openvlt.data.sources.local import LocalRows
from openvlt.errors import UserError
from openvlt.model.load import PretrainedModel
from openvlt.runs.directory import run_manifest
from openvlt.runs.secrets import hide_secrets
from openvlt.serving.protocol import Endpoint
from openvlt.trainer.checkpoint import REST, TrainedState
from tests.helpers.configs import compose
from tests.helpers.entry_scripts import MODEL

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "openvlt").rglob("*.py"))
KEYS = {
    name: f"{name.lower()}-0123456789abcdef"
    for name in ("OPENAI_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "OPENVLT_SERVER_KEY", "MY_OWN_SECRET")
}


def calls(name: str) -> list[tuple[Path, ast.Call]]:
    """Every call in the package of a function with this dotted name."""
    return [
        (file, node)
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]


def test_the_page_and_the_tests_name_each_other() -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text())
    here = [name for name, value in globals().items() if name.startswith("test_") and callable(value)]
    assert sorted(named) == sorted(set(here) - {"test_the_page_and_the_tests_name_each_other"})


# --- code ---------------------------------------------------------------------------------------------------------------


class Planted:
    """What runs code when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return Path.touch, (self.proof,)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    state = TrainedState({"weight": weight}, [torch.optim.AdamW([weight])])
    for place in (REST, ".metadata", "__0_0.distcp"):
        folder, proof = tmp_path / place.strip("."), tmp_path / "ran"
        state.save(folder, {"version": 1})
        assert state.load(folder) == {"version": 1}
        (folder / place).write_bytes(pickle.dumps(Planted(proof)))
        with pytest.raises(UserError, match="can't be read"):
            state.load(folder)
        assert not proof.exists()


def test_torch_load_reads_data_only() -> None:
    """One place reads objects: the replay of a step, of a file that this user's own run has signed."""
    loose = {
        file.name
        for file, call in calls("torch.load")
        if {word.arg: ast.unparse(word.value) for word in call.keywords}.get("weights_only") != "True"
    }
    assert loose == {"not_finite.py"}
    code = (ROOT / "openvlt" / "trainer" / "not_finite.py").read_text()
    assert code.index("if not is_own_file(file):") < code.index("torch.load(")


def test_code_of_a_model_folder_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers yes to everything, too."""
    proof = tmp_path / "ran"
    names = {"AutoConfig": "mine.MineConfig", "AutoModelForImageTextToText": "mine.Mine"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": names}))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "mine.py").write_text(
        f"open({str(proof)!r}, 'w')\nfrom transformers import PretrainedConfig, PreTrainedModel\n"
        "class MineConfig(PretrainedConfig):\n    model_type = 'mine'\n"
        "class Mine(PreTrainedModel):\n    config_class = MineConfig\n"
    )
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = PretrainedModel(str(tmp_path))
    for use in (model.load_processor, model.load, model.build_on_meta):
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
        with pytest.raises((UserError, ValueError), match="contains custom code"):
            use()
        assert not proof.exists()


def test_every_loader_is_told_to_run_no_code() -> None:
    loaders = [
        call
        for file in SOURCES
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call)
        and re.fullmatch(r"(Auto\w+|architecture)\.from_(pretrained|config)", ast.unparse(call.func))
    ]
    told = [{word.arg: ast.unparse(word.value) for word in call.keywords} for call in loaders]
    assert len(told) > 7 and {each.get("trust_remote_code") for each in told} == {"False"}


# --- keys ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return KEYS


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows beside their picture, and a picture outside of their folder."""
    Image.new("RGB", (56, 56), "red").save(tmp_path / "outside.png")
    (tmp_path / "rows").mkdir()
    Image.new("RGB", (56, 56), "blue").save(tmp_path / "rows" / "a.png")
    lines = [{"question": f"{n}?", "answer": str(n), "images": "a.png"} for n in range(40)]
    file = tmp_path / "rows" / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def smoke(rows: Path, *words: str) -> Any:
    places = [f"paths.runs={rows.parents[1] / 'runs'}", f"paths.cache={rows.parents[1] / 'cache'}"]
    return compose("+experiment=smoke", "data=jsonl", f"data.path={rows}", *MODEL, *places, *words)


def test_no_key_is_in_what_a_run_leaves_or_says(
    keys: dict[str, str], rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same run shows that it takes 16 of 40 rows."""
    train(smoke(rows))
    said = capsys.readouterr()
    files = [file for file in (rows.parents[1] / "runs").rglob("*") if file.is_file()]
    assert len(files) > 10 and "16 traces from 16 problems" in said.out
    texts = [said.out.encode(), said.err.encode(), *(file.read_bytes() for file in files)]
    assert not [name for name, value in keys.items() for text in texts if value.encode() in text]


def test_a_setting_that_holds_a_key_is_refused(keys: dict[str, str], rows: Path) -> None:
    with pytest.raises(UserError, match=r"^name holds the value of HF_TOKEN, .*config\.yaml would show it"):
        train(smoke(rows, "name=${oc.env:HF_TOKEN}"))
    assert not (rows.parents[1] / "runs").exists()
    with pytest.raises(UserError, match="name of an environment variable, never the key itself") as caught:
        Endpoint("http://localhost:8000/v1", "m", key=keys["OPENAI_API_KEY"])
    assert keys["OPENAI_API_KEY"] not in str(caught.value)


def test_a_key_on_the_command_line_or_in_a_message_is_hidden(
    keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", f"logger.key={keys['WANDB_API_KEY']}"])
    assert run_manifest(1)["command"] == ["train.py", "logger.key=<WANDB_API_KEY>"]
    assert hide_secrets(f"401 for {keys['HF_TOKEN']}") == "401 for <HF_TOKEN>"


# --- pictures -----------------------------------------------------------------------------------------------------------

OUTSIDE = {
    "absolute": "/etc/passwd",
    "above": "../outside.png",
    "there and back": "../rows/../outside.png",
    "link": "link.png",
    "link to a folder": "up/outside.png",
    "file URL": "file:///etc/passwd",
    "struct": {"bytes": None, "path": "../outside.png"},
    "list": ["a.png", "../outside.png"],
    "missing": "/nowhere/at/all.png",
}


@pytest.mark.parametrize("kind", ["small file", "large file", "folder", "hub", "conversation"])
@pytest.mark.parametrize("cell", OUTSIDE.values(), ids=OUTSIDE)
def test_pictures_are_read_only_from_where_the_rows_lie(
    rows: Path, cell: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = rows.parent
    (folder / "link.png").symlink_to("../outside.png")
    (folder / "up").symlink_to("..")
    row: dict[str, Any] = {"question": "?", "answer": "1", "images": cell}
    if kind == "conversation":
        turns = [{"role": "user", "content": "<image>" * len(cell) if isinstance(cell, list) else "<image>"}]
        row = {"messages": [*turns, {"role": "assistant", "content": "1"}], "images": cell}
    good = {"question": "?", "answer": "1", "images": "a.png"}
    file = folder / ("metadata.jsonl" if kind == "folder" else "rows.jsonl")
    file.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    if kind == "large file":
        monkeypatch.setattr(load, "LARGE", 0)
    source = HubRows(str(file)) if kind == "hub" else LocalRows(str(folder if kind == "folder" else file))
    with pytest.raises(
        ImageOutside, match=r"line 2 \(id '\S+-2'\): image .* lies outside of .*anywhere=true"
    ):
        list(source.problems(Selection(), 0))


def test_anywhere_allows_pictures_of_other_folders(rows: Path) -> None:
    rows.write_text('{"question": "?", "answer": "1", "images": "../outside.png"}\n')
    (problem,) = LocalRows(str(rows), Columns(), anywhere=True).problems(Selection(), 0)
    assert problem.images == (rows.parent / ".." / "outside.png",)
