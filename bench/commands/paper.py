"""`paper`: a paper's table planned, run as far as it is missing, and shown beside the published numbers."""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.errors import UserError
from bench.layers import Given, Layer
from bench.paper.ledger import Ledger, read_ledger
from bench.paper.render import csv_text, latex, markdown, terminal
from bench.paper.suite import Cell, Part, Sheet, Suite, Variant, read_suite, sheet, suite_names
from bench.paper.table import PaperTable, make_table, read_asked, runs_done, write_asked
from bench.report.write import put

if TYPE_CHECKING:
    from bench.config import RunConfig
    from bench.report.records import Run

RENDERERS = {"md": markdown, "tex": latex, "csv": csv_text}


@dataclass
class _Asked:
    """A table with what was planned for it: runs of each cell, one per seed, and why parts could not be planned."""

    sheet: Sheet
    runs: "list[RunConfig]" = field(default_factory=list)
    planned: "dict[Cell, list[Run]]" = field(default_factory=dict)
    absent: dict[int, str] = field(default_factory=dict)


def show(args: argparse.Namespace) -> int:
    """`paper list`: the tables, their sources and data, and how much of each is done in --out."""
    ledger = read_ledger()
    console = Console(emoji=False)
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has room for whole names
    listed = Table("table", "source", "cells", "data", f"runs done in {escape(str(args.out))}")
    for name in suite_names():
        suite = read_suite(name, ledger)
        data = ", ".join(dict.fromkeys(part.dataset for part in suite.parts))
        listed.add_row(name, escape(suite.source), str(len(suite.cells())), data, _progress(suite, args.out))
    console.print(listed)
    return 0


def _progress(suite: Suite, out: Path) -> str:
    """`quick 12/12, paper 0/24` of the runs last asked for at each tier."""
    counts = []
    for tier in suite.tiers:
        ids = read_asked(out, suite.name, tier)
        if ids:
            counts.append(f"{tier} {runs_done(ids, out)}/{len(ids)}")
    return ", ".join(counts) or "none asked for"


def regenerate(args: argparse.Namespace) -> int:
    """Plans and runs what the tables lack, and renders them; status 1 where a run failed or a part has no data."""
    from bench.commands.grid import carry_out, print_plan, status_of_failures
    from bench.engine.plan import make_plan
    from bench.engine.store import Store
    from bench.grid import parse_seeds

    ledger = read_ledger()
    suites = [read_suite(name, ledger) for name in (suite_names() if args.name == "all" else [args.name])]
    pages = [sheet(suite, args.tier, args.dataset) for suite in suites]
    tables = [_ask(page, parse_seeds(args.seeds or page.seeds), args) for page in pages]
    made = make_plan([run for asked in tables for run in asked.runs], args.out, args.quiet, foresee=args.dry_run)
    if args.dry_run:
        store = Store(args.out)
        store.prepare()
        print_plan(made, store, details=True, retrain=args.retrain is not None)
        _print(tables, ledger, args.out)
        return 0
    if not made.runs:
        raise UserError(next(iter(tables[0].absent.values())))
    for asked in tables:
        write_asked(args.out, asked.sheet, [run.run_id for runs in asked.planned.values() for run in runs])
    failures = carry_out(made, args)
    for table in _print(tables, ledger, args.out):
        _write(table, args.out, args.quiet)
    return max(status_of_failures(made, failures, Store(args.out)), any(asked.absent for asked in tables))


def _ask(page: Sheet, seeds: list[int], args: argparse.Namespace) -> _Asked:
    """Plans every part of a table; one whose data are not there is told of and left out."""
    asked = _Asked(page)
    for index, part in enumerate(page.suite.parts):
        try:
            for variant in page.suite.variants:
                _plan_part(asked, index, part, variant, seeds, args)
        except UserError as error:
            asked.absent[index] = str(error)
            print(f"warning: {page.suite.name}: {part.title} is left out: {error}", file=sys.stderr)
    return asked


def _plan_part(
    asked: _Asked, index: int, part: Part, variant: Variant, seeds: list[int], args: argparse.Namespace
) -> None:
    from bench.engine.plan import make_plan
    from bench.engine.records import config_row
    from bench.grid import method_pairs
    from bench.report.records import Run

    suite = asked.sheet.suite
    runs = _runs(asked.sheet, part, variant, seeds, args.data_dir)
    by_method: dict[tuple[str, str], list[Run]] = {}
    for planned in make_plan(runs, args.out, args.quiet, foresee=args.dry_run).runs:
        by_method.setdefault((planned.config.strategy, planned.config.objective), []).append(
            Run(args.out, config_row(planned))
        )
    for strategy, objective in product(suite.strategies, suite.objectives):
        pair = method_pairs([f"{strategy}-{objective}"], ())[0]
        asked.planned[Cell(index, strategy, objective, variant.name)] = by_method[pair]
    asked.runs += runs


def _runs(page: Sheet, part: Part, variant: Variant, seeds: list[int], data_dir: str | None) -> "list[RunConfig]":
    """The runs of one part and variant, exactly as `run` would make them."""
    from bench.grid import Request, build_runs

    layer: Layer = {**page.keys(part, variant), "data.dataset": Given(page.spec(part), "--dataset")}
    for key, value in (("data.tasks", page.tasks(part)), ("data.data_dir", data_dir)):
        if value is not None:
            layer[key] = Given(value, page.suite.name)
    asked: dict[str, Any] = {
        "methods": [f"{s}-{o}" for s, o in product(page.suite.strategies, page.suite.objectives)],
        "scenarios": [part.scenario],
        "seeds": seeds,
        "preset": page.preset,
        "fidelity": page.fidelity,
        "layer": layer,
    }
    if page.recipe:
        asked["recipe"] = page.recipe
    return build_runs(Request(**asked))


def _print(tables: Iterable[_Asked], ledger: Ledger, out: Path) -> list[PaperTable]:
    """The tables as the records stand, printed."""
    console = Console(emoji=False)
    if not console.is_terminal:
        console.width = 160
    made = [make_table(asked.sheet, asked.planned, asked.absent, ledger, out) for asked in tables]
    for table in made:
        console.print(terminal(table))
    return made


def _write(table: PaperTable, out: Path, quiet: bool) -> None:
    folder = out / "report"
    stem = f"paper-{table.sheet.suite.name}-{table.sheet.tier}"
    put(folder, {f"{stem}.{form}": renderer(table).encode() for form, renderer in RENDERERS.items()})
    if not quiet:
        print(f"{folder / stem}.{{{','.join(RENDERERS)}}}")
