"""A run's page: one HTML file that requests nothing from outside. All text in it is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from openvlt.data.images import data_url
from openvlt.errors import UserError
from openvlt.report.figures import curves_figure, iterations_figure
from openvlt.report.records import RunRecord, StageRecord, load_run, write_report_file
from openvlt.report.table import stages_table
from openvlt.report.transcripts import (
    Pictures,
    Transcript,
    answer_transcripts,
    follow_questions,
    sample_transcripts,
    shorten,
    trace_transcripts,
)
from openvlt.storage.markdown import format_percent
from openvlt.types import Verdict

_FIRST_FACTS = ("command", "overrides", "scale", "seed", "seeds", "commit", "hardware", "versions")
_VERDICTS = tuple(verdict.value for verdict in Verdict)
_LONGEST = 100_000  # characters of one fact, such as the diff
_KINDS = {
    "base": "the model as it is",
    "distill": "distillation: traces to imitate",
    "sft": "supervised fine-tuning",
    "grpo": "reinforcement learning",
}


@dataclass(frozen=True)
class Fact:
    """One line of the header or of a list: `lines` are names with values; `long` text is folded away."""

    name: str
    value: str = ""
    lines: tuple[tuple[str, str], ...] = ()
    long: bool = False


@dataclass(frozen=True)
class Section:
    """One stage on the page."""

    stage: StageRecord
    what: str
    score: str
    verdicts: tuple[tuple[str, int, float], ...]
    counts: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]
    curves: str
    groups: tuple[tuple[str, list[Transcript]], ...]


def write_page(run_folder: str | Path) -> Path:
    """Draws the run's figures and writes RUN/report.html, also of an unfinished run.

    Raises UserError for a folder that is no run, or that can't be read or written.
    """
    run = load_run(run_folder)
    iterations = iterations_figure(run.folder)
    config, pictures = _read_config(run.folder), Pictures(run.stages)
    page = _load_template().render(
        run=run,
        headline=_make_headline(run),
        facts=list(_facts(run)),
        table=stages_table(run.stages),
        iterations=_inline_picture(iterations),
        sections=[_make_section(stage, run, config, pictures) for stage in run.stages],
        followed=follow_questions(run, pictures),
        config=_read_text(run.folder / "config.yaml"),
    )
    return write_report_file(run.folder / "report.html", page.encode())


def _load_template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    space = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return space.get_template("page.html.j2")


def _inline_picture(file: Path | None) -> str:
    return data_url(file.read_bytes()) if file else ""


# --- header -------------------------------------------------------------------------------------------------


def _make_headline(run: RunRecord) -> str:
    """The first and the last evaluated stage of the main branch in one sentence."""
    scored = [stage for stage in run.stages if stage.evaluation and not stage.control]
    if not scored:
        return "No stage has been evaluated yet."
    ends = [scored[0], *scored[1:][-1:]]
    scores = [f"{stage.label} {format_percent(stage.evaluation['accuracy'])} %" for stage in ends]
    gain = 100 * (scored[-1].evaluation["accuracy"] - scored[0].evaluation["accuracy"])
    points = f" ({gain:+.1f} points)" if len(scored) > 1 else ""
    return f"{' → '.join(scores)}{points} on {scored[-1].evaluation['n']:,} questions."


def _facts(run: RunRecord) -> Iterator[Fact]:
    """The facts in manifest.json, results.json and `overrides`: the most important first, long ones last."""
    known = {key: run.results[key] for key in ("scale", "seed") if run.results.get(key) is not None}
    overrides = [
        line.removeprefix("- ")
        for line in _read_text(run.folder / "overrides").splitlines()
        if line.strip("- []")
    ]
    if not set(overrides) <= set(run.manifest.get("command") or ()):  # else they are in the command
        known["overrides"] = " ".join(overrides)
    known |= {key: value for key, value in run.manifest.items() if key != "name"}
    ordered = [key for key in _FIRST_FACTS if key in known] + [
        key for key in known if key not in _FIRST_FACTS
    ]
    facts = [_make_fact(key, known[key]) for key in ordered if known[key] not in (None, "", [], {})]
    yield from sorted(facts, key=lambda fact: fact.long)


def _make_fact(name: str, value: Any) -> Fact:
    title = name.replace("_", " ")
    if isinstance(value, Mapping):
        return Fact(title, lines=tuple(flatten_config(value)))
    text = format_value(value)
    return Fact(title, shorten(text, _LONGEST), long=len(text) > 300 or "\n" in text)


def format_value(value: Any) -> str:
    """A setting or a count as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(format_value, value)) or "none"
    return str(value)


