"""The head of a page: state, headline, what was changed, command, versions, error, and how far a run is."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Any

from openvlt.report.collect.runs import RunFolder, flatten_config, stage_progress
from openvlt.report.records import StageRecord
from openvlt.storage.jsonl import whole_lines
from openvlt.storage.markdown import format_percent

PLACES = ("paths.", "resume=", "plan=", "inspect=", "hydra")


def collect_head(run: RunFolder) -> dict[str, Any]:
    """What the head of the page shows, as plain data."""
    manifest = run.record.manifest
    command = [str(word) for word in manifest.get("command") or ()]
    return {
        "name": run.name,
        "folder": str(run.folder),
        "kind": run.kind,
        "seed": run.record.seed,
        "state": run.state["state"],
        "since": run.state.get("since"),
        "written": time.time(),
        "headline": make_headline(run),
        "changes": list_changes(run),
        "command": shlex.join(["python", *command]) if command else "",
        "continue": _continue_command(run, command),
        "error": _describe_end(run),
        "progress": describe_progress(run),
        "facts": _collect_facts(manifest),
        "diff": str(manifest.get("diff") or "")[:100_000],
    }


def make_headline(run: RunFolder) -> str:
    """One sentence with the run's main number and its interval."""
    scored = [stage for stage in run.stages if stage.evaluation and not stage.control]
    if scored and run.kind == "evaluate":
        return "; ".join(f"{stage.name} {describe_score(stage)}" for stage in scored)
    if scored:
        last, text = scored[-1], f"{scored[-1].label}: {describe_score(scored[-1])}"
        gain = 100 * (last.evaluation["accuracy"] - scored[0].evaluation["accuracy"])
        return text + (f", {gain:+.1f} points against {scored[0].label}" if len(scored) > 1 else "")
    if run.kind == "distill" and (counts := run.stages[0].result.get("distillation")):
        return f"{counts['traces']:,} traces from {counts['problems']:,} problems"
    return "Nothing has been evaluated yet."


def describe_score(stage: StageRecord) -> str:
    """The stage's accuracy with its interval and the number of answers."""
    block = stage.evaluation
    low, high = map(format_percent, block["interval"])
    return f"{format_percent(block['accuracy'])} % (95 % interval {low} to {high}, n {block['n']:,})"


def list_changes(run: RunFolder) -> list[str]:
    """The settings that differ from the defaults: the run's overrides, without places."""
    file = run.folder / "overrides"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    stripped = (line.removeprefix("- ").strip() for line in lines)
    return [line for line in stripped if line and line != "[]" and not line.lstrip("+~").startswith(PLACES)]


def _continue_command(run: RunFolder, command: list[str]) -> str:
    if run.state["state"] == "finished" or not command:
        return ""
    return shlex.join(["python", command[0], f"resume={run.folder}"])


def _describe_end(run: RunFolder) -> dict[str, Any] | None:
    """How a failed or stopped run ended; None for others."""
    state, current = run.state, run.current
    if state["state"] not in ("failed", "stopped"):
        return None
    steps = current.metrics.get("step") if current else None
    if state["state"] == "failed":
        sentence = state.get("error", "")
    elif state.get("silent"):
        sentence = "Its process ended without a word: it was killed, or the machine was."
    else:
        sentence = "It was interrupted; nothing finished is lost."
    return {
        "sentence": sentence,
        "kind": state.get("kind", ""),
        "lines": state.get("lines", []),
        "stage": current.label if current else "",
        "step": int(steps[-1]) if steps else None,
    }


def describe_progress(run: RunFolder) -> dict[str, Any] | None:
    """The stage, the step and the seconds left of a running run, or its answers so far; None for others."""
    if run.state["state"] != "running":
        return None
    planned = _planned_stages(run)
    current = run.current
    name = current.name if current else None
    place = planned.index(name) + 1 if name in planned else len(run.stages)
    found: dict[str, Any] = {
        "stage": current.label if current else "start",
        "place": place,
        "of": len(planned),
    }
    if current is None:
        return found
    if counted := _count_lines(run):
        return found | counted
    progress, steps = stage_progress(current), current.metrics.get("step") or []
    if not progress:
        return found
    done, first = int(steps[-1]) if steps else int(progress["first"]), int(progress["first"])
    found |= {"step": done, "steps": progress["steps"]}
    elapsed = current.metrics.get("elapsed_s") or []
    if elapsed and done > first:
        per_step = (elapsed[-1] - progress["elapsed_s"]) / (done - first)
        found["left_s"] = per_step * (progress["steps"] - done)
    return found


def _count_lines(run: RunFolder) -> dict[str, Any]:
    """How many answers an evaluation or a distillation has on disk so far; {} for a training."""
    names = {"evaluate": "responses.jsonl", "distill": "reason.jsonl"}
    if run.kind not in names or run.current is None or run.current.folder is None:
        return {}
    file = run.current.folder / names[run.kind]
    return {"answers": len(whole_lines(file)) if file.is_file() else 0}


def _planned_stages(run: RunFolder) -> list[str]:
    stages = (run.config.get("iteration") or {}).get("stages") if run.kind == "train" else None
    return list(stages) if isinstance(stages, Mapping) else [stage.name for stage in run.stages]


def _collect_facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Commit, versions and hardware, one line each."""
    left_out = ("command", "diff", "name", "seed", "config_sha256")
    facts = {key: value for key, value in manifest.items() if key not in left_out and value not in (None, "")}
    facts["commit"] = (
        f"{manifest.get('commit') or 'unknown'}{' with changes' if manifest.get('diff') else ''}"
    )
    return flatten_config(facts)
