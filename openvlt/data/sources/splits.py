"""Which rows a split holds, and which of them a selection takes."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from pathlib import Path

from openvlt.data.sources.base import Selection, advise_all_rows, refuse_mixture, take_amount
from openvlt.data.sources.schema import check_unique_ids
from openvlt.errors import UserError
from openvlt.types import Problem

SPLITS = ("train", "val", "test")


BENCHMARKS = (
    "mathvista",
    "mathverse",
    "mathvision",
    "mmmu",
    "wemath",
    "logicvista",
    "dynamath",
    "hallusionbench",
)


def split_share(name: str, heldout: float, own: Sequence[str]) -> tuple[str, tuple[float, float]]:
    """Which of the splits with data of their `own` holds split `name`, and which share of its ids: (split, (from, to)).

    `heldout` is the share of `train` set aside for each of `test` and `val` that has no data of its own.
    """
    if name not in SPLITS:
        raise UserError(f"split is {name!r}; it is one of {list(SPLITS)}")
    missing = [split for split in ("test", "val") if split not in own]
    if not 0 <= heldout * len(missing) < 1:
        raise UserError(
            f"data.heldout={heldout} is taken from train for {' and '.join(missing)} each; give less than 1/2"
        )
    if heldout and not missing:
        raise UserError(
            f"data.heldout={heldout} has no use, test and val have data of their own; leave it at 0"
        )
    if name == "train" or name in own:
        return name, ((heldout * len(missing), 1.0) if name == "train" else (0.0, 1.0))
    place = missing.index(name)
    return "train", (heldout * place, heldout * (place + 1))


def _chance(name: str) -> float:
    """A number in [0, 1) that depends on the id alone, so that a row keeps its side when others come or go."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 256**6


def apply_selection(
    problems: Sequence[Problem], selection: Selection, seed: int, where: str
) -> list[Problem]:
    """Levels filtered, order drawn by `seed`, the first `amount` taken. Raises UserError where that can't be done."""
    refuse_mixture(selection, where)
    if selection.levels is not None:
        known = sorted({problem.level for problem in problems if problem.level is not None})
        if not set(selection.levels) <= set(known):
            raise UserError(
                f"{where}: levels {list(selection.levels)} wanted, the rows have {known or 'none'}; "
                f"name the column in data.columns.level, or {advise_all_rows('levels')}"
            )
        problems = [problem for problem in problems if problem.level in selection.levels]
    problems = list(problems)
    random.Random(f"order/{seed}").shuffle(problems)
    return take_amount(problems, selection, where)


def missing_split_error(where: str, split: str, *own: str) -> UserError:
    """The error for a split without rows; `own` are the source's settings that name some."""
    aside = ["data.heldout=0.1 to set a tenth of its rows aside"] if split != "train" else []
    scored = ["evaluation.selection.split=train to score a model on all of them"] if split == "test" else []
    return UserError(f"{where} has no {split} rows; set {', or '.join([*own, *aside, *scored])}")


def benchmarks_named_in(path: str) -> list[str]:
    """The benchmarks that a hub id or the end of a path names. EMMA's letters also stand inside words, so it has to be one of its own."""
    end = "/".join(Path(path).parts[-2:]).lower()
    letters = re.sub(r"[^a-z]", "", end)
    return [name for name in BENCHMARKS if name in letters] + ["emma"] * bool(
        re.search(r"(?<![a-z])emma(?![a-z])", end)
    )


def refuse_training(name: str, why: str, force: str | None) -> None:
    """Raises UserError unless `force` is the name of this very material."""
    if force != name:
        raise UserError(
            f"{name} is for evaluation only ({why}); train on something else, or take the blame by name: data.force={name}"
        )


def select_share(
    problems: list[Problem], share: tuple[float, float], selection: Selection, seed: int, where: str
) -> list[Problem]:
    """The problems whose ids fall into the share, chosen from."""
    check_unique_ids(problems, where)
    inside = [problem for problem in problems if share[0] <= _chance(problem.id) < share[1]]
    if not inside:
        raise UserError(
            f"{where}: none of its {len(problems)} usable rows is left for split {selection.split!r}; "
            "add rows, or change data.heldout"
        )
    return apply_selection(inside, selection, seed, where)
