"""How many stages run side by side, and the processes that run them, which end with their runner and in silence."""

import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import pytest

from bench.commands import grid as command
from bench.engine import packing
from bench.engine.packing import Throughput, WorkerFailed, candidates, choose_jobs, measure_together
from tests.engine.tiny import differing, planned, results, run, words

NEEDED = ("bench.engine.stage", "torch._dynamo")
pytestmark = pytest.mark.xdist_group("processes")
ROOT = Path(__file__).parent.parent.parent


# --- the number of jobs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan(pictures, tmp_path_factory):
    """Nine chains of two tasks; three share each first task."""
    return planned(*words(pictures, tmp_path_factory.mktemp("plan"), "finetune,cassle,sycon", "--seeds", "0-2"))


def tasks(plan):
    return [stage for stage in plan.stages.values() if stage.kind == "task"]


def measured(table, asked):
    """A measurement that reads its results from a table and notes what it is asked."""

    def measure(stage, out, jobs):
        asked.append(jobs)
        if isinstance(table[jobs], str):
            raise WorkerFailed(table[jobs])
        return table[jobs] if isinstance(table[jobs], Throughput) else Throughput(table[jobs])

    return measure


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (
            {1: 910, 2: 1730, 4: 1790, 8: 1500},
            "1 gives 910, 2 give 1,730, 4 give 1,790, 8 give 1,500 images/s: takes 2",
        ),
        ({1: 100, 2: 190, 4: 200, 8: 401}, "1 gives 100, 2 give 190, 4 give 200, 8 give 401 images/s: takes 8"),
        ({1: 95, 2: 100, 4: 80, 8: 60}, "1 gives 95, 2 give 100, 4 give 80, 8 give 60 images/s: takes 1"),
        ({1: 94, 2: 100, 4: 80, 8: 60}, "1 gives 94, 2 give 100, 4 give 80, 8 give 60 images/s: takes 2"),
        ({1: 100, 2: 190, 4: "no memory"}, "1 gives 100, 2 give 190 images/s, 4 fail (no memory): takes 2"),
        ({1: "no memory"}, "1 fails (no memory): takes 1"),
        (
            {1: Throughput(100, 3.9), 2: Throughput(190, 3.9)},
            "1 gives 100, 2 give 190 images/s, no room in memory for 4: takes 2",
        ),
        ({1: Throughput(100, 0.8)}, "1 gives 100 images/s, no room in memory for 2: takes 1"),
    ],
    ids=lambda value: value[-30:] if isinstance(value, str) else "",
)
def test_the_smallest_number_near_the_best_throughput_is_taken(plan, tmp_path, monkeypatch, table, line):
    monkeypatch.setattr(packing, "_cores", lambda: 8)
    said, asked = [], []
    taken = choose_jobs(plan, (), tmp_path, said.append, measured(table, asked))
    assert said == [f"jobs auto: {line}"]
    assert taken == int(line.split()[-1])
    assert asked == list(table)


@pytest.mark.parametrize(
    ("cores", "threads", "expected"),
    [(1, 1, [1]), (2, 1, [1, 2]), (6, 1, [1, 2, 4, 6]), (9, 2, [1, 2, 4]), (3, 4, [1]), (64, 1, [1, 2, 4, 8, 9])],
)
def test_candidates_end_with_the_cores_and_with_the_chains(plan, monkeypatch, cores, threads, expected):
    monkeypatch.setattr(packing, "_cores", lambda: cores)
    assert candidates([with_numerics(stage, threads=threads) for stage in tasks(plan)]) == expected


def test_a_gpu_is_shared_by_eight_at_most(plan, monkeypatch):
    monkeypatch.setattr(packing, "_cores", lambda: 1)
    assert candidates([with_numerics(stage, device="cuda", threads=4) for stage in tasks(plan)]) == [1, 2, 4, 8]


def with_numerics(stage, **changes):
    settings = stage.run.settings
    return replace(
        stage, run=replace(stage.run, settings=replace(settings, numerics=replace(settings.numerics, **changes)))
    )


