"""Sources of rows: splits that share nothing, exact mixtures, an order that a seed decides, errors that say what to set."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from openvlt.data.errors import MissingSplit, MixtureWanted, TooFewProblems, UnknownLevels
from openvlt.data.images import open_images
from openvlt.data.rows.columns import Columns
from openvlt.data.sources.base import Selection
from openvlt.data.sources.hub import HubRows
from openvlt.data.sources.local import LocalRows
from openvlt.data.sources.mixture import Mixture, apportion, fill_shares
from openvlt.data.sources.splits import split_share
from openvlt.errors import UserError

ALTERNATIVES = Columns(images=("images", "image", "image_path"))


def ids(source: object, seed: int = 0, **selection: object) -> list[str]:
    return [problem.id for problem in source.problems(Selection(**selection), seed)]


# --- one file --------------------------------------------------------------------------------------------------------


def test_a_seed_decides_the_order_and_nothing_else(write, make_row):
    source = LocalRows(str(write([make_row(number) for number in range(50)])))
    first, again, other = ids(source, 1), ids(source, 1), ids(source, 2)
    assert first == again != other and sorted(first) == sorted(other) == sorted(
        f"q{number}" for number in range(50)
    )
    assert ids(source, 1, amount=7) == first[:7]


def test_heldout_shares_are_disjoint_cover_everything_and_stay_when_rows_come(write, make_row):
    rows = [make_row(number) for number in range(1000)]
    source = LocalRows(str(write(rows)), heldout=0.1)
    parts = {split: set(ids(source, split=split)) for split in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 1000
    assert all(70 <= len(parts[split]) <= 130 for split in ("val", "test"))
    more = LocalRows(
        str(write(rows[::-1] + [make_row(number) for number in range(1000, 1100)], "more.jsonl")), heldout=0.1
    )
    assert parts["test"] <= set(ids(more, split="test")) and not parts["train"] & set(ids(more, split="test"))


def test_a_split_with_a_file_of_its_own_takes_nothing_from_train(write, make_row):
    train, test = write([make_row(number) for number in range(200)]), write([make_row(999)], "test.jsonl")
    assert ids(LocalRows(str(train), test_path=str(test)), split="test") == ["q999"]
    assert len(ids(LocalRows(str(train), test_path=str(test)))) == 200
    both = LocalRows(str(train), test_path=str(test), heldout=0.25)
    assert len(ids(both)) + len(ids(both, split="val")) == 200 and 30 <= len(ids(both, split="val")) <= 70


def test_shares_on_paper():
    assert split_share("train", 0.1, ["train"]) == ("train", (0.2, 1.0))
    assert split_share("test", 0.1, ["train"]) == ("train", (0.0, 0.1))
    assert split_share("val", 0.1, ["train"]) == ("train", (0.1, 0.2))
    assert split_share("val", 0.1, ["train", "test"]) == ("train", (0.0, 0.1))
    assert split_share("test", 0.1, ["train", "test"]) == ("test", (0.0, 1.0))


@pytest.mark.parametrize(
    ("settings", "selection", "error"),
    [
        (
            {},
            {"split": "test"},
            MissingSplit("rows.jsonl", "test", "test_path=<file>"),
        ),
        (
            {},
            {"split": "val"},
            MissingSplit("rows.jsonl", "val", "val_path=<file>"),
        ),
        ({}, {"split": "tset"}, r"split is 'tset'; it is one of \['train', 'val', 'test'\]"),
        (
            {"heldout": 0.5},
            {},
            r"data\.heldout=0\.5 is taken from train for test and val each; give less than 1/2",
        ),
        ({"heldout": -0.1}, {}, r"data\.heldout=-0\.1"),
        ({"heldout": 1e-6}, {"split": "test"}, r"none of its 5 usable rows is left for split 'test'"),
        (
            {},
            {"amount": 6},
            TooFewProblems("rows.jsonl", 6, 5),
        ),
        (
            {},
            {"levels": (1,)},
            UnknownLevels("rows.jsonl", [1], []),
        ),
        (
            {},
            {"sources": {"geos": 1}},
            MixtureWanted("rows.jsonl", {"geos": 1}),
        ),
    ],
)
def test_what_cannot_be_selected_is_an_error(write, make_row, monkeypatch, settings, selection, error):
    """With the settings that mend it: tests/cli/test_data_fixes.py."""
    monkeypatch.chdir(write([make_row(number) for number in range(5)]).parent)
    expected, message = (
        (UserError, error) if isinstance(error, str) else (type(error), f"^{re.escape(str(error))}$")
    )
    with pytest.raises(expected, match=message) as caught:
        LocalRows("rows.jsonl", **settings).problems(Selection(**selection), 0)
    if not isinstance(error, str):
        assert vars(caught.value) == vars(error)


def test_two_files_of_their_own_leave_nothing_to_hold_out(write, make_row):
    file = str(write([make_row(1)]))
    with pytest.raises(UserError, match=r"data\.heldout=0\.1 has no use"):
        ids(LocalRows(file, test_path=file, val_path=file, heldout=0.1))


def test_levels_filter_and_a_level_that_is_not_there_is_an_error(write, make_row):
    source = LocalRows(
        str(write([make_row(number, level=number % 3) for number in range(9)] + [make_row(9)]))
    )
    assert sorted(ids(source, levels=(1, 1, 2))) == ["q1", "q2", "q4", "q5", "q7", "q8"]
    with pytest.raises(UserError, match=r"levels \[1, 7\] wanted, the rows have \[0, 1, 2\]"):
        ids(source, levels=(1, 7))


def test_a_bad_row_stops_or_is_skipped_and_told(write, make_row):
    rows = [make_row(0), make_row(1, images=["none.png"]), make_row(2, answer=""), make_row(3)]
    file = write(rows)
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2 \(id 'q1'\): image .*none\.png does not exist"):
        ids(LocalRows(str(file)))
    source = LocalRows(str(file), skip_bad=True)
    assert sorted(ids(source)) == sorted(ids(source)) == ["q0", "q3"]
    assert list(source.skipped) == [f"{file}, line 2", f"{file}, line 3"]
    assert "column 'answer' is empty" in source.skipped[f"{file}, line 3"]


def test_a_misnamed_column_is_never_skipped(write, make_row):
    with pytest.raises(
        UserError, match=r"no column problem for the question; there are id, question, answer, images"
    ):
        ids(LocalRows(str(write([make_row(1)])), columns=Columns(question="problem"), skip_bad=True))


def test_an_id_may_occur_once_and_is_made_from_the_row_number_where_it_is_missing(write, make_row):
    with pytest.raises(UserError, match=r"twice\.jsonl: id 'x' occurs twice"):
        ids(LocalRows(str(write([make_row(0, id="x"), make_row(1, id="x")], "twice.jsonl"))))
    file = write([make_row(0, id="0"), make_row(1) | {"id": None}], "mine.jsonl")
    assert sorted(ids(LocalRows(str(file)))) == ["0", "mine-2"]


def test_several_pictures_per_question_keep_their_order(write, make_row):
    problem = LocalRows(str(write([make_row(1, images=["b.png", "a.png", "b.png"])]))).problems(
        Selection(), 0
    )[0]
    assert [image.getpixel((0, 0)) for image in open_images(problem)] == [
        (0, 0, 255),
        (255, 0, 0),
        (0, 0, 255),
    ]


def test_k12_as_the_shipped_config_reads_it(data_dir):
    file = data_dir / "train_sources" / "mm_eureka_k12" / "k12.json"
    source = LocalRows(str(file), columns=ALTERNATIVES, heldout=0.2)
    train, test = source.problems(Selection(), 0), source.problems(Selection(split="test"), 0)
    assert len(train) + len(test) + len(ids(source, split="val")) == 60 and len(test) >= 5
    assert {problem.source for problem in train} == {"k12"} and all(open_images(problem) for problem in test)


# --- mixtures --------------------------------------------------------------------------------------------------------


def test_amounts_on_paper():
    assert apportion(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}
    assert apportion(7, {"a": 0.5, "b": 0.3, "c": 0.2}) == {"a": 4, "b": 2, "c": 1}  # 3.5, 2.1, 1.4
    assert apportion(100, {"a": 0.29, "b": 0.71}) == {"a": 29, "b": 71}
    assert apportion(1, {"a": 1, "b": 3}) == {"a": 0, "b": 1}
    assert all(sum(apportion(n, {"a": 3, "b": 0.1, "c": 7}).values()) == n for n in range(1, 60))


@pytest.fixture
def mixture(write, make_row) -> Mixture:
    """Parts `a` and `b` of 20 rows with the same ids, and `gone`, whose file is not there."""
    files = {name: write([make_row(number) for number in range(20)], f"{name}.jsonl") for name in "ab"}
    parts = {name: LocalRows(str(file)) for name, file in files.items()}
    return Mixture(parts | {"gone": LocalRows(str(files["a"].parent / "gone.jsonl"))})


def test_a_mixture_draws_by_weight_marks_its_rows_and_leaves_other_parts_closed(mixture):
    selection = Selection(amount=12, sources={"a": 2, "b": 1, "gone": 0})
    problems = mixture.problems(selection, 3)
    assert Counter(problem.source for problem in problems) == {"a": 8, "b": 4}
    assert all(problem.id.startswith(f"{problem.source}/q") for problem in problems)
    assert problems == mixture.problems(selection, 3) != mixture.problems(selection, 4)
    assert [problem.source for problem in problems] != sorted(problem.source for problem in problems)
    assert len(ids(mixture, sources={"a": 1, "b": 1})) == 40


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"amount": 3}, r"source 'gone': data file .*gone\.jsonl does not exist"),
        (
            {"amount": 50, "sources": {"a": 1, "b": 1}},
            r"source 'a': .*a\.jsonl: 25 problems wanted, 20 there",
        ),
        (
            {"amount": 3, "sources": {"a": 1, "c": 1}},
            r"sources are \['a', 'c'\]; choose from \['a', 'b', 'gone'\]",
        ),
        ({"amount": 3, "sources": {"a": -1, "b": 2}}, r"source weights are .*; each is 0 or more"),
        ({"amount": 3, "sources": {"a": 0}}, r"at least one is more than 0"),
        ({"sources": {"a": 1, "b": 2}}, r"share out an amount; give one, or equal weights"),
    ],
)
def test_a_mixture_names_the_part_that_fails(mixture, selection, message):
    with pytest.raises(UserError, match=message):
        mixture.problems(Selection(**selection), 0)


# --- the hub's format ------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_copy(write, monkeypatch):
    """A `datasets.DatasetDict` in the hub's form: two pictures per row, answers as class labels."""
    datasets = pytest.importorskip("datasets")
    root = write([]).parent
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
    features = datasets.Features(
        {
            "pid": datasets.Value("int64"),
            "query": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "figure": datasets.Image(),
            "others": datasets.List(datasets.Image()),
        }
    )
    picture = str(root / "a.png")
    rows = [
        {"pid": n, "query": f"Q{n}?", "label": n % 2, "figure": picture, "others": [picture, picture]}
        for n in range(8)
    ]
    make = lambda part: datasets.Dataset.from_list(part, features=features)  # noqa: E731
    return datasets.DatasetDict(train=make(rows[:6]), validation=make(rows[6:]))


