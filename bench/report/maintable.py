"""The main table as data: one section per task sequence, one row per method; renderers only format it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from bench.evaluate.catalogue import probe_description
from bench.evaluate.metrics import METRICS
from bench.report.comparisons import winners
from bench.report.records import STATES, Run
from bench.report.statistics import Place, Summary, counted
from bench.report.variants import method_name

Cell = tuple[str, str, int, str, str]
"""Scenario, dataset, tasks, objective and strategy."""
Numbers = dict[tuple[str, str], Any]
"""A cell's rows of `Summary.cells` by probe and metric."""

QUICK_NOTE = "Quick tier: it shows that the machine works, not which method is better."
SYNTHETIC_NOTE = "Synthetic domains: made from one dataset by image transformations, not collected."


@dataclass(frozen=True)
class Column:
    """A column of the main table: where its number comes from; `probe` None stands for the headline probe.

    short: the title on two lines of at most eight characters.
    """

    title: str
    short: str
    metric: str
    probe: str | None = None


COLUMNS = (
    Column("average accuracy", "average\naccuracy", "average_accuracy"),
    Column("forgetting", "forget-\nting", "forgetting"),
    Column("average incremental accuracy", "increm.\naccuracy", "average_incremental_accuracy"),
    Column("forward transfer", "forward\ntransfer", "forward_transfer"),
    Column("plasticity", "plasti-\ncity", "plasticity"),
    Column("kNN accuracy", "kNN\naccuracy", "average_accuracy", "knn"),
)


@dataclass(frozen=True)
class Entry:
    """A number of the table in percent, nan where there is none; `clear` if it is the clear best of its
    group.
    """

    mean: float
    std: float
    clear: bool


@dataclass(frozen=True)
class TableRow:
    """A row: one method, with its counts of seeds; `marked` counts the collapsed runs that are left out; stale: whether
    other code than the present made one of the averaged."""

    objective: str
    strategy: str
    entries: tuple[Entry, ...]
    averaged: int
    planned: int
    marked: int
    stale: bool


@dataclass(frozen=True)
class Section:
    """The rows of one task sequence, the probe that measured them, and what a reader must know about it."""

    scenario: str
    dataset: str
    tasks: int
    probe: str
    notes: tuple[str, ...]
    rows: tuple[TableRow, ...]

    @property
    def title(self) -> str:
        """`class_il / fashion_mini / 5 tasks`."""
        return f"{self.scenario} / {self.dataset} / {counted(self.tasks)}"

    @property
    def description(self) -> str:
        """Which probe the numbers are of, but those of columns that name another."""
        return probe_description(self.probe)


def main_table(summary: Summary) -> list[Section]:
    """The sections of the main table, sorted."""
    numbers: Iterable[Any] = summary.cells.itertuples(index=False)
    cells: dict[Place, dict[Cell, Numbers]] = {}
    for number in numbers:
        place = (number.scenario, number.dataset, number.tasks)
        cell = (*place, number.objective, number.strategy)
        cells.setdefault(place, {}).setdefault(cell, {})[number.probe, number.metric] = number
    clear = cache(partial(winners, summary))
    sections = []
    for place, runs in summary.sections():
        probe = summary.headline(*place)
        rows = tuple(_row(cell, own, probe, clear) for cell, own in cells.get(place, {}).items())
        sections.append(Section(*place, probe, notes_of(runs), rows))
    return sections


def notes_of(runs: Iterable[Run]) -> tuple[str, ...]:
    """What every table and figure that shows these runs must say, one sentence each."""
    runs = list(runs)
    notes = [QUICK_NOTE] if any(run.preset == "quick" for run in runs) else []
    notes += [SYNTHETIC_NOTE] if any(run.synthetic_domains for run in runs) else []
    return (*notes, *sorted({f"{run.note.rstrip('.')}." for run in runs if run.note}))


def definitions() -> list[str]:
    """How to read the numbers, one sentence each."""
    formulas = "; ".join(f"{c.title} = {METRICS[c.metric].formula}" for c in COLUMNS if c.probe is None)
    return [
        "All numbers in percent, mean ± standard deviation over seeds (no ± with one seed); each table names its "
        f"probe, but kNN accuracy = average accuracy by the {probe_description('knn')}.",
        "With R[t, i] the accuracy on task i after task t, for tasks 0..T-1, and random[i] that of the "
        f"network before training: {formulas}.",
        "n: runs averaged / seeds planned (all seeds that any method of the same setting has).",
        "Bold: the best of its objective and setting, whose difference by seed to every other strategy "
        "excludes zero (95 % paired t interval, at least 2 common seeds).",
        "random: the network before any training; pixels: the probe on raw pixels. Both need no method.",
    ]


def troubles(summary: Summary) -> list[tuple[str, str, str, str]]:
    """Runs that are averaged nowhere: (method, seed and run id, status, reason), sorted."""
    return sorted(
        (
            f"{run.scenario} / {run.dataset} / {run.tasks} / {method_name(summary.names[run], run.objective)}",
            f"seed {run.seed} ({run.run_id})",
            STATES[run.status],
            run.reason,
        )
        for run in summary.runs
        if run.status != "complete"
    )


def _row(cell: Cell, numbers: Numbers, headline: str, clear: Callable[[str, str], set[tuple[object, ...]]]) -> TableRow:
    entries = []
    for column in COLUMNS:
        probe = column.probe or headline
        number = numbers.get((probe, column.metric))
        if number is None:
            entries.append(Entry(float("nan"), float("nan"), False))
        else:
            # numpy's floats, since it rounds halves to even: Python's would print some numbers otherwise
            mean, std = 100 * np.float64(number.mean), 100 * np.float64(number.std)
            entries.append(Entry(mean, std, cell in clear(probe, column.metric)))
    counts = next(iter(numbers.values()))
    averaged, planned, marked = int(counts.complete - counts.marked), int(counts.planned), int(counts.marked)
    return TableRow(cell[3], cell[4], tuple(entries), averaged, planned, marked, bool(counts.stale))
