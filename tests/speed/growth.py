"""Guards that cost grows linearly, by hand: timings are no tests, so nothing runs this in the suite.

    python tests/speed/growth.py                 # everything; some five minutes on two cores
    python tests/speed/growth.py plan report     # only these

tasks: `run_bench.py` on the embedded images in 5, 20 and 50 tasks, each in a process of its own: peak memory, and the
CPU seconds of each further task. images: peak memory of training on 8,000 and 16,000 images of 224 pixels, both larger
than what is held of them at once; what raw pixels may take is lowered until both are above that too. plan, report: CPU
seconds per run of grids of 100 to 1,600 runs; `plan` trains and measures nothing, records of `report` are synthetic.
Exit status 1 where a bound is broken.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.commands.grid import print_plan  # noqa: E402
from bench.engine.plan import make_plan  # noqa: E402
from bench.engine.store import Store  # noqa: E402
from bench.grid import Request, build_runs  # noqa: E402
from bench.report.write import write_report  # noqa: E402
from tests.report.recording import config, rows_of, write  # noqa: E402

TASKS = (5, 20, 50)
IMAGES = (8_000, 16_000)
RUNS = (100, 400, 1600)
ROUNDS = 4
PIXEL_BYTES = 16 << 20
MEMORY, RATIO = 1.05, 1.3
FEW_PIXELS = f"""
import sys
from bench import cli
from bench.evaluate import features

