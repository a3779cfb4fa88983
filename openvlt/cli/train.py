"""What train.py does: the stages of a study in a run folder, then its table, figures and page."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from openvlt import distributed
from openvlt.config.build import build
from openvlt.iteration.context import make_context
from openvlt.iteration.runner import Study, check_stages
from openvlt.memory.estimate import describe_memory
from openvlt.report.figures import iterations_figure
from openvlt.report.page import write_page
from openvlt.report.table import results_table
from openvlt.runs.session import announce_run, data_title, open_run, start_run


def train(config: DictConfig) -> None:
    """Runs a study in its run folder and draws its report; with `plan=true`, prints the memory estimate."""
    if config.plan:
        print(describe_memory(config if config.resume is None else open_run(config)[0]))
        return
    config, folder = open_run(config)
    study: Study = build(config.iteration, "iteration")
    context = make_context(config)
    with start_run(config, folder) as home:
        announce_run(config, home)
        if not study.is_finished(home):
            context = context.check_rows(home, data_title(config))
            check_stages(study.stages, context)
        results = study.run(context, home, runs=Path(config.paths.runs), name=config.name, scale=config.scale)
    if distributed.is_main():
        print(results_table(results, home))
        draw_report(home)


def draw_report(folder: Path) -> None:
    """Draws iterations.png and report.html where the page is older than the results. Prints their paths."""
    page = folder / "report.html"
    if not page.is_file() or page.stat().st_mtime < (folder / "results.json").stat().st_mtime:
        iterations_figure(folder)
        write_page(folder)
    print(f"{folder / 'iterations.png'}\n{page}")
