"""Sources as their authors released them and as the hub has them: counts, answers, pictures that open, faults that name file and row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from openvlt.config.resolvers import CONF
from openvlt.data.errors import EvaluationDataOnly, MissingSplit
from openvlt.data.images import open_images
from openvlt.data.rows.columns import Columns
from openvlt.data.sources import release_readers
from openvlt.data.sources.base import Selection
from openvlt.data.sources.hub import HubRows
from openvlt.data.sources.local import LocalRows
from openvlt.data.sources.releases import EvaluationOnly, Release
from openvlt.data.sources.splits import benchmarks_named_in
from openvlt.errors import UserError
from openvlt.types import Problem, Verdict
from openvlt.verify import verify


def release(path: Path, reader: str, split: str = "train", **settings: Any) -> Release:
    return Release(str(path), getattr(release_readers, reader), "x", {"train": split}, **settings)


def problems(source: Any, **selection: Any) -> dict[str, Problem]:
    return {problem.id: problem for problem in source.problems(Selection(**selection), 0)}


# --- real files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "reader", "split", "count", "pictures", "known"),
    [
        ("geometry3k", "geometry3k", "train", 10, 10, ("train-12", "B", ("12", "13", "14", "15"))),
        ("tabmwp", "tabmwp", "dev", 40, 40, ("29992", "1/8", None)),
        ("tabmwp", "tabmwp", "test", 60, 60, None),
        (
            "scienceqa",
            "scienceqa",
            "test",
            48,
            48,
            ("92", "C", ("Montpelier", "Trenton", "Dover", "Georgetown")),
        ),
        (
            "iconqa",
            "iconqa",
            "test",
            60,
            110,
            ("test/choose_img/100", "B", ("picture 2", "picture 3", "picture 4", "picture 5")),
        ),
        (
            "super_clevr",
            "superclevr",
            "superCLEVR_questions_5",
            238,
            238,
            ("superCLEVR_questions_5-0", "no", None),
        ),
        (
            "super_clevr",
            "superclevr",
            "superCLEVR_questions_part_5",
            225,
            225,
            ("superCLEVR_questions_part_5-0", "yellow", None),
        ),
        ("clevr_math", "clevr_math", "all", 70, 70, ("69", "5", None)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_real_samples(data_dir, folder, reader, split, count, pictures, known):
    found = problems(release(data_dir / "train_sources" / folder, reader, split))
    assert len(found) == count and sum(len(problem.images) for problem in found.values()) == pictures
    if known is not None:
        problem = found[known[0]]
        assert (problem.answer, problem.choices) == known[1:] and all(
            image.width > 10 for image in open_images(problem)
        )
    for problem in found.values():
        said = problem.answer if not problem.choices or len(problem.answer) > 1 else f"({problem.answer})"
        assert (
            verify(problem.answer, f"<answer>{said}</answer>", choices=problem.choices) is Verdict.CORRECT
        ), problem


@pytest.mark.parametrize(
    "name",
    ["ai2d", "clevr", "figureqa", "geometry3k", "geos", "iconqa", "scienceqa", "super_clevr", "tabmwp"],
)
def test_rows_in_the_look_of_mathvista(data_dir, name):
    """The shipped GEOS config reads this form; the other sources' rows have it too."""
    file = data_dir / "train_sources" / "mathvista_by_source" / name / "rows.jsonl"
    found = problems(LocalRows(str(file), columns=Columns(id="pid", images="image")))
    assert len(found) == len(file.read_text().splitlines()) and all(
        open_images(problem) for problem in found.values()
    )
    if name == "geos":
        assert found["54"].answer == "10" and found["54"].choices == ("8", "10", "15", "18", "20")


# --- forms that no file could be had of ---------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """`written({path: content})` makes a folder: JSON for what is no picture, a red square for None."""

    def make(files: dict[str, Any]) -> Path:
        for name, content in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                Image.new("RGB", (12, 10), "red").save(file)
            else:
                file.write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path

    return make


