"""The judge behind a server: asked once per content, named in the results, and no score without its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from openvlt.cli.evaluate import build_runner
from openvlt.config.resolvers import CONF
from openvlt.errors import UserError
from tests.helpers.stub_server import requests, stub_server


def scored(folder: Path, url: str) -> dict[str, Any]:
    """Four recorded answers to HallusionBench, judged by the server at `url`."""
    row = {
        "category": "VD",
        "subcategory": "s",
        "set_id": "0",
        "question_id": "0",
        "question": "Is it?",
        "gt_answer": "1",
    }
    lines = [
        json.dumps({**row, "figure_id": str(number), "response": f"Yes, {number % 3}."}) + "\n"
        for number in range(4)
    ]
    (folder / "answers.jsonl").write_text("".join(lines))
    judge = f"{{_target_: openvlt.serving.client.Server, attempts: 1, endpoints: [{{_target_: openvlt.serving.protocol.Endpoint, url: '{url}', model: m}}]}}"
    words = ["benchmark=hallusionbench", f"judge={judge}", f"judge_ledger={folder / 'judge.jsonl'}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build_runner(compose("evaluate", words)).score_file(
            str(folder / "answers.jsonl"), "response", folder
        )


def test_a_judge_is_asked_once_per_content_and_named(tmp_path: Path) -> None:
    with stub_server(tmp_path / "log") as url:
        first = scored(tmp_path, url)
        assert requests(tmp_path / "log").total() == 3  # two of the four answers are the same
    assert (first["variant"], first["judge"], first["total"]) == ("protocol official", "m", 4)
    assert first["unparsed"] == 1.0  # the stub echoes: neither "correct" nor "incorrect"
    assert (
        scored(tmp_path, "http://127.0.0.1:9/v1") == first
    )  # everything is in the ledger: no server is needed


def test_no_score_without_the_judges_answers(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        scored(tmp_path, "http://127.0.0.1:9/v1")
    assert not (tmp_path / "rows.parquet").exists()
