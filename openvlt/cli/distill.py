"""What `distill.py` does: estimate the cost, show a run, or distil and write the data set."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from openvlt.config.build import build
from openvlt.data.sources.base import Source
from openvlt.distill.card import draw_lengths, render_card
from openvlt.distill.cost import describe_cost
from openvlt.distill.dataset import write_dataset_files
from openvlt.distill.inspect import describe_run
from openvlt.distill.pipeline import run_distillation
from openvlt.distill.run import LEDGERS, DistillationRun
from openvlt.distill.settings import Distillation
from openvlt.errors import UserError
from openvlt.iteration.context import make_context
from openvlt.model.load import VLM
from openvlt.runs.session import announce_run, keep_resumable, open_run
from openvlt.storage.atomic import atomic_write, write_json, write_text
from openvlt.storage.ledger import Ledger
from openvlt.types import Problem


def distill(config: DictConfig) -> None:
    """Runs the command that the config asks for: `plan`, `inspect`, or a distillation."""
    if config.plan:
        print(estimate_cost(config))
        return
    if config.inspect:
        config, folder = open_run_to_inspect(config)
        distillation = build(config.distill, "distill")
        with keep_resumable(folder):
            problems, vlm, _ = _load_inputs(config, distillation)
            print(inspect_run(distillation, vlm, problems, folder, config.seed))
        return
    # built before anything is written: a key given as a setting stays out of the run's folder
    distillation = build(config.distill, "distill")
    if config.resume is None and config.reuse is None:
        distillation.check_servers()
    config, folder = open_run(config)
    # once more: with `resume=` alone, the command line doesn't describe the run's distillation
    distillation = build(config.distill, "distill")
    announce_run(config, folder)
    with keep_resumable(folder):
        problems, vlm, source = _load_inputs(config, distillation)
        reuse_answers(config, folder)
        counts = run_distillation(distillation, vlm, problems, folder=folder, seed=config.seed)
        skipped = getattr(source, "skipped", {})
        write_dataset(config, distillation, vlm, problems, skipped, folder)
    write_json(folder / "results.json", counts | {"skipped_rows": skipped})
    shown = counts | {"skipped_rows": len(skipped)}
    print("  ".join(f"{name} {value:g}" for name, value in shown.items()))
    print(f"{folder / 'traces.jsonl'}\n{folder / 'README.md'}")


def _load_inputs(config: DictConfig, distillation: Distillation) -> tuple[list[Problem], VLM | None, Source]:
    """The problems, the run's own model if a writer needs it, and the source."""
    context = make_context(config)
    problems = context.source.problems(build(config.select, "select"), config.seed)
    return problems, context.load("base") if distillation.local else None, context.source


def estimate_cost(config: DictConfig) -> str:
    """The cost estimate as text; needs neither data nor a model nor a server."""
    return describe_cost(
        build(config.distill, "distill"), build(config.select, "select"), build(config.expected, "expected")
    )


def open_run_to_inspect(config: DictConfig) -> tuple[DictConfig, Path]:
    """The config and the folder of the run to show: `resume=<folder>` or `resume=latest`."""
    if config.resume is None:
        raise UserError("inspect=true looks at a run; say which: resume=latest, or resume=<run folder>")
    folder = Path(config.paths.run)
    saved = OmegaConf.load(folder / "config.yaml")
    if not isinstance(saved, DictConfig) or "distill" not in saved or "select" not in saved:
        raise UserError(
            f"{folder} holds no distillation; give the folder of one: inspect=true resume=<run folder>"
        )
    return saved, folder


def inspect_run(
    distillation: Distillation, vlm: VLM | None, problems: Sequence[Problem], folder: Path, seed: int
) -> str:
    """The page about a run as far as it has come. Makes no call and changes nothing in the run's folder."""
    with (
        tempfile.TemporaryDirectory() as aside
    ):  # this adds verdicts to ledgers, and the run may be under way
        copy_ledgers(folder, Path(aside))
        with DistillationRun(distillation, vlm, Path(aside), seed) as run:
            return describe_run(run.verify_and_select(problems), folder)


def reuse_answers(config: DictConfig, folder: Path) -> None:
    """Copies the ledgers of the distillation that `reuse` names: another cut or selection costs no call."""
    if config.reuse is None:
        return
    if not (Path(config.reuse) / "reason.jsonl").is_file():
        raise UserError(
            f"reuse={config.reuse}: no reason.jsonl there; give the folder of an earlier distillation, "
            "or leave reuse out"
        )
    copy_ledgers(Path(config.reuse), folder)


def copy_ledgers(source: Path, target: Path) -> None:
    """Copies the stages' ledgers that `target` lacks, each whole or not at all."""
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
    settings = OmegaConf.create(
        {name: config[name] for name in ("seed", "select", "prompt", "distill", "data")}
    )
    licences = source_licences(config.data, statistics.counts)
    usage, samples = describe_calls(folder), distillation.samples
    card = render_card(statistics, OmegaConf.to_yaml(settings), licences, usage, samples, skipped)
    draw_lengths(statistics, samples, folder / "lengths.png")
    write_text(folder / "README.md", card)


def source_licences(data: DictConfig, sources: Iterable[str]) -> dict[str, str]:
    """The licences in the data's config by source, those of a mixture's parts.

    The licence of a single source holds for whatever source names its rows have.
    """
    if data.get("licence"):
        return dict.fromkeys(sources, str(data.licence))
    return {name: part.licence for name, part in data.get("sources", {}).items() if part.get("licence")}


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
