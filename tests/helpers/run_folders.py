"""Pieces of run folders, written by hand: numbers that can be checked on paper."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def evaluation(correct: int, n: int = 100, interval: Sequence[float] = (0.1, 0.9)) -> dict[str, Any]:
    """An evaluation block; the interval is whatever it is given, so that a reader that computes its own is found out."""
    level = {"accuracy": correct / n / 2, "correct": correct // 2, "n": n, "interval": list(interval)}
    return {
        "accuracy": correct / n,
        "correct": correct,
        "n": n,
        "interval": list(interval),
        "verdicts": {"correct": correct, "wrong": n - correct},
        "length": 12.34,
        "finished": 0.5,
        "levels": {"1": level},
    }


def result(name: str, kind: str, block: Mapping[str, Any] | None, start: str | None = None) -> dict[str, Any]:
    """A stage's results.json, of 10 seconds."""
    return {
        "stage": name,
        "kind": kind,
        "start": start,
        "seconds": 10.0,
        "evaluation": block,
        "training": None,
    }


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def answer(name: str, verdict: str, **more: Any) -> dict[str, Any]:
    """One line of rows.jsonl."""
    row = {"id": name, "level": 1, "question": f"question {name}", "gold": "5", "response": f"said of {name}"}
    return row | {"verdict": verdict, "tokens": 7, "finished": True} | more
