"""Reward terms of other papers: `(rollouts, services) -> (N,)`, NaN where a term does not apply."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from openvlt.data.image_places import hide_images
from openvlt.data.images import open_images
from openvlt.errors import UserError
from openvlt.reward.services import Services
from openvlt.types import Completion, Problem, ScoredRollouts, Verdict
from openvlt.verify.completions import verify_completions

_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_INFO = re.compile(r"<info>(.*?)</info>", re.DOTALL)


@dataclass(frozen=True)
class Overlong:
    """DAPO's soft overlong punishment: 0 until `share` of the `limit` is left, then falling to -1 at `limit`.

    arXiv 2503.14476, eq. 13.
    """

    limit: int
    share: float = 0.2

    def __post_init__(self) -> None:
        # a schedule's values are checked when their step comes
        if isinstance(self.share, (int, float)) and not 0 < self.share <= 1:
            raise UserError(
                f"overlong: share={self.share} of the token limit is punished; it is above 0 and at most 1"
            )

    def __call__(self, rollouts: ScoredRollouts, services: Services) -> Tensor:
        over_N = rollouts.mask_NT.sum(1) - self.limit * (1 - self.share)
        return -(over_N / (self.limit * self.share)).clamp(0, 1).float()


@dataclass(frozen=True)
class CaptionSuffices:
    """Visionary-R1's caption reward: 1 if `model` answers correctly from the <info> text, without the image.

    `model` is policy or reference. 0 where nothing stands in <info>.
    """

    model: str = "policy"
    request: str = "{caption}\n{question}"

    def __call__(self, rollouts: ScoredRollouts, services: Services) -> Tensor:
        matches = [_INFO.search(completion.text) for completion in rollouts.completions]
        captions = [match.group(1).strip() if match else "" for match in matches]
        rows = [row for row, caption in enumerate(captions) if caption]
        problems = rollouts.row_problems
        asked = [_replace_images(problems[row], self.request, captions[row]) for row in rows]
        responses = services.generate(asked, self.model) if asked else []
        verdicts = verify_completions(asked, [Completion((), response, True) for response in responses])
        reward_N = torch.zeros(len(captions))
        reward_N[rows] = torch.tensor([float(verdict is Verdict.CORRECT) for verdict in verdicts])
        return reward_N


def _replace_images(problem: Problem, request: str, caption: str) -> Problem:
    """The problem with a caption in place of its images."""
    hidden = hide_images(problem)
    return replace(hidden, question=request.format(caption=caption, question=hidden.question))


@dataclass(frozen=True)
class AnnotationsCovered:
    """Perception-R1's visual reward: the share of a problem's annotations that the judge finds in the chain.

    Annotations are in `meta["annotations"]`; NaN where a problem has none. The judge is asked to say yes or
    no; anything else raises UserError.
    """

    request: str = "Does this text say or imply that {annotation}? Answer yes or no.\n\n{thought}"

    def __call__(self, rollouts: ScoredRollouts, services: Services) -> Tensor:
        asked: list[list[str]] = []
        for completion, problem in zip(rollouts.completions, rollouts.row_problems, strict=True):
            thought = _THOUGHT.search(completion.text)
            text = thought.group(1).strip() if thought else completion.text
            facts: Sequence[str] = problem.meta.get("annotations", ())
            asked.append([self.request.format(annotation=fact, thought=text) for fact in facts])
        replies = iter(services.ask([request for row in asked for request in row]))
        found = [[is_yes(next(replies)) for _ in row] for row in asked]
        return torch.tensor([sum(row) / len(row) if row else float("nan") for row in found])


def is_yes(reply: str) -> bool:
    """Whether a judge's reply is yes. Raises UserError when it is neither yes nor no."""
    word = re.match(r"[\W_]*(yes|no)(?![^\W_])", reply, re.IGNORECASE)
    if word is None:
        raise UserError(
            f"the judge was asked for yes or no and said {reply[:60]!r}; use another judge or another request"
        )
    return word.group(1).lower() == "yes"


@dataclass(frozen=True)
class ThoughtMatchesImage:
    """VideoRFT's semantic reward: min(1, 2 max(0, cos(image, chain of thought))).

    The mean over the problem's images; NaN without an image.
    """

    def __call__(self, rollouts: ScoredRollouts, services: Services) -> Tensor:
        images, texts, owners = [], [], []
        rows = zip(rollouts.completions, rollouts.row_problems, strict=True)
        for row, (completion, problem) in enumerate(rows):
            thought = _THOUGHT.search(completion.text)
            for image in open_images(problem):
                images.append(image)
                texts.append(thought.group(1) if thought else completion.text)
                owners.append(row)
        if not images:
            return torch.full((len(rollouts.completions),), torch.nan)
        value = (2 * services.embed(images, texts).clamp(min=0)).clamp(max=1).float()
        owner, count = torch.tensor(owners), len(rollouts.completions)
        return torch.zeros(count).index_add(0, owner, value) / torch.bincount(owner, minlength=count)
