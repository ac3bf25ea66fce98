"""Grids as jobs of a real cluster: preempted, cancelled, on a lost node; the results are those of one process."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.lease import holder_of
from tests.engine.tiny import differing, results, rows, words
from tests.slurm.cluster import MOST_IN_ARRAY, wait_until

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parent.parent.parent
PATIENCE = 600.0
SECONDS = 30
"""Of a training that is to be disturbed several times: a lease says only every five seconds how far it is."""


class Line:
    """A command line that runs beside the test."""

    def __init__(self, cluster, line, log, *more):
        self.log = log
        command = [sys.executable, str(ROOT / "run_bench.py"), *line, *more]
        with log.open("ab") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, env=cluster.environment, stdout=file, stderr=file)

    def text(self):
        return self.log.read_text()

    def says(self, text):
        wait_until(lambda: text in self.text() or self.process.poll() is not None, PATIENCE, text)
        assert text in self.text(), self.text()

    def end(self, status):
        try:
            assert self.process.wait(PATIENCE) == status, self.text()
        finally:
            self.process.kill()
        return self.text()


def launched(out):
    """What the last launch into a results folder wrote down."""
    last = max((out / "launcher").iterdir(), key=lambda folder: int(folder.name))
    return last, json.loads((last / "launch.json").read_text())


def report(out):
    return {path.name: path.read_bytes() for path in (out / "report").iterdir()}


def held(out):
    """Stage, number of the job, and step of each training under way."""
    for folder in (out / "stages").glob("*"):
        found = holder_of(folder)
        if found is not None and found[1].get("step"):
            yield folder, found[0], found[1]["step"]


def wait_for_training(out):
    wait_until(lambda: any(held(out)), PATIENCE, "a training under way")
    return next(held(out))


def node_of(cluster, job):
    return cluster.ask("squeue", "-h", "-j", job, "-o", "%N")


@pytest.fixture(scope="module")
def long(pictures, tmp_path_factory):
    """Options of a training that takes this machine `SECONDS` at least, and saves nothing unless it is told to."""
    out, epochs = tmp_path_factory.mktemp("pace") / "out", 60
    line = words(pictures, out, "joint", "--quiet", "--epochs", str(epochs))
    subprocess.run([sys.executable, "run_bench.py", *line], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    seconds = max(row["seconds"].get("train", 0) for path in (out / "timings").glob("*.jsonl") for row in rows(path))
    return "--epochs", str(math.ceil(epochs * SECONDS / seconds)), "--save-every", "3600"


@pytest.fixture(scope="module")
def alone(pictures, long, tmp_path_factory):
    """A long training by one process, which nobody disturbs; it starts here and is waited for when called."""
    out = tmp_path_factory.mktemp("alone") / "out"
    line = words(pictures, out, "joint", "--quiet", *long)
    command = [sys.executable, str(ROOT / "run_bench.py"), *line]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finished():
        assert process.wait(PATIENCE) == 0
        return out

    yield finished
    process.kill()
    process.wait()


def test_twelve_runs_on_three_nodes_equal_one_process(cluster, pictures, tmp_path):
    methods, seeds = "finetune,cassle,sycon", ("--seeds", "0-3")
    apart = Line(cluster, words(pictures, tmp_path / "one", methods, *seeds), tmp_path / "one.txt")
    out = tmp_path / "out"
    line = words(pictures, out, methods, *seeds, "--launcher", "slurm", "--slurm", "time=30,array=64")
    shown = subprocess.run(
        [sys.executable, "run_bench.py", *line, "--dry-run"],
        cwd=ROOT,
        env=cluster.environment,
        capture_output=True,
        text=True,
    )
    assert not (out / "launcher").exists()
    Line(cluster, line, tmp_path / "log.txt").end(0)
    apart.end(0)
    assert differing(results(tmp_path / "one"), results(out)) == []
    assert report(tmp_path / "one") == report(out)
    folder, launch = launched(out)
    assert launch["workers"] == MOST_IN_ARRAY
    jobs = cluster.jobs(launch["name"])
    assert {node for state, node in jobs.values() if state != "CANCELLED"} >= set(cluster.nodes)
    name = re.compile("cssl-bench-[0-9a-f]{8}")
    submitted = next(folder.glob("*_submission.sh")).read_text()
    assert name.sub("", shown.stdout) == name.sub("", submitted)
    trained = [row["stage"] for path in (out / "timings").glob("*.jsonl") for row in rows(path)]
    assert len(trained) == 12 * 4  # each stage once, in the timings of each run that has it


def test_cancelled_and_preempted_jobs_save_and_go_on(cluster, pictures, long, alone, tmp_path):
    out = tmp_path / "out"
    line = words(pictures, out, "joint", *long, "--launcher", "slurm", "--slurm", "time=30")
    cancelled = Line(cluster, line, tmp_path / "cancelled.txt")
    stage, who, _ = wait_for_training(out)
    cluster.ask("scancel", who["SLURM_JOB_ID"])
    assert "no worker is left (1 cancelled)" in cancelled.end(1)
    assert (stage / "partial.safetensors").exists()  # and nobody is at it any more:
    assert list(held(out)) == []

    preempted = Line(cluster, line, tmp_path / "preempted.txt")
    stage, who, first = wait_for_training(out)
    job, node, before = (
        who["SLURM_JOB_ID"],
        node_of(cluster, who["SLURM_JOB_ID"]),
        (stage / "partial.safetensors").stat(),
    )
    cluster.ask("sbatch", "--partition=urgent", f"--nodelist={node}", "--output=/dev/null", "--wrap=sleep 3")
    wait_until(lambda: cluster.restarts(job), PATIENCE, "preemption")
    assert (stage / "partial.safetensors").stat().st_mtime > before.st_mtime
    _, who, step = wait_for_training(out)
    assert (who["SLURM_JOB_ID"], who["SLURM_RESTART_COUNT"]) == (job, "1")
    assert step > first
    assert "failed" not in preempted.end(0)
    assert differing(results(alone()), results(out)) == []
    assert report(alone()) == report(out)


def test_the_work_of_a_lost_node_is_finished_by_another(cluster, pictures, long, alone, tmp_path):
    out = tmp_path / "out"
    line = words(pictures, out, "joint", *long, "--launcher", "slurm", "--slurm", "time=30")
    line[line.index("3600")] = "1"
    follower = Line(cluster, line, tmp_path / "log.txt")
    _, who, _ = wait_for_training(out)
    job, node = who["SLURM_JOB_ID"], node_of(cluster, who["SLURM_JOB_ID"])
    cluster.kill_node(node)
    # Its processes live on. They stand still until the cluster has missed the node and started the job elsewhere.
    cluster.signal(signal.SIGSTOP, SLURM_JOB_ID=job, SLURMD_NODENAME=node)
    try:
        again = {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": "1"}
        log = str(launched(out)[0] / f"{job}_0_log.err")
        wait_until(lambda: cluster.processes(**again, BENCH_WORKER_LOG=log), PATIENCE, "a second worker")
        assert node_of(cluster, job) != node
        time.sleep(10)  # until it has found that the stage is taken
        cluster.signal(signal.SIGCONT, SLURM_JOB_ID=job, SLURMD_NODENAME=node)
        assert [other["pid"] for _, other, _ in held(out)] == [who["pid"]]
        cluster.signal(signal.SIGKILL, SLURM_JOB_ID=job, SLURMD_NODENAME=node)
        follower.end(0)
    finally:
        cluster.start_node(node)
    assert differing(results(alone()), results(out)) == []
    assert report(alone()) == report(out)


def test_a_follower_leaves_joins_again_and_replaces_vanished_workers(cluster, pictures, long, tmp_path):
    out = tmp_path / "out"
    line = words(pictures, out, "joint", *long, "--launcher", "slurm", "--slurm", "time=30")
    first = Line(cluster, line, tmp_path / "first.txt")
    first.says("launched 1 worker")
    first.process.send_signal(signal.SIGINT)
    assert "its workers go on; the same line with --attach joins them again" in first.end(130)
    _, launch = launched(out)
    (job,) = cluster.jobs(launch["name"])

    other = Line(cluster, words(pictures, out, "joint,random", *line[-4:]), tmp_path / "other.txt")
    assert "was launched with another line" in other.end(2)
    again = Line(cluster, line, tmp_path / "again.txt")
    again.says("joins the workers")
    again.process.send_signal(signal.SIGINT)
    again.end(130)
    assert list(cluster.jobs(launch["name"])) == [job]  # and none was submitted

    wait_for_training(out)
    cluster.signal(signal.SIGKILL, SLURM_JOB_ID=job)
    joined = Line(cluster, line, tmp_path / "joined.txt", "--attach").end(0)
    assert f"the worker {job} has vanished" in joined
    assert "1 in place of the vanished (1 of 3 times)" in joined
    assert len(cluster.jobs(launch["name"])) == 2
