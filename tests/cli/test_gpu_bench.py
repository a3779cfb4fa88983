"""bench/gpu.py on a CPU: every part runs, and a broken equality ends it with a status."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.entry_scripts import ROOT

pytestmark = pytest.mark.slow
SCRIPT = ROOT / "bench" / "gpu.py"
PARTS = {"scoring", "rollout", "lora_steps", "lora_steps_selective", "full_steps", "trl_lora_steps"}


def test_the_short_run_has_every_part(tmp_path: Path) -> None:
    out = tmp_path / "short.json"
    command = [sys.executable, str(SCRIPT), "--short", "--commit", "none", "--out", str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["hardware"] == "CPU" and set(record["small"]) == PARTS
    assert "TRL isn't installed" in record["small"].pop("trl_lora_steps")["skipped"]
    for name, part in record["small"].items():
        assert "skipped" not in part and not part.get("broken"), (name, part)
    assert record["small"]["full_steps"]["planned_gib"] > record["small"]["lora_steps"]["planned_gib"]


def test_what_is_broken_or_not_begun_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    specification = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "bench_gpu", module)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "BOUNDS", {"float32_largest_difference": 0.0})
    monkeypatch.setattr(module, "GENERATORS", {})
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--short", "--commit", "none"])
    with pytest.raises(SystemExit, match="broken: small scoring: float32_largest_difference"):
        module.main()
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--short", "--minutes", "-1", "--commit", "none"])
    capsys.readouterr()
    module.main()
    assert capsys.readouterr().out.count("the minutes were over") == len(PARTS)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="on a CPU, --short shows that it works"):
        module.main()
