"""Train: the stages of a study, from checkpoint to checkpoint.

python train.py                                  three SFT-GRPO cycles on the embedded model, on this CPU
python train.py +experiment=quickstart -m        the same over three seeds
python train.py +experiment=iter2 scale=7b       the paper's second cycle, on GPUs
python train.py scale=7b plan=true               the memory that every device will need, before anything is loaded
python train.py resume=runs/train/<folder>       continue a run that was cut off
"""

from pathlib import Path

from omegaconf import DictConfig

from openvlt.cli.app import run_script
from openvlt.config.build import build
from openvlt.distributed import is_main


def run(config: DictConfig) -> None:
    from openvlt.iteration.runner import check_stages
    from openvlt.iteration.stages import make_context
    from openvlt.runs.session import announce_run, keep_resumable, open_run

    if config.plan:
        from openvlt.memory.estimate import describe_memory

        print(describe_memory(config))
        return
    config, folder = open_run(config)
    announce_run(config, folder)
    with keep_resumable(folder):
        iteration = build(config.iteration, "iteration")
        context = make_context(config)
        check_stages(iteration.stages, context)
        results = iteration.run(
            context, folder, runs=Path(config.paths.runs), name=config.name, scale=config.scale
        )
    if not is_main():
        return
    from openvlt.report.figures import iterations_figure
    from openvlt.report.page import write_page
    from openvlt.report.table import results_table

    print(results_table(results, folder))
    drawn = folder / "report.html"
    if not drawn.is_file() or drawn.stat().st_mtime < (folder / "results.json").stat().st_mtime:
        iterations_figure(folder)
        write_page(folder)
    print(f"{folder / 'iterations.png'}\n{drawn}")


if __name__ == "__main__":
    run_script("train", run)