features.PIXEL_BYTES = {PIXEL_BYTES}
sys.exit(cli.main())
"""
METHODS = ("finetune", "cassle", "sycon", "lump")


class Bound(NamedTuple):
    """What must not be exceeded, by how much it may, and what was measured."""

    what: str
    limit: float
    measured: float


class Cost(NamedTuple):
    """What a process took: CPU seconds, peak of its resident memory in MB, seconds of each part of its stages."""

    cpu: float
    peak: float
    parts: dict[str, float]


def tasks(folder: Path) -> Iterator[Bound]:
    """The same images in more and more tasks."""
    print(f"{'tasks':>6} {'MB':>7} {'CPU s':>7} {'train':>7} {'features':>9} {'probes':>7}")
    found = []
    for count in TASKS:
        cost = run_in_tasks(count, folder / f"{count}-tasks")
        parts = "".join(
            f" {cost.parts[part]:{width}.1f}" for part, width in (("train", 7), ("features", 9), ("probes", 7))
        )
        print(f"{count:6} {cost.peak:7.0f} {cost.cpu:7.1f}{parts}", flush=True)
        found.append(cost)
    yield Bound("peak memory, the most over the least", MEMORY, max(c.peak for c in found) / min(c.peak for c in found))
    few, more, most = (cost.cpu for cost in found)
    first, last = (more - few) / (TASKS[1] - TASKS[0]), (most - more) / (TASKS[2] - TASKS[1])
    print(f"CPU seconds of each further task: {first:.2f} up to {TASKS[1]}, {last:.2f} up to {TASKS[2]}")
    yield Bound("CPU seconds of a further task, later over earlier ones", RATIO, last / first)


def images(folder: Path) -> Iterator[Bound]:
    """More and more images of full resolution, from a memory map."""
    peaks = []
    for count in IMAGES:
        stem = ("--set", "encoder.stem=imagenet", "--probes", "ncm", "--set", "probe.headline=ncm")
        cost = train(f"noise:224x3x{count}", 1, 1, folder / f"{count}-images", *stem, start=("-c", FEW_PIXELS))
        print(f"{count:6} images of 224 pixels ({count * 224 * 224 * 3 / 1e9:.1f} GB): {cost.peak:.0f} MB", flush=True)
        peaks.append(cost.peak)
    yield Bound("peak memory, the most images over the fewest", MEMORY, max(peaks) / min(peaks))


def run_in_tasks(count: int, out: Path) -> Cost:
    """One run on the embedded images, trained for two epochs of all images in all."""
    return train("fashion_mini", count, 2, out)


def train(
    dataset: str, count: int, epochs: int, out: Path, *more: str, start: Sequence[str] = ("run_bench.py",)
) -> Cost:
    """One run of a small network on a dataset in so many tasks."""
    line = ("--methods", "sycon", "--scenario", "data_il", "--tasks", str(count), "--epochs", str(epochs))
    line += ("--dataset", dataset, "--batch", "64")
    line += ("--encoder", "resnet4", "--set", "encoder.width=8", "--device", "cpu", "--precision", "fp32")
    line += ("--out", str(out), "--quiet", "--format", "md", *more)
    process = subprocess.Popen([sys.executable, *start, *line], stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # it is reaped here
    if process.returncode:
        raise SystemExit(f"run_bench.py {' '.join(line)} ended with status {process.returncode}")
    rows = [json.loads(row) for path in (out / "timings").glob("*.jsonl") for row in path.read_text().splitlines()]
    parts = {part: sum(row["seconds"].get(part, 0.0) for row in rows) for part in ("train", "features", "probes")}
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, parts)


def plan(folder: Path) -> Iterator[Bound]:
    """Grids with more and more seeds, planned and printed."""
    out = folder / "planned"
    Store(out).prepare()
    make_plan(build_runs(Request(METHODS)), out)  # which loads the dataset
    yield growth("plan", lambda runs: partial(plan_grid, runs, out))


def plan_grid(runs: int, out: Path) -> None:
    """A grid of so many runs: two scenarios, four methods, seeds."""
    scenarios = ("class_il", "data_il")
    request = Request(METHODS, scenarios=scenarios, seeds=range(runs // len(METHODS) // len(scenarios)))
    with redirect_stderr(StringIO()):
        print_plan(make_plan(build_runs(request), out), Store(out), details=False)


def report(folder: Path) -> Iterator[Bound]:
    """Reports on more and more seeds, settings and datasets; figures cost by what they show, not by run."""
    for shape, heads in {"seeds": many_seeds, "settings": many_settings, "datasets": many_datasets}.items():

        def work(runs: int, shape: str = shape, heads: Callable = heads) -> Callable[[], object]:
            out = folder / f"{shape}-{runs}"
            for head in heads(runs):
                write(out, rows_of(head))
            return partial(write_report, out, ("md", "tex", "csv"))

        yield growth(f"report, many {shape}", work)


def many_seeds(runs: int) -> Iterator[dict]:
    """Four methods, and a quarter as many seeds as runs."""
    return (config(name, seed=seed, tasks=5) for name in METHODS for seed in range(runs // 4))


def many_settings(runs: int) -> Iterator[dict]:
    """Two methods, two seeds, and a learning rate for every four runs."""
    return (
        config(name, seed=seed, tasks=5, overrides={"optim.lr": rate / 1000})
        for name in METHODS[:2]
        for seed in range(2)
        for rate in range(runs // 4)
    )


def many_datasets(runs: int) -> Iterator[dict]:
    """Two methods, two seeds, and a dataset for every four runs."""
    return (
        config(name, seed=seed, tasks=5, dataset=f"set {number}")
        for name in METHODS[:2]
        for seed in range(2)
        for number in range(runs // 4)
    )


def growth(what: str, work: Callable[[int], Callable[[], object]]) -> Bound:
    """CPU time per run, the least of rounds in which the grids take turns; the bound is on the two largest."""
    ready = {runs: work(runs) for runs in RUNS}
    rounds = [{runs: seconds(grid) / runs for runs, grid in ready.items()} for _ in range(ROUNDS)]
    per_run = {runs: min(each[runs] for each in rounds) for runs in RUNS}
    for runs, each in per_run.items():
        print(f"{what}: {runs:5} runs {each * runs:7.2f} s {1e3 * each:7.2f} ms each", flush=True)
    return Bound(f"{what}: a run of {RUNS[-1]} over one of {RUNS[-2]}", RATIO, per_run[RUNS[-1]] / per_run[RUNS[-2]])


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process: others on the machine count less than in wall time."""
    began = time.process_time()
    work()
    return time.process_time() - began


PARTS: dict[str, Callable[[Path], Iterator[Bound]]] = {"tasks": tasks, "images": images, "plan": plan, "report": report}


def main() -> int:
    """Parses the line, measures, and prints what is kept and what is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder, removed at the end)")
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part '{min(unknown)}'")
    with tempfile.TemporaryDirectory(prefix="growth-") as temporary:
        folder = args.folder or Path(temporary)
        bounds = [bound for part in args.parts or PARTS for bound in PARTS[part](folder)]
    for bound in bounds:
        state = "ok" if bound.measured <= bound.limit else "BROKEN"
        print(f"{bound.what}: {bound.measured:.3f} (at most {bound.limit}) {state}")
    return int(any(bound.measured > bound.limit for bound in bounds))


if __name__ == "__main__":
    raise SystemExit(main())
