"""The finished data set: Parquet, JSONL as other trainers read it, and the difficulty of every problem."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openvlt.data.image_places import PLACE
from openvlt.data.prompts import PromptStyle
from openvlt.data.rows.schema import problem_row
from openvlt.distill.pipeline import trace_rows
from openvlt.distill.run import DistilledProblem
from openvlt.storage.atomic import atomic_write
from openvlt.storage.own_files import sign_files
from openvlt.types import Problem

ROWS_AT_ONCE = 2048
DATASET_FILES = ("traces.jsonl", "traces.parquet", "problems.parquet", "messages.jsonl", "sharegpt.jsonl")
_SHARED = {
    "id": "string",
    "question": "string",
    "answer": "string",
    "images": "list",
    "choices": "list",
    "answer_type": "string",
    "level": "int64",
    "source": "string",
    "turns": "turns",
}
_SHAREGPT = {"user": "human", "assistant": "gpt", "tool": "observation"}
TRACE = _SHARED | {"response": "string", "caption": "string"}
PROBLEM = _SHARED | {
    "samples": "int64",
    "right": "int64",
    "pass_rate": "double",
    "reward_variance": "double",
    "mean_words": "double",
    "mean_tokens": "double",
}


@dataclass
class DatasetStatistics:
    """What the card and the figure show.

    Per source: `counts` of problems and chains by stage, `outcomes` of chains, `solved` (the correct chains
    of each problem). Over all sources: `words` of each chain, of each correct one and of each kept trace.
    """

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    words: dict[str, array[int]] = field(
        default_factory=lambda: {"chains": array("I"), "right": array("I"), "kept": array("I")}
    )
    solved: dict[str, array[int]] = field(default_factory=lambda: defaultdict(lambda: array("I")))

    def add(self, distilled: DistilledProblem) -> None:
        """Counts one problem."""
        source, samples = distilled.problem.source or "data", distilled.samples
        correct = sum(sample.correct for sample in samples)
        self.counts[source].update(
            {
                "problems": 1,
                "captions": distilled.caption is not None,
                "chains": len(samples),
                "right": correct,
                "after the cut": sum(sample.cut is not None for sample in samples),
                "kept": len(distilled.kept),
                "solved": correct > 0,
                "not answered": distilled.missing,
            }
        )
        self.outcomes[source].update(sample.outcome for sample in samples)
        self.solved[source].append(correct)
        for sample in samples:
            self.words["chains"].append(len(sample.text.split()))
            if sample.correct:
                self.words["right"].append(len(sample.text.split()))
        self.words["kept"].extend(len(response.split()) for response in distilled.kept)


def difficulty(distilled: DistilledProblem) -> dict[str, float | int | None]:
    """The difficulty columns of a problem, which `data=graded` reads; None where there is no chain.

    From n chains: the pass rate p, the variance p (1 - p) of their reward, their mean length in words and
    tokens.
    """
    samples = distilled.samples
    correct, n = sum(sample.correct for sample in samples), len(samples)
    rate = correct / n if n else None
    return {
        "samples": n,
        "right": correct,
        "pass_rate": rate,
        "reward_variance": None if rate is None else rate * (1 - rate),
        "mean_words": sum(len(sample.text.split()) for sample in samples) / n if n else None,
        "mean_tokens": sum(sample.tokens for sample in samples) / n if n else None,
    }


def conversation_turns(
    row: Mapping[str, Any], problem: Problem, prompt: PromptStyle
) -> list[tuple[str, str]]:
    """(role, text) of a trace's turns, the response last; images are `<image>` marks at their places."""
    turns = [
        (turn["role"], "".join(part.get("text", PLACE) for part in turn["content"]))
        for turn in prompt.messages(problem)
    ]
    return [*turns, ("assistant", row["response"])]


def messages_row(row: Mapping[str, Any], problem: Problem, prompt: PromptStyle) -> dict[str, Any]:
    """`{messages: [{role, content}], images: [paths]}`, the OpenAI form."""
    turns = [{"role": role, "content": text} for role, text in conversation_turns(row, problem, prompt)]
    return {"id": row["id"], "messages": turns, "images": row["images"]}


def sharegpt_row(row: Mapping[str, Any], problem: Problem, prompt: PromptStyle) -> dict[str, Any]:
    """`{conversations: [{from, value}], images: [paths]}`, LLaMA-Factory's form; `system` if there is one."""
    turns = conversation_turns(row, problem, prompt)
    system = {"system": turns.pop(0)[1]} if turns[0][0] == "system" else {}
    said = [{"from": _SHAREGPT.get(role, role), "value": text} for role, text in turns]
    return {"id": row["id"], "conversations": said, "images": row["images"], **system}


def write_dataset_files(
    problems: Iterable[DistilledProblem], folder: Path, prompt: PromptStyle
) -> DatasetStatistics:
    """Writes traces.parquet, problems.parquet, messages.jsonl and sharegpt.jsonl, problem by problem.

    Returns the statistics for card and figure.
    """
    statistics = DatasetStatistics()
    conversations = {"messages.jsonl": messages_row, "sharegpt.jsonl": sharegpt_row}
    names = ("traces.parquet", "problems.parquet", *conversations)
    with ExitStack() as stack:
        # entered before anything is opened: a file takes its place after all of them are closed
        aside = {name: stack.enter_context(atomic_write(folder / name)) for name in names}
        trace_file = stack.enter_context(_ParquetFile(aside["traces.parquet"], TRACE))
        problem_file = stack.enter_context(_ParquetFile(aside["problems.parquet"], PROBLEM))
        lines = {
            name: stack.enter_context(aside[name].open("w", encoding="utf-8", newline="\n"))
            for name in conversations
        }
        for distilled in problems:
            statistics.add(distilled)
            problem_file.add(problem_row(distilled.problem, folder) | difficulty(distilled))
            for row in trace_rows(distilled, folder) if distilled.kept else ():
                trace_file.add(row | {"caption": distilled.caption})
                for name, conversation_row in conversations.items():
                    turns = conversation_row(row, distilled.problem, prompt)
                    lines[name].write(json.dumps(turns, ensure_ascii=False) + "\n")
    sign_files(*(folder / name for name in names))
    return statistics


class _ParquetFile:
    """A Parquet file that is written some rows at a time."""

    def __init__(self, file: Path, columns: Mapping[str, str]) -> None:
        import pyarrow
        from pyarrow import parquet

        turn = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
        kinds = {"list": pyarrow.list_(pyarrow.string()), "turns": pyarrow.list_(turn)}
        self.schema = pyarrow.schema(
            [(name, kinds.get(kind) or pyarrow.type_for_alias(kind)) for name, kind in columns.items()]
        )
        self.writer = parquet.ParquetWriter(file, self.schema)
        self.rows: list[Mapping[str, Any]] = []

    def __enter__(self) -> _ParquetFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._write()
        self.writer.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row; every `ROWS_AT_ONCE` rows are written."""
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


def solve_rate(statistics: DatasetStatistics) -> Iterator[tuple[str, int, float]]:
    """(source, problems, share of them with at least one correct chain), the largest source first."""
    for source, solved in sorted(statistics.solved.items(), key=lambda item: -len(item[1])):
        yield source, len(solved), sum(count > 0 for count in solved) / len(solved)


def quantiles(values: Sequence[int]) -> dict[str, float]:
    """The mean, the 10th, 50th and 90th percentile, and the largest; {} of nothing."""
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
