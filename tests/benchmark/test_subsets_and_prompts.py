"""Benchmarks of several parts: which part a row, a file or a folder is of; and what the project's own prompt shows of each."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from openvlt.benchmark.prompts import QUESTION_IN_IMAGE
from openvlt.benchmark.results.files import results_markdown
from openvlt.benchmark.rows.loading import load_rows
from openvlt.benchmark.run.ablations import replace_images
from openvlt.benchmark.run.runner import BenchmarkRunner
from openvlt.benchmark.tasks import emma, mathverse, mmmu_pro
from openvlt.cli.evaluate import build_runner
from openvlt.config.resolvers import CONF
from openvlt.data.prompts import question_text
from openvlt.types import Problem

STANDARD, FOUR, VISION = "standard (10 options)", "standard (4 options)", "vision"


@cache
def built(name: str, *words: str) -> BenchmarkRunner:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build_runner(compose("evaluate", [f"benchmark={name}", *words]))


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def pro(number: int, **columns: Any) -> dict[str, Any]:
    return {
        "id": f"test_Art_{number}",
        "question": "Q?",
        "options": "['x', 'y', 'z']",
        "answer": "B",
        **columns,
    }


def maths(subject: str, number: int, **columns: Any) -> dict[str, Any]:
    row = {
        "pid": f"{subject}_{number}",
        "question": "Which?",
        "options": ["cat", "dog"],
        "answer": "B",
        "subject": subject,
    }
    return {**row, "category": "2D", "task": "k", "type": "Multiple Choice", **columns}


def counts(result: dict[str, Any]) -> tuple[int, int, int]:
    return result["correct"], result["total"], result["missing"]


# --- which part -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, letter", [("Standard(10opts)", "A"), ("Vision", "A"), ("Standard(4opts)", "C")]
)
def test_the_authors_outputs_keep_the_ten_options_beside_the_four(
    tmp_path: Path, name: str, letter: str
) -> None:
    four = {"options": ["Mary", "Gavin", "James", "Arthur"], "answer": "C"}
    ten = {
        "shuffled_options": ["James", "John", "Gavin", "David", "Arthur", "Mary"],
        "shuffled_options_answer": "A",
    }
    row = {
        "id": "test_Art_1",
        "question": "Who?",
        **four,
        **ten,
        "type": name,
        "response": f"Answer: {letter}",
    }
    assert counts(
        built("mmmu_pro").score_file(write(tmp_path / f"m_direct_{name}.jsonl", [row]), "response", tmp_path)
    ) == (1, 1, 0)
    part = {"Vision": VISION, "Standard(4opts)": FOUR}.get(name, STANDARD)
    assert mmmu_pro.read_mmmu_pro(row, part).choices[0] == ("Mary" if part == FOUR else "James")


@pytest.mark.parametrize(
    "row, said, part",
    [
        ({}, "gpt-4o_vision_cot.jsonl", VISION),
        ({}, "gpt-4o_standard(10 options)_direct.jsonl", STANDARD),
        ({}, "InternVL2-8B_direct_Standard(4opts).jsonl", FOUR),
        (
            {},
            "Llama-3.2-11B-Vision_standard_cot.jsonl",
            STANDARD,
        ),  # the model's name isn't the configuration's
        ({}, "answers.jsonl", STANDARD),
        ({"type": "Vision"}, "standard.jsonl", VISION),
        ({"config": "standard (4 options)"}, "vision.jsonl", FOUR),
        ({"type": "multiple-choice"}, "vision.jsonl", VISION),
    ],
)
def test_the_configuration_of_a_row(row: dict[str, str], said: str, part: str) -> None:
    assert mmmu_pro.mmmu_pro_subset(row, said) == part


def test_one_file_for_all_parts_is_read_once(tmp_path: Path) -> None:
    rows = [maths(subject, n) for subject in ("Math", "Physics") for n in range(2)]
    write(tmp_path / "emma" / "test.jsonl", rows)
    answers = write(
        tmp_path / "emma" / "answers.jsonl", [{"pid": row["pid"], "response": "B"} for row in rows]
    )
    assert counts(built("emma_mini").score_file(answers, "response", tmp_path)) == (4, 4, 0)
    benchmark = built("mmmu_pro").benchmark
    write(tmp_path / "pro" / "test.jsonl", [pro(n) for n in range(3)])
    assert [p.meta["config"] for p in load_rows(benchmark, str(tmp_path / "pro"), images=False).problems] == [
        STANDARD
    ] * 3
    write(tmp_path / "vision" / "test.jsonl", [pro(n) for n in range(3)])
    assert {
        p.meta["config"] for p in load_rows(benchmark, str(tmp_path / "vision"), images=False).problems
    } == {VISION}
    both = write(tmp_path / "both" / "test.jsonl", [pro(0, config=config) for config in (STANDARD, VISION)])
    assert [p.id for p in load_rows(benchmark, str(Path(both).parent), images=False).problems] == [
        f"{STANDARD}/test_Art_0",
        f"{VISION}/test_Art_0",
    ]


@pytest.mark.parametrize(
    "name, part", [("m_vision_cot", VISION), ("m_direct_Standard(4opts)", FOUR), ("m_standard_cot", STANDARD)]
)
@pytest.mark.parametrize("place", ["test.jsonl", "{part}/test.jsonl"])
def test_answers_of_one_configuration_meet_its_rows_only(
    tmp_path: Path, name: str, part: str, place: str
) -> None:
    rows = tmp_path / "rows"
    for other in (STANDARD, VISION, FOUR):
        write(rows / place.format(part=other), [pro(n) for n in range(3)])
    answers = write(
        tmp_path / f"{name}.jsonl", [{"id": f"test_Art_{n}", "response": "Answer: B"} for n in range(2)]
    )
    result = built("mmmu_pro", f"data_dir={rows}").score_file(answers, "response", tmp_path)
    assert counts(result) == (2, 2, 1) and set(result["cells"]["config"]) == {part}
    assert "| accuracy | 100.0 |" in results_markdown([result])  # not the mean of two configurations


@pytest.mark.parametrize(
    "column, words", [("config", (STANDARD, VISION)), ("type", ("Standard(10opts)", "Vision"))]
)
def test_answers_of_two_configurations_in_one_file(
    tmp_path: Path, column: str, words: tuple[str, str]
) -> None:
    said = {words[0]: ["B", "B", "A", "A"], words[1]: ["B", "A"]}
    rows = [
        pro(n, response=f"Answer: {letter}", **{column: word})
        for word, letters in said.items()
        for n, letter in enumerate(letters)
    ]
    result = built("mmmu_pro").score_file(write(tmp_path / "both.jsonl", rows), "response", tmp_path)
    assert (result["headline"], result["metrics"]["overall"], result["clusters"]) == (
        "overall",
        0.5,
        4,
    ) and result["total"] == 6
    write(
        tmp_path / "rows" / "test.jsonl", rows
    )  # and what the run itself left is a file of answers, its ids begin with the part
    again = built("mmmu_pro", f"data_dir={tmp_path / 'rows'}").score_file(
        str(tmp_path / "rows.parquet"), "response", tmp_path
    )
    assert counts(again) == counts(result) and again["metrics"] == result["metrics"]


def test_four_options_are_a_benchmark_of_their_own(tmp_path: Path) -> None:
    benchmark = built("mmmu_pro_4").benchmark
    assert [part.label for part in benchmark.subsets.values()] == [FOUR] and benchmark.name == "mmmu_pro_4"
    for part in (STANDARD, FOUR, VISION):
        write(tmp_path / part / "test.jsonl", [pro(n) for n in range(2)])
    loaded = load_rows(benchmark, str(tmp_path), images=False)
    assert [problem.id for problem in loaded.problems] == [f"{FOUR}/test_Art_0", f"{FOUR}/test_Art_1"]


def test_of_two_forms_of_a_split_parquet_is_read(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    row = {
        "pid": "1",
        "question": "in Parquet",
        "options": ["a", "b"],
        "answer": "A",
        "subject": "Math",
        "category": "c",
        "task": "t",
        "type": "Open",
    }
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "test.parquet")
    (tmp_path / "test.json").write_text(json.dumps([{**row, "question": "in JSON"}]))
    assert [
        problem.question
        for problem in load_rows(built("emma").benchmark, str(tmp_path), images=False).problems
    ] == ["in Parquet"]


# --- what the project's own prompt shows -------------------------------------------------------------------------------------


def shown(name: str, problem: Problem) -> str:
    return question_text(built(name, "protocol=openvlt").protocol.prompt(problem))


def verse(version: str, question: str, **columns: Any) -> Problem:
    row = {
        "sample_index": "1",
        "problem_index": "1",
        "problem_version": version,
        "question": question,
        "answer": "B",
    }
    whole = "In triangle ABC, A is 40°. Find B.\nChoices:\nA:40°\nB:60°"
    row |= {
        "question_type": "multi-choice",
        "metadata": {"subject": "G", "subfield": "A"},
        "question_for_eval": whole,
    }
    return mathverse.read_mathverse({**row, **columns}, "testmini")


def test_mathverse_shows_what_its_version_leaves_of_the_question() -> None:
    lite = verse("Text Lite", "Find B.\nChoices:\nA:40°\nB:60°")
    assert shown("mathverse", lite) == "Find B.\nChoices:\nA:40°\nB:60°" and lite.choices == ("40°", "60°")
    only = verse("Vision Only", "")
    assert (
        shown("mathverse", only) == QUESTION_IN_IMAGE
        and only.choices == ("40°", "60°")
        and "triangle" in only.question
    )
    apart = verse("Text Lite", "Is it odd?", question_for_eval="Is it odd?", choices=["A:Odd", "B:Even"])
    assert shown("mathverse", apart) == "Is it odd?\nChoices:\n(A) Odd\n(B) Even"
    apart = verse("Vision Only", "", question_for_eval="Is it odd?", choices=["A:Odd", "B:Even"])
    assert shown("mathverse", apart) == QUESTION_IN_IMAGE


def test_real_mathverse_shows_no_options_twice(data_dir: Path) -> None:
    run = built("mathverse", "protocol=openvlt")
    for problem in load_rows(run.benchmark, str(data_dir / "mathverse_sample"), images=False).problems:
        text = question_text(run.protocol.prompt(problem))
        assert (text == QUESTION_IN_IMAGE) is (problem.meta["version"] == "Vision Only")
        assert text.count("Choices:") == (problem.choices is not None and text != QUESTION_IN_IMAGE), text


def test_emma_shows_its_context_if_it_has_one() -> None:
    assert (
        shown("emma", emma.read_emma(maths("Math", 1, context="Look <image_1>."), "Math"))
        == "Look <image_1>.\nWhich?\nChoices:\n(A) cat\n(B) dog"
    )
    assert (
        shown("emma", emma.read_emma(maths("Math", 1, context=None), "Math"))
        == "Which?\nChoices:\n(A) cat\n(B) dog"
    )


def test_a_screenshot_of_mmmu_pro_is_shown_alone() -> None:
    screenshot = mmmu_pro.read_mmmu_pro(pro(1), VISION)  # published outputs hold its question
    assert shown("mmmu_pro", screenshot) == QUESTION_IN_IMAGE and screenshot.choices == ("x", "y", "z")
    assert shown("mmmu_pro", mmmu_pro.read_mmmu_pro(pro(1), STANDARD)) == "Q?\nChoices:\n(A) x\n(B) y\n(C) z"
    asked = built("mmmu_pro", "protocol=openvlthinker").protocol.prompt(screenshot)
    assert "(A) x" in asked.question  # the paper's script gives it the options


def test_a_description_stands_before_what_is_shown() -> None:
    asked = built("mmmu_pro", "protocol=openvlt").protocol.prompt(mmmu_pro.read_mmmu_pro(pro(1), VISION))
    described = replace_images(
        [replace(asked, images=(Path("p.png"),))], {asked.id: "a sheet"}, "{caption}: {question}"
    )[0]
    assert question_text(described) == f"a sheet: {QUESTION_IN_IMAGE}" and not described.images
