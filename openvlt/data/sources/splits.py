"""Which rows belong to a split, and which of them a selection takes."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from openvlt.data.errors import EvaluationDataOnly, MissingSplit, TooFewProblems, UnknownLevels
from openvlt.data.rows.golds import check_golds
from openvlt.data.rows.ids import check_unique_ids, drop_repeated_ids
from openvlt.data.rows.lazy import find_share, problem_levels, take_problems
from openvlt.data.sources.base import Selection, refuse_mixture
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
    """Where the rows of split `name` are: the split that holds them, and the share (from, to) of its ids.

    `own` are the splits with data of their own. `heldout` is the share of `train` set aside for each of
    `test` and `val` that has none.
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
            f"data.heldout={heldout} has no use, test and val have data of their own; set data.heldout=0"
        )
    if name == "train":
        return name, (heldout * len(missing), 1.0)
    if name in own:
        return name, (0.0, 1.0)
    place = missing.index(name)
    return "train", (heldout * place, heldout * (place + 1))


def check_splits(splits: Mapping[str, str | None]) -> dict[str, str]:
    """Our splits -> a data set's own, without those that are null.

    Raises UserError for a split that isn't ours.
    """
    if set(splits) - set(SPLITS):
        raise UserError(f"data.splits names {sorted(splits)}; its keys are of {list(SPLITS)}")
    return {ours: theirs for ours, theirs in splits.items() if theirs is not None}


def find_rows(
    selection: Selection, heldout: float, own: Sequence[str], where: str, setting: str | None = None
) -> tuple[str, tuple[float, float]]:
    """As `split_share`, for the split of a selection.

    Raises MissingSplit when it has no rows; `setting` is the source's own that would name some.
    """
    split, share = split_share(selection.split, heldout, own)
    if split not in own or share[0] == share[1]:
        raise MissingSplit(where, selection.split, setting)
    return split, share


def select_share(
    problems: Sequence[Problem],
    share: tuple[float, float],
    selection: Selection,
    seed: int,
    where: str,
    *,
    skipped: dict[str, str] | None = None,
) -> Sequence[Problem]:
    """The selected ones of the problems whose ids fall into the share.

    Of rows with one id the first is kept and the others are noted in `skipped`; without it they raise.
    """
    if skipped is None:
        check_unique_ids(problems, where)
    else:
        problems = drop_repeated_ids(problems, skipped)
    inside = find_share(problems, share)
    if not inside:
        raise UserError(
            f"{where}: none of its {len(problems)} usable rows is left for split {selection.split!r}; "
            "add rows, or change data.heldout"
        )
    problems = take_problems(problems, inside)
    check_golds(problems, where)
    return apply_selection(problems, selection, seed, where)


def apply_selection(
    problems: Sequence[Problem], selection: Selection, seed: int, where: str
) -> Sequence[Problem]:
    """The first `amount` problems of the selection's levels, in an order drawn by `seed`.

    Raises MixtureWanted, UnknownLevels or TooFewProblems.
    """
    refuse_mixture(selection, where)
    order = list(range(len(problems)))
    if selection.levels is not None:
        levels = problem_levels(problems)
        known = sorted({level for level in levels if level is not None})
        if not set(selection.levels) <= set(known):
            raise UnknownLevels(where, list(selection.levels), known)
        order = [row for row in order if levels[row] in selection.levels]
    random.Random(f"order/{seed}").shuffle(order)
    if selection.amount is not None and selection.amount > len(order):
        raise TooFewProblems(where, selection.amount, len(order))
    return take_problems(problems, order[: selection.limit])


# --- material that must not be trained on -------------------------------------------------------------------


def benchmarks_named_in(path: str) -> list[str]:
    """The benchmarks that a hub id or the end of a path names.

    EMMA's letters also stand inside words, so it has to be a word of its own.
    """
    end = "/".join(Path(path).parts[-2:]).lower()
    letters = re.sub(r"[^a-z]", "", end)
    emma = re.search(r"(?<![a-z])emma(?![a-z])", end)
    return [name for name in BENCHMARKS if name in letters] + ["emma"] * bool(emma)


def refuse_training(name: str, why: str, force: str | None) -> None:
    """Raises EvaluationDataOnly unless `force` is the name of this very material."""
    if force != name:
        raise EvaluationDataOnly(name, why)
