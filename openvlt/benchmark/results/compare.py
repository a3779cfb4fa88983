"""Two runs over the same rows: their difference, whether it could be chance, and which answers flipped."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openvlt.benchmark.results.files import format_interval, read_scored_rows
from openvlt.benchmark.results.statistics import mcnemar, paired_bootstrap
from openvlt.errors import UserError
from openvlt.storage.markdown import format_percent

MAX_FLIPS = 10  # answers of each kind that are printed
SamplesById = Mapping[
    str, Sequence[Mapping[str, Any]]
]  # problem id -> its rows of rows.parquet, one per sample


def compare_files(one: str, other: str) -> dict[str, Any]:
    """The paired comparison of two run folders (or rows.parquet), `other` minus `one`, over shared rows.

    Raises UserError when they share no row, or a shared row has another gold answer.
    """
    first, second = _group_by_id(read_scored_rows(one)), _group_by_id(read_scored_rows(other))
    shared = [name for name in first if name in second]
    if not shared:
        raise UserError(f"{one} and {other} have no row in common; compare runs of the same benchmark")
    if differ := [name for name in shared if first[name][0].get("gold") != second[name][0].get("gold")]:
        raise UserError(
            f"row {differ[0]!r} has another answer in {other} than in {one}; compare runs over the same data"
        )
    shares = {name: (_share(first[name]), _share(second[name])) for name in shared}
    result = paired_difference(
        [shares[name][0] for name in shared],
        [shares[name][1] for name in shared],
        [first[name][0]["cluster"] for name in shared],
    )
    lost = [name for name in shared if shares[name][0] > shares[name][1]]
    gained = [name for name in shared if shares[name][0] < shares[name][1]]
    return {
        "one": one,
        "other": other,
        **result,
        "only_in_one": len(first) - len(shared),
        "only_in_other": len(second) - len(shared),
        "cells": _compare_cells(first, shares),
        "gained": [_flip(first[name][0], second[name][0]) for name in gained],
        "lost": [_flip(first[name][0], second[name][0]) for name in lost],
    }


def paired_difference(
    one: Sequence[float], other: Sequence[float], clusters: Sequence[str]
) -> dict[str, Any]:
    """Accuracies, difference, the bootstrap's interval and p (by cluster), and McNemar's exact p.

    McNemar's p is None where a share isn't 0 or 1. Rows are paired by their order.
    """
    bootstrap = paired_bootstrap(one, other, clusters)
    only_one = sum(a == 1 and b == 0 for a, b in zip(one, other, strict=True))
    only_other = sum(a == 0 and b == 1 for a, b in zip(one, other, strict=True))
    whole = all(value in (0, 1) for value in (*one, *other))
    return {
        "rows": len(one),
        "accuracy": [sum(one) / len(one), sum(other) / len(other)],
        "difference": bootstrap.difference,
        "interval": list(bootstrap.interval),
        "bootstrap_p": bootstrap.p,
        "only_one_right": only_one,
        "only_other_right": only_other,
        "mcnemar_p": mcnemar(only_one, only_other) if whole else None,
    }


def _group_by_id(rows: Sequence[Mapping[str, Any]]) -> SamplesById:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["id"]].append(row)
    return found


def _share(samples: Sequence[Mapping[str, Any]]) -> float:
    """The share of correct samples."""
    return sum(row["right"] for row in samples) / len(samples)


def _flip(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose answer flipped, with both extracted answers."""
    kept = {name: one.get(name) for name in ("id", "question", "gold")}
    return {**kept, "one": one.get("extracted"), "other": other.get("extracted")}


def _compare_cells(rows: SamplesById, shares: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, Any]]:
    """Rows, and both runs' shares, per value of every sub-score."""
    sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0, 0.0, 0.0]))
    for name, (one, other) in shares.items():
        for group, value in json.loads(rows[name][0].get("cells") or "{}").items():
            for part in value if isinstance(value, list) else [value]:
                cell = sums[group][part]
                cell[0] += 1
                cell[1] += one
                cell[2] += other
    return {
        group: {part: {"rows": n, "one": a / n, "other": b / n} for part, (n, a, b) in sorted(values.items())}
        for group, values in sums.items()
    }


def describe_comparison(result: Mapping[str, Any]) -> str:
    """The comparison as text, with the first answers that flipped."""
    one, other = map(format_percent, result["accuracy"])
    p = "" if result["mcnemar_p"] is None else f"  McNemar p {result['mcnemar_p']:.3g}"
    sign = "+" if result["difference"] >= 0 else ""
    lines = [
        f"{one} % -> {other} %: {sign}{format_percent(result['difference'])} points "
        f"(95 %: {format_interval(result['interval'])})"
        f"  bootstrap p {result['bootstrap_p']:.3g}{p}  n {result['rows']}",
        f"gained {len(result['gained'])}, lost {len(result['lost'])}",
    ]
    for word, rows in (("gained", result["gained"]), ("lost", result["lost"])):
        lines += [
            f"  {word} {row['id']}: gold {row['gold']}, {row['one']} -> {row['other']}"
            for row in rows[:MAX_FLIPS]
        ]
        lines += [f"  … and {len(rows) - MAX_FLIPS} more {word}" for _ in range(len(rows) > MAX_FLIPS)]
    return "\n".join(lines)


def pair_files(one: str, other: str) -> dict[str, tuple[str, str]]:
    """The folders to compare, by name: the two themselves, or the benchmarks that two suites both have."""
    if (Path(one) / "rows.parquet").is_file() or not Path(one).is_dir():
        return {Path(one).name: (one, other)}
    names = sorted(
        file.parent.name
        for file in Path(one).glob("*/rows.parquet")
        if (Path(other) / file.parent.name / file.name).is_file()
    )
    pairs = {name: (str(Path(one) / name), str(Path(other) / name)) for name in names}
    return pairs or {Path(one).name: (one, other)}
