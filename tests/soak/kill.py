"""Kills tiny grids with SIGKILL, restarts them until they finish, and compares their files with undisturbed ones.

By hand: `python tests/soak/kill.py --kills 200`. The phases take turns: training (from nothing), evaluating (another
probe on a finished grid), setting aside (a finished grid with damaged files) and reporting. Most attempts are forks of
this process, which has imported all there is, so that one costs no start-up; `--company` of the kills are of two at a
time on one folder, `--real` more of processes of their own, with two jobs. Half of the kills come at a uniformly drawn
moment, half at a uniformly drawn operation on a file of the results folder. Status 1 where a byte of a model, of
features, of a probe's result, of a record or of a report differs, or where something is left behind that the next
process would not remove. Edit no source meanwhile: records hold its hash.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from bench import lease
from bench.engine.environment import environment
from tests.engine.tiny import differing, paint_folder, results, run, words

for module in ("bench.commands.grid", "bench.commands.probe", "torch._dynamo"):  # what every fork would import
    import_module(module)
ROOT = Path(__file__).parent.parent.parent
PAIRS = ("finetune-barlow", "cassle-simclr", "sycon-moco", "sycon-byol", "lump-moco", "cassle-vicreg")
OPERATIONS = ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.utime")
PHASES = ("training", "evaluating", "training", "setting aside", "reporting")
LATEST = 1.5  # times as late as an undisturbed job ends: a report, which begins anew each time, must come through too
ATTEMPTS = 60  # of one grid; only a grid that makes no progress needs more


@dataclass(frozen=True)
class Job:
    """A command line on a results folder that stands at `out` in it. begins: from a copy of this folder, or nothing."""

    line: tuple[str, ...]
    begins: Path | None

    def at(self, place: Path) -> tuple[list[str], Path]:
        """The line with its own results folder, and that."""
        place.mkdir(parents=True)
        if self.begins is not None:
            shutil.copytree(self.begins, place / "out")
        return [str(place / "out") if word == "OUT" else word for word in self.line], place / "out"


@dataclass(frozen=True)
class Calm:
    """What a job takes and leaves when nobody disturbs it: seconds, operations on files, results."""

    seconds: float
    operations: int
    files: dict[str, bytes]


def jobs_of(pair: str, pictures: Path, folder: Path) -> dict[str, Job]:
    """The jobs of a pair by phase; trains it once, undisturbed."""
    grid = words(pictures, Path("OUT"), pair, "--quiet", "--save-every", "0", tasks=3)
    line, done = Job(tuple(grid), None).at(folder / "done")
    with redirect_stdout(StringIO()):
        if run(*line) != 0:
            raise SystemExit(f"{pair} fails undisturbed")
    damaged = Path(shutil.copytree(done, folder / "damaged"))
    damage(damaged)
    report = ("report", "--out", "OUT", "--quiet", "--format", "md,tex,csv,png")
    probe = ("eval", "--out", "OUT", "--quiet", "--format", "md", "--probe", "knn", "--set", "probe.knn.k=7")
    return {
        "training": Job(tuple(grid), None),
        "evaluating": Job(probe, done),
        "setting aside": Job(tuple(grid), damaged),
        "reporting": Job(report, done),
    }


def damage(out: Path) -> None:
    """Turns a bit in the middle of the records, of the ends of stages and of a file of each, and deletes a stage whose
    parent's model is damaged."""
    stages = sorted(out.glob("stages/*"), key=lambda path: (path / "stage.json").stat().st_mtime_ns)
    for number, stage in enumerate(stages):
        files = sorted(stage.glob("*.safetensors"))
        for path in (stage / "stage.json", files[number % len(files)]):
            turn_a_bit(path)
    turn_a_bit(stages[-2] / "model.safetensors")
    shutil.rmtree(stages[-1])
    for path in out.glob("records/*"):
        turn_a_bit(path)


