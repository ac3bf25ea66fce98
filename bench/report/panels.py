"""The kinds of figures: each draws one task sequence on an empty figure and returns how to read its error
bars.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.report.curves import MethodData, SequenceData
from bench.report.layout import STALE_HATCH, bar_legend, facets, line_legend, looks, plain_text, ticks_of_tasks
from bench.report.statistics import Interval
from bench.report.variants import method_name

# numbers in the cells of a matrix stay readable up to this many tasks
ANNOTATED_TASKS = 10
MATRIX_COLUMNS = 6


def accuracy_after_task(figure: Figure, data: SequenceData) -> str:
    """Accuracy averaged over the tasks seen so far, after each task."""
    axes = facets(figure, data, ("after task", "accuracy on tasks seen (%)"), width=3.0, height=2.7)
    style = looks(data.strategies)
    x = np.arange(data.tasks)
    for objective, ax in axes.items():
        for method in data.of(objective):
            look, seen = style[method.strategy], method.seen()
            means = [s.mean for s in seen]
            ax.plot(x, means, color=look.color, marker=look.marker, mfc=look.fill, ls=look.dash, ms=4, lw=1.4)
            if len(method.matrices) > 1:
                low, high = [s.low for s in seen], [s.high for s in seen]
                hatch = STALE_HATCH if method.stale else None
                ax.fill_between(x, low, high, color=look.color, alpha=0.15, lw=0, hatch=hatch)
            if method.stale:
                _cross_out(ax, x, means)
        if objective in data.joint:
            ax.axhline(data.joint[objective], color="0.4", ls=":", lw=1.2)
        ticks_of_tasks(ax, data.tasks)
        ax.margins(x=0.06)
    _within_percent(ax)
    line_legend(figure, data, lines=True)
    bands = ["Bands: 95 % confidence interval over seeds."] if data.has_bands else []
    joint = f"Dotted: joint training, on all tasks{' (stale)' * data.stale_joint}."
    return " ".join([*bands, *([joint] if data.joint else [])])


def forgetting_against_accuracy(figure: Figure, data: SequenceData) -> str:
    """Forgetting (headline definition) against average accuracy; the good corner is the lower right one."""
    axes = facets(figure, data, ("average accuracy (%)", "forgetting (points)"), width=3.0, height=2.7)
    style = looks(data.strategies)
    for objective, ax in axes.items():
        for method in data.of(objective):
            look, accuracy, lost = style[method.strategy], method.average_accuracy(), method.forgetting()
            bars: dict[str, Any] = {"xerr": _half(accuracy), "yerr": _half(lost)} if accuracy.n > 1 else {}
            ax.errorbar(
                accuracy.mean,
                lost.mean,
                **bars,
                color=look.color,
                marker=look.marker,
                markerfacecolor=look.fill,
                ms=6,
                lw=1,
            )
            if method.stale:
                _cross_out(ax, accuracy.mean, lost.mean)
        ax.axhline(0, color="0.7", lw=0.8, zorder=0)
        ax.margins(0.12)
    line_legend(figure, data, lines=False)
    return "Bars: 95 % confidence interval over seeds." if data.has_bands else ""


def final_accuracy(figure: Figure, data: SequenceData) -> str:
    """Accuracy on each task at the end, a bar per strategy."""
    groups = 1 if data.one_test_set else data.tasks
    most = max(len(data.of(objective)) for objective in data.objectives)
    labels = ("" if data.one_test_set else "on task", "final accuracy (%)")
    axes = facets(figure, data, labels, width=min(14.0, max(3.0, 0.11 * groups * (most + 1.5))), height=2.5)
    style = looks(data.strategies)
    for objective, ax in axes.items():
        methods = data.of(objective)
        width = 0.84 / len(methods)
        for index, method in enumerate(methods):
            look, final = style[method.strategy], method.final()[:groups]
            x = np.arange(groups) + (index - (len(methods) - 1) / 2) * width
            means = [s.mean for s in final]
            hatch = STALE_HATCH if method.stale else look.hatch
            ax.bar(x, means, width * 0.92, color=look.color, hatch=hatch, edgecolor="white", lw=0)
            if len(method.matrices) > 1:
                ax.errorbar(x, means, [_half(s) for s in final], fmt="none", ecolor="0.2", elinewidth=0.8)
        names = ("whole test set",) if data.one_test_set else data.task_names
        ax.set_xticks(range(groups), [plain_text(name) for name in names] or [str(i) for i in range(groups)])
        if groups > 1 and max(map(len, names), default=0) > 8:
            ax.tick_params(axis="x", labelrotation=90)
        ax.margins(x=0.02)
    ax.set_ylim(bottom=0)  # once all panels are drawn: a limit set earlier would hold for the shared axis
    _within_percent(ax)
    bar_legend(figure, data)
    return "Bars: 95 % confidence interval over seeds." if data.has_bands else ""


def accuracy_matrix(figure: Figure, data: SequenceData) -> str:
    """R of every method, averaged over seeds, on one colour scale; the first row is the network before
    training.
    """
    places, rows, columns = _places(data)
    width = 1.1 if data.one_test_set else max(1.9, min(3.4, 0.38 * data.tasks))
    height = max(1.6, min(3.2, 0.26 * (data.tasks + 1)))
    figure.set_size_inches(max(width * columns + 1.4, 5.5), (height + 0.4) * rows + 1.0)
    grid = figure.subplots(rows, columns, squeeze=False)
    tables = [np.vstack([method.random.mean(axis=0), method.matrices.mean(axis=0)]) for method in data.methods]
    scale = min(table.min() for table in tables), max(table.max() for table in tables)
    for place, method, table in zip(places, data.methods, tables, strict=True):
        ax = grid[place]
        _heatmap(ax, method, table, scale, data)
        ax.set_ylabel("after task" if place[1] == 0 else "")
        lowest = (place[0] + 1, place[1]) not in places
        ax.set_xlabel("on task" if lowest and not data.one_test_set else "")
    for place in np.ndindex(grid.shape):
        if place not in places:
            grid[place].remove()
    shown = [grid[place] for place in places]
    figure.colorbar(shown[0].collections[0], ax=shown, label="accuracy (%)", fraction=0.03, aspect=30, pad=0.01)
    return "Means over seeds; the first row is the random network."


def _places(data: SequenceData) -> tuple[list[tuple[int, int]], int, int]:
    """Where each method's matrix goes: a row per objective and a column per strategy, or in reading order if
    many.
    """
    strategies, objectives = data.strategies, data.objectives
    if len(strategies) <= MATRIX_COLUMNS:
        places = [(objectives.index(m.objective), strategies.index(m.strategy)) for m in data.methods]
        return places, len(objectives), len(strategies)
    count = len(data.methods)
    return (
        [divmod(i, MATRIX_COLUMNS) for i in range(count)],
        math.ceil(count / MATRIX_COLUMNS),
        MATRIX_COLUMNS,
    )


def _heatmap(
    ax: Axes,
    method: MethodData,
    table: npt.NDArray[np.float64],
    scale: tuple[float, float],
    data: SequenceData,
) -> None:
    # not seaborn's heatmap: it lays out the whole figure anew for every matrix
    shown = table[:, :1] if data.one_test_set else table
    ax.pcolormesh(shown, vmin=scale[0], vmax=scale[1], cmap="viridis")
    if method.stale:
        ax.add_patch(
            Rectangle((0, 0), shown.shape[1], shown.shape[0], fill=False, hatch="xx", ec=(1, 1, 1, 0.45), lw=0)
        )
    if data.tasks <= ANNOTATED_TASKS:
        middle = sum(scale) / 2
        for (row, column), value in np.ndenumerate(shown):
            color = "black" if value > middle else "white"
            ax.text(column + 0.5, row + 0.5, f"{value:.0f}", size=7, color=color, ha="center", va="center")
    step = math.ceil(data.tasks / ANNOTATED_TASKS)
    marks = range(0, data.tasks, step)
    ax.set_xticks([0.5] if data.one_test_set else [i + 0.5 for i in marks])
    ax.set_xticklabels(["test set"] if data.one_test_set else [str(i) for i in marks])
    ax.set_yticks([0.5, *(t + 1.5 for t in marks)], ["random", *map(str, marks)])
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelsize=7)
    ax.set_title(plain_text(method_name(method.strategy, method.objective)), fontsize=8)


def _cross_out(ax: Axes, x: npt.ArrayLike, y: npt.ArrayLike) -> None:
    ax.plot(x, y, color="0.2", marker="x", ls="", ms=8, mew=1.3, zorder=3)


def _within_percent(ax: Axes) -> None:
    """Ends the axis, which all facets share, where accuracies end: an interval may reach beyond."""
    low, high = ax.get_ylim()
    ax.set_ylim(max(0.0, low), min(100.0, high))


def _half(spread: Interval) -> float:
    return spread.mean - spread.low