PAIRS = [
    {
        "question_string": "Is Red the minimum?",
        "question_id": 2,
        "answer": n % 2,
        "color1_name": "Red",
        "color2_name": "--None--",
        "image_index": 7,
    }
    for n in range(3)
]
VIZWIZ = {
    "image": "V_0.jpg",
    "question": "What is this?",
    "answers": [{"answer": word, "answer_confidence": "yes"} for word in ("can", "soda", "soda")],
    "answer_type": "other",
    "answerable": 1,
}
AI2D = {
    "imageName": "9.png",
    "questions": {
        "What eats grass?": {
            "abcLabel": False,
            "answerTexts": ["fox", "cow"],
            "correctAnswer": 1,
            "questionId": "9.png-0",
        }
    },
}
MAPQA = {
    "map_id": "map_3",
    "question_type": "retrieval",
    "question": "Which states?",
    "answer": ["Ohio", "Iowa"],
    "question_id": "r-1",
}
CLEVR = {
    "info": {},
    "questions": [
        {
            "image_filename": "CLEVR_train_000000.png",
            "question": "Any cubes?",
            "answer": "yes",
            "question_index": 4,
            "program": [],
        }
    ],
}
FORMS = {
    "figureqa": ({"train/qa_pairs.json": {"qa_pairs": PAIRS}, "train/png/7.png": None}, {"train-1": "no", "train-2": "yes", "train-3": "no"}),
    "vizwiz": ({"train.json": [VIZWIZ, VIZWIZ | {"image": "gone.jpg", "answerable": 0}], "train/V_0.jpg": None}, {"V_0.jpg": "soda"}),
    "ai2d": ({"questions/9.png.json": AI2D, "images/9.png": None}, {"9.png-0": "B"}),
    "mapqa": ({"train-QA.json": [MAPQA, MAPQA | {"question_id": "r-2", "answer": "Ohio"}], "images/map_3.png": None}, {"train-r-1": "Ohio, Iowa", "train-r-2": "Ohio"}),
    "clevr": ({"questions/CLEVR_train_questions.json": CLEVR, "images/train/CLEVR_train_000000.png": None}, {"CLEVR_train_questions-4": "yes"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms_from_their_descriptions(written, name):
    files, answers = FORMS[name]
    found = problems(release(written(files), name))
    assert {key: problem.answer for key, problem in found.items()} == answers
    assert all(open_images(problem)[0].getpixel((0, 0))[0] > 250 for problem in found.values())


def test_figureqa_may_be_a_bare_list(written):
    assert (
        len(problems(release(written({"train/qa_pairs.json": PAIRS, "train/png/7.png": None}), "figureqa")))
        == 3
    )


# --- faults -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("figureqa", {"train/qa_pairs.json": [PAIRS[0], PAIRS[1] | {"answer": 7}]}, r"qa_pairs\.json, row 2: not a row of this release \(tuple index out of range\)"),
        ("figureqa", {"train/qa_pairs.json": [PAIRS[0], {"answer": 1}]}, r"qa_pairs\.json, row 2: not a row of this release \(no 'image_index'\)"),
        ("figureqa", {"train/qa_pairs.json": '[{"a": 1},\n{"b": ]'}, r"qa_pairs\.json, line 2: not valid JSON"),
        ("ai2d", {"questions/9.png.json": AI2D | {"imageName": "none.png"}}, r"9\.png\.json, question What eats grass\? \(id '9\.png-0'\): image .*none\.png does not exist"),
        ("ai2d", {"questions/9.png.json": {"imageName": "9.png", "questions": {"Q?": AI2D["questions"]["What eats grass?"] | {"correctAnswer": 2}}}}, r"question Q\?: .*answer 2 of 2 choices"),
        ("mapqa", {"train-QA.json": [MAPQA, MAPQA | {"question_id": "x", "answer": []}]}, r"train-QA\.json, row 2 \(id 'train-x'\): column 'answer' is empty"),
        ("mapqa", {"train-QA.json": [MAPQA, "oops"]}, r"train-QA\.json, row 2: not a row of this release"),
        ("clevr", {"questions/CLEVR_train_questions.json": b"".hex() or "\x00"}, r"CLEVR_train_questions\.json, line 1: not valid JSON"),
    ],
)  # fmt: skip
def test_a_broken_row_is_named_with_its_file(written, name, spoil, said):
    folder = written(FORMS[name][0] | spoil)
    with pytest.raises(UserError, match=said):
        problems(release(folder, name))


def test_broken_rows_may_be_left_out_and_are_told(written):
    bad = [PAIRS[0], {"answer": 1}, PAIRS[1] | {"image_index": 99}, PAIRS[2]]
    source = release(
        written({"train/qa_pairs.json": bad, "train/png/7.png": None}), "figureqa", skip_bad=True
    )
    assert set(problems(source)) == {"train-1", "train-4"}
    assert [place.rpartition(", ")[2] for place in source.skipped] == ["row 2", "row 3"]


@pytest.mark.parametrize(
    "file", [*CONF.glob("data/*.yaml"), *CONF.glob("data/from_hub/*.yaml")], ids=lambda file: file.stem
)
def test_every_source_of_rows_has_the_switch_for_bad_ones(file):
    node = OmegaConf.load(file)
    node = node.get("source", node)
    reads_rows = node.get("_target_", "").rpartition(".")[2] in ("Release", "LocalRows", "HubRows", "Graded")
    assert ("skip_bad" in node) is ("anywhere" in node) is reads_rows


@pytest.mark.parametrize(
    ("folder", "reader", "said"),
    [
        ("nowhere", "figureqa", r"data folder .*nowhere does not exist .*unpack the release there"),
        ("", "figureqa", r"qa_pairs\.json does not exist; the release has it"),
        ("", "geometry3k", r"train has no <id>/data\.json; unpack the release's train folder"),
        ("", "iconqa", r"has no <task>/<id>/data\.json"),
        ("", "ai2d", r"questions has no <image>\.json"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_release_that_is_not_there(tmp_path, folder, reader, said, skip_bad):
    with pytest.raises(UserError, match=said):
        problems(release(tmp_path / folder, reader, skip_bad=skip_bad))


def test_a_scienceqa_question_without_its_picture(data_dir, tmp_path):
    shutil.copytree(data_dir / "train_sources" / "scienceqa", tmp_path / "scienceqa")
    (tmp_path / "scienceqa" / "images" / "test" / "92" / "image.png").unlink()
    with pytest.raises(
        UserError, match=r"problems\.json, problem 92 \(id '92'\): image .*92/image\.png does not exist"
    ):
        problems(release(tmp_path / "scienceqa", "scienceqa", "test"))
    assert len(problems(release(tmp_path / "scienceqa", "scienceqa", "test", skip_bad=True))) == 47


def test_splits_that_are_not_there(written):
    source = release(written(FORMS["ai2d"][0]), "ai2d")
    with pytest.raises(MissingSplit, match="has no test rows") as caught:
        problems(source, split="test")
    assert caught.value.setting == "splits.test=<its split>"


# --- the hub's forms ----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[dict[str, Any]]], str]:
    """`hub(rows)` writes a folder as the hub's downloads are, `image` and `images` as pictures."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    Image.new("RGB", (9, 7), "red").save(tmp_path / "red.png")

    def make(rows: list[dict[str, Any]]) -> str:
        data = datasets.Dataset.from_list([{**row, **({"image": str(tmp_path / "red.png")} if "image" in row else {}),
                                            **({"images": [str(tmp_path / "red.png")]} if "images" in row else {})} for row in rows])  # fmt: skip
        for name, kind in (("image", datasets.Image()), ("images", datasets.List(datasets.Image()))):
            data = data.cast_column(name, kind) if name in data.column_names else data
        (tmp_path / "copy").mkdir()
        data.to_parquet(str(tmp_path / "copy" / "train-00000-of-00001.parquet"))
        return str(tmp_path / "copy")

    return make


SAID = [
    {"role": "user", "content": "<image>How many?"},
    {"role": "assistant", "content": "<think>So.</think><answer>3</answer>"},
]


@pytest.mark.parametrize(
    ("convert", "row", "expected"),
    [
        (release_readers.read_solution, {"images": 1, "problem": "<image>Find $x$.", "answer": "3 \\sqrt 3"}, ("Find $x$.", "3 \\sqrt 3", None)),
        (release_readers.read_solution, {"image": 1, "problem": "How many items?", "solution": "<answer> 3 </answer>"}, ("How many items?", "3", None)),
        (release_readers.read_indexed_choice, {"image": 1, "question": "Which?", "choices": ["a", "b"], "answer": 1, "hint": "Read."}, ("Read.\nWhich?", "B", ("a", "b"))),
        (partial(release_readers.read_indexed_choice, choices="options"), {"image": 1, "question": "Which?", "options": ["a", "b"], "answer": "0"}, ("Which?", "A", ("a", "b"))),
        (release_readers.majority_answer, {"question_id": "7", "image": 1, "question": "What?", "answers": ["can", "soda", "soda"]}, ("What?", "soda", None)),
        (release_readers.conversation, {"messages": SAID, "images": 1}, ("How many?", "3", None)),
        (release_readers.conversation, {"conversations": [{"from": "human", "value": SAID[0]["content"]}, {"from": "gpt", "value": SAID[1]["content"]}], "image": 1}, ("How many?", "3", None)),
    ],
)  # fmt: skip
def test_a_local_folder_of_the_hubs_schema(hub, convert, row, expected):
    (problem,) = problems(HubRows(hub([row]), convert=convert, anywhere=True)).values()
    assert (problem.question, problem.answer, problem.choices) == expected
    assert [image.size for image in open_images(problem)] == [(9, 7)]


def test_a_row_of_another_form_is_named(hub):
    with pytest.raises(
        UserError,
        match=r"copy\[train\], row 1: not a row of this form \(no 'problem'\); there are question, images; .*data\.convert",
    ):
        problems(HubRows(hub([{"question": "Q", "images": 1}]), convert=release_readers.read_solution))


# --- evaluation only ----------------------------------------------------------------------------------------------------


def test_evaluation_only_material_is_trained_on_by_name_only(data_dir):
    file = data_dir / "train_sources" / "mathvista_by_source" / "geos" / "rows.jsonl"
    source = LocalRows(str(file), test_path=str(file), columns=Columns(id="pid", images="image"))
    guarded = EvaluationOnly(source, "mathvista", "its terms forbid training on it")
    assert len(problems(guarded, split="test")) == 4
    with pytest.raises(
        EvaluationDataOnly, match=r"mathvista is for evaluation only \(its terms forbid training on it\)"
    ):
        problems(guarded)
    with pytest.raises(UserError, match="is for evaluation only"):
        problems(EvaluationOnly(source, "mathvista", "...", force="true"))
    assert len(problems(EvaluationOnly(source, "mathvista", "...", force="mathvista"))) == 4


@pytest.mark.parametrize(
    ("path", "name"),
    [("AI4Math/MathVista", "mathvista"), ("AI4Math/MathVerse", "mathverse"), ("MathLLMs/MathVision", "mathvision"), ("copies/MMMU_pro", "mmmu"),
     ("We-Math/We-Math", "wemath"), ("lmms-lab/HallusionBench", "hallusionbench"), ("luckychao/EMMA", "emma"), ("copies/emma_mini/test.parquet", "emma"),
     ("owner/gemma-rollouts", None), ("/home/emma/sets/mine", None), ("owner/dilemmas", None)],
)  # fmt: skip
def test_benchmarks_on_the_hub_are_known_by_name(path, name):
    assert benchmarks_named_in(path) == [name] * (name is not None)
    if name is not None:
        with pytest.raises(EvaluationDataOnly, match=f"{name} is for evaluation only"):
            problems(HubRows(path))