def turn_a_bit(path: Path) -> None:
    """In the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def content(out: Path) -> dict[str, bytes]:
    """What two equal folders share, with the report."""
    return results(out) | {f"report/{path.name}": path.read_bytes() for path in out.glob("report/*") if path.is_file()}


def start(line: list[str], log: Path, dies_at: int | None, tally: Path | None = None, robs: bool = False) -> int:
    """Forks a process group that runs the line; it kills itself at operation `dies_at` on a file below --out.

    robs: whether it takes any other process for dead, as one that has not been heard of for long.
    """
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    out, count = line[line.index("--out") + 1], 0
    if robs:
        lease.EXPIRY_SECONDS = 0

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal count
        if event in OPERATIONS and str(args[0]).startswith(out):
            count += 1
            if count == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    status = run(*line)
    if tally is not None:
        tally.write_text(str(count))
    os._exit(status)


def wait(pid: int, seconds: float) -> int | None:
    """The status of a process, or None after that many seconds."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.002)


def kill(pid: int) -> None:
    """Ends a process group at once."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it does not lead a group yet
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def undisturbed(job: Job, place: Path) -> Calm:
    """What a job takes and leaves that nobody kills."""
    line, out = job.at(place)
    began = time.monotonic()
    if wait(start(line, place / "log.txt", None, place / "tally.txt"), 600) != 0:
        raise SystemExit((place / "log.txt").read_text())
    return Calm(time.monotonic() - began, int((place / "tally.txt").read_text()), content(out))


def moment(rng: random.Random, calm: Calm) -> int:
    """Number of the operation at which a process is to die."""
    return rng.randint(1, round(LATEST * calm.operations))


def killed_by_fork(line: list[str], log: Path, rng: random.Random, calm: Calm) -> int:
    """Kills of one job until an attempt is through."""
    for kills in range(ATTEMPTS):
        at_operation = rng.random() < 0.5
        pid = start(line, log, moment(rng, calm) if at_operation else None)
        status = wait(pid, 600 if at_operation else rng.uniform(0, LATEST * calm.seconds))
        if status is None:
            kill(pid)
        elif status != -signal.SIGKILL:
            return kills if status == 0 else failed(log, status)
    return failed(log, None)


def killed_in_company(line: list[str], log: Path, rng: random.Random, calm: Calm) -> int:
    """Kills of one job that two at a time work at, until both are through. One in four takes from the other whatever
    that holds."""
    kills, running = 0, dict[int, float]()
    to_start = 2
    while to_start or running:
        while to_start and kills <= 2 * ATTEMPTS:
            at_operation = rng.random() < 0.5
            dies_at = moment(rng, calm) if at_operation else None
            pid = start(line, log, dies_at, robs=rng.random() < 0.25)
            running[pid] = time.monotonic() + (600 if at_operation else rng.uniform(0, 2 * calm.seconds))
            to_start -= 1
        if not running:
            return failed(log, None)
        for pid, end in [*running.items()]:
            status = wait(pid, 0)
            if status is None and time.monotonic() < end:
                continue
            del running[pid]
            if status is None:
                kill(pid)
            if status in (None, -signal.SIGKILL):
                kills += 1
                to_start += 1
            elif status != 0:
                failed(log, status)
        time.sleep(0.002)
    return kills


def killed_for_real(line: list[str], log: Path, rng: random.Random, calm: Calm) -> int:
    """The same with processes of their own and two jobs; their start-up is part of the moments."""
    patience = 20.0  # seconds; where start-up alone takes longer, it grows
    for kills in range(ATTEMPTS):
        with log.open("ab") as file:
            command = [sys.executable, str(ROOT / "run_bench.py"), *line]
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, cwd=ROOT)
        status = wait(process.pid, rng.uniform(0, patience))
        process.returncode = -signal.SIGKILL if status is None else status  # it is reaped here
        if status is not None:
            return kills if status == 0 else failed(log, status)
        kill(process.pid)
        patience *= 1.2
    return failed(log, None)


def failed(log: Path, status: int | None) -> int:
    """Ends the test where an attempt fails by itself, or where none of many comes through."""
    raise SystemExit(f"status {status}\n{log}\n{log.read_text()[-4000:]}")


def left_behind(out: Path) -> list[str]:
    """What killed processes have left and no later one removes."""
    marks = ("**/owner", "**/.claim-*", "**/.gone-*")
    kept, lease.EXPIRY_SECONDS = lease.EXPIRY_SECONDS, 0  # as if that long ago
    for folder in {found.parent for mark in marks for found in out.glob(mark)}:
        if folder.name != "owner" and folder.exists():
            lease.take(folder).release()
    lease.EXPIRY_SECONDS = kept
    return [str(path) for mark in (*marks, "**/*.tmp") for path in out.glob(mark)]


class Soak:
    """Kills jobs of pairs in turn and counts."""

    def __init__(self, pairs: list[str], rng: random.Random, folder: Path) -> None:
        self.pairs, self.rng, self.folder = pairs, rng, folder
        self.pictures = paint_folder(folder / "pictures")
        self.jobs: dict[str, dict[str, Job]] = {}
        self.calm: dict[tuple[str, str], Calm] = {}
        self.divergences: list[str] = []
        self.number = 0

    def kills(self, way: Callable[[list[str], Path, random.Random, Calm], int], wanted: int, *more: str) -> int:
        """Kills that many in one way, or a few more; more: words for the lines of grids. Returns how many."""
        count = 0
        while count < wanted:
            pair = self.pairs[self.number % len(self.pairs)]
            phases = ("training", "setting aside") if more else PHASES
            phase = phases[self.number // len(self.pairs) % len(phases)]
            self.number += 1
            job, calm = self._job(pair, phase)
            place = self.folder / f"{pair}-{self.number}"
            line, out = job.at(place)
            count += way([*line, *more], place / "log.txt", self.rng, calm)
            wrong = differing(calm.files, content(out)) + left_behind(out)
            self.divergences += [f"{place}: {name}" for name in wrong]
            print(f"{pair} {phase}: {count} kills, {len(wrong)} files differ or are left", flush=True)
        return count

    def _job(self, pair: str, phase: str) -> tuple[Job, Calm]:
        if pair not in self.jobs:
            self.jobs[pair] = jobs_of(pair, self.pictures, self.folder / pair)
        job = self.jobs[pair][phase]
        if (pair, phase) not in self.calm:
            place = self.folder / f"{pair}-calm {phase}"
            self.calm[pair, phase] = undisturbed(job, place)
            if phase == "setting aside":  # nobody can see in the end that there was damage
                wrong = differing(results(self.folder / pair / "done" / "out"), results(place / "out"))
                self.divergences += [f"{place}: {name}" for name in wrong]
        return job, self.calm[pair, phase]


def main() -> int:
    """Parses the line and prints the sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of forked attempts")
    parser.add_argument("--company", type=int, default=10, help="of forked attempts, two at a time on one folder")
    parser.add_argument("--real", type=int, default=6, help="of processes of their own")
    parser.add_argument("--pairs", default=",".join(PAIRS), help="methods to take turns")
    parser.add_argument("--folder", type=Path, help="where to work (default: a new temporary folder)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()
    environment("cpu")  # which is cached: forks do not ask git again
    folder = args.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    soak = Soak(args.pairs.split(","), random.Random(args.seed), folder)
    forks = soak.kills(killed_by_fork, args.kills)
    company = soak.kills(killed_in_company, args.company)
    real = soak.kills(killed_for_real, args.real, "--jobs", "2")
    for line in soak.divergences:
        print(line)
    print(
        f"{forks + company + real} kills ({forks} of forks, {company} in company, {real} of processes), "
        f"{len(soak.divergences)} divergences, {time.monotonic() - began:.0f} s; files in {folder}"
    )
    return 1 if soak.divergences else 0


if __name__ == "__main__":
    raise SystemExit(main())
