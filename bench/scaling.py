"""What a GRPO step costs against group size, prompt, image tokens, completion length and vocabulary.

Command: `python bench/scaling.py`, about two minutes on one core. One size changes at a time. Beside each
measurement stands the count that `plan=true` makes its hours of (openvlt/duration/work.py). One rate for
rollouts and one for updates, fitted on all points, turn counts into seconds: where points leave the line,
something else than products costs time. Writes bench/results/scaling.json and docs/scaling.png.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import torch  # noqa: E402
from grpo_step import Ours  # noqa: E402
from shapes import ROOT, Setting, clock, write  # noqa: E402

from openvlt.duration.work import Shapes, Texts, answer_flop, prompt_flop, tower_flop, update_flop  # noqa: E402

BASE = Setting(prompts=1, group=4, new_tokens=32, side=504, words=26, vocabulary=32000)
AXES = {
    "group": (2, 4, 8),
    "words": (26, 120, 300),
    "side": (252, 504, 756),
    "new_tokens": (16, 32, 64),
    "vocabulary": (8000, 32000),
}
TITLES = {
    "group": "completions of a prompt",
    "words": "prompt tokens",
    "side": "image tokens",
    "new_tokens": "completion tokens",
}


def products(arm: Ours, setting: Setting, prompt: int) -> dict[str, float]:
    """GFLOP of a rollout and of an update with prompts of `prompt` tokens, image tokens among them.

    `naive` runs prompt and images once per completion.
    """
    shapes = Shapes.of(arm.vlm, recomputes=False)
    image = (setting.side // 28) ** 2
    shared = Texts(setting.prompts, setting.group, prompt, image, setting.new_tokens, setting.new_tokens)
    naive = replace(shared, problems=shared.rows, group=1)
    counted: dict[str, float] = {}
    for name, texts in (("", shared), ("naive ", naive)):
        rollout = tower_flop(shapes, texts) + prompt_flop(shapes, texts) + answer_flop(shapes, texts)
        counted |= {f"{name}rollout": rollout / 1e9, f"{name}update": update_flop(shapes, texts) / 1e9}
    return counted


def points() -> Iterator[tuple[str, Setting]]:
    """One size after another, the others as in `BASE`, which comes first as a warm-up."""
    yield "warm-up", BASE
    for axis, values in AXES.items():
        yield from ((axis, replace(BASE, **{axis: value})) for value in values)


def measure(axis: str, setting: Setting) -> dict[str, Any]:
    """One step's CPU seconds beside its products."""
    arm = Ours(setting)
    rollout_s, batch = clock(arm.rollout)
    update_s, _ = clock(lambda: arm.update(batch))
    prompt = batch[0].ids_PL.shape[1]
    at = {"words": prompt, "side": (setting.side // 28) ** 2}.get(axis) or asdict(setting).get(axis)
    return {
        "axis": axis,
        "at": at,
        "rollout_s": rollout_s,
        "update_s": update_s,
        "gflop": products(arm, setting, prompt),
    }


def draw(rows: list[dict[str, Any]], rate: dict[str, float]) -> None:
    """One panel per axis: points measured, lines counted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(AXES), figsize=(15, 3.2), sharey=True)
    for panel, axis in zip(panels, AXES, strict=True):
        mine = [row for row in rows if row["axis"] == axis]
        for name, colour in (("rollout", "tab:blue"), ("update", "tab:orange")):
            at = [row["at"] for row in mine]
            panel.plot(
                at,
                [row["gflop"][name] / rate[name] for row in mine],
                "-",
                color=colour,
                label=f"{name}, counted",
            )
            panel.plot(at, [row[f"{name}_s"] for row in mine], "o", color=colour, label=f"{name}, measured")
            naive = [row["gflop"][f"naive {name}"] / rate[name] for row in mine]
            panel.plot(at, naive, ":", color=colour, label=f"{name}, prompt per completion")
        panel.set_xlabel(TITLES.get(axis, axis))
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("CPU seconds of a step")
    panels[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "scaling.png", dpi=110)


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for axis, setting in points():
        rows.append(measure(axis, setting))
        print(rows[-1], flush=True)
    rows = rows[1:]
    rate = {
        name: median(row["gflop"][name] / row[f"{name}_s"] for row in rows) for name in ("rollout", "update")
    }
    off = {
        name: max(abs(row["gflop"][name] / rate[name] / row[f"{name}_s"] - 1) for row in rows)
        for name in rate
    }
    write("scaling", BASE, {"gflop_per_s": rate, "largest_relative_gap": off, "points": rows})
    draw(rows, rate)


if __name__ == "__main__":
    main()
