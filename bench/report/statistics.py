"""From runs to numbers: metrics per run, statistics per cell, and what the seeds can tell apart."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from bench.evaluate.metrics import METRICS, compute
from bench.report.records import Run, read_records
from bench.report.variants import Setting, grouped, setting_names, setting_of, strategy_names

Array = npt.NDArray[np.float64]
Place = tuple[str, str, int]
"""Scenario, dataset and number of tasks of a task sequence."""
Measured = Mapping[Run, Mapping[tuple[str, str], float]]
"""Of every averaged run, in the order of the runs: (probe, metric) -> value, a fraction."""

SECTION = ["scenario", "dataset", "tasks"]
CELL = [*SECTION, "objective", "strategy"]
CONFIDENCE = 0.95
# rounding of the mean must not make a difference of nothing look like one
NOTHING = 1e-12


class Interval(NamedTuple):
    """Mean, standard deviation (ddof = 1) and 95 % Student-t interval over n values; nan where n does not
    allow it.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval exists and lies wholly above or wholly below zero."""
        return self.low > NOTHING or self.high < -NOTHING


def interval(values: Iterable[float]) -> Interval:
    """Statistics of the finite ones among `values`: no mean of nothing, no spread of one value."""
    x = np.fromiter(values, dtype=np.float64)
    x = x[np.isfinite(x)]
    nan = float("nan")
    if len(x) == 0:
        return Interval(nan, nan, nan, nan, 0)
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, nan, nan, nan, 1)
    std = float(x.std(ddof=1))
    half = float(stdtrit(len(x) - 1, (1 + CONFIDENCE) / 2)) * std / len(x) ** 0.5
    return Interval(mean, std, mean - half, mean + half, len(x))


def counted(tasks: int) -> str:
    """`1 task`, `5 tasks`."""
    return f"{tasks} task{'' if tasks == 1 else 's'}"


@dataclass(frozen=True)
class Group:
    """The averaged runs whose strategies are compared, as all else is equal.

    strategies: their names, sorted. values: by (probe, metric), (S, N) fractions, a row per strategy and a column per
    seed; nan where a strategy has no run of a seed, or the metric is undefined. stale: strategies with a run that other
    code has made.
    """

    scenario: str
    dataset: str
    tasks: int
    objective: str
    strategies: tuple[str, ...]
    values: dict[tuple[str, str], Array]
    stale: frozenset[str]


@dataclass(frozen=True)
class Summary:
    """All that tables and figures are made of.

    names: the strategy name of each run in the report. groups: what is compared, sorted.
    cells: one row per cell, probe and metric: mean, std, ci_low, ci_high, n (runs averaged), and counts of
    seeds: `complete` (with the marked ones), `marked`, `planned` (all seeds that any run of the same setting
    has); `stale`: whether other code than the present has made one of the averaged runs.
    """

    runs: tuple[Run, ...]
    names: dict[Run, str]
    groups: tuple[Group, ...]
    cells: pd.DataFrame
    warnings: tuple[str, ...]

    def headline(self, scenario: str, dataset: str, tasks: int) -> str:
        """The probe of a task sequence's main numbers: that of its first run."""
        return self._by_place[scenario, dataset, tasks][0].headline

    def sections(self) -> Iterator[tuple[Place, list[Run]]]:
        """The runs by (scenario, dataset, tasks), sorted."""
        yield from sorted(self._by_place.items())

    @cached_property
    def _by_place(self) -> dict[Place, list[Run]]:
        return grouped(self.runs, _place)


def summarise(out: Path) -> Summary:
    """Read the records of results folder `out` and compute every statistic of the report.

    Raises UserError where there are no records or they contradict each other.
    """
    runs, warnings = read_records(out / "records")
    names = strategy_names(runs)
    runs = _one_per_seed(runs, names, warnings)
    measured = _measure([run for run in runs if run.status == "complete"])
    contenders = {run: values for run, values in measured.items() if not run.bound}
    cells = pd.DataFrame([*_method_cells(runs, names, measured), *_reference_cells(runs)])
    cells = cells.sort_values([*CELL, "probe"], key=_references_first, kind="stable", ignore_index=True)
    return Summary(tuple(runs), names, tuple(_groups(names, contenders)), cells, tuple(warnings))


def _place(run: Run) -> Place:
    return run.scenario, run.dataset, run.tasks


def _one_per_seed(runs: Sequence[Run], names: dict[Run, str], warnings: list[str]) -> list[Run]:
    kept: dict[tuple[Any, ...], Run] = {}
    finished_first = sorted(runs, key=lambda run: run.status not in ("complete", "marked"))
    for run in finished_first:
        key = (run.scenario, run.dataset, run.tasks, run.objective, names[run], run.seed)
        first = kept.setdefault(key, run)
        if first is not run:
            warnings.append(f"{run.path}: left out, it is the same method, setting and seed as {first.path}")
    chosen = set(kept.values())
    return [run for run in runs if run in chosen]


