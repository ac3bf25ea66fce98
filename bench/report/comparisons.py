"""What the seeds can tell apart: paired differences, clear winners, orders that depend on a definition."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from bench.evaluate.metrics import FORGETTING_DEFINITIONS, METRICS
from bench.report.statistics import NOTHING, Array, Group, Interval, Summary, counted, interval
from bench.report.text import STALE


class Difference(NamedTuple):
    """A strategy against another one of its group, marked where stale: statistics of their differences by seed."""

    group: str
    strategy: str
    other: str
    spread: Interval


def winners(summary: Summary, probe: str, metric: str) -> set[tuple[object, ...]]:
    """The cells (as `CELL`) whose best mean is a clear one: by seed, it differs from every other strategy's.

    Clear means that the 95 % paired t interval of the difference excludes zero for every other strategy of
    the group that has averaged runs; a difference over fewer than two common seeds has no interval and
    excludes nothing.
    """
    found: set[tuple[object, ...]] = set()
    for group in summary.groups:
        by_seed = group.values.get((probe, metric))
        if by_seed is None:
            continue
        best, others = _best_and_others(by_seed, METRICS[metric].higher_is_better)
        if others and all(interval(by_seed[best] - by_seed[other]).excludes_zero for other in others):
            found.add((group.scenario, group.dataset, group.tasks, group.objective, group.strategies[best]))
    return found


def differences_to_best(summary: Summary, metric: str) -> Iterator[Difference]:
    """For every group, its best strategy by mean against each other one, by the headline probe."""
    for group in summary.groups:
        by_seed = group.values.get((_headline(summary, group), metric))
        if by_seed is None:
            continue
        best, others = _best_and_others(by_seed, METRICS[metric].higher_is_better)
        for other in others:
            one, two = (
                name + STALE * (name in group.stale) for name in (group.strategies[best], group.strategies[other])
            )
            yield Difference(_title(group), one, two, interval(by_seed[best] - by_seed[other]))


def flips(summary: Summary) -> list[str]:
    """One line for each pair of strategies whose order depends on the definition of forgetting or on the
    probe.
    """
    lines: list[str] = []
    for group in summary.groups:
        probe = _headline(summary, group)
        definitions = {name: group.values.get((probe, name)) for name in FORGETTING_DEFINITIONS}
        known = {name: by_seed for name, by_seed in definitions.items() if by_seed is not None}
        probes = {name: by_seed for (name, metric), by_seed in group.values.items() if metric == "average_accuracy"}
        found = _flips(group, f"forgetting ({probe} probe)", known) | _flips(group, "average accuracy", probes)
        lines += [found[key] for key in sorted(found, key=lambda key: (key[:2], key[2] == "average accuracy"))]
    return lines


def _flips(group: Group, what: str, tables: Mapping[str, Array]) -> dict[tuple[int, int, str], str]:
    """Lines by pair and `what` where the mean difference has another sign in another one of `tables`."""
    if not tables:
        return {}
    signs = np.stack([_signs(by_seed) for by_seed in tables.values()])
    lines = {}
    for one, other in np.argwhere((signs > 0).any(axis=0) & (signs < 0).any(axis=0)).tolist():
        of_pair = dict(zip(tables, signs[:, one, other], strict=True))
        higher, lower = (", ".join(name for name in tables if of_pair[name] == sign) for sign in (1, -1))
        names = f"{group.strategies[one]} and {group.strategies[other]}"
        sides = f"{group.strategies[one]} is higher by {higher}, lower by {lower}"
        lines[one, other, what] = f"{_title(group)}: the order of {names} in {what} flips: {sides}"
    return lines


def _signs(by_seed: Array) -> Array:
    """(S, S): 1 where a strategy is higher than a later one in the mean over common seeds, -1 where lower, else 0."""
    signs = np.zeros((len(by_seed), len(by_seed)))
    for one, values in enumerate(by_seed):
        mean, _ = _means(values - by_seed[one + 1 :])
        signs[one, one + 1 :] = np.sign(mean) * (abs(mean) > NOTHING)
    return signs


def _means(values: Array) -> tuple[Array, Array]:
    """Of each row of (n, N): the mean of what is no nan, 0 where there is nothing, and how many values that are."""
    counts = np.isfinite(values).sum(axis=1)
    return np.nansum(values, axis=1) / np.maximum(counts, 1), counts


def _best_and_others(by_seed: Array, higher_is_better: bool) -> tuple[int, list[int]]:
    means, counts = _means(by_seed)
    best = int(np.where(counts > 0, means if higher_is_better else -means, -np.inf).argmax())
    return best, [other for other in np.flatnonzero(counts).tolist() if other != best]


def _headline(summary: Summary, group: Group) -> str:
    return summary.headline(group.scenario, group.dataset, group.tasks)


def _title(group: Group) -> str:
    return f"{group.scenario} / {group.dataset} / {counted(group.tasks)} / {group.objective}"
