"""Evaluate: held-out problems, one of six published benchmarks, recorded answers, or two runs against each other.

python evaluate.py model=runs/quickstart/<folder> data=figures
python evaluate.py benchmark=mathvision model=<folder or hub id> protocol=official | openvlthinker | openvlt
python evaluate.py benchmark=mathvision responses=answers.jsonl protocol=official
python evaluate.py compare=runs/evaluate/<one>,runs/evaluate/<other>
"""

from omegaconf import DictConfig

from openvlt.cli.app import entry


def run(config: DictConfig) -> None:
    from openvlt.cli.evaluate import compare_runs, held_out, score

    (compare_runs if config.compare is not None else score if config.benchmark else held_out)(config)


if __name__ == "__main__":
    entry("evaluate", run)
