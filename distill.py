"""Distill: verified traces to imitate, as rows that SFT reads and as a data set with a card.

python distill.py                                           captions by the embedded model, chains by a text reasoner
python distill.py distill=policy model=runs/iter1/<folder>  the model itself, looking at the image
python distill.py distill=served distill.reason.server.endpoints.urls=[http://localhost:8000/v1]
python distill.py distill=iter1 plan=true                   the paper's first data set: what it costs and gives
python distill.py resume=latest inspect=true                counts, samples, rejected ones
"""

from omegaconf import DictConfig

from openvlt.config import build, entry


def run(config: DictConfig) -> None:
    from openvlt.distill.command import inspected, planned, reused, written
    from openvlt.iteration.folder import write_json
    from openvlt.iteration.session import announce, make_lab, open_run, resumable

    if config.plan:
        return print(planned(config))
    if config.inspect:
        return print(inspected(config))
    distillation = build(config.distill, "distill")  # before anything is written: a key given as a setting stays out of the run's folder
    config, folder = open_run(config)
    announce(config, folder)
    lab = make_lab(config)
    problems = lab.source.problems(build(config.select, "select"), config.seed)
    reused(config, folder)
    with resumable(folder):
        vlm = lab.load("base") if distillation.local else None
        counts = distillation.run(vlm, problems, folder=folder, seed=config.seed)
        written(config, distillation, vlm, problems, folder)
    write_json(folder / "results.json", counts)
    print("  ".join(f"{name} {value:g}" for name, value in counts.items()))
    print(f"{folder / 'traces.jsonl'}\n{folder / 'README.md'}")
    return None


if __name__ == "__main__":
    entry("distill", run)
