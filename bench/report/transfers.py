"""Accuracy on other datasets after every task: what the records say, as rows over seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.evaluate.catalogue import transfer_description
from bench.report.records import Run
from bench.report.statistics import Interval, Summary, counted, interval
from bench.report.variants import grouped, setting_names, setting_of

PIXELS, RANDOM = -2, -1


@dataclass(frozen=True)
class TransferRow:
    """A method, or what no method touched: accuracy in [0, 1] over seeds after each task 0..T-1, nan where unknown.

    reference: None for a method; -2 for raw pixels and -1 for the random network, whose one value stands at the last
    task. stale: whether other code than the present made one of the runs.
    """

    objective: str
    strategy: str
    after: tuple[Interval, ...]
    stale: bool
    reference: int | None = None

    def accuracies(self) -> list[tuple[int, Interval]]:
        """(after_task, accuracy) of what is known."""
        if self.reference is not None:
            return [(self.reference, self.after[-1])]
        return [(task, spread) for task, spread in enumerate(self.after) if spread.n]


@dataclass(frozen=True)
class TransferSection:
    """One task sequence, another dataset and a probe: the rows, references first."""

    scenario: str
    dataset: str
    tasks: int
    target: str
    probe: str
    rows: tuple[TransferRow, ...]

    @property
    def title(self) -> str:
        """`class_il / cifar10 / 5 tasks: transfer to fashion_mini`."""
        return f"{self.scenario} / {self.dataset} / {counted(self.tasks)}: transfer to {self.target}"

    @property
    def description(self) -> str:
        """Which probe the numbers are of."""
        return transfer_description(self.probe, self.target)


def transfers(summary: Summary) -> list[TransferSection]:
    """A section for every task sequence, target and probe that has a row."""
    sections = []
    for place, runs in summary.sections():
        pairs = sorted({(target, probe) for run in runs for target, probe, _ in run.transfer})
        for target, probe in sorted(pairs, key=lambda pair: (pair[0], pair[1] != "linear", pair[1])):
            rows = (*_references(runs, target, probe), *_methods(summary.names, runs, target, probe))
            sections.append(TransferSection(*place, target, probe, rows))
    return sections


def _references(runs: Sequence[Run], target: str, probe: str) -> Iterator[TransferRow]:
    texts = setting_names(runs)
    for setting, members in grouped(runs, setting_of).items():
        for name, after in (("pixels", PIXELS), ("random", RANDOM)):
            values = {run.seed: run.transfer[key] for run in members if (key := (target, probe, after)) in run.transfer}
            if values:
                nothing = interval(())
                shown = f"{name} [{texts[setting]}]" if texts[setting] else name
                rest = (nothing,) * (members[0].tasks - 1)
                stale = any(run.stale_after(after) for run in members)
                yield TransferRow("none", shown, (*rest, interval(values.values())), stale, after)


def _methods(names: Mapping[Run, str], runs: Sequence[Run], target: str, probe: str) -> Iterator[TransferRow]:
    """The methods' rows over the runs that the main table averages."""
    complete = [run for run in runs if run.status == "complete"]
    for (objective, strategy), members in sorted(grouped(complete, lambda run: (run.objective, names[run])).items()):
        found = [
            [run.transfer[key] for run in members if (key := (target, probe, after)) in run.transfer]
            for after in range(members[0].tasks)
        ]
        if any(found):
            stale = any(run.stale for run in members)
            yield TransferRow(objective, strategy, tuple(interval(values) for values in found), stale)
