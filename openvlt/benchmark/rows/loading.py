"""From a benchmark's rows, and recorded answers if there are any, to problems that can be asked and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from openvlt.benchmark.protocol import Benchmark
from openvlt.benchmark.rows.responses import RecordedAnswer, find_rows_beside
from openvlt.benchmark.rows.subsets import Subset
from openvlt.benchmark.rows.tables import (
    SubsetRows,
    check_row_columns,
    find_subset,
    load_table,
    only_file,
    row_images,
)
from openvlt.data.sources.schema import check_unique_ids
from openvlt.errors import UserError
from openvlt.types import Problem


@dataclass(frozen=True)
class LoadedRows:
    """Problems in the rows' order, where they came from, what is odd about some of them, and rows that can't be used (row -> reason)."""

    problems: tuple[Problem, ...]
    where: str
    faults: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


def load_rows(
    benchmark: Benchmark, data_dir: str | None, *, images: bool, limit: int | None = None
) -> LoadedRows:
    """The rows of a local folder or the hub. With `images` every row's pictures are looked up (not decoded).

    Raises UserError when there are no rows, a column is missing, an id occurs twice, or an image is missing.
    """
    return _read(benchmark, _tables(benchmark, data_dir), images=images, limit=limit)


def load_rows_for_responses(
    benchmark: Benchmark, data_dir: str | None, file: str, recorded: Sequence[RecordedAnswer]
) -> LoadedRows:
    """Rows to score recorded answers against: of `data_dir`, else beside the file, else the file's own, else the hub's."""
    splits = [part.split for part in benchmark.subsets.values()]
    data_dir = data_dir or find_rows_beside(file, splits)
    if benchmark.subset_of is not None:  # the parts that the answers are of, and no others
        first, names = (
            next(iter(benchmark.subsets.values())),
            dict.fromkeys(answer.id.partition("/")[0] for answer in recorded),
        )
        benchmark = replace(benchmark, subsets={name: replace(first, name=name) for name in names})
    lists = Path(file).suffix not in (".csv", ".tsv")  # whose cells are text: answers, no rows
    if data_dir is None and lists and all(column in recorded[0].row for column in benchmark.columns):
        return _read(benchmark, _own(benchmark, file, recorded), images=False, limit=None)
    return load_rows(benchmark, data_dir, images=False)


def _own(benchmark: Benchmark, file: str, recorded: Sequence[RecordedAnswer]) -> list[SubsetRows]:
    """The rows that a file of answers brings along."""
    firsts = [answer for answer in recorded if answer.sample == recorded[0].sample]
    if benchmark.subset_of is None:
        return [
            SubsetRows(
                next(iter(benchmark.subsets.values())), [dict(answer.row) for answer in firsts], file, None
            )
        ]
    return [
        SubsetRows(
            part, [dict(answer.row) for answer in firsts if answer.id.partition("/")[0] == name], file, None
        )
        for name, part in benchmark.subsets.items()
    ]


def _tables(benchmark: Benchmark, data_dir: str | None) -> list[SubsetRows]:
    """Every part from the hub; from a folder the parts that it holds, or its only file. A file that several parts lie in is read once."""
    parts = list(benchmark.subsets.values())
    if data_dir is None or len(parts) == 1 or not Path(data_dir).is_dir():
        return [load_table(part, data_dir) for part in parts]
    folder = Path(data_dir)
    parts.sort(
        key=lambda part: part.name != folder.name
    )  # `data_dir=…/vision`: what lies there without a name is vision's
    once: dict[tuple[object, ...], Subset] = {}
    for part in parts:
        if places := find_subset(folder, part):
            once.setdefault((*places, part.split), part)
    if not once and only_file(folder):
        parts = parts[:1]
    return [load_table(part, data_dir) for part in once.values() or parts]


def _read(
    benchmark: Benchmark, tables: Sequence[SubsetRows], *, images: bool, limit: int | None
) -> LoadedRows:
    problems: list[Problem] = []
    faults: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for source in tables:
        check_row_columns(source.rows, benchmark.columns, source.where, benchmark.name)
        for number, row in enumerate(source.rows[:limit], 1):
            try:
                label = source.part.label
                problem = benchmark.read(
                    row, label if benchmark.subset_of is None else benchmark.subset_of(row, label)
                )
            except UserError as error:
                skipped[f"{source.where}, row {number}"] = str(error)
                continue
            except KeyError as error:
                skipped[f"{source.where}, row {number}"] = f"no field {error}"
                continue
            if images:
                problem = replace(
                    problem, images=row_images(row, source.part, source.root or Path("."), problem)
                )
            if found := problem.meta.get("faults"):
                faults[problem.id] = "; ".join(found)
            problems.append(problem)
    if not problems:
        reason = next(iter(skipped.values()), "there are none")
        raise UserError(
            f"{tables[0].where}: no usable row for benchmark {benchmark.name} ({reason}); give the benchmark's own rows"
        )
    check_unique_ids(problems, f"{tables[0].where} as {benchmark.name}")
    return LoadedRows(tuple(problems), ", ".join(source.where for source in tables), faults, skipped)
