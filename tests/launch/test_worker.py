"""A job as submitit runs it, with a stand-in for the cluster: workers hear signals, and the right jobs queue again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission

from bench.files import write_atomic
from bench.launch.worker import Worker, ended_file
from bench.seal import read_sealed

ROOT = Path(__file__).parent.parent.parent
CHILD = """
import os, signal, sys, time
def save(*_):
    time.sleep(0.3)
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("began", os.environ["BENCH_LAUNCH_BEGAN"], flush=True)
time.sleep(60)
"""
PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >>"{calls}"
echo {says}
"""


class Job:
    """A process as a batch script starts one; state: what the cluster says of the job."""

    def __init__(self, folder, command, state="RUNNING", **told):
        self.folder, self.calls = folder, folder / "calls"
        for name, says in (("squeue", state), ("scontrol", "")):
            (folder / name).write_text(PROGRAM.format(calls=self.calls, says=says))
            (folder / name).chmod(0o755)
        write_atomic(folder / "launch.json", b"{}")
        submission = DelayedSubmission(Worker(command, str(folder)))
        submission.set_timeout(30, 1000)
        name = f"7_{told['SLURM_ARRAY_TASK_ID']}" if "SLURM_ARRAY_TASK_ID" in told else "7"
        submission.dump(folder / f"{name}_submitted.pkl")
        told = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", "PYTHONPATH": str(ROOT), **told}
        told["PATH"] = f"{folder}:{os.environ['PATH']}"
        line = [sys.executable, "-m", "submitit.core._submit", str(folder)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(line, env={**os.environ, **told}, stdout=log, stderr=log)

    @property
    def log(self):
        return self.folder / "log.txt"

    def tell(self, number):
        end = time.monotonic() + 30
        while "began" not in self.log.read_text():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)
        self.process.send_signal(number)

    def end(self):
        """Its status and what it asked of the cluster."""
        status = self.process.wait(30)
        return status, self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def child():
    return [sys.executable, "-c", CHILD]


def test_time_that_is_up_makes_the_worker_save_and_the_job_queue_again(tmp_path, child):
    job = Job(tmp_path, child)
    job.tell(signal.SIGUSR2)
    status, calls = job.end()
    assert (status, calls) == (255, ["scontrol requeue 7"])
    assert "saved" in job.log.read_text()
    assert f"began {(tmp_path / 'launch.json').stat().st_mtime!r}" in job.log.read_text()
    again = DelayedSubmission.load(tmp_path / "7_submitted.pkl").function
    assert (again.command, again.folder, again.child) == (child, str(tmp_path), None)
    assert not ended_file(tmp_path, "7").exists()


@pytest.mark.parametrize(("state", "queues"), [("RUNNING", True), ("COMPLETING", False)])
def test_a_request_to_end_saves_and_queues_again_only_a_job_that_is_not_cancelled(tmp_path, child, state, queues):
    job = Job(tmp_path, child, state)
    job.tell(signal.SIGTERM if queues else signal.SIGUSR1)
    status, calls = job.end()
    assert "saved" in job.log.read_text()
    assert ("scontrol requeue 7" in calls) == queues
    assert status == (255 if queues else 143)
    assert not ended_file(tmp_path, "7").exists()


def test_a_job_of_an_array_is_asked_about_by_its_number_there(tmp_path, child):
    """The raw number of its last job is that of the whole array."""
    job = Job(tmp_path, child, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="1")
    job.tell(signal.SIGTERM)
    status, calls = job.end()
    assert status == 255
    assert calls == ["squeue --noheader --jobs=7_1 --format=%T", "scontrol requeue 7_1"]


def test_a_signal_that_the_cluster_was_asked_for_by_the_environment_queues_again(tmp_path, child):
    job = Job(tmp_path, child, SUBMITIT_PREEMPT_SIGNAL="USR1")
    job.tell(signal.SIGUSR1)
    assert job.end() == (255, ["scontrol requeue 7"])


@pytest.mark.parametrize(("ends", "status", "fails"), [("exit 1", 1, 0), ("kill -9 $$", -9, 1)])
def test_the_status_of_a_worker_that_ends_is_kept(tmp_path, ends, status, fails):
    job = Job(tmp_path, ["sh", "-c", ends])
    assert job.end() == (fails, [])
    assert read_sealed(ended_file(tmp_path, "7")) == {"status": status}
