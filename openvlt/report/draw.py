"""What all figures share: matplotlib's objects without its global state, colours, axes, and writing the file.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; shape and line style say the same again.
"""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from openvlt.report.records import write_bytes_atomically

INK, GREY, FAINT, PALE = "#222222", "#6b6b6b", "#e3e3e3", "#bdbdbd"
BLUE, LIGHT_BLUE, VERMILION, GREEN = "#0072B2", "#9cc3dc", "#D55E00", "#009E73"
LOOKS = {  # kind of stage: marker, colour, name in the legend
    "base": ("D", INK, "base model"),
    "sft": ("s", VERMILION, "after SFT"),
    "grpo": ("o", BLUE, "after GRPO"),
    "control": ("^", GREY, "control: no RL"),
    "": ("P", GREEN, "other"),
}


def marker_style(kind: str) -> tuple[str, str, str]:
    """Marker, colour and name of a kind of stage; kinds without one of their own share the last."""
    return LOOKS.get(kind, LOOKS[""])


def new_figure(width: float, height: float) -> Figure:
    """A white figure of that many inches."""
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def strip_axes(axes: Axes) -> None:
    """Two spines, quiet ticks, faint horizontal lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK, labelsize=9)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def titles(axes: Axes, title: str, subtitle: str) -> None:
    """A title, and below it what the marks mean."""
    axes.set_title(title + "\n", fontsize=12, loc="left", color=INK)
    axes.text(0, 1.02, subtitle, transform=axes.transAxes, fontsize=9, color=GREY, va="bottom")


def kinds_legend(figure: Figure, axes: Axes, kinds: set[str]) -> None:
    """One entry below the axes for each kind of stage that is drawn."""
    drawn, handles = {marker_style(kind) for kind in kinds}, []
    for marker, colour, name in (entry for entry in LOOKS.values() if entry in drawn):
        control = name == LOOKS["control"][2]
        style = {
            "linestyle": (0, (3, 2)) if control else "none",
            "markerfacecolor": "white" if control else colour,
        }
        handles += axes.plot([], [], linewidth=1.2, marker=marker, color=colour, label=name, **style)
    style = {"frameon": False, "fontsize": 9, "handlelength": 2.6}
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), **style)


def save(figure: Figure, file: Path) -> Path:
    """The figure as PNG, written at once. Raises UserError when the file can't be written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return write_bytes_atomically(file, buffer.getvalue())