def test_nothing_is_measured_where_no_two_stages_can_train_at_once(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_cores", lambda: 8)
    chain = plan.runs[0].stages
    said, asked = [], []
    done = {key for key in plan.stages if key not in chain}
    assert choose_jobs(plan, done, tmp_path, said.append, measured({}, asked)) == 1
    assert choose_jobs(plan, set(plan.stages), tmp_path, said.append, measured({}, asked)) == 1
    assert said == ["jobs auto: takes 1 without measuring"] * 2
    assert asked == []


def test_the_first_stage_to_train_is_measured(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_cores", lambda: 2)
    keys = []
    for done in ((), {stage.key for stage in tasks(plan) if stage.task == 0}):
        choose_jobs(plan, done, tmp_path, print, lambda stage, *_: keys.append(stage.key) or Throughput(1.0))
    first, second = plan.runs[0].stages[-2:]
    assert keys == [first, first, second, second]


def test_workers_train_side_by_side_and_write_nothing(plan, tmp_path):
    with_a_teacher = next(stage for stage in tasks(plan) if stage.task > 0 and stage.run.strategy == "cassle")
    trial = measure_together(with_a_teacher, tmp_path, 2, seconds=0.2)
    assert 0 < trial.rate < math.inf
    assert trial.room == math.inf
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "datasets" not in path.parts] == []


def on_a_gpu_of_80(pipe, *_):
    """A worker that reaches 100 images/s, after which 30 bytes are free."""
    pipe.send(None)
    pipe.recv()
    pipe.send((100.0, 30))
    pipe.recv()


def test_memory_has_room_for_what_later_tasks_of_each_worker_take(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_free_device_memory", lambda: 80)
    monkeypatch.setattr(packing, "_rehearse", on_a_gpu_of_80)
    trial = measure_together(with_numerics(tasks(plan)[0], device="cuda"), tmp_path, 2)
    assert trial.rate == 200
    assert trial.room == pytest.approx(80 / (25 * packing.HEADROOM))


def test_what_keeps_a_worker_from_training_is_told(plan, tmp_path):
    stage = tasks(plan)[0]
    settings = replace(stage.run.settings, encoder=replace(stage.run.settings.encoder, name="resnet99"))
    with pytest.raises(WorkerFailed, match="KeyError: 'resnet99'"):
        measure_together(replace(stage, run=replace(stage.run, settings=settings)), tmp_path, 2)


def killed_when_warm(pipe, *_):
    pipe.send(None)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_in_a_measurement_is_found(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_rehearse", killed_when_warm)
    with pytest.raises(WorkerFailed, match="a process ended with exit code -9"):
        measure_together(tasks(plan)[0], tmp_path, 2)


def test_records_do_not_depend_on_the_number_that_auto_takes(grid, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packing, "_cores", lambda: 2)
    choose = partial(choose_jobs, measure=measured({1: 1.0, 2: 2.0}, []))
    monkeypatch.setattr(command, "choose_jobs", choose)
    assert run(*words(pictures, tmp_path / "out", "finetune,cassle,sycon", "--jobs", "auto")) == 0
    assert "jobs auto: 1 gives 1, 2 give 2 images/s: takes 2\n" in capsys.readouterr().err
    assert differing(results(grid.out), results(tmp_path / "out")) == []


# --- server and workers -----------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
sys.path.insert(1, ROOT)
from bench.engine import packing

packing.PRELOAD = ("imported",)

def idle(pipe):
    pipe.send(sys.modules["imported"].__file__)
    time.sleep(60)

if __name__ == "__main__":
    try:
        packing.start_server()
        if "work" in sys.argv:
            print(packing.start_worker(idle).pipe.recv(), flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.5)  # for the others to say what they have to say
        print("stopped")
"""


@pytest.fixture
def script(tmp_path):
    """Starts a script; its server is importing a module, or a worker tells which it found imported (second result)."""
    (tmp_path / "script.py").write_text(SCRIPT.replace("ROOT", repr(str(ROOT))))
    (tmp_path / "imported.py").write_text("import time; print('importing', flush=True); time.sleep(1)")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "imported.py").write_text("raise SystemExit('from the working directory')")

    started = []

    def start(*argv):
        command = [sys.executable, str(tmp_path / "script.py"), *argv]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # A background job of a shell ignores interrupts, and so would its children.
        heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, cwd=elsewhere, start_new_session=True, preexec_fn=heeding, **pipes)
        started.append(process)
        assert process.stdout.readline() == "importing\n"
        return process, process.stdout.readline().strip() if argv == ("work",) else ""

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("when", ["import", "work"])
def test_a_killed_runner_takes_server_and_silent_workers_with_it(script, when):
    process, _ = script(when)
    process.kill()
    assert process.communicate(timeout=10) == ("", "")  # it ends when the last process has closed the pipes


@pytest.mark.parametrize("when", ["import", "work"])
def test_an_interrupt_of_all_processes_prints_what_the_runner_prints(script, when):
    process, _ = script(when)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=10) == ("stopped\n", "")


def test_the_server_imports_what_its_runner_would(script, tmp_path):
    process, imported = script("work")
    process.kill()
    assert imported == str(tmp_path / "imported.py")
    assert process.communicate(timeout=10) == ("", "")


def test_the_environment_of_the_runner_is_as_before():
    before = dict(os.environ)
    packing.start_server()
    assert dict(os.environ) == before


def describe(pipe):
    """In a worker: what it found imported, and whether CUDA could still start in it."""
    import torch

    pipe.send(([name for name in NEEDED if name in sys.modules], torch.cuda._is_in_bad_fork()))


def test_a_worker_finds_everything_imported_and_a_server_without_threads():
    worker = packing.start_worker(describe)
    assert worker.pipe.recv() == (list(NEEDED), False)
    count = "import numpy, os; print(len(os.listdir('/proc/self/task')))"  # its library has threads that end in a fork
    threads = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=True).stdout
    assert len(os.listdir(f"/proc/{forkserver._forkserver._forkserver_pid}/task")) == int(threads)
