"""Guards that grids of thousands of runs stay usable, by hand: timings are no tests, so nothing runs this in the suite.

    python tests/speed/large.py        # some minutes on two cores

plan: `run_bench.py plan` of 10,000 runs, with its peak of memory. report: `run_bench.py report` on as many records.
start: a finished grid of 1,000 runs of which one more is asked for, until that one trains. What is finished was never
trained: stages without tensors, and accuracies from a formula. Exit status 1 where a bound is broken.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench import options  # noqa: E402
from bench.commands.grid import request_of  # noqa: E402
from bench.engine.plan import Plan, make_plan  # noqa: E402
from bench.engine.store import Store  # noqa: E402
from bench.grid import build_runs  # noqa: E402
from tests.fabricated import finish_grid, finish_record  # noqa: E402

LARGE, FINISHED = 10_000, 1_000
METHODS = ("finetune", "cassle", "sycon", "lump")
PLAN_SECONDS, PLAN_MB, REPORT_SECONDS, START_SECONDS = 10, 1000, 60, 5


def line(out: Path, seeds: int) -> list[str]:
    """A grid of two scenarios, four methods and so many seeds."""
    methods, scenarios = ",".join(METHODS), "class_il,data_il"
    return ["--methods", methods, "--scenario", scenarios, "--seeds", f"0-{seeds - 1}", "--out", str(out)]


def planned(words: list[str]) -> Plan:
    """The plan of a line."""
    args = options.build_parser().parse_args(words)
    return make_plan(build_runs(request_of(args)), args.out)


def cost(words: list[str], log: Path) -> tuple[float, float]:
    """Wall seconds of a command line, and the peak of its resident memory in MB."""
    began = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "run_bench.py", *words], cwd=ROOT, stdout=file, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # it is reaped here
    if process.returncode:
        raise SystemExit(f"run_bench.py {' '.join(words)} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return time.monotonic() - began, usage.ru_maxrss / 1024


def until_training(words: list[str], out: Path, log: Path) -> float:
    """Wall seconds from the start of a command line until the display tells of a step; the line is then ended."""
    before = {*(out / "stages").iterdir()}
    began = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "run_bench.py", *words], cwd=ROOT, stdout=file, stderr=file)
    try:
        while process.poll() is None:
            for folder in {*(out / "stages").iterdir()} - before:
                if (folder / "partial.safetensors").exists():  # saved after its first step
                    return time.monotonic() - began
            time.sleep(0.02)
        raise SystemExit(f"it ended before it trained: {log.read_text()[-2000:]}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def main() -> int:
    """Measures all and says what is kept and what is broken."""
    with tempfile.TemporaryDirectory(prefix="large-") as temporary:
        folder = Path(temporary)
        seeds = LARGE // len(METHODS) // 2
        cost(["plan", *line(folder / "small", 1)], folder / "log.txt")  # which unpacks the dataset
        (folder / "large").mkdir()
        (folder / "small" / "datasets").rename(folder / "large" / "datasets")
        plan_seconds, plan_mb = cost(["plan", *line(folder / "large", seeds)], folder / "log.txt")
        found = [("plan, seconds", PLAN_SECONDS, plan_seconds), ("plan, MB", PLAN_MB, plan_mb)]
        plan, store = planned(line(folder / "large", seeds)), Store(folder / "large")
        assert len(plan.runs) == LARGE
        store.prepare()
        for run in plan.runs:
            finish_record(plan, run, store)
        report = ["report", "--out", str(folder / "large"), "--quiet"]
        found.append(("report, seconds", REPORT_SECONDS, cost(report, folder / "log.txt")[0]))
        seeds, out = FINISHED // len(METHODS) // 2, folder / "finished"
        finish_grid(planned(line(out, seeds)), Store(out))
        more = [*line(out, seeds + 1), "--save-every", "0"]
        found.append(("start of one more, seconds", START_SECONDS, until_training(more, out, folder / "log.txt")))
    for what, limit, measured in found:
        print(f"{what}: {measured:.1f} (at most {limit}) {'ok' if measured <= limit else 'BROKEN'}")
    return int(any(measured > limit for _, limit, measured in found))


if __name__ == "__main__":
    raise SystemExit(main())
