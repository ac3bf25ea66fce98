"""Several processes at one run: they train what one trains, agree bit for bit, stop together, and go on in any number.

Processes are forks of this one, which meet at a file; the last test has torchrun start them.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from bench import torchrun
from bench.commands import grid as grid_command
from bench.engine import follower, stage
from bench.engine.checkpoint import load_tensors
from bench.engine.company import check_runs
from bench.errors import UserError
from bench.lease import Lease, LostLease
from bench.seal import read_sealed
from tests.engine.tiny import differing, planned, records, results, run, words

import_module("torch._dynamo")  # which every fork would import for its optimizer
pytestmark = pytest.mark.xdist_group("processes")
ROOT = Path(__file__).parent.parent.parent
SECONDS = 60
"""Within which the others end when one has gone."""
FIRST, MIDDLE = 5, 2
"""Steps of the first task, and the one of the four of the second after which something happens."""
# Momentum encoder and teacher normalise by the batch, and images of all classes pass through the networks.
SHAPE = ("--quiet", "--epochs", "1", "--probes", "ncm", "--set", "probe.headline=ncm", "--set", "online.run=true")
SHAPE += ("--set", "online.leak=true", "--set", "train.teacher_bn=train")


def line_of(pictures, out, *more, methods="cassle-byol"):
    return words(pictures, out, methods, *SHAPE, *more)


def doing(action):
    """For one process: `action` at the end of step `MIDDLE` of the second task."""
    count, real = 0, stage.agree

    def agree(*mine):
        nonlocal count
        count += 1
        if count == 1 + FIRST - 1 + 1 + MIDDLE:  # that all are ready, and after each step but a last one
            action()
        return real(*mine)

    return lambda: [setattr(module, "agree", agree) for module in (stage, follower)]


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def fork(line, folder, world, disturbances=()):
    """Starts processes of one run; disturbances: rank -> what it does to itself beforehand."""
    folder.mkdir(exist_ok=True)
    pids = []
    meeting = folder / f"meeting-{time.monotonic_ns()}"  # one that killed processes leave behind is of no use
    for rank in range(world):
        pid = os.fork()
        if not pid:
            try:
                os._exit(take_part(line, meeting, rank, world, dict(disturbances).get(rank)))
            finally:
                os._exit(99)
        pids.append(pid)
    return pids


def take_part(line, meeting, rank, world, disturb):
    folder = meeting.parent
    sys.stdout = sys.stderr = (folder / f"log-{rank}.txt").open("w", buffering=1)
    if world > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "BENCH_MEETING": f"file://{meeting}"}
    grid_command.render = lambda *_: None
    for module in (stage, follower):
        module.train_task = noting(module.train_task, folder / f"state-{rank}.txt")
    if disturb is not None:
        disturb()
    status = run(*line)
    sys.stderr.flush()
    return status


def noting(train_task, path):
    """Trains, and notes a hash of what came of it."""

    def noted(learner, *rest):
        train_task(learner, *rest)
        content = hashlib.sha256()
        for name, value in sorted(learner.state_dict().items()):
            content.update(name.encode() + value.contiguous().numpy().tobytes())
        with path.open("a") as file:
            file.write(content.hexdigest() + "\n")

    return noted


def ended(pids):
    """Exit codes, once all have ended; fails where one does not."""
    codes, end = {}, time.monotonic() + SECONDS
    while len(codes) < len(pids):
        for pid in set(pids) - codes.keys():
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            for pid in set(pids) - codes.keys():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            pytest.fail("a process hangs")
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


def log(folder, rank):
    return (folder / f"log-{rank}.txt").read_text()


@pytest.fixture(scope="module")
def one(pictures, tmp_path_factory):
    """What one process makes of the grid."""
    folder = tmp_path_factory.mktemp("one")
    assert ended(fork(line_of(pictures, folder / "out"), folder, 1)) == [0]
    return folder / "out"


@pytest.fixture(scope="module")
def two(pictures, tmp_path_factory):
    """What two make of it."""
    folder = tmp_path_factory.mktemp("two")
    assert ended(fork(line_of(pictures, folder / "out"), folder, 2)) == [0, 0], log(folder, 0) + log(folder, 1)
    return folder / "out"


@pytest.fixture(scope="module")
def lost(pictures, tmp_path_factory):
    """What is left of two of which the second is killed in the middle of the second task; the exit codes, the logs."""
    folder = tmp_path_factory.mktemp("lost")
    pids = fork(line_of(pictures, folder / "out", "--save-every", "0"), folder, 2, {1: doing(kill_me)})
    return folder / "out", ended(pids), log(folder, 0)


def models(out):
    return {path.parent.name: load_tensors(path)[0] for path in out.glob("stages/*/model.safetensors")}


def assert_close(one, other):
    """Models are equal up to rounding, probes up to an image."""
    mine, theirs = models(one), models(other)
    assert mine.keys() == theirs.keys()
    assert mine
    for key, state in mine.items():
        assert state.keys() == theirs[key].keys()
        for name, value in state.items():
            torch.testing.assert_close(value, theirs[key][name], rtol=1e-3, atol=1e-4, msg=f"{key} {name}")
    for method, rows in records(one).items():
        for row, twin in zip(rows, records(other)[method], strict=True):
            assert row.get("value", 0) == pytest.approx(twin.get("value", 0), abs=0.03)


def crews(out):
    """Of each trained stage, how many processes trained it, from which step on."""
    facts = [read_sealed(path) for path in out.glob("stages/*/stage.json")]
    return [[(each["processes"], each["step"]) for each in f["sessions"]] for f in facts if f["kind"] == "task"]


def test_two_processes_train_what_one_trains_and_agree_bit_for_bit(one, two):
    assert_close(one, two)
    states = [(two.parent / f"state-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert states[0] == states[1]
    assert len(states[0]) == len(models(two)) == 2
    assert log(two.parent, 1) == ""
    assert (crews(one), crews(two)) == ([[(1, 0)]] * 2, [[(2, 0)]] * 2)


def test_a_killed_process_stops_the_other_with_one_line(lost):
    _, codes, said = lost
    assert codes == [1, -signal.SIGKILL]
    assert re.fullmatch(r"error: a process of this run has gone \(.*\); the same line goes on from here\n", said)


def test_a_run_goes_on_with_as_many_processes_bit_by_bit(lost, two, pictures, tmp_path):
    out = Path(shutil.copytree(lost[0], tmp_path / "out"))
    assert ended(fork(line_of(pictures, out), tmp_path, 2)) == [0, 0], log(tmp_path, 0)
    assert differing(results(out), results(two)) == []
    assert len((tmp_path / "state-0.txt").read_text().splitlines()) == 1  # the first task was done


def test_a_run_goes_on_with_fewer_processes(lost, one, pictures, tmp_path):
    out = Path(shutil.copytree(lost[0], tmp_path / "out"))
    assert ended(fork(line_of(pictures, out), tmp_path, 1)) == [0]
    assert_close(one, out)
    assert sorted(crews(out)) == [[(2, 0)], [(2, 0), (1, 1)]]


def test_a_run_goes_on_with_more_processes(one, pictures, tmp_path):
    line = line_of(pictures, tmp_path / "out", "--save-every", "0")
    assert ended(fork(line, tmp_path, 1, {0: doing(kill_me)})) == [-signal.SIGKILL]
    assert ended(fork(line, tmp_path, 2)) == [0, 0], log(tmp_path, 0)
    assert_close(one, tmp_path / "out")
    assert sorted(crews(tmp_path / "out")) == [[(1, 0)], [(1, 0), (2, 1)]]


def dying_in_evaluation():
    stage.encode_split = lambda *_: kill_me()


def without_data():
    def scenario_of(*_):
        raise UserError("there is no data here")

    follower.scenario_of = scenario_of


def without_memory():
    follower.build_learner = lambda *_: torch.empty(1 << 60)


def with_other_data():
    real = follower.scenario_of

    def scenario_of(*args):
        scenario = real(*args)
        return replace(scenario, dataset=replace(scenario.dataset, digest="0" * 64))

    follower.scenario_of = scenario_of


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({}, "MASTER_ADDR"),
        ({"MASTER_ADDR": "localhost", "MASTER_PORT": "abc"}, "abc"),
        ({"BENCH_MEETING": "nonsense"}, "BENCH_MEETING=nonsense"),
        ({"RANK": "²"}, "RANK=²"),
    ],
)
def test_an_environment_that_makes_no_sense_is_one_line(said, told, pictures, tmp_path, monkeypatch, capsys):
    for name, text in {"RANK": "0", "WORLD_SIZE": "2", **said}.items():
        monkeypatch.setenv(name, text)
    assert run(*line_of(pictures, tmp_path / "out")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


@pytest.mark.parametrize(
    ("disturb", "text"),
    [
        (without_data, "there is no data here"),
        (with_other_data, "folder:"),
        (without_memory, "out of memory on this machine: lower"),
    ],
)
def test_a_process_that_fails_says_why_and_the_first_ends(disturb, text, pictures, tmp_path):
    pids = fork(line_of(pictures, tmp_path / "out", methods="finetune-simclr"), tmp_path, 2, {1: disturb})
    assert ended(pids) == [1, 1]
    assert log(tmp_path, 1).startswith(f"error: process 1 of this run fails: {text}")
    assert log(tmp_path, 0).startswith("error: a process of this run has gone")
    assert not any(row["kind"] == "failure" for row in records(tmp_path / "out")["finetune-simclr"])


def run_out_of_memory():
    raise MemoryError


def test_a_failure_of_the_first_within_a_step_is_recorded_and_ends_the_others(pictures, tmp_path):
    line = line_of(pictures, tmp_path / "out", methods="finetune-simclr,finetune-vicreg")
    assert ended(fork(line, tmp_path, 2, {0: doing(run_out_of_memory)})) == [1, 1]
    said = log(tmp_path, 0)
    assert "failed: " in said
    assert "out of memory on this machine" in said
    assert said.endswith(
        "error: the processes of this run are out of step after a failure; the same line goes on from here\n"
    )
    assert len(models(tmp_path / "out")) == 1
    assert log(tmp_path, 1).startswith("error: a process of this run has gone")


@pytest.mark.parametrize("disturb", [doing(kill_me), dying_in_evaluation], ids=["training", "evaluation"])
def test_the_others_end_when_the_first_is_killed(disturb, pictures, tmp_path):
    pids = fork(line_of(pictures, tmp_path / "out", methods="finetune-simclr"), tmp_path, 2, {0: disturb})
    assert ended(pids) == [-signal.SIGKILL, 1]
    assert re.fullmatch(r"error: a process of this run has gone \(.*\); .*\n", log(tmp_path, 1))


def ask_me():
    os.kill(os.getpid(), signal.SIGTERM)


def lose_the_lease():
    """As the state is first saved: the stage is taken again then."""
    real = Lease.write

    def write(lease, path, data):
        if path.name == "partial.safetensors":
            Lease.write = real
            raise LostLease("taken over")
        real(lease, path, data)

    Lease.write = write


def test_all_stop_at_one_step_when_one_is_asked(pictures, tmp_path):
    assert ended(fork(line_of(pictures, tmp_path / "out"), tmp_path, 2, {1: doing(ask_me)})) == [143, 143]
    assert log(tmp_path, 0) == "stopped by SIGTERM; the same line goes on from here\n"
    assert log(tmp_path, 1) == ""
    (partial,) = (tmp_path / "out").glob("stages/*/partial.safetensors")
    assert load_tensors(partial)[1]["step"] == MIDDLE + 1  # at the end of which the others hear of it


def test_what_fails_in_the_first_process_alone_leaves_all_in_step(lost, two, pictures, tmp_path):
    out = Path(shutil.copytree(lost[0], tmp_path / "out"))
    pids = fork(line_of(pictures, out, "--save-every", "0"), tmp_path, 2, {0: lose_the_lease})
    assert ended(pids) == [0, 0], log(tmp_path, 0) + log(tmp_path, 1)
    assert differing(results(out), results(two)) == []


def test_a_run_that_diverges_fails_in_all_and_they_go_on(pictures, tmp_path):
    line = line_of(pictures, tmp_path / "out", "--set", "optim.lr=1e9", methods="finetune-vicreg,finetune-simclr")
    assert ended(fork(line, tmp_path, 2)) == [1, 0]
    assert "vicreg · class_il · seed 0 · task 1/2: loss is nan at step" in log(tmp_path, 0)
    assert "2 of 2 runs failed" in log(tmp_path, 0)


# --- what is refused, and what the first does alone -------------------------------------------------------------------


def among(monkeypatch, rank, world, **more):
    for name, value in {"RANK": rank, "WORLD_SIZE": world, **more}.items():
        monkeypatch.setenv(name, str(value))


def test_what_several_processes_cannot_do_is_refused_in_one_line(pictures, tmp_path, monkeypatch, capsys):
    line = line_of(pictures, tmp_path / "out")
    for words_, text in (
        ([*line, "--jobs", "2"], "error: --jobs 2: the processes of torchrun work at one stage together"),
        (["speed", "--methods", "cassle"], "error: speed measures one process: start it without torchrun"),
    ):
        for rank in (1, 0):
            among(monkeypatch, rank, 2)
            assert run(*words_) == 2
            said = capsys.readouterr().err
            assert said.startswith(text) if rank == 0 else said == ""
    assert not (tmp_path / "out").exists()


def test_the_batch_must_divide_among_the_processes(pictures, tmp_path):
    assert ended(fork(line_of(pictures, tmp_path / "out"), tmp_path, 3)) == [2, 0, 0]
    assert log(tmp_path, 0) == (
        "error: 3 processes do not divide train.batch 16: the nearest number of processes that does is 2, "
        "the nearest batch 15\n"
    )


def test_gpus_must_do_for_the_processes_of_a_machine(pictures, tmp_path):
    (planned_run,) = planned(*line_of(pictures, tmp_path / "out")).runs
    settings = planned_run.config.settings
    settings = replace(settings, numerics=replace(settings.numerics, device="cuda"))
    count = torch.cuda.device_count()
    with pytest.raises(UserError, match=f"on a machine of {count} GPUs: use --nproc_per_node={count}"):
        check_runs([replace(planned_run.config, settings=settings)], torchrun.Place(0, 16, 0, 16))


@pytest.mark.parametrize("command", ["plan", "report", "eval", "list"])
def test_the_others_leave_to_the_first_what_does_not_train(command, tmp_path, monkeypatch, capsys):
    among(monkeypatch, 1, 2)
    options = ["--methods", "cassle"] if command == "plan" else []
    assert run(command, *options, *([] if command == "list" else ["--out", str(tmp_path / "out")])) == 0
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("variables", "text"), [({"RANK": "x"}, "RANK=x"), ({"RANK": "2"}, "RANK=2 of WORLD_SIZE=2")])
def test_an_environment_that_makes_no_sense_is_refused(variables, text, monkeypatch, capsys):
    among(monkeypatch, 0, 2, **variables)
    assert run("list") == 2
    assert f"error: the environment says {text}" in capsys.readouterr().err


def test_torchrun_starts_it(one, pictures, tmp_path):
    line = line_of(pictures, tmp_path / "out", methods="cassle-byol")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(ROOT / "run_bench.py"), *line], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("cassle-byol") == 1
    mine, theirs = models(tmp_path / "out"), models(one)
    assert len(mine) == 2
    for key, state in mine.items():
        for name, value in state.items():
            torch.testing.assert_close(value, theirs[key][name], rtol=1e-3, atol=1e-4)
