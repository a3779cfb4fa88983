"""Evaluate: one model, one set of held-out problems, an accuracy with its interval.

python evaluate.py model=runs/quickstart/<folder> data=figures
python evaluate.py model=<folder or hub id> data=jsonl data.path=rows.jsonl evaluation.selection.split=train
"""

from omegaconf import DictConfig

from openvlt.config import entry


def run(config: DictConfig) -> None:
    from openvlt.iteration.folder import write_json
    from openvlt.iteration.session import announce, make_lab, open_run

    config, folder = open_run(config)
    announce(config, folder)
    lab = make_lab(config)
    vlm = lab.load("base")
    result = {"model": vlm.path, **lab.evaluate(vlm, folder)}
    write_json(folder / "results.json", result)
    low, high = (100 * bound for bound in result["interval"])
    print(f"accuracy {100 * result['accuracy']:.1f} %  (95 %: {low:.1f} to {high:.1f})  n {result['n']}  {result['verdicts']}")
    for level, part in result["levels"].items():
        print(f"  level {level}: {100 * part['accuracy']:.1f} %  n {part['n']}")
    print(folder / "results.json")


if __name__ == "__main__":
    entry("evaluate", run)