HUB_COLUMNS = Columns(id="pid", question="query", answer="label", images=[["figure", "others"]])


def check_copy(source: HubRows) -> None:
    """Whatever the form of the copy: the same six training rows, with three pictures each."""
    problems = sorted(source.problems(Selection(), 0), key=lambda problem: problem.id)
    assert [problem.answer for problem in problems] == ["no", "yes"] * 3
    assert [image.size for image in open_images(problems[0])] == [(8, 6)] * 3
    assert problems[5].question == "Q5?" and len({problem.id for problem in problems}) == 6


def test_what_save_to_disk_wrote_is_read_with_its_splits(hub_copy, tmp_path):
    hub_copy.save_to_disk(str(tmp_path / "copy"))
    source = HubRows(
        str(tmp_path / "copy"),
        splits={"train": "train", "val": "validation", "test": None},
        columns=HUB_COLUMNS,
    )
    check_copy(source)
    assert sorted(ids(source, split="val")) == ["6", "7"]
    with pytest.raises(MissingSplit, match=r"copy has no test rows$") as caught:
        ids(source, split="test")
    assert caught.value.setting == "splits.test=<one of its splits>"
    with pytest.raises(UserError, match=r"has no split 'dev', but \['train', 'validation'\]"):
        ids(dataclasses.replace(source, splits={"train": "dev"}))
    half = dataclasses.replace(source, splits={"train": "train"}, heldout=0.3)
    assert len(ids(half)) + len(ids(half, split="test")) + len(ids(half, split="val")) == 6


