"""`write_report` writes a run's page, RUN/report.html, whatever the run's kind and state."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from openvlt.report.collect.answers import collect_answers
from openvlt.report.collect.cost import collect_cost
from openvlt.report.collect.curves import collect_curves, column_sentences
from openvlt.report.collect.findings import collect_findings
from openvlt.report.collect.head import collect_head
from openvlt.report.collect.pictures import BUDGET, PictureShelf, describe_sizes
from openvlt.report.collect.rollouts import collect_rollouts
from openvlt.report.collect.runs import RunFolder, read_run
from openvlt.report.page.build import REPORT_SCRIPTS, build_page
from openvlt.report.records import write_report_file
from openvlt.report.table import stages_table

REPORT = "report.html"


def write_report(folder: str | Path, *, budget: int = BUDGET) -> Path:
    """Writes RUN/report.html of a run of any kind, finished or not; returns its path.

    Pictures over `budget` bytes go to RUN/report_files. Raises UserError for a folder that is no run, or that
    can't be read or written.
    """
    run = read_run(folder)
    data, shelf = collect_page(run)
    shown = shelf.encode(run.folder, budget)
    data |= {"outside": shown["outside"], "picture_folder": shown["folder"]}
    data["cost"]["pictures"] = describe_sizes(shown["items"])
    blocks = {"data": data, "pictures": shown}
    page = build_page(f"{run.name} – openvlt", REPORT_SCRIPTS, blocks)
    return write_report_file(run.folder / REPORT, page.encode())


def collect_page(run: RunFolder) -> tuple[dict[str, Any], PictureShelf]:
    """Everything that a run's page shows, as plain data, and the pictures that it refers to by number."""
    shelf = PictureShelf()
    config = run.folder / "config.yaml"
    data = {
        "head": collect_head(run),
        "findings": collect_findings(run),
        "table": asdict(stages_table(run.stages)) if run.kind == "train" else _empty_table(),
        "scores": _list_scores(run),
        "curves": collect_curves(run),
        "columns": column_sentences(),
        "rollouts": collect_rollouts(run, shelf),
        "answers": collect_answers(run, shelf),
        "cost": collect_cost(run),
        "config": config.read_text(encoding="utf-8") if config.is_file() else "",
    }
    return data, shelf


def _empty_table() -> dict[str, Any]:
    return {"header": [], "rows": [], "control": [], "note": ""}


def _list_scores(run: RunFolder) -> list[dict[str, Any]]:
    """The accuracy of every evaluated stage, with its interval, for the figure."""
    scored = [stage for stage in run.stages if stage.evaluation]
    return [
        {
            "label": run.label_of(stage),
            "control": stage.control,
            "accuracy": stage.evaluation["accuracy"],
            "low": stage.evaluation["interval"][0],
            "high": stage.evaluation["interval"][1],
        }
        for stage in scored
    ]
