"""A page about a distillation, finished or under way: counts, and examples of chains for every outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from openvlt.distill.run import LEDGERS, DistilledProblem
from openvlt.errors import UserError
from openvlt.storage.jsonl import read_lines

SHOWN, WIDTH = 3, 400


def describe_run(problems: Iterable[DistilledProblem], folder: Path) -> str:
    """The whole page as text. Raises UserError if `folder` holds no distillation."""
    outcomes: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    count = solved = kept = missing = 0
    for distilled in problems:
        count, kept, missing = count + 1, kept + len(distilled.kept), missing + distilled.missing
        solved += any(sample.correct for sample in distilled.samples)
        for outcome, text in _final_outcomes(distilled):
            outcomes[outcome] += 1
            if len(examples.setdefault(outcome, [])) < SHOWN:
                problem = distilled.problem
                examples[outcome].append(f"  {problem.id}  gold {problem.answer!r}\n    {_shorten(text)}")
    if not outcomes and not missing:
        raise UserError(
            f"{folder} holds no distillation; give the folder of one: inspect=true resume=<run folder>"
        )
    rows = {stage: len(read_lines(folder / f"{stage}.jsonl")) for stage in LEDGERS}
    head = [
        f"{folder}",
        "rows      " + "  ".join(f"{stage} {number}" for stage, number in rows.items()),
        f"problems  {count}  solved {solved}  traces kept {kept}  chains still to be asked for {missing}",
        "chains    " + "  ".join(f"{outcome} {number}" for outcome, number in outcomes.most_common()),
    ]
    shown = [
        f"\n--- {outcome} ({outcomes[outcome]}) ---\n" + "\n".join(texts)
        for outcome, texts in examples.items()
    ]
    return "\n".join(head + shown)


def _final_outcomes(distilled: DistilledProblem) -> Iterable[tuple[str, str]]:
    """(outcome, text) of every chain; for a correct one the outcome is what cut and selection made of it."""
    for sample in distilled.samples:
        if not sample.correct:
            yield sample.outcome, sample.text
        elif sample.cut is None:
            yield "dropped by the cut", sample.text
        else:
            yield ("kept" if sample.cut in distilled.kept else "not selected"), sample.cut


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH // 2]} ... {line[-WIDTH // 2 :]}"
