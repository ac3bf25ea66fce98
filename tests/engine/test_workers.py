"""Several processes at one grid: equal results, every stage once, and a dead one costs its stage alone."""

import multiprocessing
import os
import random
import signal
import time
from contextlib import ExitStack
from multiprocessing import forkserver
from pathlib import Path
from threading import Timer
from types import SimpleNamespace

import pytest

from bench import cli
from bench.engine import board as boards
from bench.engine import packing, runner
from bench.engine.plan import Plan, Stage
from bench.engine.store import Store
from tests.engine.tiny import differing, planned, records, results, rows, run, words

pytestmark = pytest.mark.xdist_group("processes")


@pytest.fixture(scope="module")
def context():
    """Processes forked from the server that workers are forked from: a start costs no seconds."""
    return packing.start_server()


def serve_until_doomed(pipe, out, *more):
    """A worker that is killed in the stage which the file `doomed` names."""
    doomed = (out / "doomed").read_text()

    class Deadly:
        recv = pipe.recv

        @staticmethod
        def send(message):
            if isinstance(message, dict) and message["stage"] == doomed:
                os.kill(os.getpid(), signal.SIGKILL)
            pipe.send(message)

    runner._serve(Deadly, out, *more)


def test_two_jobs_write_the_bytes_of_one(grid, pictures, tmp_path):
    assert run(*words(pictures, tmp_path / "out", "finetune,cassle,sycon", "--quiet", "--jobs", "2")) == 0
    assert differing(results(grid.out), results(tmp_path / "out")) == []


def test_a_job_is_a_process_of_its_own_that_ends_with_the_grid(copied):
    before = results(copied.out)
    stage = copied.out / "stages" / records(copied.out)["sycon-moco"][0]["stages"][-1]
    (stage / "stage.json").unlink()
    assert run(*copied.line, "--jobs", "2") == 0
    assert (stage / "stage.json").exists()
    assert differing(before, results(copied.out)) == []
    assert not any(child.name.startswith("ForkServerProcess") for child in multiprocessing.active_children())


