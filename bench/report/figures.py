"""The report's figures: one file per kind and task sequence, a facet per objective."""

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.report import panels
from bench.report.curves import SequenceData, sequences
from bench.report.layout import add_texts
from bench.report.statistics import Summary

# a figure's bytes depend on the records alone: no dates, no versions
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "figure.dpi": 100,
    "savefig.dpi": 150,
}


class Kind(NamedTuple):
    """A kind of figure: how it is drawn on an empty figure, and whether it needs more than one task."""

    draw: Callable[[Figure, SequenceData], str]
    several_tasks: bool = False


KINDS: dict[str, Kind] = {
    "accuracy_after_task": Kind(panels.accuracy_after_task),
    "accuracy_matrix": Kind(panels.accuracy_matrix),
    "forgetting_against_accuracy": Kind(panels.forgetting_against_accuracy, several_tasks=True),
    "final_accuracy": Kind(panels.final_accuracy),
}


def draw_all(summary: Summary, formats: Sequence[str]) -> dict[str, bytes]:
    """Every figure by file name (`<kind>-<scenario>-<dataset>-<T>tasks.<format>`) in the formats `png`,
    `pdf`.

    A task sequence without a single averaged run has no figures.
    """
    files = {}
    with mpl.rc_context(STYLE):
        for data in sequences(summary):
            for name, kind in KINDS.items():
                if kind.several_tasks and data.tasks < 2:
                    continue
                figure = Figure(layout="constrained")
                FigureCanvasAgg(figure)
                caption = kind.draw(figure, data)
                add_texts(figure, data.title, [*data.notes, f"{data.description}.", caption])
                # lay out once, not once per format
                figure.draw_without_rendering()
                figure.set_layout_engine("none")
                stem = f"{name}-{file_name(data.scenario)}-{file_name(data.dataset)}-{data.tasks}tasks"
                files.update({f"{stem}.{form}": _render(figure, form) for form in formats})
    return files


def file_name(name: str) -> str:
    """`name` as part of a file name; what had to be changed is told apart by a hash."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
    if plain == name and len(name) <= 60:
        return name
    return f"{plain[-50:].strip('_')}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _render(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, metadata=METADATA[form])
    return buffer.getvalue()
