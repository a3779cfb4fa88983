"""The offline difficulty filter: GRPO gets problems that its starting model solves about half of the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openvlt.config.validate import check_positive
from openvlt.data.prompts import PromptStyle
from openvlt.model.load import VLM
from openvlt.rollout.base import Generator, Sampling
from openvlt.rollout.batches import generate_in_batches
from openvlt.types import Problem, Verdict
from openvlt.verify.completions import verify_completions


@dataclass(frozen=True)
class DifficultyFilter:
    """Answers each problem `sampling.n` times and keeps the `keep` whose solve rate is nearest to one half.

    A group of equal rewards has no advantage: p (1 - p), the variance of a group's rewards, is largest at one
    half. `batch` problems are answered at a time.
    """

    generator: Generator
    prompt: PromptStyle
    sampling: Sampling
    keep: int
    batch: int = 64
    deadline_s: float = 5.0

    def __post_init__(self) -> None:
        check_positive(self, "difficulty_filter", "keep", "batch", "deadline_s")

    def __call__(self, vlm: VLM, problems: Sequence[Problem], seed: int) -> list[Problem]:
        """The kept problems, in their own order; among equals the earlier ones."""
        distance = [abs(rate - 0.5) for rate in self.solve_rates(vlm, problems, seed)]
        nearest = sorted(range(len(problems)), key=distance.__getitem__)[: self.keep]
        return [problems[row] for row in sorted(nearest)]

    def solve_rates(self, vlm: VLM, problems: Sequence[Problem], seed: int) -> list[float]:
        """The share of correct completions of each problem."""
        batches = generate_in_batches(
            self.generator, vlm, problems, self.prompt, self.sampling, batch=self.batch, seed=seed
        )
        completions = [completion for _, batch in batches for completion in batch]
        n = self.sampling.n
        row_problems = [problem for problem in problems for _ in range(n)]
        verdicts = verify_completions(row_problems, completions, deadline_s=self.deadline_s)
        correct = [verdict is Verdict.CORRECT for verdict in verdicts]
        return [sum(correct[row : row + n]) / n for row in range(0, len(correct), n)]
