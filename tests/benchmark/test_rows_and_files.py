"""Rows in the hub's schemas, wherever they lie, and every way in which rows or answers can be wrong: one sentence, or a note in the results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from openvlt.benchmark.results.files import read_scored_rows
from openvlt.benchmark.rows.loading import LoadedRows, load_rows
from openvlt.benchmark.rows.responses import read_responses
from openvlt.benchmark.run.runner import BenchmarkRunner
from openvlt.cli.evaluate import build_runner
from openvlt.config.resolvers import CONF
from openvlt.data.images import image_size
from openvlt.errors import UserError


def built(name: str, *words: str) -> BenchmarkRunner:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build_runner(compose("evaluate", [f"benchmark={name}", *words]))


@pytest.fixture(scope="module")
def run() -> BenchmarkRunner:
    return built("mathvision")


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., Path]:
    """`rows(change)` writes four MathVision rows with images, lets `change(list)` spoil them, and gives their folder."""

    def write(change: Callable[[list], None] = lambda rows: None) -> Path:
        good: list[Any] = []
        for number in range(4):
            Image.new("RGB", (30, 30), "red").save(tmp_path / f"{number}.png")
            choice = {"options": list("ABCDE"), "answer": "B", "level": 1, "subject": "algebra"}
            good.append(
                {"id": str(number), "question": f"What is {number}?", "image": f"{number}.png", **choice}
            )
        change(good)
        (tmp_path / "test.jsonl").write_text(
            "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in good)
        )
        return tmp_path

    return write


# --- rows -----------------------------------------------------------------------------------------------------------------


def test_the_real_testmini(data_dir: Path, run: BenchmarkRunner) -> None:
    loaded = load_rows(run.benchmark, str(data_dir / "mathvision_testmini"), images=True)
    assert len(loaded.problems) == 304 and all(len(problem.images) == 1 for problem in loaded.problems)
    assert loaded.faults.keys() <= {"59", "434", "1843", "1893", "2830"} and not loaded.skipped
    prompt = run.protocol.prompt(
        next(problem for problem in loaded.problems if problem.choices == tuple("ABCDE"))
    ).question
    assert (
        prompt.startswith("Please solve the problem step by step") and "(A) A" not in prompt
    )  # letters that stand in the picture


def test_real_mathverse(data_dir: Path) -> None:
    loaded = load_rows(built("mathverse").benchmark, str(data_dir / "mathverse_sample"), images=True)
    assert (
        len(loaded.problems) == 27 * 6 and len({problem.meta["cluster"] for problem in loaded.problems}) == 27
    )
    assert {len(problem.images) for problem in loaded.problems if problem.meta["version"] == "Text Only"} == {
        0
    }
    only = next(problem for problem in loaded.problems if problem.meta["version"] == "Vision Only")
    assert (
        only.meta["query"].startswith(
            "According to the question shown in the image, please first conduct reasoning"
        )
        and only.question
    )


def test_the_hubs_cot_column_is_made_as_the_hub_makes_it(data_dir: Path) -> None:
    from openvlt.benchmark.tasks.mathverse import query_cot

    for row in json.loads((data_dir / "mathverse_sample" / "testmini_text_only.json").read_text())[:200]:
        assert query_cot(row["question"], row["question_type"] == "multi-choice") == row["query_cot"]


def test_real_mathvista(data_dir: Path) -> None:
    run = built("mathvista", "protocol=openvlthinker")
    loaded = load_rows(
        run.benchmark, str(data_dir / "train_sources" / "mathvista_by_source" / "geos"), images=True
    )
    assert loaded.problems and all(problem.images for problem in loaded.problems)
    prompt = run.protocol.prompt(loaded.problems[0]).question
    assert prompt.startswith(
        "Hint: Please answer the question requiring an answer.\nQuestion: Hint: "
    )  # the double hint


def test_parquet_and_json_give_the_same(
    tmp_path: Path, rows: Callable[..., Path], run: BenchmarkRunner
) -> None:
    import pyarrow
    from pyarrow import parquet

    folder = rows()
    lines = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    expected = load_rows(run.benchmark, str(folder), images=True)
    (folder / "test.jsonl").unlink()
    for line in lines:
        line["image"] = {"bytes": (folder / line["image"]).read_bytes(), "path": None}
    (tmp_path / "hub" / "data").mkdir(parents=True)
    parquet.write_table(
        pyarrow.Table.from_pylist(lines), tmp_path / "hub" / "data" / "test-00000-of-00001.parquet"
    )
    loaded = load_rows(run.benchmark, str(tmp_path / "hub"), images=True)
    assert [p.question for p in loaded.problems] == [p.question for p in expected.problems]
    assert image_size(loaded.problems[0].images[0], "1") == (30, 30)


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda good: [line.pop("level") and line.pop("options") for line in good], "columns options, level"),
        (lambda good: good.clear(), "has no rows"),
        (lambda good: good[2].update(id="1"), "'1' occurs twice"),
        (lambda good: good.__setitem__(1, '{"id": 3,'), "line 2.*not valid JSON"),
        (lambda good: [line.update(answer=None) for line in good], "no usable row.*'answer'"),
        (lambda good: good[1].update(image="gone.png"), "'1'.*gone.png does not exist"),
    ],
    ids=["two columns", "empty", "same id", "broken line", "no answers", "no image"],
)
def test_rows_that_cannot_be_used(
    rows: Callable[..., Path], run: BenchmarkRunner, spoil: Callable[[list], None], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        load_rows(run.benchmark, str(rows(spoil)), images=True)


def test_a_folder_with_nothing_in_it(tmp_path: Path, run: BenchmarkRunner) -> None:
    with pytest.raises(UserError, match="no rows of 'test'.*test.jsonl"):
        load_rows(run.benchmark, str(tmp_path), images=True)


# --- recorded answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", '{"id": "0", "response": "B"}\n{"id": 1, "response": null}\n'),
        ("a.json", '[{"id": "0", "response": "B"}, {"id": "1", "response": {"error": "x"}}]'),
        ("a.json", '{"0": {"response": "B", "extra": 1}, "1": {"response": ""}}'),
        ("a.json", '{"0": "B", "1": null}'),
        ("a.csv", "id,response\n0,B\n1,\n"),
        ("a.tsv", 'id\tresponse\n0\tB\n"1"\t""\n'),
        (
            "a.jsonl",
            '{"id": "0", "response": "B", "sample": "x", "tokens": {"in": 3}, "finished": "stop"}\n{"id": 1, "response": null}\n',
        ),
    ],
)
def test_files_of_answers(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert [
        (a.id, a.sample, a.response) for a in read_responses(str(tmp_path / name), ("id",), "response")
    ] == [("0", 0, "B"), ("1", 0, "")]


@pytest.mark.parametrize(
    "lines, said",
    [
        (['{"name": "0", "response": "B"}'], "no column 'id'"),
        (['{"id": "1", "response": "B"}'] * 2, "'1' occurs twice"),
        (['{"id": "1", "response": ["A", "B"]}', '{"id": "2", "response": "B"}'], "1 to 2 samples"),
        (['{"id": "1", "response": true}'], "the response is True"),
        ([], "no rows"),
        (["not json"], "line 1.*not valid JSON"),
    ],
    ids=["no id", "twice", "ragged samples", "no text", "empty", "no json"],
)
def test_a_wrong_file_of_answers(
    rows: Callable[..., Path], tmp_path: Path, run: BenchmarkRunner, lines: list[str], said: str
) -> None:
    file = rows() / "answers.jsonl"
    file.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(UserError, match=said):
        run.score_file(str(file), "response", tmp_path)


def test_what_others_keep_under_our_names_is_left_alone(
    rows: Callable[..., Path], tmp_path: Path, run: BenchmarkRunner
) -> None:
    file = rows() / "answers.jsonl"
    file.write_text(json.dumps({"id": "1", "response": "B", "tokens": {"prompt": 3}, "finished": "stop"}))
    result = run.score_file(str(file), "response", tmp_path)
    assert result["correct"] == 1 and result["truncated"] is None
    file.write_text(json.dumps({"id": "1", "response": "B", "tokens": 3, "finished": False}))
    assert (
        run.score_file(str(file), "response", tmp_path)["truncated"] == 1
        and read_scored_rows(str(tmp_path))[0]["tokens"] == 3
    )


def test_a_table_of_answers_with_other_names(rows: Callable[..., Path], tmp_path: Path) -> None:
    """Cells are text: `007` stays one, and a text of several lines is one response; another id column is named in the config."""
    file = rows(lambda good: good[1].update(id="007")) / "answers.tsv"
    file.write_text('question_id\tprediction\tlevel\n007\t"(B)\nbecause"\t1\n2\tA\t1\n')
    result = built("mathvision", "benchmark.ids=[question_id]").score_file(str(file), "prediction", tmp_path)
    assert (result["correct"], result["total"], result["missing"]) == (1, 2, 2)
    with pytest.raises(UserError, match=r"no column 'id'.*benchmark.ids=\[<name>\], response_column=<name>"):
        built("mathvision").score_file(str(file), "prediction", tmp_path)


def test_answers_without_a_row(rows: Callable[..., Path], tmp_path: Path, run: BenchmarkRunner) -> None:
    """As many as there are unusable rows may be theirs: they are counted. More are a mistake."""
    file = rows(lambda good: good[2].update(answer=None)) / "answers.jsonl"

    def write(*names: str) -> None:
        file.write_text("".join(json.dumps({"id": name, "response": "B"}) + "\n" for name in names))

    write("0", "1", "2")
    result = run.score_file(str(file), "response", tmp_path)
    assert (result["correct"], result["total"], result["without_a_row"]) == (2, 2, ["2"]) and len(
        result["skipped_rows"]
    ) == 1
    for names, said in ((("0", "yy", "zz"), "'yy' and 1 more of 3"), (("zz",), "'zz' and 0 more of 1")):
        write(*names)
        with pytest.raises(UserError, match=f"{said} are no rows of"):
            run.score_file(str(file), "response", tmp_path)


def test_files_that_bring_their_own_rows(tmp_path: Path) -> None:
    """EMMA's and MMMU-Pro's published outputs hold question, options and answer beside each response."""
    emma = {
        "question": "Which?",
        "options": ["cat", "dog"],
        "answer": "B",
        "subject": "Math",
        "category": "2D",
        "task": "k",
        "type": "Multiple Choice",
    }
    (tmp_path / "emma.json").write_text(
        json.dumps(
            {
                f"math_{n}": {**emma, "pid": f"math_{n}", "response": r}
                for n, r in enumerate(["\\boxed{B}", "\\boxed{\\text{dog}}", "so A."])
            }
        )
    )
    result = built("emma_mini").score_file(str(tmp_path / "emma.json"), "response", tmp_path)
    assert (result["correct"], result["total"], result["unparsed"]) == (2, 3, pytest.approx(1 / 3))
    pro = [
        {"id": f"test_Art_{n}", "options": "['x', 'y', 'z']", "answer": "B", "response": r}
        for n, r in enumerate(["Answer: B", "none of them", "(A) or (B)"])
    ]
    (tmp_path / "gpt_vision_cot.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pro))
    result = built("mmmu_pro").score_file(str(tmp_path / "gpt_vision_cot.jsonl"), "response", tmp_path)
    assert (result["correct"], result["unparsed"]) == (2, pytest.approx(1 / 3)) and set(
        result["cells"]["config"]
    ) == {"vision"}


def test_a_loaded_set_is_checked_for_ids(run: BenchmarkRunner, rows: Callable[..., Path]) -> None:
    loaded = load_rows(run.benchmark, str(rows()), images=False, limit=2)
    assert (
        isinstance(loaded, LoadedRows)
        and [problem.id for problem in loaded.problems] == ["0", "1"]
        and not loaded.problems[0].images
    )


def test_what_datasets_saved_to_disk_is_a_subset(
    rows: Callable[..., Path], tmp_path: Path, run: BenchmarkRunner
) -> None:
    """A lone data set counts as any split; of several splits the benchmark's must be there."""
    import datasets

    lines = [json.loads(line) for line in (rows() / "test.jsonl").read_text().splitlines()]
    columns = {name: [line[name] for line in lines] for name in lines[0] if name != "image"}
    data = datasets.Dataset.from_dict(columns | {"image": [str(tmp_path / line["image"]) for line in lines]})
    data = data.cast_column("image", datasets.Image())
    data = data.cast_column("subject", datasets.ClassLabel(names=["geometry", "algebra"]))
    data.save_to_disk(str(tmp_path / "lone"))
    datasets.DatasetDict({"dev": data}).save_to_disk(str(tmp_path / "several"))
    loaded = load_rows(run.benchmark, str(tmp_path / "lone"), images=True)
    assert [problem.id for problem in loaded.problems] == list("0123") and len(loaded.problems[0].images) == 1
    assert loaded.problems[0].meta["cells"]["subject"] == "algebra"
    with pytest.raises(
        UserError, match=r"several has no split 'test', but \['dev'\]; change benchmark\.subsets"
    ):
        load_rows(run.benchmark, str(tmp_path / "several"), images=True)
