"""Other models' recorded answers, scored again to the authors' counts: every row, every sub-score."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from openvlt.benchmark.results.files import read_scored_rows
from openvlt.benchmark.tasks import mathvision, mathvista
from openvlt.cli.evaluate import build_runner
from openvlt.config.build import build
from openvlt.config.resolvers import CONF


@pytest.fixture
def scored(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`scored("mathvision", file, "protocol=official")`: the results of scoring a file of recorded answers."""

    def run(benchmark: str, file: Path | str, *words: str) -> dict[str, Any]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("evaluate", [f"benchmark={benchmark}", f"responses={file}", *words])
        return build_runner(config).score_file(config.responses, config.response_column, tmp_path)

    return run


def counts(cells: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {name: (cell["correct"], cell["total"]) for name, cell in cells.items()}


@pytest.mark.parametrize("model, correct", [("InternLM-XComposer2-VL-CoT", 437), ("LLaVA-v1.5-13B", 338)])
def test_mathvision_gives_the_official_counts(
    data_dir: Path, scored: Callable[..., Any], tmp_path: Path, model: str, correct: int
) -> None:
    folder = data_dir / "recorded_outputs" / "mathvision"
    result = scored("mathvision", folder / f"{model}.jsonl")
    assert (result["correct"], result["total"], result["missing"]) == (correct, 3040, 0)
    official = json.loads((folder / "official_scores.json").read_text())["models"][model]
    assert (
        counts(result["cells"]["subject"]) == counts(official["subject"]) and len(official["subject"]) == 16
    )
    assert counts(result["cells"]["level"]) == counts(official["level"]) and len(official["level"]) == 5
    crossed = counts(result["cells"]["subject, level"])
    written = official["official_result_file"]
    for name, (right, total) in crossed.items():
        key = name.replace(", level ", "_level")
        assert str(written[key]).startswith(f"{right}/{total}"), name
    assert set(result["faulty_rows"]) == {"59", "434", "1843", "1893", "2830"}
    rows = {row["id"]: row for row in read_scored_rows(str(tmp_path))}
    for line in (folder / f"{model}.jsonl").read_text(encoding="utf-8").splitlines():
        recorded = json.loads(line)
        assert rows[recorded["id"]]["right"] == recorded["correct"], recorded
        assert (rows[recorded["id"]]["extracted"] or "") == recorded["model_answer"], recorded


@pytest.mark.parametrize("model, correct", [("bard", 348), ("llava_llama_2_13b", 261)])
def test_mathvista_gives_the_official_counts(
    data_dir: Path, scored: Callable[..., Any], tmp_path: Path, model: str, correct: int
) -> None:
    folder = data_dir / "recorded_outputs" / "mathvista"
    result = scored("mathvista", folder / f"{model}.jsonl")
    assert (result["correct"], result["total"], result["variant"], result["judge"]) == (
        correct,
        1000,
        "protocol official",
        "not asked",
    )
    published = json.loads((folder / "official_scores.json").read_text())["models"][model]["published"]
    cells, official = (
        {group: counts(part) for group, part in found.items()} for found in (result["cells"], published)
    )
    official["grade"]["not applicable"] = official["grade"].pop(
        "daily life"
    )  # the data set's word for it today
    # the seven skills were labelled again since the files were published (their totals differ between the two files, too)
    assert cells.pop("skills").keys() == official.pop("skills").keys()
    assert cells == official
    assert sum(map(len, published.values())) + 1 == 75  # with the average
    rows = {row["id"]: row for row in read_scored_rows(str(tmp_path))}
    for line in (folder / f"{model}.jsonl").read_text(encoding="utf-8").splitlines():
        recorded = json.loads(line)
        assert rows[recorded["pid"]]["right"] == recorded["true_false"], recorded


def test_a_variant_without_the_judge_says_so(
    data_dir: Path, scored: Callable[..., Any], tmp_path: Path
) -> None:
    """Recorded responses without their extraction: our rules extract, and the name of the result tells."""
    folder = data_dir / "recorded_outputs" / "mathvista"
    rows = [json.loads(line) for line in (folder / "bard.jsonl").read_text(encoding="utf-8").splitlines()]
    bare = tmp_path / "bare.jsonl"
    bare.write_text(
        "".join(json.dumps({"pid": row["pid"], "response": row["response"]}) + "\n" for row in rows),
        encoding="utf-8",
    )
    result = scored("mathvista", bare, f"data_dir={folder}")
    assert result["variant"] == "protocol official (rules only)" and result["judge"] == "rules"
    assert 300 < result["correct"] < 400  # GPT-4's extraction gave 348


def test_only_mathvistas_scorer_reads_a_recorded_extraction(
    scored: Callable[..., Any], tmp_path: Path
) -> None:
    """MathVerse's own outputs carry one, too; its judge would still be asked, so without a judge the name says rules only."""
    row = {
        "sample_index": "1",
        "problem_index": "1",
        "problem_version": "Vision Only",
        "question": "",
        "question_for_eval": "Q?",
        "answer": "B",
    }
    row |= {
        "question_type": "multi-choice",
        "metadata": {"subject": "G", "subfield": "A"},
        "response": "The answer is B",
        "extraction": "B",
    }
    (tmp_path / "verse.jsonl").write_text(json.dumps(row))
    result = scored("mathverse", tmp_path / "verse.jsonl")
    assert (result["variant"], result["judge"], result["headline"]) == (
        "protocol official (rules only)",
        "rules",
        "accuracy",
    )


# --- the rules, case by case --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response, extracted",
    [
        ("The answer is \\boxed{D}.", "d"),
        ("so we get B.", "b"),
        ("(C)\nbecause", "c"),
        ("The answer is 12. Then some more.", "12"),
        ("it is 3.5.", "3.5"),
        ("first \\boxed{1}, then \\boxed{\\frac12}", "\\frac12"),
        ("\\boxed{x = 30^{\\circ}}", "30"),
        ("\\boxed{12 \\text{ km}}", "12"),
        ("\\boxed{0.5}", "\\frac{1}{2}"),
        ("1/2", "\\frac{1}{2}"),
        ("\\boxed{\\sqrt2}", "\\sqrt{2}"),
        ("", ""),
    ],
)
def test_mathvision_extraction(response: str, extracted: str) -> None:
    assert mathvision.extract_mathvision(response) == extracted


