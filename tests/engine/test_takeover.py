"""Processes that share a results folder, and those among them that die, stop, or are taken for dead."""

import errno
import fcntl
import json
import os
import signal
from contextlib import ExitStack
from threading import Timer

import pytest

from bench import lease as leases
from bench.commands import probe as probing
from bench.engine.board import Board
from bench.engine.plan import Stage
from bench.engine.store import Store
from tests.engine.forked import end, pause_in_step, start, wait_until
from tests.engine.test_workers import board_of
from tests.engine.tiny import differing, planned, records, results, rows, run, words

processes = pytest.mark.xdist_group("processes")


@processes
def test_ten_processes_of_which_three_are_killed_train_every_stage_once_without_file_locks(least, tmp_path):
    out = tmp_path / "out"
    line = [str(out) if word == str(least.out) else word for word in least.line]
    started = [start([*line, "--shard", f"{number}/10"], refuse_file_locks) for number in range(1, 10)]
    started.append(start([*line, "--jobs", "2"], refuse_file_locks))
    for number, process in enumerate(started[:3], start=1):
        wait_until(lambda number=number: len(list(out.glob("stages/*/stage.json"))) >= number)
        process.kill()
    assert [end(process) for process in started[3:]] == [0] * 7
    assert differing(results(least.out), results(out)) == []
    for path in (out / "timings").glob("*.jsonl"):
        made = [row["stage"] for row in rows(path)]
        assert len(made) == len(set(made))


def refuse_file_locks():
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    fcntl.flock = fcntl.lockf = refuse


@processes
def test_an_owner_that_was_taken_for_dead_can_write_no_more(little, monkeypatch):
    before, sign = results(little.out), little.out.with_name("sign")
    folder = Store(little.out).stage(records(little.out)["cassle-moco"][0]["stages"][-1])
    for path in folder.iterdir():
        path.unlink()
    stopped = start([*little.line, "--save-every", "0"], pause_in_step, 3, sign, "for a while")
    wait_until(sign.exists)
    partial = (folder / "partial.safetensors").read_bytes()
    os.kill(stopped.pid, signal.SIGSTOP)
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.2)
    assert run(*little.line) == 0
    assert differing(before, results(little.out)) == []
    with leases.hold(folder):  # and a third is at it
        (folder / "partial.safetensors").write_bytes(partial)
        sign.with_suffix(".end").touch()
        os.kill(stopped.pid, signal.SIGCONT)
        wait_until(lambda: "goes on" in sign.read_text())
        assert (folder / "partial.safetensors").read_bytes() == partial
    (folder / "partial.safetensors").unlink()
    assert end(stopped) == 0
    assert differing(before, results(little.out)) == []


def test_an_evaluation_that_is_taken_for_dead_begins_the_stage_again(little, monkeypatch, capsys):
    line = ("eval", "--out", str(little.out), "--probe", "knn", "--set", "probe.knn.k=7")
    write, lost = Store.write, []

    def robbed(store, path, data):
        if not lost:
            lost.append(path)
            store.lease.release()
        write(store, path, data)

    monkeypatch.setattr(Store, "write", robbed)
    assert run(*line) == 0
    assert lost[0].exists()
    assert "left out" not in capsys.readouterr().err


def test_an_evaluation_without_memory_says_what_to_lower(little, monkeypatch, capsys):
    def greedy(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(probing, "run_probe", greedy)
    assert run("eval", "--out", str(little.out), "--probe", "knn", "--set", "probe.knn.k=7") == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith(f"error: {little.out}/records/")
    assert "out of memory on this machine: lower --batch" in line


def test_an_evaluation_waits_for_another_and_not_for_training(little, capsys):
    """Else two at once would leave their rows in another order than one."""
    line = ("eval", "--out", str(little.out), "--probe", "knn", "--set", "probe.knn.k=7")
    key = records(little.out)["cassle-moco"][0]["stages"][-1]
    for progress in ({"step": 3}, {"phase": "probe knn"}):
        before = len(records(little.out)["cassle-moco"])
        with ExitStack() as held:
            lease = held.enter_context(Store(little.out).lock(key)).lease
            lease.tell(progress)
            lease.beat()
            if "phase" in progress:
                Timer(0.4, held.close).start()
            assert run(*line) == 0
        left_out = "1 stages have no cached features or model (not trained yet, in work" in capsys.readouterr().err
        assert left_out == ("step" in progress)
        assert len(records(little.out)["cassle-moco"]) > before


def test_a_stage_that_another_machine_holds_is_taken_when_that_gives_no_sign_of_life(little):
    before, store = results(little.out), Store(little.out)
    key = records(little.out)["cassle-moco"][0]["stages"][-1]
    store.end(key).unlink()
    with ExitStack() as held:
        folder = held.enter_context(store.lock(key)).lease.folder
        who = json.loads((folder / "who.json").read_text())
        (folder / "who.json").write_text(json.dumps({**who, "machine": "another"}))
        Timer(0.4, os.utime, [folder / "beat", (0, 0)]).start()
        assert run(*little.line) == 0
        assert not folder.exists()
    assert differing(before, results(little.out)) == []


# --- the order of stages ----------------------------------------------------------------------------------------------


def chains(*lengths):
    stages = [Stage("pixels", "pixels", -1, None, None), Stage("init", "init", -1, None, None)]
    for name, length in zip("abcdef", lengths, strict=False):
        for task in range(length):
            stages.append(Stage(f"{name}{task}", "task", task, f"{name}{task - 1}" if task else None, None))
    return stages


def test_those_with_the_longest_chains_behind_them_go_first(monkeypatch):
    board, _ = board_of(chains(2, 5, 3), monkeypatch)
    order = []
    while (stage := board.take()) is not None:
        order.append(stage.key)
        board.settle(stage, "done")
    assert order == ["b0", "pixels", "init", "b1", "b2", "c0", "a0", "b3", "c1", "a1", "b4", "c2"]


def test_a_shard_begins_with_its_own_part_and_then_helps(few_pictures, tmp_path):
    plan = planned(*words(few_pictures, tmp_path / "out", "finetune,cassle,sycon", "--seeds", "0-2"))
    store = Store(tmp_path / "out")
    store.prepare()
    first_user = {}
    for number, planned_run in enumerate(plan.runs):
        for key in planned_run.stages:
            first_user.setdefault(key, number)
    taken = []
    for index in range(2):
        board = Board(plan, store, lambda *_: None, (index, 2))
        board._sync = lambda *_: None
        mine = {key for key, number in first_user.items() if number % 2 == index}
        order = []
        while (stage := board.take()) is not None:
            ready = {key for key in board.waiting | {stage.key} if plan.stages[key].parent in board.done | {None}}
            assert stage.key in mine or not ready & mine
            order.append(stage.key)
            board.settle(stage, "cached")
        assert set(order) == set(plan.stages)
        taken.append(order)
    assert not set(taken[0][:5]) & set(taken[1][:5])
