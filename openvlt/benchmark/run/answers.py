"""Asking a model every question of a benchmark, resumable to the row: answers are filed batch by batch, in the rows' order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openvlt.benchmark.prompts import InterleavedStyle
from openvlt.data.prompts import PromptStyle
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.rollout.base import Generator, Sampling
from openvlt.rollout.batches import generate_in_batches
from openvlt.storage.jsonl import append_lines, read_lines
from openvlt.types import Problem


@dataclass(frozen=True)
class AnswerGenerator:
    """How answers are made: the generator, how it decodes, `batch` problems at a time, the seed of its draws."""

    generator: Generator
    sampling: Sampling
    batch: int
    seed: int
    max_tokens: int

    def answers(
        self, vlm: VLM, problems: Sequence[Problem], style: PromptStyle, file: Path, what: str
    ) -> list[dict[str, Any]]:
        """`sampling.n` rows (id, sample, response, tokens, finished) per problem; those that `file` holds are not made again.

        Batches are cut at the same places whenever a run starts, so a resumed run computes what an uninterrupted one does.
        Raises UserError when the file holds answers to other rows.
        """
        done, n = read_lines(file), self.sampling.n
        if [row["id"] for row in done] != [problem.id for problem in problems for _ in range(n)][: len(done)]:
            raise UserError(f"{file} holds answers to other rows; remove it, or start a new run")
        if done:
            print(
                f"{what}: {len(done)} of {n * len(problems)} answers are there, going on from row {len(done) // n + 1}",
                flush=True,
            )
        first = len(done) // (n * self.batch) * self.batch
        for batch, completions in generate_in_batches(
            self.generator,
            vlm,
            problems[first:],
            replace(style, max_tokens=self.max_tokens),
            self.sampling,
            batch=self.batch,
            seed=self.seed,
        ):
            rows = [
                {
                    "id": batch[i // n].id,
                    "sample": i % n,
                    "response": completion.text,
                    "tokens": len(completion.token_ids),
                    "finished": completion.finished,
                }
                for i, completion in enumerate(completions)
            ]
            fresh = rows[max(0, len(done) - first * n) :]
            append_lines(file, fresh)
            done += fresh
            first += len(batch)
            print(f"{what}: {first} of {len(problems)} rows", flush=True)
        return done


def style_for(marks: str | None, style: PromptStyle) -> PromptStyle:
    """The style of a protocol's prompts: the words are in the question already, images at their marks if it has any."""
    plain = {"system": "", "instruction": "", "max_tokens": style.max_tokens}
    return PromptStyle(**plain) if marks is None else InterleavedStyle(**plain, marks=marks)


def prompt_hash(problems: Sequence[Problem]) -> str:
    """One hash of all ids and prompts: two runs with the same one asked the same questions in the same words."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(
            f"{problem.id}\0{problem.question}\0{problem.choices}\0{len(problem.images)}\n".encode()
        )
    return digest.hexdigest()[:16]
