"""Tables beside the main one: all probes side by side, and accuracy on other datasets; as Markdown, LaTeX and CSV."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bench.evaluate.catalogue import AWARE, probe_description
from bench.report.statistics import Interval, Summary, counted, probes_of
from bench.report.text import STALE, csv_text, latex_table, markdown, markdown_table, tex
from bench.report.transfers import TransferSection

TRANSFER_COLUMNS = (
    *("scenario", "dataset", "tasks", "objective", "strategy", "target", "probe", "after_task"),
    *("mean", "std", "ci_low", "ci_high", "n", "stale"),
)
NOTHING = "–"
TRANSFER_NOTE = (
    "Accuracy in percent on the whole test set of the other dataset, mean ± standard deviation over seeds, of the "
    "encoder after each task; n: runs averaged. random: the network before any training; pixels: raw pixels of the "
    "other dataset."
)


def probes_side_by_side(summary: Summary) -> list[str]:
    """Lines of Markdown: average accuracy by every probe, where there are several; task-agnostic ones, then aware."""
    lines: list[str] = []
    for place, runs in summary.sections():
        every = probes_of(runs)
        plain = [probe for probe in every if not probe.endswith(AWARE)]
        if len(plain) < 2:
            continue
        title = f"{place[0]} / {place[1]} / {counted(place[2])}"
        lines += ["", f"### {markdown(title)}"]
        for probes in (plain, [probe for probe in every if probe.endswith(AWARE)]):
            if probes:
                lines += ["", *(f"- {markdown(probe_description(probe))}" for probe in probes)]
                lines += ["", *_side_by_side(summary, place, probes)]
    if not lines:
        return []
    note = "Average accuracy in percent, mean ± standard deviation over seeds, of the same encoders by every probe."
    return ["", "## Probes side by side", "", note, *lines]


def _side_by_side(summary: Summary, place: tuple[str, str, int], probes: Sequence[str]) -> list[str]:
    cells = summary.cells
    here = cells[
        (cells.scenario == place[0])
        & (cells.dataset == place[1])
        & (cells.tasks == place[2])
        & (cells.metric == "average_accuracy")
    ]
    found: dict[tuple[str, str], dict[str, str]] = {}
    numbers: Iterable[Any] = here.itertuples(index=False)
    for row in numbers:
        own = found.setdefault((row.objective, row.strategy), {})
        number = percent(Interval(row.mean, row.std, row.ci_low, row.ci_high, row.n))
        own[row.probe] = number + STALE * bool(row.stale and row.n)
    rows = [
        [markdown(objective), markdown(strategy), *(own.get(probe, NOTHING) for probe in probes)]
        for (objective, strategy), own in found.items()
    ]
    return markdown_table(["objective", "strategy", *map(markdown, probes)], rows, numbers=len(probes))


def transfer_markdown(sections: Sequence[TransferSection]) -> list[str]:
    """Lines of Markdown: accuracy on other datasets after every task."""
    lines = ["", "## Transfer to other datasets", "", TRANSFER_NOTE] if sections else []
    for section in sections:
        lines += ["", f"### {markdown(section.title)}", "", markdown(section.description), ""]
        header = ["objective", "strategy", *_columns(section), "n"]
        lines += markdown_table(header, _rows(section, markdown), numbers=section.tasks + 1)
    return lines


def transfer_latex(sections: Sequence[TransferSection]) -> list[str]:
    """Lines of LaTeX: the same, one booktabs tabular per section."""
    lines: list[str] = []
    for section in sections:
        header = ["objective", "strategy", *_columns(section), "$n$"]
        titles = (section.title, section.description)
        lines += latex_table(titles, header, _rows(section, tex), section.tasks + 1)
    return [r"\medskip", *lines, rf"{{\footnotesize {tex(TRANSFER_NOTE)}\par}}"] if lines else []


def transfer_csv(sections: Sequence[TransferSection]) -> str:
    """`transfer.csv`: fractions with six decimals; after_task -1 is the network before training, -2 raw pixels."""
    rows: list[tuple[object, ...]] = [TRANSFER_COLUMNS]
    for section in sections:
        where = (section.scenario, section.dataset, section.tasks)
        for row in section.rows:
            for task, spread in row.accuracies():
                numbers = ("" if math.isnan(value) else f"{value:.6f}" for value in spread[:4])
                names = (*where, row.objective, row.strategy, section.target, section.probe, task)
                rows.append((*names, *numbers, spread.n, "yes" if row.stale else "no"))
    return csv_text(rows)


def percent(spread: Interval) -> str:
    """`61.3 ± 0.4`, `61.3` with one value, a dash with none."""
    if math.isnan(spread.mean):
        return NOTHING
    # numpy's rounding, as in the main table
    mean, std = (round(100 * np.float64(value), 1) for value in (spread.mean, spread.std))
    return f"{mean:.1f}" + ("" if math.isnan(std) else f" ± {std:.1f}")


def _columns(section: TransferSection) -> list[str]:
    return [f"after task {task}{' (last)' * (task == section.tasks - 1)}" for task in range(section.tasks)]


def _rows(section: TransferSection, text: Callable[[str], str]) -> list[list[str]]:
    return [
        [
            *(text(row.objective), text(row.strategy), *(text(percent(s)) for s in row.after)),
            text(f"{row.after[-1].n}" + STALE * row.stale),
        ]
        for row in section.rows
    ]
