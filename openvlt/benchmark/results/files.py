"""Files of a scored benchmark: rows.parquet (every answer) and results.md (tables to paste)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openvlt.benchmark.results.summary import ScoredProblem
from openvlt.data.rows.files import read_rows
from openvlt.errors import UserError
from openvlt.storage.atomic import atomic_write
from openvlt.storage.markdown import format_percent, markdown_table


def write_scored_rows(
    file: Path,
    scored: Sequence[ScoredProblem],
    prompts: Mapping[str, str],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Writes rows.parquet, whole or not at all: one row per answer, with what was extracted and its verdict.

    `prompts` are the questions as they were asked, by problem id (else the problem's own); `rows` hold the
    responses, their tokens and whether they are finished, one per sample.
    """
    import pyarrow
    from pyarrow import parquet

    written = []
    for item in scored:
        problem = item.problem
        shared = {
            "id": problem.id,
            "question": prompts.get(problem.id, problem.question),
            "gold": problem.answer,
            "choices": None if problem.choices is None else list(problem.choices),
            "cluster": problem.meta["cluster"],
            "cells": json.dumps(problem.meta["cells"], ensure_ascii=False),
            "images": [
                os.path.relpath(image, file.parent) for image in problem.images if isinstance(image, Path)
            ],
        }
        samples = zip(item.answers, item.correct, rows[problem.id], strict=True)
        for sample, (answer, correct, row) in enumerate(samples):
            columns = {
                "sample": sample,
                "response": row["response"],
                "extracted": answer.extracted,
                "verdict": answer.verdict.value,
                "right": correct,
                "tokens": row.get("tokens"),
                "finished": row.get("finished"),
            }
            written.append(shared | columns)
    with atomic_write(file) as aside:
        parquet.write_table(pyarrow.Table.from_pylist(written, schema=_schema(pyarrow)), aside)


def _schema(pyarrow: Any) -> Any:
    text, texts = pyarrow.string(), pyarrow.list_(pyarrow.string())
    integer, boolean = pyarrow.int64(), pyarrow.bool_()
    columns = {
        "id": text, "sample": integer, "question": text, "gold": text, "choices": texts, "response": text,
        "extracted": text, "verdict": text, "right": boolean, "tokens": integer, "finished": boolean,
        "cluster": text, "cells": text, "images": texts,
    }  # fmt: skip
    return pyarrow.schema(list(columns.items()))


def read_scored_rows(place: str) -> list[dict[str, Any]]:
    """The rows of a rows.parquet, or of the run folder that holds it. Raises UserError for anything else."""
    path = Path(place) / "rows.parquet" if Path(place).is_dir() else Path(place)
    if not path.is_file():
        raise UserError(
            f"{place}: no rows.parquet there; give the folder of a finished `evaluate.py benchmark=…` run, "
            "or its rows.parquet"
        )
    rows = [row for _, row in read_rows(path)]
    if missing := {"id", "sample", "right", "cluster"} - set(rows[0]):
        raise UserError(f"{path} has no column {min(missing)!r}; give the rows.parquet of a benchmark run")
    return rows


def headline_share(result: Mapping[str, Any]) -> float:
    """The share that stands for the benchmark: its metric, else its accuracy."""
    return result["metrics"].get(result["headline"], result["accuracy"])


def result_line(result: Mapping[str, Any]) -> str:
    """A result in one line: name, protocol, accuracy, counts, interval, unparsed rate, further metrics."""
    parts = [
        f"{result['benchmark']}, {result['variant']}: accuracy {format_percent(result['accuracy'])} %",
        f"{result['correct']}/{result['total']}",
        f"(95 %: {format_interval(result['interval'])})",
        f"unparsed {format_percent(result['unparsed'])} %",
    ]
    parts += [] if result["truncated"] is None else [f"truncated {format_percent(result['truncated'])} %"]
    parts += [f"{name} {format_percent(share)} %" for name, share in result["metrics"].items()]
    parts += [f"pass@{k} {format_percent(share)} %" for k, share in result.get("pass@k", {}).items()]
    return "  ".join(parts)


_HEADER = (
    "benchmark", "protocol", "judge", "score", "%", "correct", "95 % interval", "clustered error", "unparsed",
)  # fmt: skip
_NOTE = (
    "The interval and the clustered error are the accuracy's, in points; an unparsed answer is a wrong one."
)


def results_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """A table of benchmarks, then a table of sub-scores for each."""
    lines = [markdown_table(_HEADER, [_result_row(result) for result in results], rule="---"), "", _NOTE]
    for result in results:
        lines += ["", f"## {result['benchmark']}, {result['variant']}", "", _sub_scores(result)]
    return "\n".join(lines) + "\n"


def _result_row(result: Mapping[str, Any]) -> list[str]:
    error = result["clustered_error"]
    return [
        result["benchmark"],
        result["variant"],
        result["judge"] or "",
        result["headline"],
        format_percent(headline_share(result)),
        f"{result['correct']}/{result['total']}",
        format_interval(result["interval"]),
        "" if error is None else format_percent(error),
        f"{format_percent(result['unparsed'])} %",
    ]


def _sub_scores(result: Mapping[str, Any]) -> str:
    """The table of a result's sub-scores."""
    rows = [
        [
            group,
            name,
            format_percent(cell["accuracy"]),
            f"{cell['correct']}/{cell['total']}",
            format_interval(cell["interval"]),
        ]
        for group, values in result["cells"].items()
        for name, cell in values.items()
    ]
    return markdown_table(("group", "value", "%", "correct", "95 % interval"), rows, rule="---")


def format_interval(interval: Sequence[float]) -> str:
    """The two ends of an interval in percent."""
    return " to ".join(map(format_percent, interval))
