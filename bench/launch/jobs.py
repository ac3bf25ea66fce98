"""The workers of a launch: which wait or run, which are through, and which have vanished."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from bench.errors import UserError
from bench.launch.launches import Launch
from bench.launch.worker import CANCELLED, ended_file, remember_cancelled
from bench.processes import is_here, lives
from bench.seal import Damaged, read_sealed

OVER = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
)
"""States of SLURM from which a job does not come back; squeue may list it for some minutes more."""
ANSWER_SECONDS = 60.0
AT_WORK = ("waiting", "running")
State = Literal["waiting", "running", "through", "failed", "cancelled", "vanished"]


class Job(NamedTuple):
    """A worker's job; worker: its number from 0, -1 where unknown; `through`: it has done what there was to do,
    `failed`: it says that it cannot; reason: why it waits, or what it ended with."""

    id: str
    worker: int
    state: State
    reason: str = ""


class Submitted(NamedTuple):
    """One job as it was submitted; process: of the local executor."""

    worker: int
    process: dict[str, Any]


def jobs_of(launch: Launch) -> list[Job] | None:
    """The jobs of a launch as they are now, without those that have been replaced; None where the cluster does not
    answer.

    Raises UserError where only another machine can tell.
    """
    submitted = dict(_submitted(launch))
    listed = _listed(launch) if launch.settings.launcher == "slurm" else _alive(launch, submitted)
    if listed is None:
        return None
    # The process that submitted may have been killed before it wrote that down: its jobs work all the same.
    unknown = {id: Submitted(-1, {}) for id, (state, _) in listed.items() if id not in submitted and state not in OVER}
    newest = {job.worker: id for id, job in submitted.items()}
    jobs = [_job(launch, id, job.worker, *listed.get(id, ("", ""))) for id, job in {**submitted, **unknown}.items()]
    return [job for job in jobs if job.state in AT_WORK or newest.get(job.worker) == job.id]


def _job(launch: Launch, id: str, worker: int, state: str, reason: str) -> Job:
    if state and state not in OVER:
        return Job(id, worker, "waiting" if state == "PENDING" else "running", reason)
    try:
        end = read_sealed(ended_file(launch.folder, id))
    except Damaged:
        end = None
    status = None if end is None else end.get("status")
    if status == CANCELLED:
        return Job(id, worker, "cancelled")
    if isinstance(status, int) and status >= 0:
        return Job(id, worker, "through" if status in (0, 1) else "failed", f"status {status}")
    if state == "CANCELLED":
        with suppress(OSError):
            remember_cancelled(launch.folder, id)  # the cluster forgets it in some minutes
        return Job(id, worker, "cancelled")
    return Job(id, worker, "vanished", f"ended by signal {-status}" if isinstance(status, int) else state)


def _submitted(launch: Launch) -> Iterator[tuple[str, Submitted]]:
    for path in sorted(launch.folder.glob("jobs-*.json")):
        try:
            content = read_sealed(path) or {}
            jobs = {id: Submitted(int(worker), dict(process)) for id, (worker, process) in content["jobs"].items()}
            if not all(re.fullmatch("[0-9]+(_[0-9]+)?", id) for id in jobs):
                raise ValueError("names no jobs")
        except (Damaged, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: {error}: remove {launch.folder} once none of its jobs is left") from None
        yield from jobs.items()


def _listed(launch: Launch) -> dict[str, tuple[str, str]] | None:
    """Job -> state and reason, of all that SLURM still knows."""
    line = ["squeue", "--noheader", "--array", "--states=all", f"--name={launch.name}", "--format=%F|%K|%T|%r"]
    try:
        told = subprocess.run(line, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if told.returncode:
        return None
    found = {}
    for row in told.stdout.splitlines():
        array, index, state, reason = row.strip().split("|", 3)
        found[f"{array}_{index}" if re.fullmatch("[0-9]+", index) else array] = (state, reason)
    return found


def cancel_waiting(launch: Launch) -> None:
    """Takes the jobs of a launch out of the queue that have not started, when there is nothing left for them to do."""
    if launch.settings.launcher == "slurm":
        subprocess.run(["scancel", "--state=PENDING", f"--name={launch.name}"], capture_output=True, check=False)


def _alive(launch: Launch, submitted: dict[str, Submitted]) -> dict[str, tuple[str, str]]:
    """The same of the processes of the local executor, which are of this machine."""
    for job in submitted.values():
        if not is_here(job.process):
            raise UserError(f"{launch.out} was launched on {job.process.get('host')}: join it there")
    return {id: ("RUNNING", "") for id, job in submitted.items() if lives(job.process)}
