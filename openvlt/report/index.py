"""`write_index` writes RUNS/index.html: every run, and two of them compared in the page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openvlt.errors import UserError
from openvlt.report.collect.answers import read_answers
from openvlt.report.collect.curves import collect_curves, column_sentences
from openvlt.report.collect.head import list_changes, make_headline
from openvlt.report.collect.runs import RunFolder, find_runs, flatten_config, last_write, read_run
from openvlt.report.page.build import INDEX_SCRIPTS, build_page
from openvlt.report.records import finite_values, mean_ends, write_report_file
from openvlt.report.write import REPORT
from openvlt.types import Verdict

INDEX = "index.html"
CACHE = ".index.json"  # what the index holds of each run, with the time of the run's last write
MOST_RUNS = 500
INDEX_POINTS = 400  # of a curve
_FORM = 1  # of the cache's entries


def write_index(runs: str | Path) -> Path:
    """Writes RUNS/index.html with the newest `MOST_RUNS` runs; returns its path.

    What hasn't changed since the last time is taken from RUNS/.index.json. Raises UserError when there is no
    such folder, or it can't be written.
    """
    runs = Path(runs)
    if not runs.is_dir():
        raise UserError(f"{runs}: no such folder; give the folder of all runs (paths.runs)")
    folders = sorted(find_runs(runs), key=lambda folder: folder.name)[-MOST_RUNS:]
    cached, entries = _read_cache(runs / CACHE), {}
    for folder in folders:
        name, changed = folder.relative_to(runs).as_posix(), last_write(folder)
        entry = cached.get(name)
        if entry is None or entry["changed"] != changed or entry["state"] == "running":
            entry = _describe_run(folder, runs) | {"changed": changed}
        entries[name] = entry
    write_report_file(runs / CACHE, json.dumps({"form": _FORM, "runs": entries}).encode())
    data = _share_questions(list(reversed(entries.values()))) | {"columns": column_sentences()}
    return write_report_file(
        runs / INDEX, build_page("runs – openvlt", INDEX_SCRIPTS, {"data": data}).encode()
    )


def _read_cache(file: Path) -> Mapping[str, Any]:
    """The cached entries; none where the file is missing, damaged or of another version."""
    try:
        cache = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cache["runs"] if isinstance(cache, dict) and cache.get("form") == _FORM else {}


def _describe_run(folder: Path, runs: Path) -> dict[str, Any]:
    """What the index shows of a run; of one that can't be read, the reason."""
    place = {"folder": folder.relative_to(runs).as_posix()}
    try:
        run = read_run(folder)
        return place | _summarise_run(run)
    except UserError as error:
        blank = {"seed": None, "changes": [], "score": None, "reward": None, "seconds": None, "since": None}
        more = {"curves": [], "config": {}, "problems": [], "answers": {}, "page": False}
        return (
            place
            | blank
            | more
            | {"name": folder.parent.name, "kind": "", "state": "failed", "headline": str(error)}
        )


def _summarise_run(run: RunFolder) -> dict[str, Any]:
    scored = [stage.evaluation for stage in run.stages if stage.evaluation and not stage.control]
    rewards = [ends[1] for stage in run.stages if (ends := mean_ends(stage.metrics.get("reward", ())))]
    best = max(scored, key=lambda block: block["accuracy"], default=None)
    problems, answers = _list_answers(run)
    return {
        "name": run.name,
        "kind": run.kind,
        "state": run.state["state"],
        "since": run.state.get("since"),
        "seed": run.record.seed,
        "changes": list_changes(run),
        "headline": make_headline(run),
        "score": best and [best["accuracy"], *best["interval"]],
        "reward": rewards[-1] if rewards else None,
        "seconds": sum(finite_values(stage.result.get("seconds") or 0.0 for stage in run.stages)),
        "page": (run.folder / REPORT).is_file(),
        "curves": collect_curves(run, INDEX_POINTS),
        "config": dict(flatten_config(run.config)),
        "problems": problems,
        "answers": answers,
    }


def _list_answers(run: RunFolder) -> tuple[list[list[str]], dict[str, str]]:
    """The evaluated problems, and for each stage a character each: 1 right, 0 not, - not asked."""
    problems: dict[str, list[str]] = {}
    right: dict[str, dict[str, bool]] = {}
    for stage in run.stages if run.kind != "distill" else ():
        of_stage = right.setdefault(stage.name, {})
        for row in read_answers(stage, run.kind):
            said = [str(row["id"]), str(row["question"])[:300], str(row["gold"])[:100]]
            key = hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]
            problems[key] = [key, *said]
            of_stage[key] = bool(row.get("right", row.get("verdict") == Verdict.CORRECT.value))
    marks = {True: "1", False: "0", None: "-"}
    return list(problems.values()), {
        name: "".join(marks[found.get(key)] for key in problems) for name, found in right.items() if found
    }


def _share_questions(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs, with the problems that several of them evaluated written once."""
    numbers: dict[str, int] = {}
    questions: list[list[str]] = []
    runs = []
    for entry in entries:
        for key, *said in entry["problems"]:
            if key not in numbers:
                numbers[key] = len(questions)
                questions.append(said)
        runs.append(entry | {"problems": [numbers[key] for key, *_ in entry["problems"]]})
    return {"runs": runs, "questions": questions}
