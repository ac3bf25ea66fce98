"""The stacked bars of `speed`: where the time of a step goes, beside the encoder-only limit."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.files import write_atomic
from bench.report.layout import plain_text
from bench.speed.measure import Speed
from bench.speed.step import PARTS


def draw(speeds: Sequence[Speed], title: str, path: Path) -> None:
    """One bar per method, in milliseconds, with its limit as a line and its percent of the limit behind it."""
    figure = Figure(figsize=(9, 1.7 + 0.55 * len(speeds)), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    names = [*PARTS, "rest"]
    colors = dict(zip(names, sns.color_palette("colorblind"), strict=False))
    ends = [0.0] * len(speeds)
    rows = range(len(speeds))
    for part in names:
        widths = [1e3 * speed.parts[part] for speed in speeds]
        ax.barh(rows, widths, left=ends, height=0.6, color=colors[part], label=part, edgecolor="white", lw=0.5)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for row, speed in enumerate(speeds):
        limit = 1e3 * speed.limit
        ax.plot([limit, limit], [row - 0.4, row + 0.4], color="black", lw=1.6, label=None if row else "encoders alone")
        ax.annotate(
            f"{speed.rate:,.0f} images/s, {speed.of_limit:.0%} of the limit",
            (max(ends[row], limit), row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    ax.set_yticks(list(rows), [plain_text(speed.method) for speed in speeds])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.45 * max(ends))
    ax.set_xlabel("milliseconds per step")
    sns.despine(ax=ax)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    figure.suptitle(plain_text(title), fontsize=10, x=0.01, ha="left")
    drawn = BytesIO()
    figure.savefig(drawn, dpi=150, format=path.suffix[1:])
    write_atomic(path, drawn.getvalue())
