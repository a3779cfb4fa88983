"""One place to look at a distillation, finished or on its way: counts, kept traces, and the rejected ones with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from openvlt.distill.run import LEDGERS, Outcome
from openvlt.errors import UserError
from openvlt.storage.jsonl import read_lines

SHOWN, WIDTH = 3, 400


def describe_run(outcomes: Iterable[Outcome], folder: Path) -> str:
    """The whole page as text."""
    fates: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    problems = solved = kept = missing = 0
    for outcome in outcomes:
        problems, kept, missing = problems + 1, kept + len(outcome.kept), missing + outcome.missing
        solved += any(sample.right for sample in outcome.samples)
        for fate, text in _fates(outcome):
            fates[fate] += 1
            if len(examples.setdefault(fate, [])) < SHOWN:
                examples[fate].append(
                    f"  {outcome.problem.id}  gold {outcome.problem.answer!r}\n    {_short(text)}"
                )
    if not fates and not missing:
        raise UserError(
            f"{folder} holds no distillation; give the folder of one: inspect=true resume=<run folder>"
        )
    head = [
        f"{folder}",
        "filed     " + "  ".join(f"{stage} {_rows(folder / f'{stage}.jsonl')}" for stage in LEDGERS),
        f"problems  {problems}  solved {solved}  traces kept {kept}  chains still to be asked for {missing}",
        "chains    " + "  ".join(f"{fate} {number}" for fate, number in fates.most_common()),
    ]
    shown = [f"\n--- {fate} ({fates[fate]}) ---\n" + "\n".join(texts) for fate, texts in examples.items()]
    return "\n".join(head + shown)


def _fates(outcome: Outcome) -> Iterable[tuple[str, str]]:
    """(kept, not selected, dropped by the cut, or why it is no candidate; the text) of every chain."""
    for sample in outcome.samples:
        if not sample.right:
            yield sample.outcome, sample.text
        elif sample.cut is None:
            yield "dropped by the cut", sample.text
        else:
            yield ("kept" if sample.cut in outcome.kept else "not selected"), sample.cut


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH // 2]} ... {line[-WIDTH // 2 :]}"


def _rows(file: Path) -> int:
    return len(read_lines(file))