def test_a_killed_worker_fails_its_stage_and_others_go_on(pictures, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    line = words(pictures, out, "finetune,cassle", "--quiet", "--jobs", "2")
    doomed = next(run for run in planned(*line).runs if run.config.strategy == "cassle").stages[-1]
    (out / "doomed").write_text(doomed)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_serve", serve_until_doomed)
        assert run(*line) == 1
    assert "its process ended with exit code -9" in capsys.readouterr().err
    found = records(out)
    assert [row["reason"] for row in found["cassle-moco"] if row["kind"] == "failure"] == [
        "its process ended with exit code -9: killed, or out of memory on this machine: "
        "lower --batch (16), encoder.width (16), --image-size or --jobs"
    ]
    assert not any(row["kind"] == "failure" for row in found["finetune-moco"])
    assert any(row.get("after_task") == 1 for row in found["finetune-moco"])
    assert run(*line) == 0


def test_a_stage_that_another_process_works_at_is_waited_for(copied):
    key = records(copied.out)["sycon-moco"][0]["stages"][-1]
    (copied.out / "stages" / key / "stage.json").unlink()
    held = ExitStack()
    held.enter_context(Store(copied.out).lock(key))
    Timer(0.5, held.close).start()
    assert run(*copied.line) == 0
    assert (copied.out / "stages" / key / "stage.json").exists()


def test_two_processes_on_one_folder_train_every_stage_once(grid, context, pictures, tmp_path):
    out = tmp_path / "out"
    line = words(pictures, out, "finetune,cassle,sycon", "--quiet")
    both = [context.Process(target=_exit_with, args=(line,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    made = [row["stage"] for path in (out / "timings").glob("*.jsonl") for row in rows(path)]
    users = [key for found in records(out).values() for key in found[0]["stages"]]
    assert sorted(made) == sorted(users)  # each stage once in the timings of each run that has it
    assert differing(results(grid.out), results(out)) == []


def _exit_with(line):
    raise SystemExit(cli.main(line))


def test_a_killed_runner_leaves_no_worker_and_no_lock_behind(context, pictures, tmp_path):
    out = tmp_path / "out"
    line = words(pictures, out, "finetune,cassle", "--quiet", "--jobs", "2", "--save-every", "0", "--epochs", "999999")
    key = next(stage.key for stage in planned(*line).stages.values() if stage.task == 0)
    before = forked()
    doomed = context.Process(target=_exit_as_child_of_the_server, args=(line,))
    doomed.start()
    wait_until(Store(out).partial(key).exists, 60)
    assert len(forked() - before) >= 2  # it and at least one worker
    doomed.kill()
    doomed.join()
    wait_until(lambda: forked() == before, 10)
    with Store(out).lock(key):
        assert not list((out / "logs").iterdir())  # and nobody took the end of the runner for a failure


def test_a_worker_without_its_runner_ends_and_reports_no_failure(tmp_path, monkeypatch):
    class Gone(BaseException):
        pass

    def end(status):
        raise Gone

    def send(_):
        raise BrokenPipeError

    monkeypatch.setattr(runner, "do_stage", lambda stage, out, save_every, emit, *_: emit({"stage": stage.key}))
    monkeypatch.setattr(runner.os, "_exit", end)
    (tmp_path / "logs").mkdir()
    stage = Stage("k", "init", -1, None, None)
    with pytest.raises(Gone):
        runner._serve(SimpleNamespace(recv=lambda: (stage, False), send=send), tmp_path, 1.0)
    assert not list((tmp_path / "logs").iterdir())


def _exit_as_child_of_the_server(line):
    """A runner that the server can fork, as it can a worker: it does not start a server of its own."""
    forkserver.ensure_running = forkserver._forkserver.ensure_running = lambda: None
    _exit_with(line)


def forked():
    """Processes of the server, by id."""
    server = forkserver._forkserver._forkserver_pid
    return set(Path(f"/proc/{server}/task/{server}/children").read_text().split())


def wait_until(come, seconds):
    end = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < end
        time.sleep(0.01)


class Idle:
    """A process in name only."""

    exitcode = -9

    def __init__(self, alive):
        self.is_alive = lambda: alive


def test_a_worker_that_dies_with_nothing_to_do_costs_no_stage(monkeypatch):
    started = []

    def start_worker(serve, *args):
        mine, theirs = multiprocessing.Pipe()
        started.append(theirs)
        alive = len(started) > 1
        process = Idle(alive)
        theirs.send(("done", ""))
        if alive:
            theirs.send(("done", ""))
        else:
            theirs.close()
        return packing.Worker(process, mine)

    monkeypatch.setattr(runner, "start_worker", start_worker)
    monkeypatch.setattr(runner, "end_workers", lambda workers: None)
    stages = [Stage("a", "task", 0, None, None), Stage("b", "task", 1, "a", None), Stage("c", "task", 2, "b", None)]
    made, ended = board_of(stages, monkeypatch)
    runner._in_workers(made, Path(), 1, 1.0, print)
    assert ended == [("a", "done"), ("b", "done"), ("c", "done")]
    assert len(started) == 2


# --- the order of stages ----------------------------------------------------------------------------------------------


def board_of(stages, monkeypatch, done=()):
    """A board over stages that belong to no run, and the list of what has ended on it."""
    monkeypatch.setattr(boards, "done_and_stale", lambda plan, store: (set(done), set()))
    monkeypatch.setattr(boards, "began", lambda store: 0.0)
    monkeypatch.setattr(boards, "failure_of", lambda store, key, since: None)
    ended = []
    made = boards.Board(
        Plan([], {stage.key: stage for stage in stages}), None, lambda stage, result: ended.append((stage.key, result))
    )
    return made, ended


def forest(chains, tasks):
    """Baselines and chains of tasks, of which all that differ in their last digit share the first task."""
    stages = [Stage("pixels", "pixels", -1, None, None), Stage("init", "init", -1, None, None)]
    for chain in range(chains):
        parent = None
        for task in range(tasks):
            key = f"{chain // 10 if task == 0 else chain}-{task}"
            stages.append(Stage(key, "task", task, parent, None))
            parent = key
    return list({stage.key: stage for stage in stages}.values())


def chosen_by_scan(stages, waiting, done, now):
    """What a look at every stage finds: of the ready ones the first of the most urgent; waiting: key -> not before."""
    known = {stage.key: stage for stage in stages}
    ready = [
        known[key]
        for key, not_before in waiting.items()
        if not_before <= now and (known[key].parent is None or known[key].parent in done)
    ]
    return min(ready, key=lambda stage: stage.task if stage.kind == "task" else 0.5, default=None)


@pytest.mark.parametrize("seed", range(5))
def test_stages_are_chosen_as_a_look_at_all_of_them_would(seed, monkeypatch):
    rng, now = random.Random(seed), 0.0
    monkeypatch.setattr(boards, "time", SimpleNamespace(monotonic=lambda: now))
    stages = forest(30, 4)
    done = {stage.key for stage in stages if stage.task in (0, 1) and rng.random() < 0.3}
    board, _ = board_of(stages, monkeypatch, done)
    waiting, at = {stage.key: 0.0 for stage in stages if stage.key not in done}, []
    for _ in range(2000):
        now += rng.choice([0.0, 0.4])
        if at and rng.random() < 0.5:
            stage = at.pop(rng.randrange(len(at)))
            if rng.random() < 0.3:
                board.again(stage)
                waiting[stage.key] = now + boards.RETRY_SECONDS
            else:
                board.settle(stage, "done")
                done.add(stage.key)
        else:
            expected, taken = chosen_by_scan(stages, waiting, done, now), board.take()
            assert taken == expected
            if taken is not None:
                at.append(taken)
                del waiting[taken.key]
    assert not waiting
    assert not board.waiting


def test_all_that_needs_a_failed_stage_fails_with_it_and_the_rest_goes_on(monkeypatch):
    board, ended = board_of(forest(11, 3), monkeypatch, {"3-2"})
    first = board.take()
    board.settle(first, "no luck")
    failed = [(f"{chain}-{task}", f"task {task} before it failed") for chain in range(10) for task in (1, 2)]
    failed.remove(("3-2", "task 2 before it failed"))
    assert ended == [("3-2", "cached"), (first.key, "no luck"), *failed]
    rest = []
    while (stage := board.take()) is not None:
        rest.append(stage.key)
        board.settle(stage, "done")
    assert rest == ["1-0", "pixels", "init", "10-1", "10-2"]
    assert not board.waiting


def test_ten_thousand_stages_are_chosen_and_settled_in_seconds(monkeypatch):
    stages = forest(2000, 6)
    assert len(stages) > 10_000
    began = time.process_time()
    board, ended = board_of(stages, monkeypatch)
    while (stage := board.take()) is not None:
        board.settle(stage, "done")
    assert len(ended) == len(stages)
    assert time.process_time() - began < 3