def flatten_config(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a nested mapping as (`dotted.name`, text)."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten_config(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", format_value(value)


# --- one stage ----------------------------------------------------------------------------------------------


def _make_section(
    stage: StageRecord, run: RunRecord, config: Mapping[str, Any], pictures: Pictures
) -> Section:
    evaluation = stage.evaluation or {}
    curves = curves_figure(stage.folder) if stage.folder else None
    return Section(
        stage,
        what=_describe_kind(stage),
        score=_describe_score(stage, run),
        verdicts=tuple(_verdicts(evaluation.get("verdicts") or stage.result.get("distillation") or {})),
        counts=tuple(_counts(stage)),
        settings=tuple(_settings(stage, config)),
        curves=_inline_picture(curves),
        groups=tuple(_transcript_groups(stage, pictures)),
    )


def _describe_kind(stage: StageRecord) -> str:
    what, start = _KINDS.get(stage.kind, stage.kind), stage.result.get("start")
    return f"{what}, from {StageRecord(start).label}" if start else what


def _transcript_groups(stage: StageRecord, pictures: Pictures) -> Iterator[tuple[str, list[Transcript]]]:
    """Titles with their transcripts, without empty ones."""
    for title, group in (
        ("Traces it kept", trace_transcripts(stage, pictures)),
        ("Answers in the evaluation", answer_transcripts(stage, pictures)),
        ("Completions sampled in training, first and last", sample_transcripts(stage, pictures)),
    ):
        if group:
            yield title, group


def _describe_score(stage: StageRecord, run: RunRecord) -> str:
    if not stage.evaluation:
        return "" if stage.done else "not finished"
    low, high = map(format_percent, stage.evaluation["interval"])
    accuracy = format_percent(stage.evaluation["accuracy"])
    text = f"{accuracy} % (95 % interval {low}–{high}, n = {stage.evaluation['n']:,})"
    start_name = stage.result.get("start")
    starts = [other for other in run.stages if other.name == start_name and other.evaluation]
    if not starts:
        return text
    start = starts[0]
    gain = 100 * (stage.evaluation["accuracy"] - start.evaluation["accuracy"])
    return f"{text}, {gain:+.1f} points against {start.label}, where it started"


def _verdicts(counts: Mapping[str, Any]) -> Iterator[tuple[str, int, float]]:
    """(verdict, count, percent of all verdicts) in the order of `Verdict`; other counts are left out."""
    there = {name: counts[name] for name in _VERDICTS if counts.get(name)}
    for name, count in there.items():
        yield name, count, 100 * count / sum(there.values())


def _counts(stage: StageRecord) -> Iterator[tuple[str, str]]:
    """What was counted: seconds, steps, lengths, and the counts of a distillation."""
    if stage.done:
        yield "seconds", f"{stage.result.get('seconds', 0.0):.1f}"
    elif steps := stage.metrics.get("step"):
        yield "steps so far", f"{steps[-1]:.0f}"
    if stage.evaluation:
        yield "mean tokens of an answer", format_value(stage.evaluation["length"])
        yield "finished answers", f"{format_percent(stage.evaluation['finished'])} %"
    for name, text in flatten_config(stage.result.get("distillation") or {}):
        if name not in _VERDICTS:
            yield name.replace("_", " "), text


def _settings(stage: StageRecord, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The stage's settings: its training record, its entry in config.yaml, and its kind's group there."""
    yield from flatten_config(stage.result.get("training") or {})
    yield from flatten_config(_config_branch(config, "iteration", "stages", stage.name))
    yield from flatten_config(_config_branch(config, stage.kind), f"{stage.kind}.")


def _config_branch(config: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """A branch of the configuration; {} where there is none."""
    branch: Any = config
    for key in path:
        branch = branch.get(key) if isinstance(branch, Mapping) else None
    return branch if isinstance(branch, Mapping) else {}


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(_read_text(folder / "config.yaml"))
    except yaml.YAMLError as error:
        raise UserError(f"{folder / 'config.yaml'} is not valid YAML ({error}); restore the file") from error
    return config if isinstance(config, dict) else {}


def _read_text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""
