"""What a scored benchmark leaves: rows.parquet (every answer), results.json (numbers and provenance), results.md (a table to paste)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openvlt.benchmark.results.summary import Scored
from openvlt.errors import UserError


def write_scored_rows(
    file: Path,
    scored: Sequence[Scored],
    asked: Mapping[str, str],
    made: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """One row per answer: id, sample, prompt, gold, response, what was read, verdict, tokens; written whole or not at all."""
    import pyarrow
    from pyarrow import parquet

    rows = []
    for row in scored:
        problem = row.problem
        shared = {
            "id": problem.id,
            "question": asked.get(problem.id, problem.question),
            "gold": problem.answer,
            "choices": None if problem.choices is None else list(problem.choices),
            "cluster": problem.meta["cluster"],
            "cells": json.dumps(problem.meta["cells"], ensure_ascii=False),
            "images": [
                os.path.relpath(image, file.parent) for image in problem.images if isinstance(image, Path)
            ],
        }
        for sample, (answer, right, source) in enumerate(
            zip(row.answers, row.right, made[problem.id], strict=True)
        ):
            rows.append({
                **shared,
                "sample": sample,
                "response": source["response"],
                "extracted": answer.extracted,
                "verdict": answer.verdict.value,
                "right": right,
                "tokens": source.get("tokens"),
                "finished": source.get("finished"),
            })  # fmt: skip
    aside = file.with_name(f".{file.name}.tmp")
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_schema(pyarrow)), aside)
    os.replace(aside, file)


def _schema(pyarrow: Any) -> Any:
    text, texts, whole = pyarrow.string(), pyarrow.list_(pyarrow.string()), pyarrow.int64()
    columns = {
        "id": text, "sample": whole, "question": text, "gold": text, "choices": texts, "response": text, "extracted": text,
        "verdict": text, "right": pyarrow.bool_(), "tokens": whole, "finished": pyarrow.bool_(), "cluster": text, "cells": text,
        "images": texts,
    }  # fmt: skip
    return pyarrow.schema(list(columns.items()))


def read_scored(place: str) -> list[dict[str, Any]]:
    """The rows of a rows.parquet, or of the run folder that holds it. Raises UserError for anything else."""
    from openvlt.data.sources.files import read_rows

    path = Path(place) / "rows.parquet" if Path(place).is_dir() else Path(place)
    if not path.is_file():
        raise UserError(
            f"{place}: no rows.parquet there; give the folder of a finished `evaluate.py benchmark=…` run, or its rows.parquet"
        )
    rows = [row for _, row in read_rows(path)]
    if missing := {"id", "sample", "right", "cluster"} - set(rows[0]):
        raise UserError(f"{path} has no column {min(missing)!r}; give the rows.parquet of a benchmark run")
    return rows


def format_share(share: float) -> str:
    return f"{100 * share:.1f}"


def headline_share(result: Mapping[str, Any]) -> float:
    """The share that stands for the benchmark: its metric, else its accuracy."""
    return result["metrics"].get(result["headline"], result["accuracy"])


def result_line(result: Mapping[str, Any]) -> str:
    """One line for people: name, protocol, accuracy, counts, interval, unparsed rate, further metrics."""
    low, high = result["interval"]
    parts = [
        f"{result['benchmark']}, {result['variant']}: accuracy {format_share(result['accuracy'])} %",
        f"{result['correct']}/{result['total']}",
        f"(95 %: {format_share(low)} to {format_share(high)})",
        f"unparsed {format_share(result['unparsed'])} %",
    ]
    parts += [] if result["truncated"] is None else [f"truncated {format_share(result['truncated'])} %"]
    parts += [f"{name} {format_share(share)} %" for name, share in result["metrics"].items()]
    parts += [f"pass@{k} {format_share(share)} %" for k, share in result.get("pass@k", {}).items()]
    return "  ".join(parts)


def results_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """A table of benchmarks, then a table of sub-scores for each."""
    heads = "benchmark | protocol | judge | score | % | correct | 95 % interval | clustered error | unparsed".split(
        " | "
    )
    rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for r in results:
        error = "" if r["clustered_error"] is None else format_share(r["clustered_error"])
        low, high = r["interval"]
        cells = [
            r["benchmark"],
            r["variant"],
            r["judge"] or "",
            r["headline"],
            format_share(headline_share(r)),
            f"{r['correct']}/{r['total']}",
        ]
        rows.append(
            f"| {' | '.join([*cells, f'{format_share(low)} to {format_share(high)}', error, format_share(r['unparsed']) + ' %'])} |"
        )
    notes = [
        "",
        "The interval and the clustered error are the accuracy's, in points; an unparsed answer is a wrong one.",
    ]
    return "\n".join([*rows, *notes, *(text for result in results for text in _sub_scores(result))]) + "\n"


def _sub_scores(result: Mapping[str, Any]) -> list[str]:
    lines = ["", f"## {result['benchmark']}, {result['variant']}", ""]
    lines += ["| group | value | % | correct | 95 % interval |", "|---|---|---|---|---|"]
    for group, values in result["cells"].items():
        for name, cell in values.items():
            interval = " to ".join(map(format_share, cell["interval"]))
            lines.append(
                f"| {group} | {name} | {format_share(cell['accuracy'])} | {cell['correct']}/{cell['total']} | {interval} |"
            )
    return lines
