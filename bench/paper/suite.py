"""Suites: one YAML file says which runs a table of a paper needs, and the shape of that table."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from bench.errors import UserError, nearest
from bench.evaluate.metrics import METRICS
from bench.layers import Given, Layer, read_tree
from bench.paper.ledger import Ledger
from bench.paper.reading import build

CONFIGS = Path(__file__).parent.parent.parent / "configs"
SUITES = CONFIGS / "paper"
TIERS = ("quick", "pilot", "paper")

Axis = Literal["strategy", "objective", "variant"]


@dataclass(frozen=True)
class Part:
    """A block of the table: one task sequence of the paper, and the protocols its numbers may be published under, the
    first that has one.

    tasks: None for every domain. probe, settings: at tier `paper` only, what is printed in place of the suite's probe,
    and keys as of `--set`.
    """

    dataset: str
    scenario: Literal["class_il", "data_il", "domain_il"]
    tasks: int | None = None
    protocols: tuple[str, ...] = ()
    probe: str = ""
    settings: dict[str, Given] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """`class_il / cifar100 / 5 tasks`."""
        tasks = "every domain" if self.tasks is None else f"{self.tasks} task{'' if self.tasks == 1 else 's'}"
        return f"{self.scenario} / {self.dataset} / {tasks}"


@dataclass(frozen=True)
class Variant:
    """A row or column that differs in settings, not in method; the name of the only one is never printed."""

    name: str = ""
    settings: dict[str, Given] = field(default_factory=dict)


@dataclass(frozen=True)
class Tier:
    """At what scale the table is made: a preset, the data that stands in for the paper's, keys as of `--set`.

    fidelity: a set of switches. dataset: None for each part's own. seeds: where none are given. variants: in place of
    the suite's, where the paper's values do not fit.
    """

    preset: str
    seeds: str = "0"
    fidelity: str | None = None
    dataset: str | None = None
    settings: dict[str, Given] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()


class Cell(NamedTuple):
    """A cell of the table: the index of its part, and its place on every axis."""

    part: int
    strategy: str
    objective: str
    variant: str


@dataclass(frozen=True)
class Suite:
    """A table of a paper: title and source, its grid, what is printed, and its tiers.

    recipe: whose published settings tier `paper` takes, empty for the preset's own. settings: keys as of `--set`, at
    every tier. probe: a name under which accuracies are recorded. rows, columns: what stands on the axes.
    """

    name: str
    title: str
    source: str
    recipe: str
    metric: str
    probe: str
    strategies: tuple[str, ...]
    objectives: tuple[str, ...]
    rows: Axis
    columns: Axis
    parts: tuple[Part, ...]
    tiers: dict[str, Tier]
    settings: dict[str, Given] = field(default_factory=dict)
    variants: tuple[Variant, ...] = (Variant(),)

    def axis(self, name: Axis) -> tuple[str, ...]:
        """The names along an axis."""
        named = {"strategy": self.strategies, "objective": self.objectives}
        return named[name] if name in named else tuple(variant.name for variant in self.variants)

    def cells(self) -> list[Cell]:
        """Every cell: block by block, row by row."""
        return [
            self.cell(part, row, column)
            for part in range(len(self.parts))
            for row in self.axis(self.rows)
            for column in self.axis(self.columns)
        ]

    def cell(self, part: int, row: str, column: str) -> Cell:
        """The cell at a place; an axis that is not printed has one name only."""
        axes: tuple[Axis, ...] = ("strategy", "objective", "variant")
        at = {name: self.axis(name)[0] for name in axes} | {self.rows: row, self.columns: column}
        return Cell(part, at["strategy"], at["objective"], at["variant"])


@dataclass(frozen=True)
class Sheet:
    """A suite at a tier: the table to be made. `suite.variants` and `suite.parts` are those of the tier."""

    suite: Suite
    tier: str
    preset: str
    recipe: str
    seeds: str
    dataset: str | None
    settings: Layer
    fidelity: str | None = None

    def probe(self, part: Part) -> str:
        """The probe that is printed of a part."""
        return (part.probe if self.tier == "paper" else "") or self.suite.probe

    def keys(self, part: Part, variant: Variant) -> Layer:
        """The settings of a part's variant, over those of preset and recipe."""
        own = part.settings if self.tier == "paper" else {}
        return {**self.settings, **own, **variant.settings}

    def spec(self, part: Part) -> str:
        """The dataset that a part runs on."""
        return self.dataset or part.dataset

    def tasks(self, part: Part) -> int | None:
        """The number of tasks that a part runs with: other domains than the paper's are all taken, however many."""
        return part.tasks if self.dataset is None or part.scenario != "domain_il" else None