@pytest.mark.parametrize(
    "gold, answer, equal",
    [
        ("12", "12.001", True),
        ("12", "12.01", False),
        ("1/3", "0.333", True),
        ("(1,2)", "(2/2,2.0)", False),  # 1.0 is no 1 between brackets
        ("(1,2)", "(1.00,4-2)", True),
        ("A", "a", True),
        ("\\frac{7}{2}", "3\\frac{1}{2}", False),  # side by side is a product: 1.5
        ("", "", False),
        ("2\\pi", "6.28", True),
        ("12", "12)", True),  # what follows the readable start is forgotten
        ("x", "y", False),
    ],
)
def test_mathvision_equality(gold: str, answer: str, equal: bool) -> None:
    assert mathvision.same_mathvision_answer(gold, answer) is equal


@pytest.mark.parametrize(
    "extraction, choices, meta, prediction",
    [
        ("(B) 8/11", ("3/11", "8/11"), {}, "8/11"),
        ("B", ("3/11", "8/11"), {}, "8/11"),
        ("8/12", ("3/11", "8/11"), {}, "8/11"),
        ("7.5", None, {"kind": "integer"}, "7"),
        ("5.0", None, {"kind": "integer"}, "5"),
        ("five", None, {"kind": "integer"}, None),
        ("1.25", None, {"kind": "float", "precision": 1}, "1.2"),
        ("1.25", None, {"kind": "float", "precision": 2}, "1.25"),
        ("[1, 2]", None, {"kind": "list"}, "[1, 2]"),
    ],
)
def test_mathvista_normalisation(
    extraction: str, choices: Any, meta: dict[str, Any], prediction: str | None
) -> None:
    assert mathvista.normalise_extraction(extraction, choices, meta) == prediction


@pytest.mark.parametrize(
    "one, other, steps",
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("flaw", "lawn", 2), ("a", "a", 0)],
)
def test_edit_distance(one: str, other: str, steps: int) -> None:
    assert mathvista.edit_distance(one, other) == steps


def test_precision_may_be_a_float_as_on_the_hub(data_dir: Path) -> None:
    row = json.loads(
        (data_dir / "recorded_outputs" / "mathvista" / "testmini.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()[0]
    )
    assert mathvista.read_mathvista({**row, "precision": 1.0}, "testmini").meta["precision"] == 1


@pytest.mark.parametrize("file", sorted(CONF.glob("benchmark/*.yaml")), ids=lambda file: file.stem)
def test_every_benchmark_builds(file: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("evaluate", [f"benchmark={file.stem}"])
    nodes = {"": config.benchmark} if "_target_" in config.benchmark else config.benchmark
    for node in nodes.values():
        benchmark = build(node, "benchmark")
        assert {"official", "openvlthinker", "openvlthinker_qwen", "openvlt"} <= benchmark.protocols.keys()
        assert all(protocol.source for protocol in benchmark.protocols.values())
        assert set(benchmark.headlines) <= set(benchmark.protocols)
    assert len(nodes) == (6 if file.stem == "all" else 1)
