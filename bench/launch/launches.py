"""Launches into a results folder: `launcher/N` holds what was asked for, what submitit writes, and what workers say."""

import os
import re
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import write_atomic
from bench.launch.settings import LaunchSettings, launch_settings
from bench.layers import Given
from bench.seal import Damaged, read_sealed, seal_file

BATCHES = 4
"""The first submission, and those in place of workers that vanished."""
CONFIG = "config.yaml"
ROOT = Path(__file__).resolve().parent.parent.parent
BEGIN_SECONDS = 120.0
"""After which a launch that has submitted nothing counts as one that was killed."""
# Options that are the launcher's and not the workers', and whether a value follows.
_OWN = {
    "--launcher": True,
    "--slurm": True,
    "--attach": False,
    "--dry-run": False,
    "--quiet": False,
    "--out": True,
    "--config": True,
    "--format": True,
}


@dataclass(frozen=True)
class Launch:
    """One launch. folder: its own; settings: what was asked for; name: of its jobs, unique; words: of the command line,
    those that all workers share; where: the working directory; workers: their number."""

    folder: Path
    settings: LaunchSettings
    name: str
    words: list[str]
    where: str
    workers: int

    @property
    def out(self) -> Path:
        """The results folder."""
        return self.folder.parent.parent

    def command(self, index: int) -> list[str]:
        """The command of a worker, counted from 0."""
        shard = ["--shard", f"{index + 1}/{self.workers}"]
        end = ["--out", str(self.out), "--launcher", "none", *shard, "--format", "none", "--quiet"]
        return [*self._devices(), sys.executable, str(ROOT / "run_bench.py"), *self.words, *end]

    def log(self, job: str) -> Path:
        """Where what the worker of a job says is kept."""
        return self.folder / f"{job}_0_log.err"

    def began(self) -> float:
        """When it was launched, by the clock of the file system."""
        return (self.folder / "launch.json").stat().st_mtime

    def _devices(self) -> list[str]:
        """submitit's local executor hides the GPUs of this machine: its workers see what this process sees."""
        if self.settings.launcher != "local":
            return []
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        return ["env", "-u", "CUDA_VISIBLE_DEVICES"] if seen is None else ["env", f"CUDA_VISIBLE_DEVICES={seen}"]


