"""Distill: verified traces to imitate, as rows that SFT reads.

python distill.py                                          captions by the embedded model, chains by a text reasoner
python distill.py distill=policy model=runs/iter1/<folder>  the model itself, looking at the image
"""

from omegaconf import DictConfig

from openvlt.config import build, entry


def run(config: DictConfig) -> None:
    from openvlt.iteration.folder import write_json
    from openvlt.iteration.session import announce, make_lab, open_run, resumable

    config, folder = open_run(config)
    announce(config, folder)
    lab = make_lab(config)
    problems = lab.source.problems(build(config.select, "select"), config.seed)
    with resumable(folder):
        counts = build(config.distill, "distill").run(lab.load("base"), problems, folder=folder, seed=config.seed)
    write_json(folder / "results.json", counts)
    print("  ".join(f"{name} {value:g}" for name, value in counts.items()))
    print(folder / "traces.jsonl")


if __name__ == "__main__":
    entry("distill", run)
