"""What `distill.py` does: estimate the cost, show a run, or distil and write the data set."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from openvlt import distributed
from openvlt.config.build import build
from openvlt.data.sources.base import Source
from openvlt.distill.card import draw_lengths, render_card
from openvlt.distill.cost import describe_cost
from openvlt.distill.dataset import DATASET_FILES, write_dataset_files
from openvlt.distill.inspect import describe_run
from openvlt.distill.pipeline import run_distillation
from openvlt.distill.run import LEDGERS, DistillationRun
from openvlt.distill.settings import Distillation
from openvlt.distill.writers.local import LocalWriter
from openvlt.errors import UserError
from openvlt.findings import distillation_findings
from openvlt.iteration.context import make_context
from openvlt.model.load import VLM
from openvlt.report.keep import keep_report
from openvlt.runs.model_card import source_licences
from openvlt.runs.session import announce_run, data_title, open_run, start_run
from openvlt.storage.atomic import atomic_write, read_json_file, write_json, write_text
from openvlt.storage.jsonl import whole_lines
from openvlt.storage.ledger import Ledger
from openvlt.types import Problem


def distill(config: DictConfig) -> None:
    """Runs the command that the config asks for: `plan`, `inspect`, or a distillation."""
    plan, inspect, resumed = config.plan, config.inspect, config.resume is not None
    if inspect and not resumed:
        raise UserError("inspect=true looks at a run; say which: resume=latest, or resume=<run folder>")
    if plan and not resumed:
        print(estimate_cost(config))
        return
    config, folder = open_run(config)
    if plan:
        print(estimate_cost(config))
        return
    # built before anything is written: a key given as a setting stays out of the run's folder
    distillation = build(config.distill, "distill")
    if inspect:
        problems, vlm, _ = _load_inputs(config, distillation, folder, read_only=True)
        print(inspect_run(distillation, vlm, problems, folder, config.seed))
        return
    if is_complete(folder):
        print(f"finished before: nothing to do\n{folder / 'traces.jsonl'}\n{folder / 'README.md'}")
        return
    if not resumed and config.reuse is None:
        distillation.check_servers()
    check_reuse(config.reuse)
    with keep_report(folder, Path(config.paths.runs)), start_run(config, folder) as home:
        announce_run(config, home)
        _distill(config, distillation, home)


def _distill(config: DictConfig, distillation: Distillation, folder: Path) -> None:
    """Distils what `folder` lacks, writes the data set, and prints the counts."""
    problems, vlm, source = _load_inputs(config, distillation, folder)
    if config.reuse is not None:
        copy_ledgers(Path(config.reuse), folder)
    counts = run_distillation(distillation, vlm, problems, folder=folder, seed=config.seed)
    skipped = getattr(source, "skipped", {})
    write_dataset(config, distillation, vlm, problems, skipped, folder)
    findings = distillation_findings(counts)
    write_json(folder / "results.json", counts | {"skipped_rows": skipped, "findings": findings})
    for sentence in findings:
        print(f"warning: {sentence}")
    shown = counts | {"skipped_rows": len(skipped)}
    print("  ".join(f"{name} {value:g}" for name, value in shown.items()))
    print(f"{folder / 'traces.jsonl'}\n{folder / 'README.md'}")


def is_complete(folder: Path) -> bool:
    """Whether a distillation is over, with every chain answered and every file in its place."""
    if not all((folder / name).is_file() for name in ("results.json", "README.md", *DATASET_FILES)):
        return False
    results = read_json_file(folder / "results.json")
    return results["missing"] == 0 and len(whole_lines(folder / "traces.jsonl")) == results["traces"]


def _load_inputs(
    config: DictConfig, distillation: Distillation, folder: Path, *, read_only: bool = False
) -> tuple[Sequence[Problem], VLM | None, Source]:
    """The problems, the run's own model if a writer needs it, and the source."""
    writers = (distillation.caption, distillation.reason)
    styles = [writer.prompt for writer in writers if isinstance(writer, LocalWriter) and writer.local]
    context = make_context(config).check_rows(folder, data_title(config), styles, read_only=read_only)
    problems = context.source.problems(build(config.select, "select"), config.seed)
    return problems, context.load("base") if distillation.local else None, context.source


def estimate_cost(config: DictConfig) -> str:
    """The cost estimate as text; needs neither data nor a model nor a server."""
    return describe_cost(
        build(config.distill, "distill"), build(config.select, "select"), build(config.expected, "expected")
    )


def inspect_run(
    distillation: Distillation, vlm: VLM | None, problems: Sequence[Problem], folder: Path, seed: int
) -> str:
    """The page about a run as far as it has come. Makes no call and changes nothing in the run's folder."""
    with tempfile.TemporaryDirectory() as own:  # this adds verdicts to ledgers; the run may be under way
        aside = Path(distributed.broadcast(own))
        copy_ledgers(folder, aside)
        with DistillationRun(distillation, vlm, aside, seed) as run:
            text = describe_run(run.verify_and_select(problems), folder)
        distributed.barrier()  # no rank reads it any more
        return text


def check_reuse(reuse: str | None) -> None:
    """Raises UserError when the folder whose answers are taken over holds no distillation."""
    if reuse is not None and not (Path(reuse) / "reason.jsonl").is_file():
        raise UserError(
            f"reuse={reuse}: no reason.jsonl there; give the folder of an earlier distillation, "
            "or leave reuse out"
        )


def copy_ledgers(source: Path, target: Path) -> None:
    """Copies the stages' ledgers that `target` lacks, each whole or not at all."""
    if not distributed.is_main():
        return
    for name in (f"{stage}.jsonl" for stage in LEDGERS):
        if (source / name).is_file() and not (target / name).exists():
            with atomic_write(target / name) as aside:
                shutil.copyfile(source / name, aside)


def write_dataset(
    config: DictConfig,
    distillation: Distillation,
    vlm: VLM | None,
    problems: Sequence[Problem],
    skipped: Mapping[str, str],
    folder: Path,
) -> None:
    """Writes the data set of a finished distillation: Parquet, JSONL, card, figure.

    `skipped` maps bad rows to the reason.
    """
    with DistillationRun(distillation, vlm, folder, config.seed) as run:
        distilled = run.verify_and_select(problems)
        statistics = write_dataset_files(distilled, folder, build(config.prompt, "prompt"))
    if not distributed.is_main():
        return
    settings = OmegaConf.create(
        {name: config[name] for name in ("seed", "select", "prompt", "distill", "data")}
    )
    licences = source_licences(config.data, statistics.counts)
    usage, samples = describe_calls(folder), distillation.samples
    card = render_card(statistics, OmegaConf.to_yaml(settings), licences, usage, samples, skipped)
    draw_lengths(statistics, samples, folder / "lengths.png")
    write_text(folder / "README.md", card)


def describe_calls(folder: Path) -> str:
    """Tokens and cost of all answers in the ledgers, those of interrupted runs included."""
    lines = []
    for stage in ("caption", "reason"):
        total: Counter[str] = Counter()
        with Ledger(folder / f"{stage}.jsonl") as ledger:
            for row in ledger.rows():
                total.update({name: row[name] for name in ("input_tokens", "output_tokens", "cost")})
            tokens = f"{total['input_tokens']} tokens in, {total['output_tokens']} out"
            lines.append(f"* {stage}: {len(ledger)} answers, {tokens}, cost {total['cost']:.2f}")
    return "\n".join(lines)
