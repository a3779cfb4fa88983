"""What all figures share: colours, axes, legends, and writing the file. matplotlib's global state isn't used.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; markers and line styles show the same.
"""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from openvlt.report.records import write_report_file

INK, GREY, FAINT, PALE = "#222222", "#6b6b6b", "#e3e3e3", "#bdbdbd"
BLUE, LIGHT_BLUE, VERMILION, GREEN = "#0072B2", "#9cc3dc", "#D55E00", "#009E73"
MARKER_STYLES = {  # kind of stage: marker, colour, name in the legend
    "base": ("D", INK, "base model"),
    "sft": ("s", VERMILION, "after SFT"),
    "grpo": ("o", BLUE, "after GRPO"),
    "control": ("^", GREY, "control: no RL"),
    "": ("P", GREEN, "other"),
}


def marker_style(kind: str) -> tuple[str, str, str]:
    """Marker, colour and legend entry of a kind of stage; unknown kinds share the last."""
    return MARKER_STYLES.get(kind, MARKER_STYLES[""])


def new_figure(width: float, height: float) -> Figure:
    """A white figure; width and height are in inches."""
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def strip_axes(axes: Axes) -> None:
    """Leaves two spines, grey ticks and faint horizontal lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK, labelsize=9)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def set_titles(axes: Axes, title: str, subtitle: str) -> None:
    """Writes a title, and below it what the marks mean."""
    axes.set_title(title + "\n", fontsize=12, loc="left", color=INK)
    axes.text(0, 1.02, subtitle, transform=axes.transAxes, fontsize=9, color=GREY, va="bottom")


def add_kinds_legend(figure: Figure, axes: Axes, kinds: set[str]) -> None:
    """Draws a legend below the axes, with one entry for each kind of stage in the figure."""
    drawn, handles = {marker_style(kind) for kind in kinds}, []
    for marker, colour, name in (entry for entry in MARKER_STYLES.values() if entry in drawn):
        control = name == MARKER_STYLES["control"][2]
        style = {
            "linestyle": (0, (3, 2)) if control else "none",
            "markerfacecolor": "white" if control else colour,
        }
        handles += axes.plot([], [], linewidth=1.2, marker=marker, color=colour, label=name, **style)
    style = {"frameon": False, "fontsize": 9, "handlelength": 2.6}
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), **style)


def save_figure(figure: Figure, file: Path) -> Path:
    """Writes the figure as PNG, whole or not at all. Raises UserError when the file can't be written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return write_report_file(file, buffer.getvalue())
