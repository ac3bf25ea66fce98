"""The ledger of published numbers: one row per number, with its source, and what is known of the protocol behind it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from bench.errors import UserError, nearest
from bench.evaluate.metrics import METRICS
from bench.layers import Given, read_tree
from bench.paper.reading import build, items, mapping, plain

LEDGER = Path(__file__).parent.parent.parent / "configs" / "published.yaml"


@dataclass(frozen=True)
class Protocol:
    """How a published number was measured, as far as is known; None or absent: not stated.

    family: of the classifier. probe: the probe of this project that measures in the same way. epochs: per task, by
    dataset. class_lists: of an ImageNet-100, which of the known ones. batch: images per step over all devices. facts:
    where these were read.
    """

    description: str
    family: Literal["linear", "knn", "unknown"]
    facts: str
    probe: str | None = None
    encoder: str | None = None
    precision: str | None = None
    batch: int | None = None
    seeds: int | None = None
    epochs: dict[str, int] = field(default_factory=dict)
    class_lists: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """One number, top-1 percent in [0, 100].

    tasks: None where the number does not depend on it. confidence: `exact` was read in the paper, its figure or its
    repository, `secondary` in a third party's copy or a log; of a `quoted` one the protocol is not known.
    """

    source: str
    version: str
    where: str
    protocol: str
    dataset: str
    scenario: Literal["class_il", "data_il", "domain_il", "joint"]
    tasks: int | None
    objective: str
    strategy: str
    metric: str
    value: float
    std: float | None
    confidence: Literal["exact", "secondary", "quoted"]
    url: str
    note: str


IDENTITY = ("source", "version", "protocol", "dataset", "scenario", "tasks", "objective", "strategy", "metric")


@dataclass(frozen=True)
class Ledger:
    """Rows, protocols by name, and the metric of this project that each published one corresponds to."""

    metrics: dict[str, str]
    protocols: dict[str, Protocol]
    rows: tuple[Published, ...]

    def find(
        self, protocols: Sequence[str], dataset: str, scenario: str, tasks: int | None, objective: str, strategy: str
    ) -> Published | None:
        """The number of a table's cell under the first of `protocols` that has it, or None.

        Joint training is one task of all data, so its number holds for any number of tasks.
        """
        for protocol in protocols:
            for row in self.rows:
                same = (row.protocol, row.dataset, row.objective, row.strategy)
                if same != (protocol, dataset, objective, strategy):
                    continue
                if row.scenario == "joint" or (row.scenario == scenario and row.tasks in (None, tasks)):
                    return row
        return None


def read_ledger(path: Path = LEDGER) -> Ledger:
    """The ledger of a file; raises UserError naming line and field of the first thing wrong."""
    sections = mapping(read_tree(path), "the ledger")
    for name, given in sections.items():
        if name not in {f.name for f in fields(Ledger)}:
            raise UserError(f"{given.where}: unknown section '{name}'{nearest(name, (f.name for f in fields(Ledger)))}")
    for name in (f.name for f in fields(Ledger)):
        if name not in sections:
            raise UserError(f"{path}: the section '{name}' is missing")
    metrics = {name: _metric(name, given) for name, given in mapping(sections["metrics"], "metrics").items()}
    protocols = {
        name: build(Protocol, given, f"protocol {name}")
        for name, given in mapping(sections["protocols"], "protocols").items()
    }
    rows: dict[tuple[Any, ...], tuple[Published, str]] = {}
    for given in items(sections["rows"], "rows"):
        row = build(Published, given, "a row")
        _check(row, given, metrics, protocols)
        key = tuple(getattr(row, name) for name in IDENTITY)
        if key in rows:
            raise UserError(f"{given.where}: the same number as in {rows[key][1]} (equal in {', '.join(IDENTITY)})")
        rows[key] = row, given.where
    return Ledger(metrics, protocols, tuple(row for row, _ in rows.values()))


def _metric(name: str, given: Given) -> str:
    ours = str(plain(given))
    if ours not in METRICS:
        raise UserError(f"{given.where}: {name}: unknown metric '{ours}'{nearest(ours, METRICS)}")
    return ours


def _check(row: Published, given: Given, metrics: dict[str, str], protocols: dict[str, Protocol]) -> None:
    for name, known in (("metric", metrics), ("protocol", protocols)):
        word = getattr(row, name)
        if word not in known:
            raise UserError(f"{given.value[name].where}: {name}: unknown '{word}'{nearest(word, known)}")
    for name, number in (("value", row.value), ("std", row.std)):
        if number is not None and not 0 <= number <= 100:
            raise UserError(f"{given.value[name].where}: {name} is a percentage, 0 to 100, not {number}")
    if row.tasks is not None and row.tasks < 1:
        raise UserError(f"{given.value['tasks'].where}: tasks must be at least 1, not {row.tasks}")
    for name in ("source", "version", "where", "dataset", "objective", "strategy", "url"):
        if not getattr(row, name).strip():
            raise UserError(f"{given.value[name].where}: {name} is empty")
