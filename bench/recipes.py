"""Recipes: the settings of a family of released scripts, by dataset, scenario and objective."""

import csv
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bench.config import RunConfig
from bench.data.named import NAMED
from bench.data.scenarios import SCENARIOS
from bench.errors import UserError, nearest
from bench.layers import Given, Layer, read_yaml

RECIPES = Path(__file__).parent.parent / "configs" / "recipes"
SMALL = 64  # pixels: up to here images are taken for CIFAR's
SIDES = {"fashion_mini": 28, "fashion_mnist": 28, "cifar10": 32, "cifar100": 32}
SCRIPTED = {"cifar100": ("class_il",), "imagenet100": ("class_il", "data_il"), "domainnet": ("domain_il",)}
"""Datasets and scenarios that the released scripts are for."""
TAKEN_FOR = {
    "cifar100": f"images of at most {SMALL} pixels",
    "imagenet100": "larger images in class_il and data_il",
    "domainnet": "larger images in domain_il",
}
"""What else takes their settings; see `family_of`."""
OBJECTIVES = {"mocov2plus": "moco", "barlow_twins": "barlow"}
"""Names of objectives in the scripts, where they differ from ours."""


class Case(NamedTuple):
    """What a recipe's settings depend on; family: the scripts' dataset that the run's own is taken for."""

    family: str
    scenario: str
    objective: str


class Section(NamedTuple):
    """One section of a recipe: it adds to those before it where each condition allows the case."""

    name: str
    when: dict[str, tuple[str, ...]]
    layer: Layer
    note: str

    def fits(self, case: Case) -> bool:
        """Whether the case is allowed by each condition."""
        return all(getattr(case, name) in allowed for name, allowed in self.when.items())


class Correction(NamedTuple):
    """A value of a script that a recipe does not take over, as text; field: a column of scripts.csv."""

    script: str
    field: str
    released: str
    used: str
    why: str

    def __str__(self) -> str:
        return f"{self.script}: {self.field} {self.released} -> {self.used} ({self.why})"


def recipe_names() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem != "corrections")


def describe_recipe(name: str) -> str:
    """The recipe's own one-line description."""
    return str(_read(name)["description"].value)


def recipe_seed(name: str) -> int:
    """The seed of the scripts."""
    return int(_read(name)["seed"].value)


def family_of(dataset: str, scenario: str, image_size: int | None = None) -> str:
    """The scripts' dataset whose settings a dataset takes: cifar100 for images of at most 64 pixels, else domainnet in
    domain_il and imagenet100 in other scenarios.

    image_size: pixels of a side where given; folders without one count as large.
    """
    noise = re.match(r"noise:([0-9]+)", dataset)
    named = NAMED[dataset].side if dataset in NAMED else None
    side = image_size or named or (int(noise[1]) if noise else SIDES.get(dataset, SMALL + 1))
    if side <= SMALL:
        return "cifar100"
    return "domainnet" if scenario == "domain_il" else "imagenet100"


def recipe_layer(name: str, dataset: str, scenario: str, objective: str, image_size: int | None = None) -> Layer:
    """The keys that a recipe sets for a run; raises UserError for an unknown recipe, with the nearest name."""
    case = Case(family_of(dataset, scenario, image_size), scenario, objective)
    layer: Layer = {}
    for section in sections(name):
        if section.fits(case):
            layer |= section.layer
    return layer


def recipe_values(name: str) -> dict[str, Any]:
    """All that a recipe says, as plain values under dotted keys."""
    return {key: given.value for key, given in _read(name).items()}


def remarks_of(run: RunConfig) -> list[str]:
    """Where a run's recipe has no script for its dataset, scenario or objective: one text each; none without a
    recipe."""
    if not run.recipe:
        return []
    case, name = _case(run), run.settings.data.dataset
    own = run.scenario in SCRIPTED.get(name, ())
    texts = [] if own else [f"{name} in {run.scenario} takes the settings for {case.family}"]
    texts += [section.note for section in sections(run.recipe) if section.note and section.fits(case)]
    return [f"recipe {run.recipe}: {text}" for text in texts]


def corrections_of(run: RunConfig) -> list[Correction]:
    """The corrections of the scripts that a run's settings come from; none without a recipe."""
    return [found for found in corrections() if _scripts()[found.script] == (run.recipe, _case(run))]


def _case(run: RunConfig) -> Case:
    data = run.settings.data
    return Case(family_of(data.dataset, run.scenario, data.image_size), run.scenario, run.objective)


@cache
def corrections() -> list[Correction]:
    """All corrections, in the order of their file."""
    listed = read_yaml(RECIPES / "corrections.yaml")["corrections"].value
    return [Correction(**{key: _text(value) for key, value in each.items()}) for each in listed]


def not_covered() -> dict[str, str]:
    """Objectives of scripts that no recipe is for -> why."""
    return {key: str(given.value) for key, given in _below(read_yaml(RECIPES / "corrections.yaml"), "not_covered.")}


def script_rows(file: str = "scripts.csv") -> list[dict[str, str]]:
    """The released scripts' resolved values, one row each, as text; empty where a script has no such value."""
    with (RECIPES / file).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def case_of(row: dict[str, str]) -> tuple[str, Case]:
    """The recipe that a row of scripts.csv belongs to, and what it is for."""
    scenario = {"class": "class_il", "data": "data_il", "domain": "domain_il"}[row["scenario"].partition("-")[0]]
    objective = OBJECTIVES.get(row["ssl_method"], row["ssl_method"])
    return row["repo"].lower(), Case(row["dataset"], scenario, objective)


@cache
def _scripts() -> dict[str, tuple[str, Case]]:
    return {row["script"]: case_of(row) for row in script_rows()}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@cache
def sections(name: str) -> list[Section]:
    """The sections of a recipe, in the order of merging."""
    found = []
    for section, content in _groups(_read(name), "sections."):
        for key, given in content.items():
            _check(key, given)
        when = {key: _names(given) for key, given in _below(content, "when.")}
        note = content.get("note", Given("", ""))
        found.append(Section(section, when, dict(_below(content, "set.")), str(note.value)))
    return found


def _check(key: str, given: Given) -> None:
    part, _, condition = key.partition(".")
    if part not in ("when", "set", "note"):
        raise UserError(f"{given.where}: a section has no '{part}'{nearest(part, ('when', 'set', 'note'))}")
    if part == "when":
        if condition not in Case._fields:
            raise UserError(f"{given.where}: unknown condition '{condition}'{nearest(condition, Case._fields)}")
        known = {"family": list(SCRIPTED), "scenario": list(SCENARIOS)}.get(condition)
        for name in _names(given):
            if known is not None and name not in known:
                raise UserError(f"{given.where}: unknown {condition} '{name}'{nearest(name, known)}")


@cache
def _read(name: str) -> Layer:
    if name not in recipe_names():
        raise UserError(f"unknown recipe '{name}'{nearest(name, recipe_names())}")
    return read_yaml(RECIPES / f"{name}.yaml")


def _groups(layer: Layer, prefix: str) -> Iterator[tuple[str, Layer]]:
    """First part of the keys below a prefix -> what is below it."""
    names = dict.fromkeys(key.partition(".")[0] for key, _ in _below(layer, prefix))
    for name in names:
        yield name, dict(_below(layer, f"{prefix}{name}."))


def _below(layer: Layer, prefix: str) -> Iterator[tuple[str, Given]]:
    return ((key.removeprefix(prefix), given) for key, given in layer.items() if key.startswith(prefix))


def _names(given: Given) -> tuple[str, ...]:
    return tuple(given.value) if isinstance(given.value, list) else (given.value,)
