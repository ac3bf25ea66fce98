"""`run` and `plan`: a grid of runs, shown or executed."""

import argparse
import sys
from collections.abc import Callable, Collection
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.commands.report import render
from bench.config import GRID_KEYS
from bench.engine.company import check_runs
from bench.engine.display import Display, duration
from bench.engine.estimate import Estimate, estimate
from bench.engine.failures import told_of_failures
from bench.engine.foreign import without_merged
from bench.engine.origin import Terms
from bench.engine.packing import choose_jobs
from bench.engine.plan import Plan, PlannedRun, make_plan
from bench.engine.progress import done_and_stale, status_of
from bench.engine.runner import execute
from bench.engine.store import Store
from bench.errors import UserError
from bench.files import size_text
from bench.grid import Request, build_runs, parse_seeds, seeds_text
from bench.launch.launches import told_of
from bench.launch.settings import LAUNCHER, launch_settings
from bench.layers import Given, Layer, parse_set, read_yaml
from bench.recipes import corrections_of, describe_recipe, recipe_seed, remarks_of
from bench.report.formats import check_formats
from bench.torchrun import place

FLAGS = {
    "dataset": "data.dataset",
    "data_dir": "data.data_dir",
    "tasks": "data.tasks",
    "domains": "data.domains",
    "image_size": "data.image_size",
    "skip_corrupt": "data.skip_corrupt",
    "encoder": "encoder.name",
    "epochs": "train.epochs",
    "batch": "train.batch",
    "precision": "numerics.precision",
    "device": "numerics.device",
    "compile": "numerics.compile",
    "probes": "probe.run",
    "transfer": "probe.transfer",
}


def request_of(args: argparse.Namespace) -> Request:
    """What a command line asks for: its flags over --set over the file of --config over --fidelity over the recipe over
    the preset."""
    layer: Layer = read_yaml(args.config) if args.config else {}
    grid = {key: layer.pop(key) for key in GRID_KEYS if key in layer}
    launcher = {key: layer.pop(key) for key in list(layer) if key.startswith(LAUNCHER)}
    launch_settings("none", None, {key.removeprefix(LAUNCHER): given for key, given in launcher.items()})
    for text in args.set:
        key, given = parse_set(text)
        layer[key] = given
    for flag, key in FLAGS.items():
        value = getattr(args, flag)
        if value is not None and value is not False:
            layer[key] = Given(value, f"--{flag.replace('_', '-')}")
    chosen: dict[str, Any] = {key: given.value for key, given in grid.items()}
    chosen |= {key: getattr(args, key) for key in GRID_KEYS if getattr(args, key) is not None}
    if "methods" not in chosen:
        raise UserError("--methods is missing: name strategies or pairs, e.g. --methods finetune,cassle,sycon")
    recipe = str(chosen.get("recipe") or "")
    seed, preset = (recipe_seed(recipe), "paper") if recipe else (0, "quick")
    return Request(
        methods=_names(chosen["methods"], "methods"),
        objectives=_names(chosen.get("objective", "moco"), "objective"),
        scenarios=_names(chosen.get("scenario", "class_il"), "scenario"),
        seeds=parse_seeds(_listed(chosen.get("seeds", seed))),
        vary=str(chosen.get("vary", "all")),
        preset=str(chosen.get("preset", preset)),
        recipe=recipe,
        fidelity=None if chosen.get("fidelity") is None else str(chosen["fidelity"]),
        layer=layer,
    )


def _listed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _names(value: Any, key: str) -> list[str]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
        raise UserError(f"{key} takes names, separated by commas or as a list, not {value!r}")
    return [item.strip() for item in items]


def plan(args: argparse.Namespace) -> int:
    """Prints what `run` would do; trains nothing."""
    runs = build_runs(request_of(args))
    made = make_plan(runs, args.out, args.quiet, foresee=True)
    store = Store(args.out)
    store.prepare()
    made = leave_merged(made, store)
    print_plan(made, store, details=True)
    for line in filter(None, (told_of(args.out), *told_of_failures(made.stages.values(), store))):
        print(line)
    return 0


def run(args: argparse.Namespace) -> int:
    """Plans, executes and reports; status 1 where a run failed."""
    runs = build_runs(request_of(args))
    check_formats(args.format)
    made = make_plan(runs, args.out, args.quiet)
    failures = carry_out(made, args)
    render(args.out, args.format, args.quiet)
    return status_of_failures(made, failures, Store(args.out))


def carry_out(made: Plan, args: argparse.Namespace) -> dict[str, str]:
    """Makes every stage of a plan done, as --out, --jobs, --save-every and --quiet say; the reasons of those that
    failed."""
    check_runs((planned.config for planned in made.runs), place())
    store, terms = Store(args.out), Terms(args.retrain is not None, args.allow_new_environment)
    store.prepare()
    made = leave_merged(made, store, terms.retrain)
    found = cached, stale = done_and_stale(made, store)
    if not args.quiet:
        print_plan(made, store, details=False, retrain=terms.retrain, found=found)
    if stale:
        print(f"warning: {_stale_text(stale, cached, terms.retrain)}", file=sys.stderr)
    cached -= stale if terms.retrain else set()
    jobs = choose_jobs(made, cached, args.out, narrator(args.quiet)) if args.jobs == "auto" else args.jobs
    with Display(made, cached, args.quiet) as display:
        return execute(
            made,
            args.out,
            jobs,
            args.save_every,
            display.emit,
            display.finished,
            shard=args.shard or (0, 1),
            isolated=args.shard is not None and place().world == 1,
            terms=terms,
            done=cached,
        )


