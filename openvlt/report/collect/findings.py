"""The findings of a run, for the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from openvlt.report.collect.runs import RunFolder
from openvlt.report.records import StageRecord


def collect_findings(run: RunFolder) -> list[dict[str, str]]:
    """What the numbers of a run say is wrong, each with the place on the page that shows it."""
    found = []
    for stage in run.stages:
        label = run.label_of(stage)
        for link, sentence in _stage_findings(stage):
            head, _, advice = sentence.rpartition("; ")
            found.append(
                {
                    "rule": stage.name,
                    "sentence": f"{label}: {head or sentence}",
                    "advice": advice if head else "",
                    "link": link,
                }
            )
    return found


def _stage_findings(stage: StageRecord) -> Iterator[tuple[str, str]]:
    parts: tuple[tuple[str, Any], ...] = (
        ("#data", stage.result),
        ("#curves", stage.result.get("training") or {}),
        ("#answers", stage.evaluation),
    )
    for link, block in parts:
        for sentence in block.get("findings", ()):
            yield link, sentence
