"""The finished data set: Parquet, JSONL as trainers elsewhere read it, difficulty columns of every problem, a card and a figure."""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openvlt.data.prompts import PromptStyle, question_text
from openvlt.data.sources.schema import problem_row
from openvlt.distill.pipeline import trace_rows
from openvlt.distill.run import Outcome

ROWS_AT_ONCE = 2048
_TRACE = {
    "id": "string",
    "question": "string",
    "answer": "string",
    "images": "list",
    "choices": "list",
    "answer_type": "string",
}
_TRACE |= {"level": "int64", "source": "string"}
TRACE = _TRACE | {"response": "string", "caption": "string"}
PROBLEM = _TRACE | {"samples": "int64", "right": "int64", "pass_rate": "double", "reward_variance": "double"}
PROBLEM |= {"mean_words": "double", "mean_tokens": "double"}


@dataclass
class Lengths:
    """What the card and the figure count, per source: problems and chains by stage, fates, words of chains and of kept traces."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    fates: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    words: dict[str, array[int]] = field(
        default_factory=lambda: {"chains": array("I"), "right": array("I"), "kept": array("I")}
    )
    solved: dict[str, array[int]] = field(default_factory=lambda: defaultdict(lambda: array("I")))

    def note(self, outcome: Outcome) -> None:
        """Adds one problem."""
        source, right = outcome.problem.source or "data", sum(sample.right for sample in outcome.samples)
        stages = {
            "problems": 1,
            "captions": outcome.caption is not None,
            "chains": len(outcome.samples),
            "right": right,
        }
        stages |= {
            "after the cut": sum(sample.cut is not None for sample in outcome.samples),
            "kept": len(outcome.kept),
        }
        self.counts[source].update(stages | {"solved": right > 0, "not answered": outcome.missing})
        self.fates[source].update(sample.outcome for sample in outcome.samples)
        self.solved[source].append(right)
        for sample in outcome.samples:
            self.words["chains"].append(len(sample.text.split()))
            if sample.right:
                self.words["right"].append(len(sample.text.split()))
        self.words["kept"].extend(len(response.split()) for response in outcome.kept)


def difficulty(outcome: Outcome) -> dict[str, float | int | None]:
    """The columns that selectors read: of n chains the share that is right (pass rate p), the variance p (1 - p) of their reward, and
    their mean length in words and in tokens; None where there is no chain."""
    samples = outcome.samples
    right, n = sum(sample.right for sample in samples), len(samples)
    rate = right / n if n else None
    return {
        "samples": n,
        "right": right,
        "pass_rate": rate,
        "reward_variance": None if rate is None else rate * (1 - rate),
        "mean_words": sum(len(sample.text.split()) for sample in samples) / n if n else None,
        "mean_tokens": sum(sample.tokens for sample in samples) / n if n else None,
    }


def conversation_of(row: Mapping[str, Any], outcome: Outcome, prompt: PromptStyle) -> tuple[str, str]:
    """What a trace's user and assistant say; images are `<image>` marks, in order, before the text."""
    text = question_text(outcome.problem) + (f"\n{prompt.instruction}" if prompt.instruction else "")
    return "<image>" * len(row["images"]) + text, row["response"]


def messages_row(row: Mapping[str, Any], outcome: Outcome, prompt: PromptStyle) -> dict[str, Any]:
    """`{messages: [{role, content}], images: [paths]}`, the OpenAI form."""
    user, assistant = conversation_of(row, outcome, prompt)
    said = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return {"id": row["id"], "messages": [*system, *said], "images": row["images"]}


def sharegpt_row(row: Mapping[str, Any], outcome: Outcome, prompt: PromptStyle) -> dict[str, Any]:
    """`{conversations: [{from, value}], images: [paths]}`, the form of LLaMA-Factory and others; `system` where there is one."""
    user, assistant = conversation_of(row, outcome, prompt)
    said = [{"from": "human", "value": user}, {"from": "gpt", "value": assistant}]
    return {
        "id": row["id"],
        "conversations": said,
        "images": row["images"],
        **({"system": prompt.system} if prompt.system else {}),
    }


def write_distilled(outcomes: Iterable[Outcome], folder: Path, prompt: PromptStyle) -> Lengths:
    """Writes traces.parquet, problems.parquet, messages.jsonl and sharegpt.jsonl, one problem after the other; gives what was counted."""
    lengths = Lengths()
    names = ("traces.parquet", "problems.parquet", "messages.jsonl", "sharegpt.jsonl")
    aside = {name: folder / f".{name}.tmp" for name in names}
    with ExitStack() as stack:
        traces = stack.enter_context(_Table(aside["traces.parquet"], TRACE))
        problems = stack.enter_context(_Table(aside["problems.parquet"], PROBLEM))
        lines = {
            name: stack.enter_context(aside[name].open("w", encoding="utf-8", newline="\n"))
            for name in names[2:]
        }
        for outcome in outcomes:
            lengths.note(outcome)
            problems.add(problem_row(outcome.problem, folder) | difficulty(outcome))
            for row in trace_rows(outcome, folder) if outcome.kept else ():
                traces.add(row | {"caption": outcome.caption})
                for name, form in (("messages.jsonl", messages_row), ("sharegpt.jsonl", sharegpt_row)):
                    lines[name].write(json.dumps(form(row, outcome, prompt), ensure_ascii=False) + "\n")
    for name in names:
        os.replace(aside[name], folder / name)
    return lengths


class _Table:
    """A Parquet file that is written some rows at a time."""

    def __init__(self, file: Path, columns: Mapping[str, str]) -> None:
        import pyarrow
        from pyarrow import parquet

        kinds = {"list": pyarrow.list_(pyarrow.string())}
        self.schema = pyarrow.schema(
            [(name, kinds.get(kind) or pyarrow.type_for_alias(kind)) for name, kind in columns.items()]
        )
        self.writer, self.rows = parquet.ParquetWriter(file, self.schema), []

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *error: object) -> None:
        self._write()
        self.writer.close()

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)
        if len(self.rows) >= ROWS_AT_ONCE:
            self._write()

    def _write(self) -> None:
        import pyarrow

        columns = [
            pyarrow.array([row.get(field.name) for row in self.rows], field.type) for field in self.schema
        ]
        self.writer.write_table(pyarrow.table(columns, schema=self.schema))
        self.rows = []


def solve_rate(lengths: Lengths) -> Iterator[tuple[str, int, float]]:
    """(source, problems, share of them with at least one right chain), the largest source first."""
    for source, solved in sorted(lengths.solved.items(), key=lambda item: -len(item[1])):
        yield source, len(solved), sum(count > 0 for count in solved) / len(solved)


def quantiles(values: Sequence[int]) -> dict[str, float]:
    """Mean and the 10th, 50th and 90th percentile, and the largest; {} of nothing."""
    import numpy as np

    if not len(values):
        return {}
    low, middle, high = (float(each) for each in np.percentile(values, (10, 50, 90)))
    return {
        "mean": float(np.mean(values)),
        "p10": low,
        "median": middle,
        "p90": high,
        "longest": float(np.max(values)),
    }
