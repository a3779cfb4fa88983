"""More reward terms: `(rollouts, services) -> (N,)`, NaN where a term does not apply. Each is one published idea."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from openvlt.data.images import open_images
from openvlt.errors import UserError
from openvlt.types import Completion, Problem, Rollouts, Verdict
from openvlt.verify.completions import verify_completions

_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_INFO = re.compile(r"<info>(.*?)</info>", re.DOTALL)


@dataclass(frozen=True)
class Overlong:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13): 0 until `share` of the `limit` is left, then falling to -1 at `limit`."""

    limit: int
    share: float = 0.2

    def __post_init__(self) -> None:
        if (
            isinstance(self.share, (int, float)) and not 0 < self.share <= 1
        ):  # a schedule's values are checked when they come up
            raise UserError(
                f"overlong: share={self.share} of the token limit is punished; it is above 0 and at most 1"
            )

    def __call__(self, rollouts: Rollouts, services: Any = None) -> Tensor:
        over_N = rollouts.mask_NT.sum(1) - self.limit * (1 - self.share)
        return -(over_N / (self.limit * self.share)).clamp(0, 1).float()


@dataclass(frozen=True)
class Format:
    """1 where the whole response is <think>...</think> then <answer>...</answer>, else 0."""

    def __call__(self, rollouts: Rollouts, services: Any = None) -> Tensor:
        whole = re.compile(r"\s*<think>.*?</think>.*?<answer>.*?</answer>\s*", re.DOTALL)
        return torch.tensor(
            [float(bool(whole.fullmatch(completion.text))) for completion in rollouts.completions]
        )


@dataclass(frozen=True)
class CaptionSuffices:
    """Visionary-R1's caption reward: 1 if the policy, given only the <info> text and not the image, answers the question correctly.

    0 where nothing stands in <info>.
    """

    model: str = "policy"
    request: str = "{caption}\n{question}"

    def __call__(self, rollouts: Rollouts, services: Any = None) -> Tensor:
        found = [_INFO.search(completion.text) for completion in rollouts.completions]
        rows = [row for row, match in enumerate(found) if match and match.group(1).strip()]
        problems = [rollouts.problems[group] for group in rollouts.group_N.tolist()]
        asked = [_blind(problems[row], self.request, found[row].group(1).strip()) for row in rows]
        answers = services.generate(asked, self.model) if asked else []
        verdicts = verify_completions(asked, [Completion((), answer, True) for answer in answers])
        reward_N = torch.zeros(len(found))
        reward_N[rows] = torch.tensor([float(verdict is Verdict.CORRECT) for verdict in verdicts])
        return reward_N


def _blind(problem: Problem, request: str, caption: str) -> Problem:
    return replace(problem, images=(), question=request.format(caption=caption, question=problem.question))


@dataclass(frozen=True)
class AnnotationsCovered:
    """Perception-R1's visual reward: the share of a problem's annotations (`meta["annotations"]`) that the judge finds in the thought.

    NaN where a problem has none. The judge is asked to say yes or no; anything else stops the run.
    """

    request: str = "Does this text say or imply that {annotation}? Answer yes or no.\n\n{thought}"

    def __call__(self, rollouts: Rollouts, services: Any = None) -> Tensor:
        asked: list[list[str]] = []
        for completion, group in zip(rollouts.completions, rollouts.group_N.tolist(), strict=True):
            thought = _THOUGHT.search(completion.text)
            text = thought.group(1).strip() if thought else completion.text
            facts: Sequence[str] = rollouts.problems[group].meta.get("annotations", ())
            asked.append([self.request.format(annotation=fact, thought=text) for fact in facts])
        replies = iter(services.ask([request for row in asked for request in row]))
        shares = [[_yes(next(replies)) for _ in row] for row in asked]
        return torch.tensor([sum(row) / len(row) if row else float("nan") for row in shares])


def _yes(reply: str) -> bool:
    word = re.match(r"[\W_]*(yes|no)(?![^\W_])", reply, re.IGNORECASE)
    if word is None:
        raise UserError(
            f"the judge was asked for yes or no and said {reply[:60]!r}; use another judge or another request"
        )
    return word.group(1).lower() == "yes"


@dataclass(frozen=True)
class ThoughtMatchesImage:
    """VideoRFT's semantic reward: min(1, 2 max(0, cos(image, thought))), the mean over the problem's images; NaN without an image."""

    def __call__(self, rollouts: Rollouts, services: Any = None) -> Tensor:
        images, texts, owners = [], [], []
        for row, (completion, group) in enumerate(
            zip(rollouts.completions, rollouts.group_N.tolist(), strict=True)
        ):
            thought = _THOUGHT.search(completion.text)
            for image in open_images(rollouts.problems[group]):
                images.append(image)
                texts.append(thought.group(1) if thought else completion.text)
                owners.append(row)
        if not images:
            return torch.full((len(rollouts.completions),), torch.nan)
        value = (2 * services.embed(images, texts).clamp(min=0)).clamp(max=1).float()
        owner, rows = torch.tensor(owners), len(rollouts.completions)
        return torch.zeros(rows).index_add(0, owner, value) / torch.bincount(owner, minlength=rows)
