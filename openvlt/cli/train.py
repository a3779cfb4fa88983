"""What train.py does: the stages of a study in a run folder, then its table, figures and page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from openvlt import distributed
from openvlt.config.build import build
from openvlt.duration.describe import describe_time
from openvlt.iteration.context import make_context
from openvlt.iteration.runner import Study, check_stages
from openvlt.iteration.stages import GRPOStage, SFTStage
from openvlt.memory.advice import choose_strategy
from openvlt.memory.describe import describe_memory, needs_gpu
from openvlt.memory.estimate import MemoryPlan
from openvlt.report.figures import iterations_figure
from openvlt.report.keep import keep_report
from openvlt.report.table import results_table
from openvlt.report.write import write_report
from openvlt.rollout.base import check_servers
from openvlt.runs.session import announce_run, command_line_overrides, data_title, open_run, start_run
from openvlt.runs.state import finish_state
from openvlt.trackers.recorder import collect_scores
from openvlt.trackers.session import build_trackers, record_run


def train(config: DictConfig) -> None:
    """Runs a study in its run folder and keeps its report; with `plan=true`, prints memory and time."""
    if config.plan:
        print_plan(config if config.resume is None else open_run(config)[0])
        return
    settings = command_line_overrides() if config.resume is None else []
    written, (config, folder) = config, open_run(config)
    settle_strategy(config)
    study: Study = build(config.iteration, "iteration")
    trackers = build_trackers(config)
    context = make_context(config)
    with keep_report(folder, Path(config.paths.runs)), start_run(config, folder) as home:
        announce_run(config, home)
        for sentence in unreached_settings(written, settings):
            print(sentence, flush=True)
        finished = study.is_finished(home)
        if not finished:
            check_servers(context.grpo.generator, context.model.build_on_meta)
            styles = (context.sft.prompt, context.grpo.prompt, context.evaluation.prompt)
            context = context.check_rows(home, data_title(config), styles)
            check_stages(study.stages, context)
        with record_run(trackers, config, home, finished=finished) as recorder:
            about = {"runs": Path(config.paths.runs), "name": config.name, "scale": config.scale}
            results = study.run(context, home, recorder=recorder, **about)
            if distributed.is_main():
                print(results_table(results, home))
                finish_page(home)
                recorder.summary = collect_scores(results["stages"])
                recorder.log_file(home / "report.html")


def print_plan(config: DictConfig) -> None:
    """Prints the memory that each device needs and, for models that no CPU trains, the time."""
    plan = MemoryPlan.of(config)
    print(describe_memory(config, plan))
    if needs_gpu(plan):
        print("\n" + describe_time(config, plan))


def settle_strategy(config: DictConfig) -> None:
    """Replaces `strategy.shard=auto` by what this run's devices and the memory estimate say, and prints it.

    With one process there is nothing to choose.
    """
    count = distributed.world_size()
    if count == 1 or config.strategy.shard != "auto":
        return
    import torch

    on_gpu = torch.cuda.is_available() and config.trainer.accelerator != "cpu"
    memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory if on_gpu else None
    config.strategy.shard, why = choose_strategy(config, memory, count)
    # a run's own copy holds the values, not references
    for place in ("trainer", "sft.fit", "grpo.fit"):
        OmegaConf.update(config, f"{place}.strategy.shard", config.strategy.shard)
    if distributed.is_main():
        print(why, flush=True)


def unreached_settings(config: DictConfig, settings: Sequence[str]) -> list[str]:
    """A sentence for each of these settings of `sft` or `grpo` that some stages replace by their own.

    `config` is as it was composed: it tells where a stage has its value from.
    """
    sentences = []
    for setting in settings:
        key, _, value = setting.lstrip("+").partition("=")
        group, _, field = key.partition(".")
        if group not in ("sft", "grpo") or not field:
            continue
        own = {
            name: used
            for name, used in _stage_values(config, group, field).items()
            if used != OmegaConf.select(config, key)
        }
        if own:
            places = [_find_place(config, f"iteration.stages.{name}.settings") for name in own]
            fix = " ".join(dict.fromkeys(f"{place}.{field}={value}" for place in places))
            stages = ", ".join(f"{name} has {used}" for name, used in own.items())
            sentences.append(f"{key}={value} doesn't reach every stage: {stages}; for these add {fix}")
    return sentences


def _stage_values(config: DictConfig, group: str, field: str) -> dict[str, Any]:
    """The field's value in the stages of this group that set it themselves, by the stage's name."""
    target = {"sft": SFTStage, "grpo": GRPOStage}[group].__name__
    values = {}
    for name, stage in config.iteration.stages.items():
        changes = stage.get("settings")
        if stage._target_.endswith(target) and changes and field.partition(".")[0] in changes:
            values[str(name)] = OmegaConf.select(changes, field)
    return values


def _find_place(config: DictConfig, path: str) -> str:
    """Where the mapping at a dotted path is written, after all references."""
    node: Any = OmegaConf.to_container(config)
    for name in path.split("."):
        node = node[name]
    reference = re.fullmatch(r"\$\{([\w.]+)\}", node) if isinstance(node, str) else None
    return _find_place(config, reference[1]) if reference else path


def finish_page(folder: Path) -> None:
    """Draws the figure and page of a run whose stages are over, where they are older; prints their paths."""
    figure = folder / "iterations.png"
    if not figure.is_file() or figure.stat().st_mtime < (folder / "results.json").stat().st_mtime:
        finish_state(folder)
        iterations_figure(folder)
        write_report(folder)
    print(f"{figure}\n{folder / 'report.html'}")
