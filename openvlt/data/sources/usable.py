"""Sources without their bad rows: every selected row is checked before it is used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, cast

from openvlt.data.errors import BadRows, DataError, TooFewProblems
from openvlt.data.rows.lazy import LazyProblems, check_when_opened, row_place
from openvlt.data.rows.load import SAMPLE
from openvlt.data.sources.base import Selection, Source
from openvlt.data.sources.mixture import Mixture
from openvlt.data.sources.releases import EvaluationOnly
from openvlt.errors import UserError
from openvlt.types import Problem

Check = Callable[[Sequence[Problem]], list[UserError | None]]  # the error of each bad problem
MANY = 5000  # rows: checking more is announced
TOLD = 10  # rows that are left out while a run is under way; others are listed at its end


def check_source(source: Source, make_check: Callable[[], Check], *, setting: str = "data") -> Source:
    """The source, or each part of a mixture, as `UsableRows`; one that has no `skip_bad` is left as it is.

    `make_check` is called when the first row is checked: it may load a processor. `setting` is where the
    source's own settings are.
    """
    if isinstance(source, Mixture):
        parts = {
            name: check_source(part, make_check, setting=f"{setting}.sources.{name}")
            for name, part in source.sources.items()
        }
        return replace(source, sources=parts)
    if isinstance(source, EvaluationOnly):
        return replace(source, source=check_source(source.source, make_check, setting=f"{setting}.source"))
    if is_dataclass(source) and "skip_bad" in {entry.name for entry in fields(source)}:
        skip_bad = cast(Any, source).skip_bad
        lenient = cast(Source, replace(cast(Any, source), skip_bad=True))
        return UsableRows(lenient, make_check, skip_bad, setting)
    return source


@dataclass(frozen=True)
class UsableRows:
    """A source of rows without those that can't be read or shown to a model.

    With `skip_bad` they are left out and listed in `skipped` (row -> reason); otherwise the first problem
    raises BadRows with their number. Only as many rows are checked as a selection takes.
    """

    source: Source
    make_check: Callable[[], Check]
    skip_bad: bool
    setting: str
    skipped: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _errors: dict[str, UserError | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    _announced: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def problems(self, selection: Selection, seed: int) -> Sequence[Problem]:
        """See `Source`. Raises BadRows over bad rows, unless they are left out.

        Of more than a thousand rows of a large file, the others are checked when they are asked for. A bad
        one then raises BadRows; with `skip_bad` the next good row takes its place.
        """
        try:
            there = self.source.problems(replace(selection, amount=None, at_most=None), seed)
        except UserError as error:
            unreadable = self._unreadable()
            if not unreadable or isinstance(error, DataError):  # these are about settings
                raise
            bad_rows = self._describe(unreadable, 0)
            raise UserError(f"{bad_rows}; {error}") if self.skip_bad else bad_rows from error
        wanted = selection.amount or min(len(there), selection.at_most or len(there))
        if isinstance(there, LazyProblems) and wanted > SAMPLE:
            if wanted > len(there):
                raise TooFewProblems(self._name(), wanted, len(there))
            self._take_usable(there, SAMPLE)
            self._announce(len(there))
            return check_when_opened(there, wanted, self._open_usable)
        usable = self._take_usable(there, wanted)
        if len(usable) < (selection.amount or 0):
            raise TooFewProblems(self._name(), wanted, len(usable))
        return usable

    def _take_usable(self, there: Sequence[Problem], wanted: int) -> list[Problem]:
        """The first good rows. Raises BadRows over bad ones, unless they are left out and some are good."""
        usable, looked_at, bad = [], 0, self._unreadable()
        while len(usable) < wanted and looked_at < len(there):
            places = range(looked_at, min(len(there), looked_at + wanted - len(usable)))
            looked_at = places.stop
            opened = self._open(there, places, bad)
            for problem, error in zip(opened, self._check(opened), strict=True):
                if error is None:
                    usable.append(problem)
                else:
                    bad[_place(problem)] = _sentence(problem, error)
        if bad and (not self.skip_bad or not usable):
            raise self._describe(bad, looked_at) from self._errors.get(min(bad, key=natural_place))
        self._list(bad, looked_at)
        return usable

    def _open(self, there: Sequence[Problem], places: Iterable[int], bad: dict[str, str]) -> list[Problem]:
        """The problems of these places; those that can't be made are noted in `bad`."""
        opened = []
        for place in places:
            try:
                opened.append(there[place])
            except UserError as error:
                self._errors[row_place(there, place)] = error
                bad[row_place(there, place)] = str(error)
        return opened

    def _open_usable(self, there: Sequence[Problem], place: int) -> Problem | None:
        """The problem of a place; None where its row is bad and left out. Raises BadRows for another."""
        bad: dict[str, str] = {}
        for problem in self._open(there, [place], bad):
            (error,) = self._check([problem])
            if error is None:
                return problem
            bad[_place(problem)] = _sentence(problem, error)
        if not self.skip_bad:
            raise self._describe(bad, len(self._errors)) from self._errors[next(iter(bad))]
        if len(self.skipped) < TOLD:
            self._list(bad, len(self._errors))
        self.skipped.update(bad)
        return None

    def _announce(self, count: int) -> None:
        if self._name() not in self._announced:
            self._announced.add(self._name())
            print(
                f"{self._name()}: {count} rows, of which {SAMPLE} are checked now and the others when they "
                "are drawn; `openvlt data check` looks at all of them",
                flush=True,
            )

    def _unreadable(self) -> dict[str, str]:
        """The rows that the source couldn't make problems of."""
        return dict(getattr(self.source, "skipped", {}))

    def _check(self, problems: Sequence[Problem]) -> list[UserError | None]:
        """What is wrong with each; a row is checked once."""
        new = [problem for problem in problems if _place(problem) not in self._errors]
        if len(new) > MANY:
            print(
                f"checking {len(new)} rows (decode_check=false reads only the heads of pictures)", flush=True
            )
        errors = self.make_check()(new) if new else []
        self._errors.update(zip(map(_place, new), errors, strict=True))
        return [self._errors[_place(problem)] for problem in problems]

    def _describe(self, bad: Mapping[str, str], looked_at: int) -> BadRows:
        first = bad[min(bad, key=natural_place)].replace(
            "data.anywhere=true", f"{self.setting}.anywhere=true"
        )
        late = sum(place in self._errors for place in bad)
        setting = None if self.skip_bad else f"{self.setting}.skip_bad=true"
        return BadRows(len(bad), len(bad) - late + looked_at, first, setting)

    def _list(self, bad: Mapping[str, str], looked_at: int) -> None:
        """Adds bad rows to `skipped`, and tells how many there are when some are new."""
        new = bad.keys() - self.skipped.keys()
        self.skipped.update({place: bad[place] for place in sorted(bad, key=natural_place)})
        if new:
            found = self._describe(bad, looked_at)
            print(f"left out {found.bad} of {found.seen} rows, the first: {found.first}", flush=True)

    def _name(self) -> str:
        return str(getattr(self.source, "path", "the data"))


def _place(problem: Problem) -> str:
    """A row's place as sources name it, without its id."""
    return problem.place.partition(" (id ")[0] or problem.id


def _sentence(problem: Problem, error: UserError) -> str:
    """An error that begins with the row's id, with the row's place instead."""
    text = str(error)
    return f"{problem.place}: {text.removeprefix(f'row {problem.id!r}: ')}" if problem.place else text


def natural_place(place: str) -> list[Any]:
    """A key that sorts line 9 before line 10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", place)]
