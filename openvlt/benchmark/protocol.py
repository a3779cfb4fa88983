"""What all benchmarks have in common: cases to score, answers with a verdict, protocols, the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from typing import Protocol as Interface

from openvlt.benchmark.rows.subsets import Subset
from openvlt.data.prompts import PromptStyle
from openvlt.errors import UserError
from openvlt.types import Completion, Problem, Verdict
from openvlt.verify import extract
from openvlt.verify.completions import verify_completions


@dataclass(frozen=True)
class Answer:
    """The answer that a scorer extracted from a response, and its verdict. Only CORRECT is worth 1."""

    extracted: str | None
    verdict: Verdict

    @staticmethod
    def of(extracted: str | None, correct: bool) -> Answer:
        """CORRECT or WRONG for an extracted answer, UNPARSED for none."""
        if extracted is None:
            return Answer(None, Verdict.UNPARSED)
        return Answer(extracted, Verdict.CORRECT if correct else Verdict.WRONG)


@dataclass(frozen=True)
class Case:
    """One response to one problem. `recorded` is its row in a file of answers, recorded or generated here.

    `finished` is False for a response that was cut off at the token limit, None where that is unknown.
    """

    problem: Problem
    response: str
    recorded: Mapping[str, Any] = field(default_factory=dict)
    finished: bool | None = None


class JudgeModel(Interface):
    """A language model that answers prompts, in their order. Its `name` stands in the results."""

    @property
    def name(self) -> str: ...

    def ask(self, prompts: Sequence[str]) -> list[str]: ...


class ProtocolPrompt(Interface):
    """Gives the problem whose question is the protocol's prompt, and the style that it is rendered in."""

    def __call__(self, problem: Problem) -> Problem: ...

    def style(self, style: PromptStyle) -> PromptStyle: ...


def score_openvlt(
    cases: Sequence[Case], judge: JudgeModel | None = None, *, deadline_s: float = 5.0
) -> list[Answer]:
    """Scores with the project's own verifier, as in training: a response that was cut off has no answer."""
    completions = [Completion((), case.response, case.finished is not False) for case in cases]
    verdicts = verify_completions([case.problem for case in cases], completions, deadline_s=deadline_s)
    return [
        Answer(extract(case.response, choices=case.problem.choices) if completion.finished else None, verdict)
        for case, completion, verdict in zip(cases, completions, verdicts, strict=True)
    ]


Score = Callable[[Sequence[Case], JudgeModel | None], list[Answer]]


@dataclass(frozen=True)
class Protocol:
    """How a benchmark is asked and scored. `source` says where its strings and rules come from.

    A score that asks a judge is `judged`; without a judge its result is another variant, named "rules only".
    `needs_no_judge(case)` tells which cases such a score can do alone (None: none). `sampling` changes fields
    of the evaluation's sampling.
    """

    prompt: ProtocolPrompt
    score: Score
    source: str
    judged: bool = False
    needs_no_judge: Callable[[Case], bool] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A file of `conf/benchmark`: where the rows are, how a row becomes a problem, and the protocols by name.

    * `read(row, subset)` gives the problem of a row. Its `meta` holds `cells` (sub-score -> value or values)
      and `cluster`, the rows that belong together; `needs_image` is False for a row without an image.
    * `ids` are the columns of an answer file that name a row; `columns` are those that every source of rows
      must have.
    * `metrics` gives further shares from (problem, share of correct samples) pairs; `headlines` names, by
      protocol, the one that stands for the benchmark in tables.
    * `subset_of(row, hint)` is for subsets whose rows share their ids: it gives the subset of a row, from the
      row itself or else from the hint (a subset's label, the name of its file). A problem's id is then
      `<subset>/<id>`.
    * `row_subset(row, label)` gives the label of the subset that a row says it is of, for files that hold
      several. Rows of a subset that the benchmark hasn't are left out.

    A subset that a variant sets to null is left out.
    """

    name: str
    subsets: Mapping[str, Subset]
    read: Callable[[dict[str, Any], str], Problem]
    protocols: Mapping[str, Protocol]
    ids: tuple[str, ...]
    columns: tuple[str, ...]
    metrics: Callable[[Sequence[tuple[Problem, float]]], dict[str, Any]] | None = None
    headlines: Mapping[str, str] = field(default_factory=dict)
    subset_of: Callable[[Mapping[str, Any], str], str] | None = None
    row_subset: Callable[[Mapping[str, Any], str], str] | None = None

    def __post_init__(self) -> None:
        kept = {name: subset for name, subset in self.subsets.items() if subset is not None}
        object.__setattr__(self, "subsets", kept)

    def protocol(self, name: str) -> Protocol:
        """The protocol of that name. Raises UserError for another one."""
        if name not in self.protocols:
            raise UserError(
                f"protocol={name}: benchmark {self.name} has the protocols {', '.join(self.protocols)}; "
                "choose one of them"
            )
        return self.protocols[name]
