"""Who writes traces: a text reasoner that reads captions (cycle 1), or the model itself, looking at the image (later cycles)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from openvlt.data.render import PromptStyle, Renderer, question_text
from openvlt.model.load import VLM
from openvlt.rollout.generator import Generator, Sampling
from openvlt.types import Completion, Problem, UserError


@dataclass(frozen=True)
class Proposal:
    """One candidate trace and what it was written from (`caption` is empty where the writer saw the image)."""

    response: str
    caption: str = ""


class Teacher(Protocol):
    """`propose` gives `samples` candidates per problem."""

    def propose(self, vlm: VLM, problems: Sequence[Problem], samples: int, seed: int) -> list[list[Proposal]]: ...


def _generate(
    generator: Generator, vlm: VLM, prompt: PromptStyle, problems: Sequence[Problem], sampling: Sampling, seed: int
) -> list[Completion]:
    prompts = Renderer(vlm.processor, prompt).prompts(problems)
    return generator.generate(vlm, problems, prompts, sampling, seed)


@dataclass(frozen=True)
class CaptionTeacher:
    """The model describes the image; `reasoner(caption, question, rng)` sees that text and the question with its
    options, never the image."""

    generator: Generator
    prompt: PromptStyle
    reasoner: Callable[[str, str, random.Random], str]
    describe: str
    max_new_tokens: int = 512

    def propose(self, vlm: VLM, problems: Sequence[Problem], samples: int, seed: int) -> list[list[Proposal]]:
        """One greedy caption per problem, `samples` chains from it."""
        asked = [replace(problem, question=self.describe, choices=None) for problem in problems]
        sampling = Sampling(max_new_tokens=self.max_new_tokens, greedy=True)
        captions = _generate(self.generator, vlm, self.prompt, asked, sampling, seed)
        return [
            [self._chain(problem, caption.text.strip(), seed, sample) for sample in range(samples)]
            for problem, caption in zip(problems, captions, strict=True)
        ]

    def _chain(self, problem: Problem, caption: str, seed: int, sample: int) -> Proposal:
        rng = random.Random(f"{seed}|{problem.id}|{sample}")
        return Proposal(self.reasoner(caption, question_text(problem), rng), caption)


def reasoner_wanted() -> None:
    """Stands where a configuration leaves the reasoner open. Raises UserError as soon as it is built."""
    raise UserError(
        "no value for reasoner: traces from captions need a text model that reasons; give 'reasoner={_target_: "
        "<callable (caption, question, rng) -> chain>, _partial_: true}', or start from traces of your own"
    )


@dataclass(frozen=True)
class PolicyTeacher:
    """The model itself answers while it looks at the image: self-distillation from a checkpoint that RL improved."""

    generator: Generator
    prompt: PromptStyle
    max_new_tokens: int = 2048
    temperature: float = 1.0
    top_p: float = 1.0

    def propose(self, vlm: VLM, problems: Sequence[Problem], samples: int, seed: int) -> list[list[Proposal]]:
        """`samples` sampled answers per problem; one that hit the token limit is no candidate."""
        sampling = Sampling(samples, self.max_new_tokens, self.temperature, self.top_p)
        rows = _generate(self.generator, vlm, self.prompt, problems, sampling, seed)
        groups = [rows[start : start + samples] for start in range(0, len(rows), samples)]
        return [[Proposal(row.text) for row in group if row.finished] for group in groups]


@dataclass(frozen=True)
class GoldTeacher:
    """No reasoning at all: the known answer in its tags. For smoke tests on rows that nobody has written traces for."""

    def propose(self, vlm: VLM, problems: Sequence[Problem], samples: int, seed: int) -> list[list[Proposal]]:
        """One candidate per problem, whatever `samples` says: there is only one gold answer."""
        return [[Proposal(f"<think></think><answer>{problem.answer}</answer>")] for problem in problems]