def test_a_folder_of_parquet_files_and_one_such_file_are_read_like_the_hub(hub_copy, tmp_path):
    folder = tmp_path / "local"
    folder.mkdir()
    for name, part in hub_copy.items():
        part.to_parquet(str(folder / f"{name}-00000-of-00001.parquet"))
    check_copy(HubRows(str(folder), columns=HUB_COLUMNS, anywhere=True))
    check_copy(HubRows(str(folder / "train-00000-of-00001.parquet"), columns=HUB_COLUMNS, anywhere=True))
    assert (
        len(
            ids(
                HubRows(
                    str(folder),
                    splits={"train": "train[:50%]", "test": "train[50%:]"},
                    columns=HUB_COLUMNS,
                    anywhere=True,
                )
            )
        )
        == 3
    )


def test_hub_errors_name_the_data_set_and_what_to_check(hub_copy, tmp_path):
    (tmp_path / "local").mkdir()
    hub_copy["train"].to_parquet(str(tmp_path / "local" / "train.parquet"))
    source = HubRows(str(tmp_path / "local"), columns=HUB_COLUMNS)
    with pytest.raises(UserError, match=r"split 'dev', can't be loaded: "):
        ids(dataclasses.replace(source, splits={"train": "dev"}))
    with pytest.raises(
        UserError, match=r"no column question for the question; there are pid, query, label, figure, others"
    ):
        ids(dataclasses.replace(source, columns=Columns()))
    with pytest.raises(UserError, match=r"data\.splits names \['dev'\]"):
        ids(dataclasses.replace(source, splits={"dev": "train"}))
    with pytest.raises(UserError, match=r"can't be loaded"):
        ids(HubRows(str(tmp_path / "nothing")))