def python_command() -> list[str]:
    """The interpreter of a job, which finds this package from any directory."""
    given = [os.path.abspath(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    path = os.pathsep.join(dict.fromkeys([str(ROOT), *given]))
    return ["env", f"PYTHONPATH={path}", "PYTHONSAFEPATH=1", sys.executable]


def shared_words(words: Sequence[str], numerics: Sequence[str], folder: Path) -> list[str]:
    """The words of a command line that all workers share. numerics: flags, so that every machine makes stages of the
    names planned here; folder: of the launch, which keeps the file of --config."""
    kept, rest = list[str](), iter(words)
    for word in rest:
        option, equals, _ = word.partition("=")
        if option == "--config":
            kept += ["--config", str(folder / CONFIG)]
        elif option not in _OWN:
            kept.append(word)
        if option in _OWN and _OWN[option] and not equals:
            next(rest, None)
    return [*kept, *numerics]


def folder_of(out: Path) -> Path:
    """Where the launches into a results folder lie; raises UserError where a batch script cannot name it."""
    folder = out.absolute() / "launcher"
    if folder.is_symlink():
        raise UserError(f"{folder} is a symbolic link: remove it")
    if not re.fullmatch(r"[^\x00-\x1f\x7f%\\]*", str(folder)):
        raise UserError(f"--out {str(out)!r}: a batch script takes no %, \\ or control character in the names of logs")
    return folder


def told_of(out: Path) -> str | None:
    """Where the logs of launched workers lie, in a line; None where none were launched."""
    numbers = _numbers(out / "launcher")
    if not numbers:
        return None
    times = f"{len(numbers)} time{'s' * (len(numbers) > 1)}"
    return f"launched {times}; logs of the last workers: {out}/launcher/{numbers[-1]}/*_log.err"


def latest(out: Path) -> Launch | None:
    """The last launch into a results folder that got as far as saying what it is; raises UserError while one is being
    made, and for a file that is not whole."""
    folder = folder_of(out)
    for number in reversed(_numbers(folder)):
        launch = read_launch(folder / str(number))
        if launch is not None:
            return launch
    return None


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if re.fullmatch("[1-9][0-9]{0,8}", path.name))


def read_launch(folder: Path) -> Launch | None:
    """A launch as its folder tells it, or None where it does not. Raises UserError as `latest`."""
    path = folder / "launch.json"
    try:
        content = read_sealed(path)
        if content is not None:
            return _launch(folder, content)
    except (Damaged, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}: remove {folder} once none of its jobs is left") from None
    if _is_fresh(folder):
        raise _at_this_moment(folder)
    return None


def _launch(folder: Path, content: dict[str, Any]) -> Launch:
    """What a file says, held to what a command line may say: a results folder can come from anybody."""
    asked = {key: Given(text, str(folder)) for key, text in content["options"].items()}
    settings = launch_settings(content["launcher"], None, asked)
    if settings is None or not re.fullmatch("cssl-bench-[0-9a-f]{8}", content["name"]):
        raise ValueError("is no launch")
    words, where, workers = content["words"], content["where"], content["workers"]
    return Launch(folder, settings, content["name"], list(map(str, words)), str(where), int(workers))


def _is_fresh(path: Path) -> bool:
    """Whether what was begun here may still be under way."""
    return time.time() - path.stat().st_mtime < BEGIN_SECONDS


def _at_this_moment(folder: Path) -> UserError:
    return UserError(f"another process is launching into {folder.parent.parent} at this moment: --attach joins it")


def draft(out: Path, settings: LaunchSettings, words: Sequence[str], numerics: Sequence[str], workers: int) -> Launch:
    """The next launch into a results folder, of which nothing is written yet; words: of the command line."""
    folder = folder_of(out)
    folder /= str(max(_numbers(folder), default=0) + 1)
    name = f"cssl-bench-{secrets.token_hex(4)}"
    return Launch(folder, settings, name, shared_words(words, numerics, folder), os.getcwd(), workers)


def begin(launch: Launch, config: Path | None) -> None:
    """Claims the folder of a launch and writes down what it is; raises UserError where another process was faster.

    config: the file of --config; kept as it is now, as jobs may wait for days and are to do what was planned.
    """
    launch.folder.parent.mkdir(exist_ok=True)
    try:
        launch.folder.mkdir(mode=0o755)  # jobs run what lies here: nobody else may write it
    except FileExistsError:
        raise _at_this_moment(launch.folder) from None
    if config is not None:
        write_atomic(launch.folder / CONFIG, config.read_bytes())
    path = launch.folder / "launch.json"
    content = {
        "launcher": launch.settings.launcher,
        "options": dict(launch.settings.options),
        "name": launch.name,
        "words": launch.words,
        "where": launch.where,
        "workers": launch.workers,
    }
    write_atomic(path, seal_file(path, content))
    (launch.folder / "batch-0").touch()


def is_of(launch: Launch, words: Sequence[str], numerics: Sequence[str], config: Path | None) -> bool:
    """Whether a command line, given here and now, asks for what was launched."""
    kept = launch.folder / CONFIG
    same = config is None or (kept.exists() and config.read_bytes() == kept.read_bytes())
    return same and (shared_words(words, numerics, launch.folder), os.getcwd()) == (launch.words, launch.where)


def claim(launch: Launch) -> int | None:
    """The number of the next submission, which is this process's to make; None where there is no more, or another
    process is at it."""
    batch = _batches(launch)
    if batch >= BATCHES or is_claimed(launch):
        return None
    try:
        (launch.folder / f"batch-{batch}").touch(exist_ok=False)
    except FileExistsError:
        return None
    return batch


def is_claimed(launch: Launch) -> bool:
    """Whether a process is about to submit workers."""
    last = _batches(launch) - 1
    return last >= 0 and not jobs_file(launch, last).exists() and _is_fresh(launch.folder / f"batch-{last}")


def _batches(launch: Launch) -> int:
    return len(list(launch.folder.glob("batch-*")))


def jobs_file(launch: Launch, batch: int) -> Path:
    """Where the jobs of a submission stand; batch: 0 the first, the others in place of workers that vanished."""
    return launch.folder / f"jobs-{batch}.json"
