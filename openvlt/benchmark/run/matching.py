"""Finds the benchmark's row that each recorded response belongs to; no answer is judged here."""

from __future__ import annotations

from collections.abc import Sequence

from openvlt.benchmark.protocol import Benchmark
from openvlt.benchmark.rows.loading import LoadedRows
from openvlt.benchmark.rows.responses import RecordedAnswer
from openvlt.errors import UserError

AnswersById = dict[str, list[RecordedAnswer]]


def match_responses(
    benchmark: Benchmark, loaded: LoadedRows, file: str, recorded: Sequence[RecordedAnswer]
) -> tuple[AnswersById, list[str]]:
    """Problem id -> its recorded answers by sample, and the ids that belong to no row.

    There may be as many such ids as rows that can't be used or are left out. Raises UserError for more, or
    when rows have different numbers of answers.
    """
    known = {problem.id for problem in loaded.problems}
    found: AnswersById = {}
    for answer in recorded:
        found.setdefault(answer.id, []).append(answer)
    unmatched_ids = [name for name in found if name not in known]
    unknown = [name for name in unmatched_ids if name not in loaded.left_out]
    if len(unknown) > len(loaded.skipped) or len(unmatched_ids) == len(found):
        raise UserError(
            f"responses={file}: id {(unknown or unmatched_ids)[0]!r} and {len(unmatched_ids) - 1} more of "
            f"{len(found)} are no rows of {loaded.where}; give answers to {benchmark.name}, or its rows "
            "with data_dir=<folder>"
        )
    matched = {
        name: sorted(answers, key=lambda answer: answer.sample)
        for name, answers in found.items()
        if name in known
    }
    counts = {len(answers) for answers in matched.values()}
    if len(counts) > 1:
        raise UserError(
            f"responses={file}: rows have {min(counts)} to {max(counts)} samples; give every row as many"
        )
    return matched, unmatched_ids
