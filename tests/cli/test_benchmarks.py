"""evaluate.py on benchmarks as a user starts it: a model, recorded answers, comparisons, kills, and mistakes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from openvlt.benchmark.results.files import read_scored_rows
from openvlt.benchmark.run.ablations import BlankImage
from openvlt.data.images import open_images
from openvlt.errors import UserError
from openvlt.types import Problem
from tests.helpers.entry_scripts import FIGURES, Cli
from tests.helpers.readers import run_watched

SUBJECTS = ("algebra", "counting", "logic")
SMALL = [*FIGURES, "batch=2"]


def row(number: int, image: str, **columns: object) -> dict[str, object]:
    choice = (
        {"options": ["A", "B", "C", "D", "E"], "answer": "B"}
        if number % 2
        else {"options": [], "answer": str(number)}
    )
    return {
        "id": str(number),
        "question": f"What is {number}?\n<image1>",
        **choice,
        "level": 1,
        "subject": SUBJECTS[number % 3],
        "image": image,
        **columns,
    }


@pytest.fixture
def rows(picture: Callable[..., str], tmp_path: Path) -> Callable[..., Path]:
    """`rows(change)` writes six rows of MathVision's schema with images, lets `change(list)` spoil them, and gives their folder."""

    def write(change: Callable[[list], None] = lambda rows: None) -> Path:
        good = [row(number, picture(f"{number}.png", size=60)) for number in range(6)]
        change(good)
        (tmp_path / "test.jsonl").write_text(
            "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in good)
        )
        return tmp_path

    return write


def answers(folder: Path, said: dict[str, object], name: str = "answers.jsonl") -> Path:
    (folder / name).write_text(
        "".join(json.dumps({"id": key, "response": text}) + "\n" for key, text in said.items())
    )
    return folder / name


def run(cli: Cli, *words: str) -> Path:
    """The folder of a finished run."""
    cli("evaluate.py", *SMALL, *words).ok()
    return cli.newest("evaluate")


# --- with a model ---------------------------------------------------------------------------------------------------------


def test_a_model_is_asked_every_row(cli: Cli, rows: Callable[..., Path]) -> None:
    done = cli("evaluate.py", *SMALL, "benchmark=mathvision", f"data_dir={rows()}").ok()
    folder = cli.newest("evaluate")
    results = json.loads((folder / "results.json").read_text())
    assert "accuracy" in done.out and "95 %" in done.out and "unparsed" in done.out
    assert (results["rows"], results["total"], results["variant"]) == (6, 6, "protocol official")
    assert {
        "model",
        "prompt_hash",
        "sampling",
        "dtype",
        "attention",
        "pixels",
        "seed",
        "batch",
        "engine",
        "versions",
    } <= results["provenance"].keys()
    assert "| mathvision | protocol official |" in (folder / "results.md").read_text()
    scored = read_scored_rows(str(folder))
    assert [row["id"] for row in scored] == list("012345")
    assert (
        scored[0]["question"].startswith("Please solve the problem step by step")
        and (folder / scored[0]["images"][0]).is_file()
    )


