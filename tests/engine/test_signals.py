"""Processes that are asked to end finish the step, save it, say how to go on, and lose nothing."""

import os
import signal
import time
from pathlib import Path

import pytest

from bench.engine import runner, stopping
from bench.engine.checkpoint import load_tensors
from bench.engine.plan import Stage
from bench.engine.stopping import Stopped
from bench.engine.store import Store
from bench.files import NoSpace
from tests.engine.forked import end, pause_in, pause_in_step, start, wait_until
from tests.engine.tiny import differing, records, results, run

pytestmark = pytest.mark.xdist_group("processes")


class Begun:
    """A grid whose last task is to train again, and what it was before."""

    def __init__(self, copied):
        self.out, self.before = copied.out, results(copied.out)
        self.line = [*copied.line, "--save-every", "1e9"]
        self.key = records(copied.out)["sycon-moco"][0]["stages"][-1]
        self.sign = copied.out.with_name("sign")
        for path in Store(copied.out).stage(self.key).iterdir():
            path.unlink()

    def started(self, prepare, *args, jobs=1):
        self.sign.unlink(missing_ok=True)
        process = start([*self.line, "--jobs", str(jobs)], prepare, *args)
        wait_until(lambda: self.sign.exists() and self.sign.read_text())
        return process

    def saved_step(self):
        return load_tensors(Store(self.out).partial(self.key))[1]["step"]

    def said(self):
        return Path(f"{self.out}.log").read_text()

    def goes_on_to_the_same(self):
        assert run(*self.line) == 0
        assert differing(self.before, results(self.out)) == []


@pytest.fixture
def begun(copied):
    return Begun(copied)


def test_every_signal_saves_the_step_under_way_and_the_same_line_goes_on_from_it(begun):
    told = [(signal.SIGINT, 1), (signal.SIGTERM, 2), (signal.SIGUSR1, 1), (signal.SIGUSR2, 2), (signal.SIGINT, 2)]
    for step, (number, jobs) in enumerate(told, start=3):
        process = begun.started(pause_in_step, step, begun.sign, jobs=jobs)
        assert end(process, number) == (130 if number == signal.SIGINT else 143)
        assert begun.saved_step() == step
        assert begun.said() == f"stopped by {signal.Signals(number).name}; the same line goes on from here\n"
    begun.goes_on_to_the_same()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_second_interrupt_stops_at_once_and_nothing_else_does(begun, jobs):
    process = begun.started(pause_in_step, 4, begun.sign, "for good", jobs=jobs)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    process.join(0.3)
    assert process.exitcode is None
    assert end(process, signal.SIGINT) == 130
    assert not Store(begun.out).partial(begun.key).exists()
    begun.goes_on_to_the_same()


@pytest.mark.parametrize(
    ("module", "name"),
    [("bench.engine.stage", "run_on"), ("bench.commands.grid", "make_plan"), ("bench.commands.grid", "render")],
)
def test_outside_of_steps_a_signal_stops_at_once(begun, module, name):
    assert end(begun.started(pause_in, module, name, begun.sign), signal.SIGTERM) == 143
    assert begun.said().endswith("stopped by SIGTERM; the same line goes on from here\n")
    begun.goes_on_to_the_same()


def test_a_worker_that_is_asked_to_end_alone_saves_and_another_goes_on(begun):
    process = begun.started(pause_in_step, 5, begun.sign, jobs=2)
    os.kill(int(begun.sign.read_text()), signal.SIGTERM)
    assert end(process) == 0
    assert differing(begun.before, results(begun.out)) == []
    assert "failed" not in begun.said()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_all_processes_of_a_group_is_one_to_the_runner(begun, number):
    process = begun.started(pause_in_step_of_a_group, begun.sign, begun.out.with_name("group"), jobs=2)
    os.killpg(process.pid, number)
    assert end(process, 0) == (130 if number == signal.SIGINT else 143)
    assert begun.saved_step() == 5
    assert begun.said() == f"stopped by {signal.Signals(number).name}; the same line goes on from here\n"


def pause_in_step_of_a_group(sign, group):
    """The runner, which comes first, and its workers are of one process group."""
    if not group.exists():
        group.write_text(str(os.getpid()))
    os.setpgid(0, int(group.read_text()))
    pause_in_step(5, sign)


# --- signals that come while something else ends a stage ------------------------------------------------------------


def ended_otherwise(outcome):
    def attempt(*_):
        stopping._asked = signal.SIGTERM
        return outcome

    return attempt


@pytest.fixture
def deaf():
    yield
    stopping._asked = None


def test_a_worker_that_cannot_save_ends_all_the_same(deaf, monkeypatch, tmp_path):
    sent = []
    pipe = type("Pipe", (), {"recv": lambda: (Stage("k", "init", -1, None, None), False), "send": sent.append})
    monkeypatch.setattr(runner, "attempt", ended_otherwise(runner.Outcome("full", "no space")))
    with pytest.raises(Stopped):
        runner._serve(pipe, tmp_path, 1.0)
    assert sent == [("full", "no space")]


def test_a_signal_that_comes_while_a_stage_fails_is_heard(deaf, monkeypatch, copied):
    for marker in (copied.out / "stages").glob("*/stage.json"):
        marker.unlink()
    monkeypatch.setattr(runner, "attempt", ended_otherwise(runner.Outcome("failed", "no luck")))
    assert run(*copied.line) == 143
    assert sum(row["kind"] == "failure" for rows in records(copied.out).values() for row in rows) <= 3


def test_a_full_disk_ends_the_run_and_not_one_stage(copied, monkeypatch, capsys):
    for marker in (copied.out / "stages").glob("*/stage.json"):
        marker.unlink()
    attempts = []

    def full(stage, *_):
        attempts.append(stage.key)
        raise NoSpace("no space for x: it needs 3 kB, and 0 kB are free")

    monkeypatch.setattr(runner, "do_stage", full)
    assert run(*copied.line) == 1
    assert len(attempts) == 1
    assert "error: no space for x: it needs 3 kB, and 0 kB are free; the same line goes" in capsys.readouterr().err


def test_a_signal_waits_for_the_outermost_steps():
    done = []

    def steps_in_steps():
        with stopping.listening(), stopping.in_steps():
            with stopping.in_steps():
                os.kill(os.getpid(), signal.SIGUSR1)
            done.append("the inner")
            os.kill(os.getpid(), signal.SIGUSR2)
            done.append("the outer")

    with pytest.raises(Stopped, match="SIGUSR1"):
        steps_in_steps()
    assert done == ["the inner", "the outer"]
