"""distill.py as a user starts it: planning, looking inside, taking over answers, and mistakes that end in one sentence."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from openvlt.cli.distill import source_licences
from openvlt.config.build import build
from openvlt.distill.cut import KEYWORDS
from tests.helpers.configs import compose
from tests.helpers.entry_scripts import FIGURES, MODEL, Cli

SMALL = ["distill=gold", *FIGURES, "select.amount=20", "select.levels=[1]"]


@pytest.mark.parametrize("words, amount, sources", [
    (["distill=iter1"], 25000, 6), (["distill=iter2"], 5000, 11), (["distill=iter3", "scale=7b"], 5000, 11), (["scale=7b"], 25000, 6),
    ([], 1200, None), (["cycles.one.traces.amount=7"], 7, None), (["select.amount=8"], 8, None),
])  # fmt: skip
def test_what_is_distilled_is_a_setting_of_its_own(
    words: list[str], amount: int, sources: int | None
) -> None:
    select = build(compose(*words, name="distill").select, "select")
    assert (select.amount, select.sources and len(select.sources)) == (amount, sources)
    assert select.levels == (None if sources else [1, 2, 3, 4])


def test_bad_rows_are_left_out_and_counted(cli: Cli, tmp_path: Path) -> None:
    """All rows of one's own, whatever the scale asks for."""
    rows = [
        {"id": f"r{n}", "question": "How many?", "answer": str(n) if n != 1 else "", "images": []}
        for n in range(4)
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = [
        "data=jsonl",
        f"data.path={tmp_path / 'mine.jsonl'}",
        "data.skip_bad=true",
        "select.amount=null",
        "select.levels=null",
    ]
    done = cli("distill.py", "distill=gold", *own, "name=skipping").ok()
    folder = cli.newest("skipping")
    results = json.loads((folder / "results.json").read_text())
    assert results["traces"] == 3 and list(results["skipped_rows"]) == [f"{tmp_path / 'mine.jsonl'}, line 2"]
    assert (
        "skipped_rows 1" in done.out
        and "Bad rows left out: 1. The first: " in (folder / "README.md").read_text()
    )


def test_licences_are_those_of_the_data() -> None:
    assert source_licences(compose("data=geometry3k").data, ["geometry3k"]) == {"geometry3k": "MIT"}
    assert source_licences(compose("data=openvlthinker").data, ["clevr"])["clevr"] == "CC BY 4.0"
    assert source_licences(compose().data, ["figures"]) == {}


def test_reflections_are_a_setting() -> None:
    cut = build(compose("distill.cut.keywords=[Wait]", name="distill").distill, "distill").cut
    assert cut("<think>One. Hmm, two. Wait, three.</think>") == "<think>One. Hmm, two.</think>"
    assert tuple(build(compose().distill, "distill").cut.keywords["keywords"]) == KEYWORDS


@pytest.mark.parametrize("name, calls, traces", [
    ("iter1", "chains: 100000 calls of deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", "traces: about 12111 of 25000"),
    ("iter2", "chains: 20000 calls of the run's own model", "no pass rate is known for geos"),
    ("iter3", "chains: 20000 calls of the run's own model", "no pass rate is known for geos"),
])  # fmt: skip
def test_the_papers_data_can_be_planned_without_data_model_or_server(
    cli: Cli, name: str, calls: str, traces: str
) -> None:
    out = cli("distill.py", f"distill={name}", "plan=true", tiny=False).ok().out
    assert calls in out and traces in out and "scienceqa" in out or name == "iter1"


def test_a_run_leaves_its_data_set_can_be_looked_at_and_taken_over(cli: Cli) -> None:
    cli("distill.py", *SMALL).ok()
    folder = cli.newest("distill")
    for name in ("traces.parquet", "problems.parquet", "messages.jsonl", "sharegpt.jsonl", "lengths.png"):
        assert (folder / name).stat().st_size > 0
    assert (
        "# 20 verified traces" in (folder / "README.md").read_text()
        and "gold" in (folder / "README.md").read_text().lower()
    )
    page = cli("distill.py", "inspect=true", f"resume={folder}", tiny=False).ok().out
    assert "problems  20  solved 20  traces kept 20" in page and "--- kept (20) ---" in page
    again = cli(
        "distill.py",
        *SMALL,
        f"reuse={folder}",
        "distill.select._target_=openvlt.distill.select.keep_every_trace",
    ).ok()
    assert (
        "traces 20" in again.out
        and (cli.newest("distill") / "reason.jsonl").read_bytes() == (folder / "reason.jsonl").read_bytes()
    )
    assert json.loads((folder / "results.json").read_text())["traces"] == 20


def test_a_run_is_resumed_by_its_folder_alone(cli: Cli) -> None:
    """The distillation is the run's, not the default one."""
    cli("distill.py", *SMALL, "name=stopped").ok()
    folder = cli.newest("stopped")
    before = {name: (folder / name).read_bytes() for name in ("reason.jsonl", "traces.jsonl", "README.md")}
    (folder / "traces.jsonl").unlink()
    done = cli("distill.py", f"resume={folder}", tiny=False).ok()
    assert "problems 20  traces 20" in done.out
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert not (folder / "caption.jsonl").read_bytes()


ONE = "distill.reason.server.endpoints"
NAMED = ["distill=served", f"{ONE}.model=m"]
GOOD = [*NAMED, f"{ONE}.urls=http://127.0.0.1:9/v1"]


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["distill=served"],
            [f"no value for {ONE}.model, {ONE}.urls", f"{ONE}.model=<value> {ONE}.urls=<value>"],
        ),
        (
            GOOD,
            ["no server answers at http://127.0.0.1:9/v1", "start it, or correct the url", f"{ONE}.urls=["],
        ),
        ([*GOOD, f"{ONE}.key=sk-secret-1"], ["the name of an environment variable, never the key itself"]),
        ([*NAMED, f"{ONE}.urls=[localhost:8000]"], ["http://host:port/v1"]),
        ([*GOOD, "distill.reason.server.concurrency=0"], ["concurrency=0"]),
        (
            [*GOOD, "distill.reason.temperature=0"],
            ["distill.samples=4", "would all be the same", "temperature"],
        ),
        (["distill=policy", "+distill.reason.temperature=0"], ["temperature=0", "greedy=true"]),
        (["distill=policy", "+distill.reason.greedy=true"], ["distill.samples=4", "would all be the same"]),
        (["distill.samples=0"], ["distill.samples=0", "at least one chain"]),
        (["inspect=true"], ["say which: resume=latest"]),
        (["reuse=nowhere"], ["reuse=nowhere", "give the folder of an earlier distillation"]),
        (["plan=true", "select.amount=null"], ["a plan needs an amount"]),
        (
            ["data=geometry3k", "paths.data=/nowhere"],
            ["data folder /nowhere/geometry3k does not exist", "unpack the release there"],
        ),
        (["data=mathvista"], ["mathvista is for evaluation only", "data.force=mathvista"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_mistakes_are_one_sentence(cli: Cli, tmp_path: Path, words: list[str], said: list[str]) -> None:
    given = {word.partition("=")[0] for word in words}
    own = [
        word
        for word in SMALL
        if word.partition("=")[0] not in given
        and not ("data=" in "".join(words) and word.startswith("data."))
    ]
    levels = ["select.levels=null"] if "data" in given else []
    error = cli(
        "distill.py",
        *(word for word in own if not (levels and "levels" in word)),
        *levels,
        *words,
        f"name={tmp_path.name}",
    ).error
    for part in said:
        assert part in error, error
    assert "secret" not in error
    if any(word.startswith("distill") for word in words):  # told before anything is made
        assert not [file for file in (cli.work / "runs" / tmp_path.name).rglob("*") if file.is_file()]


def test_a_request_to_stop_while_the_base_is_made_ends_quietly(cli: Cli, tmp_path: Path) -> None:
    """All processes of the run are asked, as `timeout` and service managers do: the worker that prepares batches, too."""
    words = [
        "distill=policy",
        "data.kinds=[bars]",
        "data.levels=[1]",
        "data.lesson_amount=2000",
        "cycles.one.traces.levels=[1]",
        f"paths.cache={tmp_path}",
    ]
    sizes = [word for word in MODEL if word != "model.training=null"]
    pause = (tmp_path, "*-training-*/metrics.csv", 3)
    started = cli.start("distill.py", *words, *sizes, "model=tiny", pause=pause)
    done = started.at_pause().end_by(signal.SIGTERM, everyone=True)
    assert done.status == 130 and "Traceback" not in done.err, done.err
    assert done.err.startswith(
        "\ninterrupted; nothing finished is lost. Continue with: python distill.py resume="
    ), done.err
    assert len(done.err.splitlines()) == 2
    assert not list(tmp_path.iterdir())  # no half of a model