def test_a_killed_run_goes_on_at_its_row_and_ends_the_same(cli: Cli, rows: Callable[..., Path]) -> None:
    sampled = ["samples=2", "evaluation.sampling.greedy=false", "seed=5"]
    words = ["batch=1", "benchmark=mathvision", f"data_dir={rows()}", *sampled]
    whole = run(cli, *words)
    words = [*SMALL, *words, "limit=6"]  # another config: it doesn't touch the finished run
    answers = "runs/evaluate/*/responses.jsonl"
    before = sum(len(file.read_text().splitlines()) for file in cli.work.glob(answers))
    started = cli.start("evaluate.py", *words, pause=(cli.work, answers, before + 3))
    started.at_pause().end_by(signal.SIGKILL)
    cut = cli.newest("evaluate")
    assert cut != whole and not (cut / "results.json").exists()
    there = len((cut / "responses.jsonl").read_text().splitlines())
    assert 3 <= there < 12
    with (cut / "responses.jsonl").open("a") as lines:
        lines.write('{"id": "5", "resp')  # killed in the middle of a line
    done = cli("evaluate.py", *words).ok()
    assert f"continuing {cut}" in done.out and f"{there} of 12 answers are there" in done.out
    for name in ("responses.jsonl", "rows.parquet", "results.md"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    assert (cut / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    results = json.loads((cut / "results.json").read_text())
    assert results["total"] == 12 and set(results["pass@k"]) == {"1", "2"} and "maj@2" in results


@pytest.mark.parametrize("view", ["blank_image", "caption"])
def test_what_the_model_sees(cli: Cli, rows: Callable[..., Path], view: str) -> None:
    folder = run(cli, "benchmark=mathvision", f"data_dir={rows()}", f"view={view}", "limit=2")
    results = json.loads((folder / "results.json").read_text())
    assert (
        results["variant"] == f"protocol official, {results['provenance']['view']}"
        and results["provenance"]["view"] != "whole"
    )
    question = read_scored_rows(str(folder))[0]["question"]
    assert ("Image description: " in question) is (view == "caption") and (
        folder / "captions.jsonl"
    ).exists() is (view == "caption")


def test_blank_images_are_files_of_the_same_size_and_only_heads_of_images_are_read(tmp_path: Path) -> None:
    picture = Image.effect_noise((600, 400), 50)
    picture.save(tmp_path / "noise.png")
    whole = (tmp_path / "noise.png").read_bytes()
    (tmp_path / "noise.png").write_bytes(whole[: len(whole) // 2])  # can't be decoded, and needn't be
    problems = [
        Problem(str(n), "?", "1", (tmp_path / "noise.png", Image.new("RGBA", (20, 30)))) for n in range(3)
    ]
    blank = BlankImage()(None, problems, None, tmp_path / "run")
    assert [[image.size for image in open_images(problem)] for problem in blank] == [
        [(600, 400), (20, 30)]
    ] * 3
    assert (
        open_images(blank[0])[0].getextrema() == ((255, 255),) * 3
        and len(list((tmp_path / "run" / "blank").iterdir())) == 2
    )
    (tmp_path / "noise.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="row '0': image .*noise.png can't be read"):
        BlankImage()(None, problems, None, tmp_path / "run")


def test_scene_text(cli: Cli, rows: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text(
        json.dumps({str(number): f"a {{question}} of {number} dots" for number in range(6)})
    )
    folder = run(
        cli,
        "benchmark=mathvision",
        f"data_dir={rows()}",
        "view=scene_text",
        f"view.file={tmp_path / 'texts.txt'}",
    )
    assert read_scored_rows(str(folder))[3]["question"].startswith(
        "Image description: a {question} of 3 dots\n\nPlease solve"
    )
    (tmp_path / "texts.txt").write_text("{}")
    error = cli(
        "evaluate.py",
        *SMALL,
        "benchmark=mathvision",
        f"data_dir={tmp_path}",
        "view=scene_text",
        f"view.file={tmp_path / 'texts.txt'}",
    ).error
    assert "no text for row '0'" in error


# --- recorded answers -------------------------------------------------------------------------------------------------------


def test_recorded_answers_need_no_model(cli: Cli, rows: Callable[..., Path]) -> None:
    folder = rows(lambda good: good[4].update(options=["1", "1"], answer="B"))
    file = answers(folder, {"0": "The answer is 0.", "1": "(B)", "2": "3", "3": "B", "4": "(A)"})
    done = cli("evaluate.py", "benchmark=mathvision", f"responses={file}", tiny=True).ok()
    results = json.loads((cli.newest("evaluate") / "results.json").read_text())
    assert (results["correct"], results["total"], results["missing"]) == (3, 5, 1)
    assert "1 rows have no answer" in done.out and "an option occurs twice" in done.out
    assert results["provenance"]["responses"] == str(file) and "model" not in results["provenance"]


def test_two_runs_row_by_row(cli: Cli, rows: Callable[..., Path]) -> None:
    folder = rows()
    one = run(
        cli, "benchmark=mathvision", f"responses={answers(folder, {'0': '0', '1': 'B', '2': '9', '3': 'A'})}"
    )
    two = answers(folder, {"0": "0", "1": "A", "2": "2", "3": "B"}, "two.jsonl")
    other = run(cli, "benchmark=mathvision", f"responses={two}", f"baseline={one}")
    base = json.loads((other / "results.json").read_text())["baseline"]
    assert (base["only_one_right"], base["only_other_right"], base["mcnemar_p"]) == (1, 2, 1.0)
    done = cli("evaluate.py", f"compare={one},{other}").ok()
    assert (
        "50.0 % -> 75.0 %: +25.0 points" in done.out
        and "lost 1: gold B, b -> a" in done.out
        and "gained 2, lost 1" in done.out
    )
    assert "two" in cli("evaluate.py", f"compare={one}").error
    assert (
        "none: no rows.parquet"
        in cli("evaluate.py", "benchmark=mathvision", f"responses={two}", f"baseline={one}/none").error
    )


@pytest.mark.slow
def test_the_suite_is_one_table(cli: Cli, picture: Callable[..., str], tmp_path: Path) -> None:
    """Six benchmarks, two rows each, in the schemas of the hub."""
    picture("p.png", size=60)
    meta = {
        "split": "testmini",
        "language": "english",
        "source": "s",
        "category": "c",
        "task": "t",
        "context": "x",
        "grade": "g",
        "skills": ["a", "b"],
    }
    vista = {
        "question": "Q?",
        "query": "Hint.\nQuestion: Q?",
        "choices": ["x", "y"],
        "precision": None,
        "answer": "y",
        "question_type": "multi_choice",
    }
    emma = {
        "question": "Which? <image_1>",
        "options": ["x", "y"],
        "answer": "B",
        "subject": "Math",
        "category": "2D",
        "task": "k",
        "type": "Multiple Choice",
    }
    hallu = {
        "category": "VD",
        "subcategory": "chart",
        "set_id": "0",
        "question": "Is it?",
        "gt_answer": "1",
        "gt_answer_details": "It is.",
    }
    verse = {
        "problem_index": "1",
        "question": "Q?\nChoices:\nA:1\nB:2",
        "answer": "B",
        "question_type": "multi-choice",
        "metadata": {"subject": "G", "subfield": "A"},
    }
    pro = {"options": "['x', 'y']", "answer": "B", "subject": "Art", "topic_difficulty": "Easy"}
    files = {
        "mathvista/testmini": [
            {**vista, "pid": str(n), "answer_type": "text", "metadata": meta, "image": "p.png"}
            for n in range(2)
        ],
        "mathverse/testmini": [
            {**verse, "sample_index": str(n), "problem_version": "Vision Only", "image": "p.png"}
            for n in range(2)
        ],
        "mathvision/test": [row(n, "p.png") for n in range(2)],
        "emma/Math/test": [
            {**emma, "pid": f"math_{n}", "context": None, "image_1": "p.png"} for n in range(2)
        ],
        "mmmu_pro/vision/test": [{**pro, "id": f"test_Art_{n}", "image": "p.png"} for n in range(2)],
        "mmmu_pro/standard (10 options)/test": [
            {**pro, "id": f"test_Art_{n}", "question": "Q <image 1>?", "image_1": "p.png"} for n in range(2)
        ],
        "hallusionbench/image": [
            {**hallu, "figure_id": str(n), "question_id": "0", "image": "p.png"} for n in range(2)
        ],
    }
    for name, lines in files.items():
        file = tmp_path / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "p.png").write_bytes((tmp_path / "p.png").read_bytes())
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    against = []
    for protocol in ("official", "openvlthinker"):
        folder = run(cli, "benchmark=all", f"data_dir={tmp_path}", f"protocol={protocol}", *against)
        against = [f"baseline={folder}"]
        table = (folder / "results.md").read_text()
        results = json.loads((folder / "results.json").read_text())["benchmarks"]
        assert list(results) == ["mathvista", "mathverse", "mathvision", "emma", "mmmu_pro", "hallusionbench"]
        assert all(f"| {name} | protocol {protocol}" in table for name in results)
        assert (
            results["mmmu_pro"]["total"] == 4
            and results["mmmu_pro"]["clusters"] == 2
            and "overall" in results["mmmu_pro"]["metrics"]
        )
        assert results["hallusionbench"]["headline"] == ("leaderboard" if protocol == "official" else "aAcc")
        assert results["mathverse"]["variant"].endswith("(rules only)")
    assert all(
        result["baseline"]["rows"] == result["rows"] for result in results.values()
    )  # each against its own folder there
    assert "mathvision" in cli("evaluate.py", f"compare={folder},{folder}").ok().out
    alone = {
        "protocol=openvlthinker_v1": "benchmark mathverse has the protocols",
        f"baseline={folder}/emma": "emma/mathvista: no rows.parquet",
    }
    before = cli.newest("evaluate")
    for word, said in alone.items():  # said before the first benchmark is asked: nothing is left behind
        assert said in cli("evaluate.py", *SMALL, "benchmark=all", f"data_dir={tmp_path}", word).error
        assert cli.newest("evaluate") == before


# --- mistakes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["benchmark=mathvision", "protocol=offical"],
            ["protocol=offical", "official", "openvlthinker", "openvlt"],
        ),
        (["benchmark=mathvison"], ["'benchmark/mathvison'", "mathvision"]),
        (["benchmark=mathvision", "data_dir=/no/such/place"], ["/no/such/place", "no such folder"]),
        (
            ["benchmark=mathvision", "samples=3"],
            ["3 samples of a problem would all be the same", "sampling.greedy=false"],
        ),
        (
            ["benchmark=mathvision", "samples=3", "protocol=openvlthinker"],
            ["3 samples of a problem would all be the same", "top_k=0"],
        ),
        (["benchmark=mathvision", "view=blind"], ["blind", "text_only"]),
        (["benchmark=mathvision", "responses=/no/file.jsonl"], ["/no/file.jsonl", "does not exist"]),
        (
            ["benchmark=mathvision", "responses=/no/file.jsonl", "limit=3"],
            ["limit= are for asking a model", "leave them out"],
        ),
        (["compare=a,b"], ["a: no rows.parquet"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_word_that_cannot_be(
    cli: Cli, rows: Callable[..., Path], words: list[str], said: list[str]
) -> None:
    given = (
        []
        if any(word.startswith(("data_dir", "responses", "compare")) for word in words)
        else [f"data_dir={rows()}"]
    )
    error = cli("evaluate.py", *SMALL, *words, *given).error
    for part in said:
        assert part in error, error


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda good: [line.pop("subject") for line in good], ["column subject", "there are id, question"]),
        (lambda good: good[2].update(image="gone.png"), ["'2'", "gone.png", "does not exist"]),
    ],
    ids=["no column", "no image"],
)
def test_rows_that_cannot_be_used(
    cli: Cli, rows: Callable[..., Path], spoil: Callable[[list], None], said: list[str]
) -> None:
    error = cli("evaluate.py", *SMALL, "benchmark=mathvision", f"data_dir={rows(spoil)}").error
    for part in said:
        assert part in error, error


def test_a_broken_image_names_its_row(cli: Cli, rows: Callable[..., Path]) -> None:
    folder = rows()
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:300])
    error = cli("evaluate.py", *SMALL, "benchmark=mathvision", f"data_dir={folder}").error
    assert "'3'" in error and "3.png" in error and "replace it or remove the row" in error


def test_one_faulty_row_is_reported_and_left_out(cli: Cli, rows: Callable[..., Path]) -> None:
    folder = rows(lambda good: good[2].update(answer=None))
    done = cli("evaluate.py", *SMALL, "benchmark=mathvision", f"data_dir={folder}").ok()
    results = json.loads((cli.newest("evaluate") / "results.json").read_text())
    assert (
        results["rows"] == 5
        and "1 row left out" in done.out
        and "row 3" in next(iter(results["skipped_rows"]))
    )


@pytest.mark.parametrize(
    "lines, said",
    [
        (['{"id": "0", "answer": "B"}'], ["no column 'response'", "response_column="]),
        (['{"id": "77", "response": "B"}'], ["'77'", "no rows of"]),
    ],
    ids=["no response", "stranger"],
)
def test_a_wrong_file_of_answers(
    cli: Cli, rows: Callable[..., Path], lines: list[str], said: list[str]
) -> None:
    file = rows() / "answers.jsonl"
    file.write_text("".join(f"{line}\n" for line in lines))
    error = cli("evaluate.py", "benchmark=mathvision", f"responses={file}").error
    for part in said:
        assert part in error, error


@pytest.mark.slow
@pytest.mark.parametrize("view", ["blank_image", "caption"])
def test_only_the_main_rank_writes_to_a_benchmarks_folder(
    cli: Cli, rows: Callable[..., Path], tmp_path: Path, view: str
) -> None:
    words = ["benchmark=mathvision", f"data_dir={rows()}", f"view={view}", "limit=4", "batch=2"]
    folder = run_watched(cli, tmp_path, "evaluate.py", *words)
    assert (folder / "rows.parquet").is_file()
