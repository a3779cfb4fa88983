"""distill.py as a user starts it: planning, looking inside, taking over answers, and mistakes that end in one sentence."""

from __future__ import annotations

import json

import pytest
from entry_scripts import FIGURES, Cli

SMALL = ["distill=gold", *FIGURES, "cycles.one.traces.amount=20", "cycles.one.traces.levels=[1]"]


@pytest.mark.parametrize("name, calls, traces", [
    ("iter1", "chains: 100000 calls of deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", "traces: about 12111 of 25000"),
    ("iter2", "chains: 20000 calls of the run's own model", "no pass rate is known for geos"),
    ("iter3", "chains: 20000 calls of the run's own model", "no pass rate is known for geos"),
])  # fmt: skip
def test_the_papers_data_can_be_planned_without_data_model_or_server(cli: Cli, name: str, calls: str, traces: str) -> None:
    out = cli("distill.py", f"distill={name}", "plan=true", tiny=False).ok().out
    assert calls in out and traces in out and "scienceqa" in out or name == "iter1"


def test_a_run_leaves_its_data_set_can_be_looked_at_and_taken_over(cli: Cli) -> None:
    cli("distill.py", *SMALL).ok()
    folder = cli.newest("distill")
    for name in ("traces.parquet", "problems.parquet", "messages.jsonl", "sharegpt.jsonl", "lengths.png"):
        assert (folder / name).stat().st_size > 0
    assert "# 20 verified traces" in (folder / "README.md").read_text() and "gold" in (folder / "README.md").read_text().lower()
    page = cli("distill.py", "inspect=true", f"resume={folder}", tiny=False).ok().out
    assert "problems  20  solved 20  traces kept 20" in page and "--- kept (20) ---" in page
    again = cli("distill.py", *SMALL, f"reuse={folder}", "distill.select._target_=openvlt.distill.select.everything").ok()
    assert "traces 20" in again.out and (cli.newest("distill") / "reason.jsonl").read_bytes() == (folder / "reason.jsonl").read_bytes()
    assert json.loads((folder / "results.json").read_text())["traces"] == 20


ONE = "distill.reason.server.endpoints"


@pytest.mark.parametrize(
    "words, said",
    [
        (["distill=served", f"{ONE}.urls=[http://127.0.0.1:9/v1]"], ["no server answers at http://127.0.0.1:9/v1", "start it, or correct the url"]),
        (["distill=served", f"{ONE}.key=sk-secret-1"], ["the name of an environment variable, never the key itself"]),
        (["distill=served", f"{ONE}.urls=[localhost:8000]"], ["http://host:port/v1"]),
        (["distill=served", "distill.reason.server.concurrency=0"], ["concurrency=0"]),
        (["inspect=true"], ["say which: resume=latest"]),
        (["reuse=nowhere"], ["reuse=nowhere", "give the folder of an earlier distillation"]),
        (["plan=true", "cycles.one.traces.amount=null"], ["a plan needs an amount"]),
        (["data=geometry3k", "paths.data=/nowhere"], ["data folder /nowhere/geometry3k does not exist", "unpack the release there"]),
        (["data=mathvista"], ["mathvista is for evaluation only", "data.force=mathvista"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_mistakes_are_one_sentence(cli: Cli, words: list[str], said: list[str]) -> None:
    given = {word.partition("=")[0] for word in words}
    own = [word for word in SMALL if word.partition("=")[0] not in given and not ("data=" in "".join(words) and word.startswith("data."))]
    levels = ["cycles.one.traces.levels=null"] if "data" in given else []
    error = cli("distill.py", *(word for word in own if not (levels and "levels" in word)), *levels, *words, "name=wrong").error
    for part in said:
        assert part in error, error
    assert "secret" not in error
    wrong = cli.work / "runs" / "wrong"
    assert not any("secret" in file.read_text() for file in wrong.rglob("*") if file.is_file() and file.suffix in (".yaml", ".json", ""))
