"""Errors of the data give facts; on the command line each is followed by the settings that mend it."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from openvlt.cli.errors import error_sentence
from openvlt.data.errors import DataError, UnavailableDataSet, UnknownSplit
from openvlt.data.sources.base import Selection
from openvlt.data.sources.hub import HubRows, load_saved
from openvlt.data.sources.mixture import Mixture
from openvlt.errors import UserError

FIXES = [
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
