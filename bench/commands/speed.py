"""`speed`: how fast methods train here, measured before a grid is planned."""

import argparse
import json
from dataclasses import asdict

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.commands.grid import narrator, request_of
from bench.config import RunConfig, Settings, digest
from bench.engine.environment import environment
from bench.engine.estimate import objective_text
from bench.engine.keys import input_size
from bench.engine.packing import WorkerFailed
from bench.engine.plan import PlannedRun, make_plan, scenario_of
from bench.engine.store import Store
from bench.errors import UserError
from bench.files import write_atomic
from bench.grid import build_runs
from bench.speed.figure import draw
from bench.speed.measure import Speed, measure
from bench.speed.step import PARTS
from methods import registry


def speed(args: argparse.Namespace) -> int:
    """Measures, prints a table and the largest part, and writes JSON and a figure into OUT/speed."""
    request = request_of(args)
    if len(request.scenarios) > 1 or len(request.seeds) > 1:
        raise UserError("speed measures one scenario and one seed at a time")
    made = make_plan(_contenders(build_runs(request)), args.out, args.quiet)
    store = Store(args.out)
    store.prepare()
    first = made.runs[0].config
    torch.set_num_threads(first.settings.numerics.threads)
    try:
        speeds = measure(made.runs, args.out, args.rounds, not args.no_reference, narrator(args.quiet))
    except (RuntimeError, MemoryError, WorkerFailed) as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"a step fails: {text} (lower train.batch, or choose a smaller encoder or queue)") from error
    title = _title(first, input_size(first, scenario_of(first, args.out)))
    device = first.settings.numerics.device
    content = {
        "title": title,
        "device": device,
        "environment": environment(device),
        "rounds": args.rounds,
        "methods": [_row(speed, run) for speed, run in zip(speeds, made.runs, strict=True)],
    }
    target = store.speed(digest([run.setting + run.method_setting for run in made.runs], 8))
    write_atomic(target, (json.dumps(content, indent=1) + "\n").encode())
    draw(speeds, title, target.with_suffix(".png"))
    _print(speeds, title, first.settings)
    if not args.quiet:
        print(f"written: {target}, {target.with_suffix('.png').name}")
    return 0


def _contenders(runs: list[RunConfig]) -> list[RunConfig]:
    """The runs that go task by task: joint training takes the steps of a first task, the random network none."""
    found = [run for run in runs if registry.get("strategy", run.strategy).trains == "task by task"]
    if not found:
        raise UserError(f"{runs[0].strategy} has no steps of its own to measure: name another strategy, e.g. finetune")
    return found


def _row(measured: Speed, planned: PlannedRun) -> dict[str, object]:
    keys = {"setting": planned.setting, "method_setting": planned.method_setting}
    return {**asdict(measured), "images_per_second": measured.rate, "objective": objective_text(planned.config), **keys}


def _title(run: RunConfig, size: int) -> str:
    s = run.settings
    width = "" if s.encoder.name.startswith("timm:") else f" width {s.encoder.width}"
    compiled = ", compiled" if s.numerics.compile else ""
    return (
        f"{s.encoder.name}{width}, {size} px, batch {s.train.batch}, {s.numerics.device}, {s.numerics.precision}, "
        f"{s.numerics.threads} thread{'s' * (s.numerics.threads > 1)}{compiled}"
    )


def _print(speeds: list[Speed], title: str, settings: Settings) -> None:
    console = Console(emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200
    table = Table(title=escape(title), title_justify="left")
    table.add_column("method")
    columns = ["images/s", "ms/step", *PARTS, "rest", "MB", "of the limit"]
    with_reference = speeds[0].over_reference is not None
    for column in [*columns, *(["x reference feed", "per core"] if with_reference else [])]:
        table.add_column(column, justify="right")
    for s in speeds:
        parts = [f"{1e3 * s.parts[part]:.1f}" for part in (*PARTS, "rest")]
        last = [f"{ratio:.1f}" for ratio in (s.over_reference, s.per_core) if ratio is not None]
        cells = [f"{s.rate:,.0f}", f"{1e3 * s.step:.1f}", *parts, f"{s.memory / 1e6:,.0f}", f"{s.of_limit:.0%}", *last]
        table.add_row(escape(s.method), *cells)
    console.print(table)
    for s in speeds:
        console.print(f"{s.method}: {_advice(s, settings)}", highlight=False, markup=False)


def _advice(measured: Speed, settings: Settings) -> str:
    """The largest part of a step, and what might make it smaller."""
    part = max(measured.parts, key=lambda name: measured.parts[name])
    numerics = settings.numerics
    tries = {
        "augmentation": ["smaller stored images (--image-size)", "a milder recipe (augment.view1, augment.view2)"],
        "encoder": ["--encoder or encoder.width, a smaller network"],
        "teacher and momentum": ["--encoder or encoder.width, a smaller network"],
        "heads and loss": ["narrower heads or a shorter queue (`list presets` names the keys)"],
        "optimizer and EMA": ["a larger --batch: fewer steps for the same images"],
        "rest": ["a larger --batch", "--jobs auto, to fill the gaps with other stages"],
    }
    hints = list(tries[part])
    if part in ("encoder", "teacher and momentum"):
        hints += [] if numerics.precision == "bf16" else ["--precision bf16, where the hardware has it"]
        hints += [] if numerics.compile else ["--compile, for long runs"]
        hints += ["--jobs auto"]
    if part == "teacher and momentum" and settings.train.teacher_bn != "eval":
        hints.insert(0, "train.teacher_bn=eval, whose BatchNorm is folded away")
    share = measured.parts[part] / measured.step
    return f"largest part: {part} ({share:.0%}); to try: {'; '.join(hints)}"
