"""The data set's card (README.md) and its figure: sources, losses of each stage, lengths of traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from openvlt.distill.dataset import DatasetStatistics, quantiles, solve_rate
from openvlt.storage.markdown import markdown_table

STAGES = ("problems", "captions", "chains", "right", "after the cut", "kept")
FRONT_MATTER = """\
---
license: other
task_categories: [image-text-to-text]
configs:
- config_name: default
  data_files: traces.parquet
- config_name: problems
  data_files: problems.parquet
---
"""
INTRODUCTION = """\
Made by openvlt's `distill.py`: every response ends with an answer that was verified.
`traces.parquet` and `traces.jsonl` hold rows with `response`, \
`messages.jsonl` and `sharegpt.jsonl` the same as conversations, \
`problems.parquet` every problem with its difficulty columns. Image paths are relative to this folder.
"""


def render_card(
    statistics: DatasetStatistics,
    settings: str,
    licences: Mapping[str, str],
    usage: str,
    samples: int,
    skipped: Mapping[str, str],
) -> str:
    """The card in Markdown, with the front matter that the Hugging Face hub reads.

    `skipped` maps bad rows to the reason.
    """
    total = sum(counts["kept"] for counts in statistics.counts.values())
    parts = [FRONT_MATTER, f"# {total} verified traces\n", INTRODUCTION]
    parts += ["## Sources\n", _source_table(statistics, licences)]
    if skipped:
        parts.append(f"Bad rows left out: {len(skipped)}. The first: {next(iter(skipped.values()))}\n")
    rates = [(name, n, f"{100 * rate:.1f} %") for name, n, rate in solve_rate(statistics)]
    parts += [
        f"## Solved problems (pass@{samples})\n",
        _table(("source", "problems", f"pass@{samples}"), rates),
        "## Lengths in words\n",
        _length_table(statistics.words),
        "![lengths and pass rates](lengths.png)\n",
        "## What became of the chains\n",
        _outcome_table(statistics),
        f"## Calls\n\n{usage}\n",
        f"## Settings\n\n```yaml\n{settings.rstrip()}\n```\n",
    ]
    return "\n".join(parts)


def _source_table(statistics: DatasetStatistics, licences: Mapping[str, str]) -> str:
    rows = [
        (name, licences.get(name, "see the source"), *(counts[stage] for stage in STAGES))
        for name, counts in statistics.counts.items()
    ]
    return _table(("source", "licence", *STAGES), rows)


def _length_table(words: Mapping[str, Sequence[int]]) -> str:
    columns, rows = ("mean", "p10", "median", "p90", "longest"), []
    for name, values in words.items():
        found = quantiles(values)
        rows.append((name, *(f"{found[column]:.0f}" if found else "-" for column in columns)))
    return _table(("", *columns), rows)


def _outcome_table(statistics: DatasetStatistics) -> str:
    rows = [
        (source, outcome, number)
        for source, outcomes in statistics.outcomes.items()
        for outcome, number in outcomes.most_common()
    ]
    return _table(("source", "fate", "chains"), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return markdown_table(header, rows) + "\n"


def draw_lengths(statistics: DatasetStatistics, samples: int, file: Path) -> None:
    """Draws the figure.

    Left: the lengths of chains, correct chains and kept traces. Right, per source: how many chains of a
    problem are correct.
    """
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    chains = statistics.words["chains"]
    edges = np.histogram_bin_edges(np.asarray(chains), bins=40) if len(chains) else 10
    for name, values in statistics.words.items():
        label = f"{name} (n = {len(values)})"
        left.hist(np.asarray(values), bins=edges, histtype="step", linewidth=1.6, label=label)
    left.set(xlabel="words", ylabel="chains", title="Lengths")
    left.legend(frameon=False)
    names, bottom = list(statistics.solved), np.zeros(len(statistics.solved))
    for number in range(samples + 1):
        share = np.array([np.mean(np.asarray(statistics.solved[name]) == number) for name in names])
        color = pyplot.colormaps["viridis"](number / samples)
        right.barh(names, share, left=bottom, color=color, label=str(number))
        bottom += share
    right.set(xlabel="share of problems", title=f"Right chains of {samples}", xlim=(0, 1))
    right.legend(frameon=False, ncols=samples + 1, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
