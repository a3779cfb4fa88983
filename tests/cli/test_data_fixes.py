"""Errors of the data give facts; on the command line each is followed by the settings that mend it."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from openvlt.cli.errors import error_sentence
from openvlt.data.errors import (
    BadRows,
    DataError,
    EvaluationDataOnly,
    ExcludedLevels,
    ImageOutside,
    MissingColumn,
    MissingSplit,
    MixtureWanted,
    PromptTooLong,
    TooFewProblems,
    UnavailableDataSet,
    UnknownLevels,
    UnknownSplit,
    UnreadableImage,
    WorkerEnded,
)
from openvlt.data.sources.base import Selection
from openvlt.data.sources.hub import HubRows, load_saved
from openvlt.data.sources.mixture import Mixture
from openvlt.errors import UserError

ALL = r"take all rows: train\.py \+experiment=own, distill\.py select\.{0}=null, evaluate\.py evaluation\.selection\.{0}=null"
FIXES = [
    (
        MissingSplit("rows.jsonl", "test", "test_path=<file>"),
        r"rows\.jsonl has no test rows; set data\.test_path=<file>, or data\.heldout=0\.1 to set a tenth of its rows "
        r"aside, or evaluation\.selection\.split=train to score a model on all of them",
    ),
    (
        MissingSplit("rows.jsonl", "val", "val_path=<file>"),
        r"rows\.jsonl has no val rows; set data\.val_path=<file>, or data\.heldout=0\.1 to set a tenth of its rows aside",
    ),
    (MissingSplit("name", "train", "splits.train=x"), r"name has no train rows; set data\.splits\.train=x"),
    (
        MissingSplit("problems.parquet", "val"),
        r"problems\.parquet has no val rows; set data\.heldout=0\.1 to set a tenth of its rows aside",
    ),
    (
        TooFewProblems("rows.jsonl", 6, 5),
        r"rows\.jsonl: 6 problems wanted, 5 there; lower the amount \(to judge the models: "
        rf"evaluation\.selection\.amount=5\), add data, or {ALL.format('amount')}",
    ),
    (
        UnknownLevels("rows.jsonl", [1], []),
        r"rows\.jsonl: levels \[1\] wanted, the rows have none; "
        rf"name the column in data\.columns\.level, or {ALL.format('levels')}",
    ),
    (
        ExcludedLevels([1, 3], [3]),
        r"levels \[1, 3\] wanted, data\.levels has \[3\]; each stage has levels of its own, set them: "
        r"cycles\.one\.traces\.levels=\[3\] cycles\.one\.problems\.levels=\[3\]; distill\.py: select\.levels=\[3\]",
    ),
    (
        MixtureWanted("figures", {"geos": 1}),
        r"figures is one source; sources=\{'geos': 1\} needs a mixture; "
        rf"choose one such as data=openvlthinker, or {ALL.format('sources')}",
    ),
    (
        MissingColumn("rows.jsonl", "question", "query", ["id", "answer"]),
        r"rows\.jsonl: no column query for the question; there are id, answer; set data\.columns\.question \(a dotted name reads inside of objects\), or convert the rows with data\.convert",
    ),
    (
        MissingColumn("rows.jsonl", "images", "pic or photo", []),
        r"rows\.jsonl: no column pic or photo for the images; there are none; "
        r"set data\.columns\.images \(null: no images\), or convert the rows with data\.convert",
    ),
    (
        EvaluationDataOnly("mathvista", "a benchmark"),
        r"mathvista is for evaluation only \(a benchmark\); "
        r"train on something else, or take the blame by name: data\.force=mathvista",
    ),
    (
        PromptTooLong("q1", 7000, 6144),
        r"row 'q1': its prompt has 7000 tokens, more than max_tokens=6144; "
        r"lower model\.max_pixels or raise prompt\.max_tokens",
    ),
    (
        BadRows(6, 14, "rows.jsonl, line 2: it is empty"),
        r"6 of 14 rows are bad, the first: rows\.jsonl, line 2: it is empty; data\.skip_bad=true leaves such rows out",
    ),
    (
        BadRows(1, 2, "row 1: it is empty", None),
        r"1 of 2 rows is bad: row 1: it is empty",
    ),
    (
        UnreadableImage("q1", "image a.png", "it is empty"),
        r"row 'q1': image a\.png can't be read \(it is empty\); replace it or remove the row",
    ),
    (
        ImageOutside("rows.jsonl, line 1", "../a.png", "data"),
        r"rows\.jsonl, line 1: image \.\./a\.png lies outside of data, where the rows lie; "
        r"put it there, or set data\.anywhere=true if you trust these rows",
    ),
    (
        WorkerEnded(-9),
        r"the worker that prepares images ended \(exit status -9\): too little memory, or too little in /dev/shm\?; "
        r"trainer\.workers=0 does without it",
    ),
    (
        UnknownSplit("copy", "dev", ["train", "validation"]),
        r"copy has no split 'dev', but \['train', 'validation'\]; change data\.splits",
    ),
    (
        UnavailableDataSet("owner/name", "dev", "no such file"),
        r"data set owner/name, split 'dev', can't be loaded: no such file; "
        r"check data\.path, data\.name and data\.splits, or give the folder of a local copy",
    ),
]


@pytest.mark.parametrize("error, sentence", FIXES)
def test_the_fix_follows_the_facts(error: DataError, sentence: str) -> None:
    assert re.fullmatch(sentence, error_sentence(error))


@pytest.mark.parametrize("error, sentence", FIXES)
def test_an_error_of_a_worker_arrives_whole(error: DataError, sentence: str) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))


def test_every_error_of_the_data_is_tried() -> None:
    assert {type(error) for error, _ in FIXES} == set(DataError.__subclasses__())


def test_a_data_set_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        HubRows(str(tmp_path / "nothing")).problems(Selection(), 0)
    assert re.search(
        r"split 'train', can't be loaded: .*check data\.path, data\.name and data\.splits",
        error_sentence(caught.value),
    )


def test_a_saved_set_without_the_split_also_inside_a_mixture(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"question": ["How many?"]}).save_to_disk(str(tmp_path / "copy"))
    source = HubRows(str(tmp_path / "copy"), splits={"train": "dev"})
    for outer in (source, Mixture({"mine": source})):
        with pytest.raises(UserError) as caught:
            outer.problems(Selection(), 0)
        assert error_sentence(caught.value).endswith(
            "copy has no split 'dev', but ['train']; change data.splits"
        )
    assert len(load_saved(tmp_path / "copy", "dev", any_split=True)) == 1


def test_an_error_that_says_it_in_its_own_words_gets_no_second_fix() -> None:
    try:
        try:
            raise UnavailableDataSet("owner/name", "dev", "no such file")
        except UserError as error:
            raise UserError("can't be fetched; give a local copy with data_dir=<folder>") from error
    except UserError as error:
        assert error_sentence(error) == "can't be fetched; give a local copy with data_dir=<folder>"