def sheet(suite: Suite, tier: str, dataset: str | None = None) -> Sheet:
    """The table at a tier; `dataset` stands in for the tier's own.

    At tier `paper` the data are the paper's: `dataset` chooses among them. Raises UserError for a tier that the suite
    lacks and a dataset that the table has not.
    """
    if tier not in suite.tiers:
        raise UserError(f"--tier '{tier}': {suite.name} has none{nearest(tier, suite.tiers)}")
    scale = suite.tiers[tier]
    settings = {**suite.settings, **scale.settings}
    suite = replace(suite, variants=scale.variants or suite.variants)
    if tier != "paper":
        return Sheet(suite, tier, scale.preset, "", scale.seeds, dataset or scale.dataset, settings, scale.fidelity)
    if dataset is not None:
        chosen = tuple(part for part in suite.parts if part.dataset == dataset)
        if not chosen:
            raise UserError(
                f"--dataset '{dataset}': at tier paper it is one of the table's"
                f"{nearest(dataset, {part.dataset for part in suite.parts})}"
            )
        suite = replace(suite, parts=chosen)
    return Sheet(suite, tier, scale.preset, suite.recipe, scale.seeds, None, settings, scale.fidelity)


def suite_names() -> list[str]:
    """Names of the tables that ship."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def read_suite(name: str, ledger: Ledger) -> Suite:
    """The suite of a name, or of a path that ends in .yaml; raises UserError naming line and field."""
    if not name.endswith(".yaml") and name not in suite_names():
        raise UserError(f"unknown table '{name}'{nearest(name, [*suite_names(), 'all', 'list'])}")
    path = Path(name) if name.endswith(".yaml") else SUITES / f"{name}.yaml"
    given = read_tree(path)
    suite = build(Suite, given, "a suite", name=path.stem)
    _check_names(suite, given, ledger)
    for tier in suite.tiers:
        if tier not in TIERS:
            raise UserError(f"{given.value['tiers'].where}: unknown tier '{tier}'{nearest(tier, TIERS)}")
        fidelity = suite.tiers[tier].fidelity
        # Not by `bench.config`, which needs torch: tables are read without it.
        known = [path.stem for path in (CONFIGS / "fidelity").glob("*.yaml")]
        if fidelity is not None and fidelity not in known:
            raise UserError(f"{given.value['tiers'].where}: unknown fidelity '{fidelity}'{nearest(fidelity, known)}")
        if tier == "paper" and suite.tiers[tier].dataset is not None:
            raise UserError(f"{given.value['tiers'].where}: tier paper takes the data of the parts, not a dataset")
        _check_shape(sheet(suite, tier).suite, given)
    return suite


def _check_names(suite: Suite, given: Given, ledger: Ledger) -> None:
    if suite.metric not in METRICS:
        where = given.value["metric"].where
        raise UserError(f"{where}: metric: unknown '{suite.metric}'{nearest(suite.metric, METRICS)}")
    for part, item in zip(suite.parts, given.value["parts"].value, strict=True):
        for name in part.protocols:
            if name not in ledger.protocols:
                where = item.value["protocols"].where
                raise UserError(f"{where}: protocols: unknown '{name}'{nearest(name, ledger.protocols)}")
        if part.tasks is not None and part.tasks < 1:
            raise UserError(f"{item.value['tasks'].where}: tasks must be at least 1, not {part.tasks}")
    if not suite.tiers:
        raise UserError(f"{given.value['tiers'].where}: tiers: name at least one of {', '.join(TIERS)}")


def _check_shape(suite: Suite, given: Given) -> None:
    """Raises UserError where two things would share a cell, or one would have none."""
    if suite.rows == suite.columns:
        raise UserError(f"{given.value['columns'].where}: columns: '{suite.columns}' already stands in the rows")
    axes: tuple[Axis, ...] = ("strategy", "objective", "variant")
    for axis in axes:
        names = suite.axis(axis)
        if not names:
            raise UserError(f"{given.where}: no {axis} is named")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{given.where}: {axis} '{twice}' is given twice")
        if axis not in (suite.rows, suite.columns) and len(names) > 1:
            raise UserError(
                f"{given.value['rows'].where}: rows: {suite.rows} by {suite.columns} leaves no place for "
                f"{len(names)} of {axis}"
            )
