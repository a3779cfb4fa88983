"""From a benchmark's rows to problems that can be asked and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openvlt.benchmark.protocol import Benchmark
from openvlt.benchmark.rows.responses import RecordedAnswer, find_rows_beside
from openvlt.benchmark.rows.subsets import Subset
from openvlt.benchmark.rows.tables import (
    SubsetRows,
    check_row_columns,
    find_only_file,
    find_subset,
    load_subset,
    row_images,
)
from openvlt.data.errors import BadRows
from openvlt.data.rows.columns import Columns
from openvlt.data.rows.ids import check_unique_ids
from openvlt.errors import UserError
from openvlt.types import Problem


@dataclass(frozen=True)
class LoadedRows:
    """Problems in the rows' order and where they came from.

    `faults` says what is odd about some of them (id -> faults), `skipped` which rows can't be used (row ->
    reason), `left_out` which are of a subset that the benchmark hasn't (id -> subset).
    """

    problems: tuple[Problem, ...]
    where: str
    faults: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def load_rows(
    benchmark: Benchmark,
    data_dir: str | None,
    *,
    images: bool,
    limit: int | None = None,
    anywhere: bool = False,
) -> LoadedRows:
    """The rows of a local folder or the hub. With `images` every row's images are looked up, not decoded.

    They lie in the rows' folder or below, unless `anywhere`. Raises UserError when there are no rows, a
    column is missing, an id occurs twice, images are missing, or no row has one.
    """
    tables = _load_subsets(benchmark, data_dir)
    return _read_problems(benchmark, tables, images=images, limit=limit, anywhere=anywhere)


def load_rows_for_responses(
    benchmark: Benchmark, data_dir: str | None, file: str, recorded: Sequence[RecordedAnswer]
) -> LoadedRows:
    """The rows of recorded answers: of `data_dir`, else beside the file, else in it, else of the hub."""
    splits = [subset.split for subset in benchmark.subsets.values()]
    data_dir = data_dir or find_rows_beside(file, splits)
    if benchmark.subset_of is not None:  # only the subsets that the answers belong to
        first = next(iter(benchmark.subsets.values()))
        names = dict.fromkeys(answer.id.partition("/")[0] for answer in recorded)
        benchmark = replace(benchmark, subsets={name: replace(first, name=name) for name in names})
    is_table = Path(file).suffix in (
        ".csv",
        ".tsv",
    )  # their cells are text: no row has lists or objects in it
    if data_dir is None and not is_table and all(column in recorded[0].row for column in benchmark.columns):
        return _read_problems(benchmark, _rows_of_responses(benchmark, file, recorded), images=False)
    return load_rows(benchmark, data_dir, images=False)


def _rows_of_responses(
    benchmark: Benchmark, file: str, recorded: Sequence[RecordedAnswer]
) -> list[SubsetRows]:
    """The rows that a file of answers holds itself."""
    firsts = [answer for answer in recorded if answer.sample == recorded[0].sample]
    if benchmark.subset_of is None:
        subset = next(iter(benchmark.subsets.values()))
        return [SubsetRows(subset, [dict(answer.row) for answer in firsts], file, None)]
    return [
        SubsetRows(
            subset, [dict(answer.row) for answer in firsts if answer.id.partition("/")[0] == name], file, None
        )
        for name, subset in benchmark.subsets.items()
    ]


def _load_subsets(benchmark: Benchmark, data_dir: str | None) -> list[SubsetRows]:
    """Every subset of the hub; of a folder those that it holds, or its only file. No file is read twice."""
    subsets = list(benchmark.subsets.values())
    if data_dir is None or len(subsets) == 1 or not Path(data_dir).is_dir():
        return [load_subset(subset, data_dir, benchmark.ids[0]) for subset in subsets]
    folder = Path(data_dir)
    # with data_dir=…/vision, files that name no subset are vision's
    subsets.sort(key=lambda subset: subset.name != folder.name)
    by_place: dict[tuple[object, ...], Subset] = {}
    for subset in subsets:
        if places := find_subset(folder, subset):
            by_place.setdefault((*places, subset.split), subset)
    if not by_place and find_only_file(folder):
        subsets = subsets[:1]
    return [load_subset(subset, data_dir, benchmark.ids[0]) for subset in by_place.values() or subsets]


def _read_problems(
    benchmark: Benchmark,
    tables: Sequence[SubsetRows],
    *,
    images: bool,
    limit: int | None = None,
    anywhere: bool = False,
) -> LoadedRows:
    """The problems of all rows; a row that can't be read is skipped, with the reason; bad images raise."""
    problems: list[Problem] = []
    faults: dict[str, str] = {}
    skipped: dict[str, str] = {}
    left_out: dict[str, str] = {}
    bad_images: list[UserError] = []
    for table in tables:
        check_row_columns(table.rows, benchmark.columns, table.where, benchmark.name)
        wanted = limit
        for number, row in enumerate(table.rows, 1):
            if wanted == 0:
                break
            try:
                label, problem = _read_problem(benchmark, row, table.subset.label)
            except UserError as error:
                skipped[f"{table.where}, row {number}"] = str(error)
                continue
            except KeyError as error:
                skipped[f"{table.where}, row {number}"] = f"no field {error}"
                continue
            if label is not None:
                left_out[problem.id] = label
                continue
            wanted = None if wanted is None else wanted - 1
            odd = list(problem.meta.get("faults", ()))
            if images:
                try:
                    problem = _with_images(problem, row, table, anywhere)
                    odd += ["there is no image"] if needs_image(problem) else []
                except UserError as error:
                    bad_images.append(error)
            if odd:
                faults[problem.id] = "; ".join(odd)
            problems.append(problem)
    where = ", ".join(table.where for table in tables)
    if bad_images:
        raise BadRows(len(bad_images), len(problems), str(bad_images[0]), None) from bad_images[0]
    _check_problems(benchmark, problems, skipped, left_out, where)
    if images and problems and all(map(needs_image, problems)):
        raise UserError(_blind_sentence(benchmark, tables, len(problems)))
    return LoadedRows(tuple(problems), where, faults, skipped, left_out)


