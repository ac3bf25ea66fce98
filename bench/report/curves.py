"""What the figures draw, as arrays over the averaged seeds: one `SequenceData` per task sequence."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.evaluate.catalogue import probe_description
from bench.evaluate.metrics import average_accuracy, forgetting
from bench.report.maintable import notes_of
from bench.report.records import STATES, Run
from bench.report.statistics import Interval, Summary, counted, interval
from bench.report.variants import grouped, method_name

Array = npt.NDArray[np.float64]
STALE_NOTE = (
    "Hatched or crossed out: stale, averages runs that other code than the present has made; their command line with "
    "--retrain stale makes them again."
)


@dataclass(frozen=True)
class MethodData:
    """The averaged runs of one cell, in percent: `matrices` is (seeds, T, T), `random` (seeds, T); stale: whether other
    code than the present made one of them."""

    objective: str
    strategy: str
    matrices: Array
    random: Array
    stale: bool

    def seen(self) -> list[Interval]:
        """After each task, the accuracy averaged over the tasks seen so far, over seeds."""
        steps = range(self.matrices.shape[1])
        return [interval(self.matrices[:, t, : t + 1].mean(axis=1)) for t in steps]

    def final(self) -> list[Interval]:
        """The accuracy on each task at the end, over seeds."""
        return [interval(column) for column in self.matrices[:, -1].T]

    def average_accuracy(self) -> Interval:
        """Average accuracy over seeds."""
        return interval(average_accuracy(self.matrices))

    def forgetting(self) -> Interval:
        """Forgetting (the headline definition) over seeds."""
        return interval(forgetting(self.matrices))


@dataclass(frozen=True)
class SequenceData:
    """One task sequence: its methods with averaged runs sorted by objective and strategy, and what to write
    on it.

    task_names: empty if they differ between seeds or are too long to print. one_test_set: all columns of R
    are equal. joint: by objective, the average accuracy of joint training in percent, where it has been run.
    stale_joint: whether other code than the present made one of those runs.
    """

    scenario: str
    dataset: str
    tasks: int
    probe: str
    task_names: tuple[str, ...]
    one_test_set: bool
    notes: tuple[str, ...]
    methods: tuple[MethodData, ...]
    joint: dict[str, float]
    stale_joint: bool

    @property
    def title(self) -> str:
        """`class_il / fashion_mini / 5 tasks, linear probe`."""
        return f"{self.scenario} / {self.dataset} / {counted(self.tasks)}, {self.probe} probe"

    @property
    def description(self) -> str:
        """Which probe the numbers are of."""
        return probe_description(self.probe)

    @property
    def objectives(self) -> list[str]:
        """The objectives, sorted."""
        return sorted({method.objective for method in self.methods})

    @property
    def strategies(self) -> list[str]:
        """The strategies, sorted."""
        return sorted({method.strategy for method in self.methods})

    @property
    def has_bands(self) -> bool:
        """Whether any method has the two seeds that an interval needs."""
        return any(len(method.matrices) > 1 for method in self.methods)

    @property
    def stale(self) -> bool:
        """Whether any method is stale."""
        return any(method.stale for method in self.methods)

    def of(self, objective: str) -> list[MethodData]:
        """The methods of an objective."""
        return [method for method in self.methods if method.objective == objective]


def sequences(summary: Summary) -> Iterator[SequenceData]:
    """Every task sequence that has an averaged run, sorted."""
    for (scenario, dataset, tasks), runs in summary.sections():
        probe = summary.headline(scenario, dataset, tasks)
        complete = [run for run in runs if run.status == "complete"]
        averaged = [run for run in complete if not run.bound and np.isfinite(run.matrix(probe)).all()]
        if not averaged:
            continue
        joint = [run for run in complete if run.bound and run.after != (-1,)]
        cells = grouped(averaged, lambda run: (run.objective, summary.names[run]))
        methods = [_method(*cell, members, probe) for cell, members in sorted(cells.items())]
        stale = [STALE_NOTE] if any(method.stale for method in methods) else []
        names = {run.task_names for run in averaged}
        short = len(names) == 1 and all(len(name) <= 12 for name in averaged[0].task_names)
        yield SequenceData(
            scenario,
            dataset,
            tasks,
            probe,
            averaged[0].task_names if short else (),
            scenario == "data_il",
            (*notes_of(runs), *_absent(summary, runs, set(cells)), *stale),
            tuple(methods),
            _joint(joint, probe),
            any(run.stale for run in joint),
        )


def _joint(runs: list[Run], probe: str) -> dict[str, float]:
    cells = grouped(runs, lambda run: run.objective)
    return {
        objective: interval(100 * average_accuracy(np.stack([run.matrix(probe) for run in members]))).mean
        for objective, members in cells.items()
    }


def _absent(summary: Summary, runs: list[Run], shown: set[tuple[str, str]]) -> list[str]:
    """The sentence that names the methods without an averaged run, if there are any."""
    cells = grouped(runs, lambda run: (run.objective, summary.names[run]))
    states = {
        f"{method_name(strategy, objective)} ({' and '.join(sorted({STATES[run.status] for run in members}))})"
        for (objective, strategy), members in cells.items()
        if (objective, strategy) not in shown and not all(run.bound for run in members)
    }
    return [f"Without a run to show: {'; '.join(sorted(states))}."] if states else []


def _method(objective: str, strategy: str, runs: list[Run], probe: str) -> MethodData:
    matrices = np.array([100 * run.matrix(probe) for run in runs])
    random = np.array([100 * run.random(probe) for run in runs])
    return MethodData(objective, strategy, matrices, random, any(run.stale for run in runs))
