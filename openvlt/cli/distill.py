"""What `distill.py` does besides the calls: plan, look, take over earlier calls, and write the data set."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from openvlt.config.build import build
from openvlt.distill.card import draw_lengths, render_card
from openvlt.distill.cost import describe_cost
from openvlt.distill.dataset import write_distilled
from openvlt.distill.inspect import describe_run
from openvlt.distill.pipeline import Distillation
from openvlt.distill.run import LEDGERS, DistillationRun
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.storage.ledger import Ledger
from openvlt.types import Problem


def estimate_cost(config: DictConfig) -> str:
    """The plan as text; needs neither data nor a model nor a server."""
    return describe_cost(
        build(config.distill, "distill"), build(config.select, "select"), build(config.expected, "expected")
    )


def open_run_to_inspect(config: DictConfig) -> tuple[DictConfig, Path]:
    """The run to look at (`resume=<folder>` or `resume=latest`): its own config, and its folder."""
    if config.resume is None:
        raise UserError("inspect=true looks at a run; say which: resume=latest, or resume=<run folder>")
    folder = Path(config.paths.run)
    saved = OmegaConf.load(folder / "config.yaml")
    if "distill" not in saved or "select" not in saved:
        raise UserError(
            f"{folder} holds no distillation; give the folder of one: inspect=true resume=<run folder>"
        )
    return saved, folder


def inspect_run(
    distillation: Distillation, vlm: VLM | None, problems: Sequence[Problem], folder: Path, seed: int
) -> str:
    """The page about a run, as far as it has come; no call is made and nothing of the run is touched."""
    with tempfile.TemporaryDirectory() as aside:  # looking files verdicts; the run may be under way
        copy_ledgers(folder, Path(aside))
        with DistillationRun(distillation, vlm, Path(aside), seed) as work:
            return describe_run(work.judge(problems), folder)


def reuse_answers(config: DictConfig, folder: Path) -> None:
    """Takes over what an earlier distillation was answered, so that another cut or selection costs no call."""
    if config.reuse is None:
        return
    if not (Path(config.reuse) / "reason.jsonl").is_file():
        raise UserError(
            f"reuse={config.reuse}: no reason.jsonl there; give the folder of an earlier distillation, or leave reuse out"
        )
    copy_ledgers(Path(config.reuse), folder)


def copy_ledgers(there: Path, here: Path) -> None:
    """The stages' ledgers, where they aren't here yet; each whole or not at all."""
    for name in (f"{stage}.jsonl" for stage in LEDGERS):
        if (there / name).is_file() and not (here / name).exists():
            shutil.copyfile(there / name, here / f".{name}.tmp")
            os.replace(here / f".{name}.tmp", here / name)


def write_dataset(
    config: DictConfig,
    distillation: Distillation,
    vlm: VLM | None,
    problems: Sequence[Problem],
    skipped: Mapping[str, str],
    folder: Path,
) -> None:
    """The data set of a finished distillation: Parquet, JSONL, card and figure. `skipped` are bad rows (row -> reason)."""
    with DistillationRun(distillation, vlm, folder, config.seed) as work:
        lengths = write_distilled(work.judge(problems), folder, build(config.prompt, "prompt"))
    settings = {name: config[name] for name in ("seed", "select", "prompt", "distill", "data")}
    shown, known = OmegaConf.to_yaml(OmegaConf.create(settings)), source_licences(config.data, lengths.counts)
    text = render_card(lengths, shown, known, describe_calls(folder), distillation.samples, skipped)
    draw_lengths(lengths, distillation.samples, folder / "lengths.png")
    (folder / "README.md").write_text(text, encoding="utf-8")


def source_licences(data: DictConfig, sources: Iterable[str]) -> dict[str, str]:
    """What the data's files say of their licence, by source: a mixture's parts, or the one source under whatever name its rows have."""
    if data.get("licence"):
        return dict.fromkeys(sources, data.licence)
    return {name: part.licence for name, part in data.get("sources", {}).items() if part.get("licence")}


def describe_calls(folder: Path) -> str:
    """Tokens and cost of all answers on file, those of interrupted runs included."""
    lines = []
    for stage in ("caption", "reason"):
        total: Counter[str] = Counter()
        with Ledger(folder / f"{stage}.jsonl") as ledger:
            for row in ledger.rows():
                total.update({name: row[name] for name in ("input_tokens", "output_tokens", "cost")})
            lines.append(_told(stage, len(ledger), total))
    return "\n".join(lines)


def _told(stage: str, answers: int, total: Counter[Any]) -> str:
    return f"* {stage}: {answers} answers, {total['input_tokens']} tokens in, {total['output_tokens']} out, cost {total['cost']:.2f}"
