"""The data set's card (README.md) and its figure: where the rows come from, what was lost where, and how long they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openvlt.distill.dataset import Lengths, quantiles, solve_rate

STAGES = ("problems", "captions", "chains", "right", "after the cut", "kept")


def render_card(
    lengths: Lengths,
    settings: str,
    licences: Mapping[str, str],
    usage: str,
    samples: int,
    skipped: Mapping[str, str],
) -> str:
    """The card in Markdown, with the front matter that the Hugging Face hub reads. `skipped` are rows left out as bad (row -> reason)."""
    total = sum(counts["kept"] for counts in lengths.counts.values())
    parts = [
        _front(),
        f"# {total} verified traces\n",
        "Made by openvlt's `distill.py`: every response ends with an answer that was verified.\n"
        "`traces.parquet` and `traces.jsonl` hold rows with `response`, `messages.jsonl` and `sharegpt.jsonl` the same as conversations, "
        "`problems.parquet` every problem with its difficulty columns. Image paths are relative to this folder.\n",
        "## Sources\n",
        _table(
            ("source", "licence", *STAGES),
            [
                (name, licences.get(name, "see the source"), *(counts[each] for each in STAGES))
                for name, counts in lengths.counts.items()
            ],
        ),
        *(
            [f"Bad rows left out: {len(skipped)}. The first: {next(iter(skipped.values()))}\n"]
            if skipped
            else []
        ),
        f"## Solved problems (pass@{samples})\n",
        _table(
            ("source", "problems", f"pass@{samples}"),
            [(name, n, f"{100 * rate:.1f} %") for name, n, rate in solve_rate(lengths)],
        ),
        "## Lengths in words\n",
        _table(
            ("", "mean", "p10", "median", "p90", "longest"),
            [_lengths(name, values) for name, values in lengths.words.items()],
        ),
        "![lengths and pass rates](lengths.png)\n",
        "## What became of the chains\n",
        _table(
            ("source", "fate", "chains"),
            [(s, fate, n) for s, fates in lengths.fates.items() for fate, n in fates.most_common()],
        ),
        f"## Calls\n\n{usage}\n",
        f"## Settings\n\n```yaml\n{settings.rstrip()}\n```\n",
    ]
    return "\n".join(parts)


def _front() -> str:
    files = "configs:\n- config_name: default\n  data_files: traces.parquet\n- config_name: problems\n  data_files: problems.parquet\n"
    return f"---\nlicense: other\ntask_categories: [image-text-to-text]\n{files}---\n"


def _lengths(name: str, values: Any) -> tuple[str, ...]:
    found = quantiles(values)
    return (
        name,
        *(f"{found[each]:.0f}" if found else "-" for each in ("mean", "p10", "median", "p90", "longest")),
    )


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]) + "\n"


def draw_lengths(lengths: Lengths, samples: int, file: Path) -> None:
    """Left: how long chains, right chains and kept traces are. Right: how many of a problem's chains are right, per source."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    drawn, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    edges = (
        np.histogram_bin_edges(np.asarray(lengths.words["chains"]), bins=40)
        if len(lengths.words["chains"])
        else 10
    )
    for name, values in lengths.words.items():
        left.hist(
            np.asarray(values),
            bins=edges,
            histtype="step",
            linewidth=1.6,
            label=f"{name} (n = {len(values)})",
        )
    left.set(xlabel="words", ylabel="chains", title="Lengths")
    left.legend(frameon=False)
    names, bottom = list(lengths.solved), np.zeros(len(lengths.solved))
    for number in range(samples + 1):
        share = np.array([np.mean(np.asarray(lengths.solved[name]) == number) for name in names])
        right.barh(
            names, share, left=bottom, color=pyplot.colormaps["viridis"](number / samples), label=str(number)
        )
        bottom += share
    right.set(xlabel="share of problems", title=f"Right chains of {samples}", xlim=(0, 1))
    right.legend(frameon=False, ncols=samples + 1, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    drawn.savefig(file, dpi=120)
    pyplot.close(drawn)
