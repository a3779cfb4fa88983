"""Asks a model every question of a benchmark. Answers are filed batch by batch, so a run can be resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openvlt import distributed
from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.data.row_check import RowCheck, require_usable
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.rollout.base import Generator, Sampling
from openvlt.rollout.batches import generate_in_batches
from openvlt.storage.jsonl import append_lines, read_lines
from openvlt.types import Completion, Problem

AnswerRow = dict[str, Any]


@dataclass(frozen=True)
class AnswerGenerator:
    """How answers are generated: the generator, its decoding and seed, `batch` problems at a time.

    `max_tokens` is the longest prompt; `decode_check` has pictures decoded before the first question.
    """

    generator: Generator
    sampling: Sampling
    batch: int
    seed: int
    max_tokens: int
    decode_check: bool = True

    def generate(
        self, vlm: VLM, problems: Sequence[Problem], style: PromptStyle, file: Path, title: str
    ) -> list[AnswerRow]:
        """`sampling.n` rows (id, sample, response, tokens, finished) per problem, kept in `file`.

        What `file` holds already isn't generated again. Batches are cut at the same places whenever a run
        starts, so a resumed run computes what an uninterrupted one does. `title` begins the lines of
        progress. Raises UserError when the file holds answers to other rows, and BadRows, before the first
        question, for rows that the model can't be shown.
        """
        rows, n = distributed.broadcast(read_lines(file) if distributed.is_main() else []), self.sampling.n
        if [row["id"] for row in rows] != [problem.id for problem in problems for _ in range(n)][: len(rows)]:
            raise UserError(f"{file} holds answers to other rows; remove it, or start a new run")
        if rows:
            print(
                f"{title}: {len(rows)} of {n * len(problems)} answers are there, "
                f"going on from row {len(rows) // n + 1}",
                flush=True,
            )
        start = len(rows) // (n * self.batch) * self.batch
        style = replace(style, max_tokens=self.max_tokens)
        renderer = Renderer(vlm.processor, style)
        require_usable(RowCheck([renderer], self.decode_check), problems[start:])
        batches = generate_in_batches(
            self.generator,
            vlm,
            problems[start:],
            style,
            self.sampling,
            batch=self.batch,
            seed=self.seed,
        )
        for batch, completions in batches:
            fresh = _answer_rows(batch, completions, n)[len(rows) - start * n :]
            append_lines(file, fresh)
            rows += fresh
            start += len(batch)
            print(f"{title}: {start} of {len(problems)} rows", flush=True)
        return rows


def _answer_rows(
    problems: Sequence[Problem], completions: Sequence[Completion], samples: int
) -> list[AnswerRow]:
    return [
        {
            "id": problems[row // samples].id,
            "sample": row % samples,
            "response": completion.text,
            "tokens": len(completion.token_ids),
            "finished": completion.finished,
        }
        for row, completion in enumerate(completions)
    ]


def prompt_hash(problems: Sequence[Problem]) -> str:
    """A hash of all ids and prompts: equal for two runs that asked the same questions in the same words."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(
            f"{problem.id}\0{problem.question}\0{problem.choices}\0{len(problem.images)}\n".encode()
        )
    return digest.hexdigest()[:16]
