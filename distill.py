"""Distill: verified traces to imitate, as rows that SFT reads and as a data set with a card.

python distill.py                                           captions by the embedded model, chains by a text reasoner
python distill.py distill=policy model=runs/iter1/<folder>  the model itself, looking at the image
python distill.py distill=served distill.reason.server.endpoints.urls=[<url>] distill.reason.server.endpoints.model=<name>
python distill.py distill=iter1 plan=true                   the paper's first data set: what it costs and gives
python distill.py resume=latest inspect=true                counts, samples, rejected ones
"""

from omegaconf import DictConfig

from openvlt.cli.app import run_script
from openvlt.config.build import build


def run(config: DictConfig) -> None:
    from openvlt.cli.distill import (
        estimate_cost,
        inspect_run,
        open_run_to_inspect,
        reuse_answers,
        write_dataset,
    )
    from openvlt.iteration.stages import make_context
    from openvlt.runs.session import announce_run, keep_resumable, open_run
    from openvlt.storage.atomic import write_json

    if config.plan:
        print(estimate_cost(config))
        return
    looking = config.inspect
    if looking:
        config, folder = open_run_to_inspect(config)
    distillation = build(
        config.distill, "distill"
    )  # before anything is written: a key given as a setting stays out of the run's folder
    if not looking:
        if config.resume is None and config.reuse is None:
            distillation.check_servers()
        config, folder = open_run(config)
        announce_run(config, folder)
    with keep_resumable(folder):
        context = make_context(config)
        problems = context.source.problems(build(config.select, "select"), config.seed)
        vlm = context.load("base") if distillation.local else None
        if looking:
            print(inspect_run(distillation, vlm, problems, folder, config.seed))
            return
        reuse_answers(config, folder)
        counts = distillation.run(vlm, problems, folder=folder, seed=config.seed)
        skipped = getattr(context.source, "skipped", {})
        write_dataset(config, distillation, vlm, problems, skipped, folder)
    write_json(folder / "results.json", counts | {"skipped_rows": skipped})
    print("  ".join(f"{name} {value:g}" for name, value in (counts | {"skipped_rows": len(skipped)}).items()))
    print(f"{folder / 'traces.jsonl'}\n{folder / 'README.md'}")


if __name__ == "__main__":
    run_script("distill", run)