def _measure(runs: Sequence[Run]) -> dict[Run, dict[tuple[str, str], float]]:
    """The metrics of runs, computed at once for all that have the same number of tasks and the same probes."""
    values: dict[Run, dict[tuple[str, str], float]] = {run: {} for run in runs}
    for (_, probes), members in grouped(runs, lambda run: (run.tasks, tuple(probes_of([run])))).items():
        for probe in probes:
            tables = np.stack([run.table(probe) for run in members])
            for metric, numbers in compute(tables[:, 1:], tables[:, 0]).items():
                key = (probe, metric)
                for run, number in zip(members, numbers.tolist(), strict=True):
                    values[run][key] = number
    return values


def _groups(names: Mapping[Run, str], measured: Measured) -> Iterator[Group]:
    found = grouped(measured, lambda run: (*_place(run), run.objective, " ".join(setting_of(run))))
    for (scenario, dataset, tasks, objective, _), members in sorted(found.items()):
        strategies = sorted({names[run] for run in members})
        seeds = sorted({run.seed for run in members})
        row = {name: index for index, name in enumerate(strategies)}
        column = {seed: index for index, seed in enumerate(seeds)}
        values: dict[tuple[str, str], Array] = {}
        for run in members:
            for key, value in measured[run].items():
                if math.isnan(value):
                    continue
                if key not in values:
                    values[key] = np.full((len(strategies), len(seeds)), np.nan)
                values[key][row[names[run]], column[run.seed]] = value
        stale = frozenset(names[run] for run in members if run.stale)
        yield Group(scenario, dataset, tasks, objective, tuple(strategies), values, stale)


def probes_of(runs: Iterable[Run]) -> list[str]:
    """The probes of the runs: those of their configurations in order, then those that were added later."""
    planned: dict[str, None] = {}
    added: set[str] = set()
    for run in runs:
        planned.update(dict.fromkeys(run.probes))
        added |= run.measured
    return [*planned, *sorted(added - set(planned))]


def _identity(run: Run, strategy: str) -> dict[str, Any]:
    return {
        "scenario": run.scenario,
        "dataset": run.dataset,
        "tasks": run.tasks,
        "objective": run.objective,
        "strategy": strategy,
    }


def _method_cells(runs: Sequence[Run], names: Mapping[Run, str], measured: Measured) -> Iterator[dict[str, Any]]:
    planned = _planned_seeds(runs)
    trained = (run for run in runs if run.after != (-1,))  # the random network has a row of its own
    cells = grouped(trained, lambda run: (_place(run), run.objective, names[run]))
    for (place, _, strategy), members in cells.items():
        states = [run.status for run in members]
        counts = {
            "complete": states.count("complete") + states.count("marked"),
            "marked": states.count("marked"),
            "planned": planned[place, setting_of(members[0])],
            "stale": any(run.stale for run in members if run in measured),
        }
        averaged = [measured[run] for run in members if run in measured]
        for probe in probes_of(members):
            for metric in METRICS:
                spread = interval(values[probe, metric] for values in averaged if (probe, metric) in values)
                yield _cell_row(_identity(members[0], strategy), setting_of(members[0]), probe, metric, spread, counts)


def _planned_seeds(runs: Iterable[Run]) -> dict[tuple[Place, Setting], int]:
    groups = grouped(runs, lambda run: (_place(run), setting_of(run)))
    return {key: len({run.seed for run in members}) for key, members in groups.items()}


def _reference_cells(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Cells of what no method touched: the `random` network and the raw `pixels`, once per seed."""
    for section in grouped(runs, _place).values():
        texts = setting_names(section)
        for setting, members in grouped(section, setting_of).items():
            counts = {"marked": 0, "planned": len({run.seed for run in members})}
            for name, after, read in (("random", -1, Run.random), ("pixels", -2, Run.raw_pixels)):
                counts["stale"] = any(run.stale_after(after) for run in members)
                shown = f"{name} [{texts[setting]}]" if texts[setting] else name
                identity = _identity(members[0], shown) | {"objective": "none"}
                for probe in probes_of(members):
                    spread = interval(_per_seed(members, [read(run, probe) for run in members]))
                    counts["complete"] = spread.n
                    if spread.n:
                        yield _cell_row(identity, setting, probe, "average_accuracy", spread, counts)


def _per_seed(runs: Sequence[Run], accuracies: Sequence[npt.NDArray[np.float64]]) -> list[float]:
    """The runs of a seed repeat one value; where they do not (another encoder), the distinct ones are
    averaged.
    """
    distinct: dict[int, set[float]] = {}
    for run, accuracy in zip(runs, accuracies, strict=True):
        if np.isfinite(accuracy).all():
            distinct.setdefault(run.seed, set()).add(round(float(accuracy.mean()), 12))
    return [float(np.mean(sorted(values))) for _, values in sorted(distinct.items())]


def _cell_row(
    identity: dict[str, Any],
    setting: Setting,
    probe: str,
    metric: str,
    spread: Interval,
    counts: dict[str, int],
) -> dict[str, Any]:
    statistics = {
        "mean": spread.mean,
        "std": spread.std,
        "ci_low": spread.low,
        "ci_high": spread.high,
        "n": spread.n,
    }
    return {
        **identity,
        "setting": " ".join(setting),
        "probe": probe,
        "metric": metric,
        **statistics,
        **counts,
    }


def _references_first(column: pd.Series) -> pd.Series:
    return column.replace("none", "") if column.name == "objective" else column