def leave_merged(made: Plan, store: Store, retrain: bool = False) -> Plan:
    """The plan without what was merged from other machines; says so."""
    left = without_merged(made, store, retrain)
    count = len(made.runs) - len(left.runs)
    if count:
        text = f"{count} of {len(made.runs)} runs are merged from elsewhere and complete: nothing of them is made here"
        print(f"{text} (to train them all the same, remove their files in {store.out / 'merged'})", file=sys.stderr)
    return left


def status_of_failures(made: Plan, failures: dict[str, str], store: Store) -> int:
    """The exit status of a grid: 1, and a line that counts them, where runs failed or collapsed."""
    if failures:
        failed = sum(any(key in failures for key in r.stages) for r in made.runs)
        print(f"{failed} of {len(made.runs)} runs failed; the same line tries them again", file=sys.stderr)
    collapsed = {key for key, stage in made.stages.items() if stage.trains and _is_collapsed(store.facts(key))}
    if collapsed:
        marked = sum(not collapsed.isdisjoint(r.stages) for r in made.runs)
        print(f"{marked} of {len(made.runs)} runs collapsed, and are averaged nowhere", file=sys.stderr)
    return int(bool(failures or collapsed))


def _is_collapsed(facts: dict[str, Any] | None) -> bool:
    return facts is not None and bool((facts["watch"] or {}).get("collapsed"))


def narrator(quiet: bool) -> Callable[[str], None]:
    """Prints lines to stderr, or nothing."""
    return lambda text: None if quiet else print(text, file=sys.stderr)


def _stale_text(stale: Collection[str], done: Collection[str], retrain: bool) -> str:
    what = "they are made again" if retrain else "they are kept; run with --retrain stale makes them again"
    return (
        f"{len(stale)} of {len(done)} finished stages are stale, as other code than the present has made them or a "
        f"stage that they begin from: {what}"
    )


def print_plan(
    made: Plan, store: Store, details: bool, retrain: bool = False, found: tuple[set[str], set[str]] | None = None
) -> None:
    """The plan as a table of methods, and its sum; with details also time and disk. retrain: whether what other code
    has made is to do. found: what is done and stale, where that is known."""
    console = Console(emoji=False, stderr=not details, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has room for whole names
    done, stale = found or done_and_stale(made, store)
    ready = done - stale if retrain else done
    status = status_of(made, store, ready)
    if details:
        console.print(_table(made, done, stale))
        _print_recipes(made, console)
    total = len(made.stages)
    console.print(
        f"{len(made.runs)} runs, {total} stages ({status.shared} shared): "
        f"{status.done} done, {status.partial} begun, {status.to_do} to do",
        highlight=False,
    )
    if details and stale:
        console.print(_stale_text(stale, done, retrain), highlight=False)
    for pending in sorted(made.pending):
        text = f"{pending.why}; {size_text(pending.nbytes)} of decoded images to come"
        console.print(text, highlight=False, markup=False)
    if details and status.done < total:
        console.print(_cost(estimate(made, store, ready)), highlight=False)


def _cost(cost: Estimate) -> str:
    parts = {"core-hours": cost.core_seconds, "GPU-hours": cost.gpu_seconds}
    spent = " and ".join(f"{_hours(seconds)} {unit}" for unit, seconds in parts.items() if seconds)
    kinds = f" of {cost.measured} of {cost.measured + cost.guessed} kinds of stages" if cost.guessed else ""
    guess = f" (from a few measured steps{kinds}; other work on the machine counts)" if cost.measured else ""
    return f"about {duration(cost.seconds)} with one job ({spent}), {size_text(cost.bytes)} on disk{guess}"


def _hours(seconds: float) -> str:
    """Hours in two figures, as guesses are."""
    return f"{seconds / 3600:,.0f}" if seconds >= 360_000 else f"{seconds / 3600:.2g}"


def _print_recipes(made: Plan, console: Console) -> None:
    """The recipe, what it corrects in the released scripts, and where it has none for a run."""
    configs = [planned.config for planned in made.runs if planned.config.recipe]
    corrected = dict.fromkeys(str(found) for config in configs for found in corrections_of(config))
    lines = [f"recipe {name}: {describe_recipe(name)}" for name in dict.fromkeys(c.recipe for c in configs)]
    lines += [f"  corrected: {text}" for text in corrected]
    lines += dict.fromkeys(f"  {text}" for config in configs for text in remarks_of(config))
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _table(made: Plan, done: Collection[str], stale: Collection[str]) -> Table:
    table = Table()
    for column in ("scenario", "dataset", "objective", "strategy", "seeds"):
        table.add_column(column)
    for column in ("tasks", "stages", "shared", "done", *(["stale"] if stale else []), "to do"):
        table.add_column(column, justify="right")
    users = made.users()
    groups: dict[tuple[str, str, str, str], list[PlannedRun]] = {}
    for planned in made.runs:
        config = planned.config
        key = (config.scenario, planned.dataset, config.objective, config.strategy)
        groups.setdefault(key, []).append(planned)
    for key, members in groups.items():
        stages = {stage for planned in members for stage in planned.stages}
        ready = len(stages.intersection(done))
        shared = sum(len(users[stage]) > 1 for stage in stages)
        seeds = seeds_text(planned.config.seed for planned in members)
        counts = [len(members[0].task_names), len(stages), shared, ready, len(stages) - ready]
        if stale:
            counts.insert(-1, len(stages.intersection(stale)))
        table.add_row(*map(escape, key), seeds, *map(str, counts))
    return table
