"""What a finished distillation leaves: rows in every form, difficulty columns, a card and a figure; the cost estimate before, the page about a run."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from pyarrow import parquet

from openvlt.cli.distill import describe_calls, inspect_run
from openvlt.data.images import open_images
from openvlt.data.prompts import PromptStyle
from openvlt.data.sources.base import Selection
from openvlt.data.sources.graded import Graded
from openvlt.data.sources.local import LocalRows
from openvlt.data.sources.selection import keep_between
from openvlt.distill.card import draw_lengths, render_card
from openvlt.distill.cost import ExpectedYield, describe_cost, split_amount
from openvlt.distill.cut import cut_reflections, tag_chain
from openvlt.distill.dataset import quantiles, solve_rate, write_dataset_files
from openvlt.distill.pipeline import run_distillation
from openvlt.distill.run import DistillationRun
from openvlt.distill.select import keep_shortest
from openvlt.distill.settings import Distillation
from openvlt.distill.writers.served import ServedWriter
from openvlt.errors import UserError
from openvlt.serving.client import Server
from openvlt.serving.protocol import Endpoint
from openvlt.types import Problem
from tests.distill.test_pipeline import Fake, right, rows

RED = Image.new("RGB", (8, 6), "red")
PROBLEMS = [
    Problem(f"p{n}", f"What is {n} + 1?", str(n + 1), (RED,) * (n < 2), source="ab"[n % 2], level=n)
    for n in range(4)
]
WRONG = "<think>No.</think><answer>77</answer>"


@pytest.fixture
def finished(tmp_path: Path):
    """A distillation of four problems: all four chains right, two, none; the last dropped by the cut."""
    p0, p1, p2, p3 = PROBLEMS
    writer = Fake({
        "p0": [right(p0, "So long. Wait, no.")] * 3 + [right(p0, "Long way to go.")],
        "p1": [WRONG, right(p1), WRONG, right(p1, "So so.")],
        "p2": [WRONG] * 4,
        "p3": [right(p3, "Wait, no.")] * 4,
    })  # fmt: skip
    settings = Distillation(writer, cut_reflections, keep_shortest)
    counts = run_distillation(settings, None, PROBLEMS, folder=tmp_path, seed=1)
    with DistillationRun(settings, None, tmp_path, 1) as run:
        statistics = write_dataset_files(
            run.verify_and_select(PROBLEMS), tmp_path, PromptStyle(system="Be good.", instruction="Think.")
        )
    return tmp_path, settings, statistics, counts


def test_the_same_traces_in_every_form(finished):
    folder, _, _, counts = finished
    traces = rows(folder / "traces.jsonl")
    assert counts["traces"] == 2 and [row["response"] for row in traces] == [
        right(PROBLEMS[0], "So long."),
        right(PROBLEMS[1]),
    ]
    table = parquet.read_table(folder / "traces.parquet").to_pylist()
    assert [{name: row[name] for name in traces[0]} for row in table] == traces
    for row, trace in zip(rows(folder / "messages.jsonl"), traces, strict=True):
        assert row["messages"] == [{"role": "system", "content": "Be good."}, {"role": "user", "content": f"<image>{trace['question']}\nThink."},
                                   {"role": "assistant", "content": trace["response"]}]  # fmt: skip
        assert row["images"] == trace["images"] and Image.open(folder / row["images"][0]).size == (8, 6)
    for row, trace in zip(rows(folder / "sharegpt.jsonl"), traces, strict=True):
        assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"] and row["conversations"][
            1
        ]["value"] == trace["response"]
        assert row["system"] == "Be good." and row["conversations"][0]["value"].count("<image>") == len(
            row["images"]
        )


def test_difficulty_columns_on_paper(finished):
    folder = finished[0]
    table = {row["id"]: row for row in parquet.read_table(folder / "problems.parquet").to_pylist()}
    assert [(row["right"], row["samples"], row["pass_rate"]) for row in table.values()] == [
        (4, 4, 1.0),
        (2, 4, 0.5),
        (0, 4, 0.0),
        (4, 4, 1.0),
    ]
    assert [row["reward_variance"] for row in table.values()] == [0.0, 0.25, 0.0, 0.0]
    assert (
        table["p1"]["mean_words"] == pytest.approx((1 + 1 + 1 + 2) / 4) and table["p1"]["mean_tokens"] == 3.0
    )


def test_problems_are_chosen_by_their_grades(finished):
    folder = finished[0]
    file = str(folder / "problems.parquet")
    assert {problem.id for problem in LocalRows(file).problems(Selection(), 0)} == {
        "p0",
        "p1",
        "p2",
        "p3",
    }  # data=jsonl reads it too
    band = Graded(file, partial(keep_between, column="pass_rate", low=0.01, high=0.99)).problems(
        Selection(), 0
    )
    assert [(problem.id, problem.meta["pass_rate"], problem.level, problem.source) for problem in band] == [
        ("p1", 0.5, 1, "b")
    ]
    assert open_images(band[0])[0].size == (8, 6)
    assert len(Graded(file).problems(Selection(), 0)) == 4
    with pytest.raises(UserError, match="keeps none of 4 problems"):
        Graded(file, partial(keep_between, column="mean_words", low=99)).problems(Selection(), 0)
    with pytest.raises(UserError, match="has no column samples; give the problems.parquet of a distillation"):
        Graded(str(folder / "traces.parquet")).problems(Selection(), 0)


def test_the_card_counts_what_happened(finished):
    folder, _, statistics, _ = finished
    text = render_card(
        statistics,
        "seed: 1",
        {"a": "CC BY 4.0"},
        describe_calls(folder),
        4,
        {"f, line 2": "f, line 2: no answer", "f, line 5": "…"},
    )
    assert text.startswith("---\nlicense: other\n") and "# 2 verified traces" in text
    assert (
        "| a | CC BY 4.0 | 2 | 0 | 8 | 4 | 4 | 1 |" in text
        and "| b | see the source | 2 | 0 | 8 | 6 | 2 | 1 |" in text
    )
    assert "| a | 2 | 50.0 % |" in text and "| a | wrong | 4 |" in text and "seed: 1" in text
    assert "Bad rows left out: 2. The first: f, line 2: no answer" in text
    assert "* reason: 16 answers, 0 tokens in, 48 out, cost 0.00" in text
    assert dict((name, rate) for name, _, rate in solve_rate(statistics)) == {"a": 0.5, "b": 1.0}
    assert (
        quantiles([1, 2, 3]) == {"mean": 2, "p10": 1.2, "median": 2, "p90": 2.8, "longest": 3}
        and quantiles([]) == {}
    )


def test_the_figure_is_drawn(finished, tmp_path):
    draw_lengths(finished[2], 4, tmp_path / "lengths.png")
    with Image.open(tmp_path / "lengths.png") as image:
        assert image.width > 800 and len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_looking_shows_kept_and_rejected_ones_and_touches_nothing(finished):
    folder, settings, _, _ = finished
    before = {file: file.read_bytes() for file in folder.glob("*.jsonl")}
    page = inspect_run(settings, None, PROBLEMS, folder, 1)
    assert "problems  4  solved 3  traces kept 2  chains still to be asked for 0" in page
    for outcome, number in (("kept", 4), ("not selected", 2), ("wrong", 6), ("dropped by the cut", 4)):
        assert f"--- {outcome} ({number}) ---" in page
    assert "gold '3'" in page and "<answer>77</answer>" in page
    (folder / "verify.jsonl").unlink()  # a run on its way: verdicts are made aside
    assert (
        inspect_run(settings, None, PROBLEMS, folder, 1).splitlines()[2:] == page.splitlines()[2:]
        and not (folder / "verify.jsonl").exists()
    )
    assert before.items() >= {file: file.read_bytes() for file in folder.glob("*.jsonl")}.items()
    with pytest.raises(UserError, match="holds no distillation"):
        inspect_run(settings, None, [], folder / "no", 1)


def test_the_plan_on_paper():
    expected = ExpectedYield(
        pass_rate={"a": 0.2, "b": 0.9},
        sizes={"a": 10},
        chain_tokens=400,
        caption_tokens=100,
        prompt_tokens=50,
    )
    selection = Selection(amount=100, sources={"a": 1, "b": 1})
    assert split_amount(selection, expected) == {"a": 10, "b": 90}
    server = Server([Endpoint("http://host/v1", "r1", input_price=1.0, output_price=2.0)])
    text = describe_cost(
        Distillation(ServedWriter(server, PromptStyle()), cut_reflections, keep_shortest, caption=Fake()),
        selection,
        expected,
    )
    assert (
        "captions: 100 calls of Fake" in text
        and "chains: 400 calls of r1, about 0.1 M tokens in and 0.2 M out, cost about 0.38" in text
    )
    assert "traces: about 83 of 100 problems" in text and "for 100 traces ask about 120 problems" in text
    unknown = describe_cost(
        Distillation(Fake(), cut_reflections, keep_shortest), selection, ExpectedYield(pass_rate={"a": 0.2})
    )
    assert "traces: at least 10; no pass rate is known for b" in unknown
    with pytest.raises(UserError, match="a plan needs an amount"):
        describe_cost(Distillation(Fake(), cut_reflections, keep_shortest), Selection(), expected)


@pytest.mark.parametrize(
    ("chain", "trained"),
    [
        (
            "So it is 5.\n</think>\nThe answer is \\boxed{5}.",
            "<think>So it is 5.\n</think><answer>5</answer>",
        ),
        ("<think>So.</think><answer>5</answer>", "<think>So.</think><answer>5</answer>"),
        ("So.</think><answer>5</answer>", "<think>So.</think><answer>5</answer>"),
        ("<think>So", "<think>So"),
    ],
)
def test_a_reasoners_chain_in_the_form_that_is_trained(chain, trained):
    assert tag_chain(chain) == trained


def test_the_lines_are_json_whatever_was_said(tmp_path):
    odd = right(PROBLEMS[0], 'So "\u2028" 数学\n.')
    settings = Distillation(Fake({"p0": [odd] * 4}), cut_reflections, keep_shortest)
    run_distillation(settings, None, PROBLEMS[:1], folder=tmp_path, seed=1)
    with DistillationRun(settings, None, tmp_path, 1) as run:
        write_dataset_files(run.verify_and_select(PROBLEMS[:1]), tmp_path, PromptStyle())
    (row,) = [
        json.loads(line) for line in (tmp_path / "messages.jsonl").read_bytes().decode().split("\n") if line
    ]
    assert row["messages"][-1]["content"] == odd
