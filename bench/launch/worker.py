"""What a job runs: the command line of a worker, as a process of its own, which it tells when to save and end.

submitit pickles the callable: it holds texts only.
"""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from bench.files import write_atomic
from bench.seal import seal_file

if TYPE_CHECKING:
    from submitit import JobEnvironment

SAVE_SECONDS = 60.0
"""For a worker to finish its step and save it, before the job queues again all the same."""
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT)
"""Statuses of a worker that was asked to end before it was through."""
ASK_TIMES = 3
"""Of a cluster that is too busy to answer."""
CANCELLED = "cancelled"
"""Status of a job that its user has ended."""
BEGAN = "BENCH_LAUNCH_BEGAN"
"""Variable that tells a worker when it was launched together with the others."""
LOG = "BENCH_WORKER_LOG"
"""Variable that tells a worker where what it says is kept."""


class Worker:
    """Starts the command in a folder when called; submitit asks for a checkpoint when the job has to end."""

    def __init__(self, command: list[str], folder: str) -> None:
        self.command, self.folder = command, folder
        self.child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """The status of the worker: 0 all done, 1 not all; `ended_file` keeps it, too.

        Raises RuntimeError for any other status. Does not return where the worker was asked to end: then the job
        queues again, unless it was cancelled.
        """
        import submitit

        job = submitit.JobEnvironment()
        paths, announced = job.paths, job._usr_sig()
        launched = (paths.folder / "launch.json").stat().st_mtime
        for number in {signal.SIGTERM, signal.SIGUSR1} - {announced}:  # submitit hears the one that it asks for itself
            signal.signal(number, self._pass_on)
        told = {**os.environ, BEGAN: repr(launched), LOG: str(paths.stderr)}
        self.child = subprocess.Popen(self.command, cwd=self.folder, env=told)
        os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)
        status = self.child.wait()
        if status in STOPPED:
            if _is_wanted(job):
                signal.raise_signal(announced)  # as if time was up: the job queues again
            raise SystemExit(STOPPED[0])
        path = ended_file(paths.folder, str(paths.job_id))
        write_atomic(path, seal_file(path, {"status": status}))
        if status not in (0, 1):
            raise RuntimeError(f"the worker ended with status {status}")
        return status

    def checkpoint(self) -> Any:
        """What the job does when it runs again: the same. The worker has saved and ended by then."""
        import submitit

        self._pass_on(signal.SIGTERM, None)
        end = time.monotonic() + SAVE_SECONDS
        while self._is_running() and time.monotonic() < end:
            time.sleep(0.05)
        return submitit.helpers.DelayedSubmission(Worker(self.command, self.folder))

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if self.child is not None:
            self.child.terminate()

    def _is_running(self) -> bool:
        # Not `Popen.poll`: this may run in a signal handler inside its `wait`, whose lock is then taken.
        if self.child is not None:
            with suppress(ChildProcessError):
                return os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
        return False


def ended_file(folder: Path, job: str) -> Path:
    """Where the status of a worker is kept that has come to its end."""
    return folder / f"{job}_ended.json"


def remember_cancelled(folder: Path, job: str) -> None:
    """Keeps that a job was cancelled, which is its end."""
    path = ended_file(folder, job)
    write_atomic(path, seal_file(path, {"status": CANCELLED}))


def _is_wanted(job: "JobEnvironment") -> bool:
    """Whether the cluster still counts this job as running: one that was cancelled must not come back, and one that was
    queued again already need not be. False where it does not answer."""
    if job.cluster != "slurm":
        return False
    # By its number in the array: the raw number of one of its jobs stands for the whole array.
    line = ["squeue", "--noheader", f"--jobs={job.job_id}", "--format=%T"]
    for _ in range(ASK_TIMES):
        with suppress(OSError, subprocess.TimeoutExpired):
            told = subprocess.run(line, capture_output=True, text=True, timeout=SAVE_SECONDS / ASK_TIMES)
            if told.returncode == 0:
                return told.stdout.strip() == "RUNNING"
        time.sleep(1.0)
    return False
