"""What all figures share: facets per objective, one look per strategy, legends beside the data."""

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bench.report.curves import SequenceData

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":")
HATCHES = ("", "////", "....")
STALE_HATCH = "xxxx"
COLUMNS = 3
LONGEST = 80  # characters of a name that a figure has room for


class Look(NamedTuple):
    """How a strategy looks in every facet of a figure."""

    color: tuple[float, float, float]
    marker: str
    dash: str
    fill: object
    hatch: str


def looks(strategies: Sequence[str]) -> dict[str, Look]:
    """A look for each strategy: ten colours that the colour-blind tell apart, then again dashed and hatched."""
    palette = sns.color_palette("colorblind")
    found = {}
    for i, name in enumerate(strategies):
        color, turn = palette[i % len(palette)], i // len(palette) % len(DASHES)
        fill = "white" if turn else color
        found[name] = Look(color, MARKERS[i % len(MARKERS)], DASHES[turn], fill, HATCHES[turn])
    return found


def facets(
    figure: Figure, data: SequenceData, labels: tuple[str, str], *, width: float, height: float
) -> dict[str, Axes]:
    """Axes by objective, which is their title, each `width` x `height` inches with shared scales.

    labels: of the x and the y axis, written at the lower and left edge only.
    """
    columns = min(COLUMNS if width < 6 else 1, len(data.objectives))
    rows = math.ceil(len(data.objectives) / columns)
    # the legend stands on the right and may be taller than the facets
    longest = max(len(plain_text(name)) for name in data.strategies)
    tall = max(height * rows + 1.0, 0.21 * len(data.strategies) + 1.3)
    figure.set_size_inches(width * columns + 0.9 + 0.085 * max(longest, 14), tall)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax in grid.flat[len(data.objectives) :]:
        ax.remove()
    axes = dict(zip(data.objectives, grid.flat, strict=False))
    for index, (objective, ax) in enumerate(axes.items()):
        below = index + columns < len(axes)
        ax.set_xlabel("" if below else labels[0])
        ax.tick_params(labelbottom=not below)
        ax.set_ylabel(labels[1] if index % columns == 0 else "")
        ax.set_title(plain_text(objective))
        ax.grid(axis="y", color="0.9", lw=0.6)
        ax.set_axisbelow(True)
    return axes


def line_legend(figure: Figure, data: SequenceData, *, lines: bool) -> None:
    """The legend of curves, or of points where `lines` is off, right of the facets."""
    handles = []
    for name, look in looks(data.strategies).items():
        line = Line2D([], [], color=look.color, marker=look.marker, ls=look.dash if lines else "", ms=5)
        line.set(markerfacecolor=look.fill, label=plain_text(name))
        handles.append(line)
    if data.stale:
        handles.append(Line2D([], [], color="0.2", marker="x", ls="", ms=6, label="stale"))
    figure.legend(handles=handles, loc="outside right center", handlelength=2.6 if lines else 1)


def bar_legend(figure: Figure, data: SequenceData) -> None:
    """The legend of bars, right of the facets."""
    handles = [
        Patch(facecolor=look.color, hatch=look.hatch, edgecolor="white", label=plain_text(name))
        for name, look in looks(data.strategies).items()
    ]
    if data.stale:
        handles.append(Patch(facecolor="0.6", hatch=STALE_HATCH, edgecolor="white", label="stale"))
    figure.legend(handles=handles, loc="outside right center")


def add_texts(figure: Figure, title: str, footer: Sequence[str]) -> None:
    """The title above and the footer's sentences below the facets, broken to the width of the figure."""
    width = figure.get_figwidth()
    title = textwrap.fill(_short(title, 4 * LONGEST), int(width / 0.095))
    figure.suptitle(_no_mathematics(title), fontsize=11, x=0.01, ha="left")
    lines = [textwrap.fill(_short(sentence, 20 * LONGEST), int(width / 0.068)) for sentence in footer if sentence]
    if lines:
        figure.supxlabel(_no_mathematics("\n".join(lines)), fontsize=8, x=0.01, ha="left", color="0.35")


def plain_text(name: str) -> str:
    """A name, cut where it is long, with nothing left that matplotlib would read as mathematics."""
    return _no_mathematics(_short(name, LONGEST))


def _no_mathematics(text: str) -> str:
    return text.replace("$", r"\$")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def ticks_of_tasks(ax: Axes, tasks: int) -> None:
    """Whole-numbered ticks 0..T-1, at most about ten."""
    ax.set_xticks(np.arange(0, tasks, math.ceil(tasks / 10)))