def test_a_folder_of_text_files_is_read_before_its_pictures(write, make_row, tmp_path):
    (tmp_path / "pics").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "pics" / "a.png")
    turns = [{"role": "user", "content": "<image>How many?"}, {"role": "assistant", "content": "3"}]
    rows = [{"messages": turns, "images": ["pics/a.png"]}, {"messages": turns[1:], "images": []}]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    write([make_row(number, images=["pics/a.png"]) for number in range(4)], "val.jsonl")
    source = HubRows(str(tmp_path), splits={"train": "train", "val": "validation[:50%]"}, skip_bad=True)
    (problem,) = source.problems(Selection(), 0)
    assert (problem.id, problem.question, problem.answer) == ("train-1", "How many?", "3")
    assert list(source.skipped) == [f"{tmp_path / 'train.json'}, row 2"]
    assert sorted(ids(source, split="val")) == ["q0", "q1"]
    assert len(ids(HubRows(str(tmp_path / "val.jsonl"), columns=Columns(images=["images"])))) == 4
    with pytest.raises(UserError, match=r"val\.jsonl has no split 'test', but \['train'\]"):
        ids(HubRows(str(tmp_path / "val.jsonl"), splits={"train": "test"}))


def test_nested_columns_are_named_with_dots_and_offered(write):
    row = {"id": "a", "ask": {"text": "How many?"}, "reward_model": '{"ground_truth": "3"}', "images": []}
    columns = Columns(question="ask.text", answer="reward_model.ground_truth")
    (problem,) = LocalRows(str(write([row])), columns=columns).problems(Selection(), 0)
    assert (problem.question, problem.answer) == ("How many?", "3")
    with pytest.raises(
        UserError, match=r"no column ask\.txt for the question; there are id, ask\.text, reward_model"
    ):
        ids(
            LocalRows(
                str(write([row])), columns=Columns(question="ask.txt", answer="reward_model.ground_truth")
            )
        )


# --- imports ---------------------------------------------------------------------------------------------------------


def test_sources_import_neither_torch_nor_datasets_nor_sklearn():
    heavy = "('torch', 'datasets', 'sklearn', 'pyarrow')"
    code = f"import sys, openvlt.data.sources.local; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_short_parts_give_all_they_have_and_the_others_fill_up() -> None:
    assert fill_shares(10, {"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 9, "c": 9}) == {"a": 2, "b": 4, "c": 4}
    assert fill_shares(12, {"a": 1, "b": 1, "c": 2}, {"a": 1, "b": 3, "c": 99}) == {"a": 1, "b": 3, "c": 8}
    with pytest.raises(UserError, match="20 problems wanted"):
        fill_shares(20, {"a": 1, "b": 1}, {"a": 9, "b": 9})
