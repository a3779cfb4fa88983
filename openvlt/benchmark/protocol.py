"""What the six benchmarks have in common: cases to score, answers with a verdict, protocols, and the benchmark that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from typing import Protocol as Interface

from openvlt.benchmark.prompts import PromptTemplate
from openvlt.benchmark.rows.subsets import Subset
from openvlt.errors import UserError
from openvlt.types import Completion, Problem, Verdict
from openvlt.verify import extract
from openvlt.verify.completions import verify_completions


@dataclass(frozen=True)
class Answer:
    """What a scorer read out of a response, and its verdict. Everything but CORRECT is worth 0."""

    extracted: str | None
    verdict: Verdict

    @staticmethod
    def of(extracted: str | None, correct: bool) -> Answer:
        """Right or wrong for something that was read, UNPARSED for nothing."""
        if extracted is None:
            return Answer(None, Verdict.UNPARSED)
        return Answer(extracted, Verdict.CORRECT if correct else Verdict.WRONG)


@dataclass(frozen=True)
class Case:
    """One response to one problem. `recorded` is the row of a file of recorded answers, empty for answers made here.

    `finished` is False for a response that was cut off at the token limit, None where nobody knows.
    """

    problem: Problem
    response: str
    recorded: Mapping[str, Any] = field(default_factory=dict)
    finished: bool | None = None


class JudgeModel(Interface):
    """A language model that answers prompts: `name` stands in the results, answers come in the prompts' order."""

    @property
    def name(self) -> str: ...

    def ask(self, prompts: Sequence[str]) -> list[str]: ...


def score_openvlt(
    cases: Sequence[Case], judge: JudgeModel | None = None, *, deadline_s: float = 5.0
) -> list[Answer]:
    """Scores answers with the project's own verifier, as in training: a response that was cut off has no answer."""
    completions = [Completion((), case.response, case.finished is not False) for case in cases]
    verdicts = verify_completions([case.problem for case in cases], completions, deadline_s=deadline_s)
    return [
        Answer(extract(case.response, choices=case.problem.choices) if completion.finished else None, verdict)
        for case, completion, verdict in zip(cases, completions, verdicts, strict=True)
    ]


Score = Callable[[Sequence[Case], JudgeModel | None], list[Answer]]


@dataclass(frozen=True)
class Protocol:
    """How one benchmark is asked and scored. `judged`: the score asks a judge, and without one is a variant named "rules".

    `settled(case)`: the judge wouldn't be asked about this one (a recorded extraction is used); without it each case needs the judge.
    `sampling` changes fields of the evaluation's sampling; `source` says where the strings and rules come from.
    """

    prompt: PromptTemplate
    score: Score
    source: str
    judged: bool = False
    needs_no_judge: Callable[[Case], bool] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """`conf/benchmark/<name>.yaml`: where the rows are, how a row becomes a problem, and the protocols by name.

    `read(row, part)` gives the problem of a row; its `meta` holds `cells` (sub-score -> value or values) and `cluster`. `ids` are the
    columns of an answer file that name a row, `columns` those that every row source must have. `metrics` gives further shares from
    (problem, right) pairs; `headlines` names the one that stands for the benchmark in tables under each protocol. `part_of(row, said)`
    is for parts whose rows share their ids: the part of a row, by itself or by what else is said of it (its part's label, the name of
    its file); the problem's id is `<part>/<id>`. A part that a variant sets to null is left out.
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

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "subsets", {name: part for name, part in self.subsets.items() if part is not None}
        )

    def protocol(self, name: str) -> Protocol:
        """The protocol of that name. Raises UserError for another one."""
        if name not in self.protocols:
            raise UserError(
                f"protocol={name}: benchmark {self.name} has the protocols {', '.join(self.protocols)}; choose one of them"
            )
        return self.protocols[name]