def _read_problem(benchmark: Benchmark, row: dict[str, Any], label: str) -> tuple[str | None, Problem]:
    """The problem of a row, and the label of its subset if the benchmark hasn't that one."""
    own = label if benchmark.row_subset is None else benchmark.row_subset(row, label)
    known = own in {subset.label for subset in benchmark.subsets.values()}
    name = own if benchmark.subset_of is None else benchmark.subset_of(row, own)
    return (None if known else own), benchmark.read(row, name)


def _with_images(problem: Problem, row: dict[str, Any], table: SubsetRows, anywhere: bool) -> Problem:
    images = row_images(row, table.subset, table.root or Path("."), problem, anywhere=anywhere)
    return replace(problem, images=images)


def needs_image(problem: Problem) -> bool:
    """Whether a problem that is asked with an image has none."""
    return not problem.images and problem.meta.get("needs_image", True)


def _check_problems(
    benchmark: Benchmark,
    problems: Sequence[Problem],
    skipped: Mapping[str, str],
    left_out: Mapping[str, str],
    where: str,
) -> None:
    """Raises UserError when there is no problem, or an id occurs twice."""
    if not problems:
        others = f"its {len(left_out)} rows are of another subset ({next(iter(left_out.values()), '')})"
        reason = next(iter(skipped.values()), others if left_out else "there are none")
        raise UserError(
            f"{where}: no usable row for benchmark {benchmark.name} ({reason}); give the benchmark's own rows"
        )
    check_unique_ids(problems, f"{where} as {benchmark.name}")


def _blind_sentence(benchmark: Benchmark, tables: Sequence[SubsetRows], count: int) -> str:
    names = dict.fromkeys(
        name
        for table in tables
        for group in Columns(images=table.subset.images).image_groups()
        for name in group
    )
    return (
        f"{', '.join(table.where for table in tables)}: none of the {count} rows has an image "
        f"(columns {', '.join(names)}), so {benchmark.name} would be asked blind; give the rows with their "
        "images, or ask without them on purpose: benchmark/view=text_only"
    )
