"""`list`: what there is to choose from."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.config import Settings, describe_fidelity, describe_preset, fidelity_names, preset_names
from bench.data.datasets import catalogue
from bench.data.scenarios import SCENARIOS
from bench.errors import UserError, nearest
from bench.evaluate.catalogue import KINDS, PROBES
from bench.layers import given_of, leaves
from bench.recipes import SCRIPTED, TAKEN_FOR, describe_recipe, recipe_names
from methods import registry


def show(what: str | None) -> int:
    """Prints one list, or all of them; raises UserError for an unknown one."""
    lists: dict[str, Callable[[], Iterable[Table]]] = {
        "methods": _methods,
        "datasets": lambda: [_plain("dataset", catalogue())],
        "scenarios": lambda: [_plain("scenario", SCENARIOS)],
        "presets": _presets,
        "recipes": _recipes,
        "probes": _probes,
    }
    if what is not None and what not in lists:
        raise UserError(f"nothing to list as '{what}'{nearest(what, lists)}")
    console = Console(emoji=False)
    for name, tables in lists.items():
        if what in (None, name):
            for table in tables():
                console.print(table)
    return 0


def _plain(head: str, rows: dict[str, str]) -> Table:
    table = Table(head, "description")
    for name, text in rows.items():
        table.add_row(escape(name), escape(text))
    return table


def _probes() -> Iterable[Table]:
    table = Table("probe", "runs", "description")
    for name, entry in PROBES.items():
        table.add_row(name, KINDS[entry.kind], escape(entry.text))
    yield table


def _methods() -> Iterable[Table]:
    for kind in ("strategy", "objective"):
        table = Table(kind, "aliases", "what it is", "hyperparameters")
        for name, cls in registry.classes(kind).items():
            defaults = cls.Hparams()
            values = ", ".join(f"{f.name}={_value(getattr(defaults, f.name))}" for f in fields(defaults))
            summary = (inspect.getdoc(cls) or "").partition("\n")[0]
            table.add_row(name, ", ".join(cls.aliases), escape(summary), escape(values))
        yield table


def _value(value: object) -> str:
    return "released" if value is None else str(value)


def _presets() -> Iterable[Table]:
    yield _plain("preset", {name: describe_preset(name) for name in preset_names()})
    yield _plain("fidelity", {name: describe_fidelity(name) for name in fidelity_names()})
    table = Table("key (for --set and YAML)", "default (before the preset)")
    defaults = given_of(Settings())
    for key, _ in leaves(Settings):
        table.add_row(key, escape(str(defaults[key].value)))
    yield table


def _recipes() -> Iterable[Table]:
    yield _plain("recipe", {name: describe_recipe(name) for name in recipe_names()})
    yield _plain(
        "settings for", {name: f"{', '.join(SCRIPTED[name])}; also {text}" for name, text in TAKEN_FOR.items()}
    )
