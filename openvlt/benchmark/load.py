"""From a benchmark's rows, and recorded answers if there are any, to problems that can be asked and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from openvlt.benchmark.protocol import Benchmark
from openvlt.benchmark.recorded import Recorded, sibling
from openvlt.benchmark.rows import Table, check_columns, only_file, part_files, pictures, saved, table
from openvlt.types import Problem, UserError, unique_ids


@dataclass(frozen=True)
class Loaded:
    """Problems in the rows' order, where they came from, what is odd about some of them, and rows that can't be used (row -> reason)."""

    problems: tuple[Problem, ...]
    where: str
    faults: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


def load(benchmark: Benchmark, data_dir: str | None, *, images: bool, limit: int | None = None) -> Loaded:
    """The rows of a local folder or the hub. With `images` every row's pictures are looked up (not decoded).

    Raises UserError when there are no rows, a column is missing, an id occurs twice, or an image is missing.
    """
    return _read(benchmark, _tables(benchmark, data_dir), images=images, limit=limit)


def load_for(benchmark: Benchmark, data_dir: str | None, file: str, recorded: Sequence[Recorded]) -> Loaded:
    """Rows to score recorded answers against: of `data_dir`, else beside the file, else the file's own, else the hub's."""
    splits = [part.split for part in benchmark.parts.values()]
    data_dir = data_dir or sibling(file, splits)
    if data_dir is None and all(column in recorded[0].row for column in benchmark.columns):
        part = next(iter(benchmark.parts.values()))
        if benchmark.part_of is not None:
            part = replace(part, name=benchmark.part_of(Path(file).name))
        firsts = [dict(answer.row) for answer in recorded if answer.sample == recorded[0].sample]
        return _read(benchmark, [Table(part, firsts, file, None)], images=False, limit=None)
    return load(benchmark, data_dir, images=False)


def _tables(benchmark: Benchmark, data_dir: str | None) -> list[Table]:
    """Every part from the hub; from a folder the parts that it holds, or its only file."""
    parts = list(benchmark.parts.values())
    if data_dir is None or len(parts) == 1 or not Path(data_dir).is_dir():
        return [table(part, data_dir) for part in parts]
    there = [part for part in parts if saved(Path(data_dir), part) or part_files(Path(data_dir), part)]
    if not there and only_file(Path(data_dir)):
        there = parts[:1]
    return [table(part, data_dir) for part in there or parts]


def _read(benchmark: Benchmark, tables: Sequence[Table], *, images: bool, limit: int | None) -> Loaded:
    problems: list[Problem] = []
    faults: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for source in tables:
        check_columns(source.rows, benchmark.columns, source.where, benchmark.name)
        for number, row in enumerate(source.rows[:limit], 1):
            try:
                problem = benchmark.read(row, str(row.get("config") or source.part.label))
            except UserError as error:
                skipped[f"{source.where}, row {number}"] = str(error)
                continue
            except KeyError as error:
                skipped[f"{source.where}, row {number}"] = f"no field {error}"
                continue
            if images:
                problem = replace(problem, images=pictures(row, source.part, source.root or Path("."), problem))
            if found := problem.meta.get("faults"):
                faults[problem.id] = "; ".join(found)
            problems.append(problem)
    if not problems:
        reason = next(iter(skipped.values()), "there are none")
        raise UserError(f"{tables[0].where}: no usable row for benchmark {benchmark.name} ({reason}); give the benchmark's own rows")
    unique_ids(problems, f"{tables[0].where} as {benchmark.name}")
    return Loaded(tuple(problems), ", ".join(source.where for source in tables), faults, skipped)


def matched(benchmark: Benchmark, loaded: Loaded, file: str, recorded: Sequence[Recorded]) -> dict[str, list[Recorded]]:
    """Problem id -> its recorded answers by sample. Raises UserError when an answer belongs to no row, or rows have different counts."""
    known = {problem.id for problem in loaded.problems}
    prefix = "" if benchmark.part_of is None else f"{benchmark.part_of(Path(file).name)}/"
    found: dict[str, list[Recorded]] = {}
    strangers = []
    for answer in recorded:
        name = answer.id if answer.id in known else f"{prefix}{answer.id}"
        if name in known:
            found.setdefault(name, []).append(answer)
        else:
            strangers.append(answer.id)
    if strangers and not loaded.skipped:
        raise UserError(
            f"responses={file}: id {strangers[0]!r} and {len(strangers) - 1} more of {len(recorded)} are no rows of {loaded.where}; "
            f"give answers to {benchmark.name}, or its rows with data_dir=<folder>"
        )
    counts = {len(answers) for answers in found.values()}
    if len(counts) > 1:
        raise UserError(f"responses={file}: rows have {min(counts)} to {max(counts)} samples; give every row as many")
    return {name: sorted(answers, key=lambda answer: answer.sample) for name, answers in found.items()}
