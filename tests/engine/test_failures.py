"""What fails is reported with its reason, stops nothing else, and is tried again by the next start."""

import resource
import shutil
from functools import partialmethod
from pathlib import Path

import pytest
import torch

from bench.commands import grid as command
from bench.engine import runner, stage
from bench.engine.stopping import Stopped
from bench.evaluate import features
from bench.report.records import read_run
from tests.engine.forked import end, start
from tests.engine.tiny import records, run, words

pytestmark = pytest.mark.xdist_group("grid")
WILD = ("--set", "optim.name=sgd", "--set", "cassle.weight=1e9")


@pytest.fixture(scope="module")
def half_failed(pictures, tmp_path_factory):
    """finetune and cassle, of which cassle diverges in its second task; and the status of the start."""
    out = tmp_path_factory.mktemp("failed") / "out"
    line = words(pictures, out, "cassle-vicreg,finetune-vicreg", "--quiet", *WILD, tasks=3)
    return out, line, run(*line)


def states(out):
    runs = (read_run(path, []) for path in (out / "records").glob("*.jsonl"))
    return {found.strategy: found for found in runs}


def test_a_diverging_run_leaves_the_others_complete_and_the_status_1(half_failed):
    out, _, status = half_failed
    assert status == 1
    assert states(out)["finetune"].status == "complete"
    assert states(out)["cassle"].status == "failed"


def test_the_reason_of_a_failure_is_recorded_once_and_reported(half_failed):
    out, _, _ = half_failed
    failures = [row for row in records(out)["cassle-vicreg"] if row["kind"] == "failure"]
    assert len(failures) == 1
    assert failures[0]["after_task"] == 1
    assert "loss is " in failures[0]["reason"]
    assert "optim.lr" in failures[0]["reason"]
    table = (out / "report" / "table.md").read_text()
    assert failures[0]["reason"] in table
    assert "0/1" in table
    assert "1/1" in table


def test_the_terminal_names_the_failed_task_and_what_waited_for_it(half_failed, tmp_path, capsys):
    out, line, _ = half_failed
    again = shutil.copytree(out, tmp_path / "out")
    assert run(*[str(again) if word == str(out) else word for word in line]) == 1
    text = capsys.readouterr().err
    assert "cassle-vicreg · class_il · seed 0 · task 2/3: loss is " in text
    assert "task 3/3: task 2 before it failed" in text
    assert "1 of 2 runs failed; the same line tries them again" in text


def test_the_next_start_tries_only_what_failed(half_failed, tmp_path, trained):
    out, line, _ = half_failed
    again = shutil.copytree(out, tmp_path / "out")
    assert run(*[str(again) if word == str(out) else word for word in line]) == 1
    assert trained == {1: 1}


def test_a_failure_that_is_over_leaves_a_complete_run(pictures, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no  luck\ntoday")

    line = words(pictures, tmp_path / "out", "finetune", "--quiet")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "train_task", broken)
        assert run(*line) == 1
    (found,) = states(tmp_path / "out").values()
    assert found.reason.startswith("after task 0: RuntimeError: no luck today (traceback in ")
    (log,) = (tmp_path / "out" / "logs").glob("*.txt")
    assert "broken" in log.read_text()
    assert run(*line) == 0
    (found,) = states(tmp_path / "out").values()
    assert found.status == "complete"


def test_features_that_overflow_are_a_failure_with_a_reason(pictures, tmp_path, monkeypatch):
    real = stage.encode_split
    monkeypatch.setattr(stage, "encode_split", lambda *args: real(*args) * 1e30)
    assert run(*words(pictures, tmp_path / "out", "finetune", "--quiet")) == 1
    (found,) = states(tmp_path / "out").values()
    assert "features are NaN or beyond float16" in found.reason


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_says_what_to_lower_and_others_go_on(little, monkeypatch, capsys, error):
    for marker in (little.out / "stages").glob("*/stage.json"):
        marker.unlink()
    real = stage._make

    def make(this, *args):
        if this.kind == "task" and this.run.strategy == "cassle" and this.task == 1:
            raise error
        return real(this, *args)

    monkeypatch.setattr(stage, "_make", make)
    assert run(*little.line) == 1
    said = "out of memory on this machine: lower --batch (16), encoder.width (16), --image-size or --jobs"
    assert f"cassle-moco · class_il · seed 0 · task 2/2: {said}" in capsys.readouterr().err
    assert not list((little.out / "logs").glob("*.txt"))
    assert [path.name for path in (little.out / "stages").iterdir() if not (path / "stage.json").exists()] == [
        records(little.out)["cassle-moco"][0]["stages"][-1]
    ]


@pytest.mark.xdist_group("processes")
def test_a_machine_without_memory_left_fails_the_run_that_needs_it(few_pictures, tmp_path):
    line = words(few_pictures, tmp_path / "out", "lump,finetune", "--quiet", "--probes", "knn")
    line += ["--set", "probe.headline=knn", "--set", "lump.memory=10000000"]
    assert end(start(line, limit_memory, 1 << 29)) == 1
    said = (tmp_path / "out.log").read_text()
    assert "lump-moco · class_il · seed 0 · task 2/2: out of memory on this machine: lower --batch (16)" in said
    assert "1 of 2 runs failed" in said
    assert {name: found.status for name, found in states(tmp_path / "out").items()} == {
        "lump": "failed",
        "finetune": "complete",
    }


def limit_memory(more):
    """This process may take so many bytes more than it has."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + more, resource.RLIM_INFINITY))


def test_a_log_that_cannot_be_written_does_not_hide_the_failure(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(runner, "do_stage", full)
    status, reason = runner.attempt(type("Stage", (), {"key": "k"}), tmp_path / "missing", 1.0, print)
    assert status == "failed"
    assert "Input/output error" in reason


def test_a_collapsed_run_is_marked_and_the_report_shows_it(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "COLLAPSE_RANK", 1e6)
    assert run(*words(pictures, tmp_path / "out", "finetune", "--quiet")) == 1
    (found,) = states(tmp_path / "out").values()
    assert found.status == "marked"
    table = (tmp_path / "out" / "report" / "table.md").read_text()
    assert "collapsed" in table
    assert "effective rank of the features is" in table


def test_a_collapse_is_told_with_the_step_since_which_it_lasts_also_after_a_resume(little, monkeypatch, trained):
    real = stage._Saver.__call__

    def call(saver, progress):
        collapsed = saver.stage.task == 1 and progress.step != 2  # of four; it recovers once
        real(saver, progress._replace(spread=0.001 if collapsed else 0.5))

    monkeypatch.setattr(stage._Saver, "__call__", call)
    monkeypatch.setattr(features, "COLLAPSE_RANK", 1e6)
    key = records(little.out)["cassle-moco"][0]["stages"][-1]
    told = []
    for resumes in (False, True):
        shutil.rmtree(little.out / "stages" / key)
        shutil.rmtree(little.out / "records")
        if resumes:
            with monkeypatch.context() as patch:
                patch.setattr(stage._Saver, "_save_or_stop", partialmethod(save_and_stop, iter(range(2))))
                assert run(*little.line, "--save-every", "0") == 130
        assert run(*little.line) == 1
        told.append(records(little.out)["cassle-moco"])
    assert trained[1] == 3
    assert told[0] == told[1]
    (row,) = (row for row in told[0] if row["kind"] == "watch" and row["after_task"] == 1)
    assert row["reason"].endswith(", since step 3 of the task")
    table = (little.out / "report" / "table.md").read_text()
    assert row["reason"] in table
    assert "0/1" in table
    assert "1/1" in table


SAVE = stage._Saver._save_or_stop


def save_and_stop(saver, saves, step, due):
    SAVE(saver, step, due)
    if next(saves, None) is None:
        raise Stopped(2)


def test_a_healthy_run_is_not_marked(grid):
    assert {found.status for found in states(grid.out).values()} == {"complete"}


def test_an_interrupt_ends_with_status_130_and_one_line(copied, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "execute", interrupted)
    assert run(*copied.line) == 130
    assert capsys.readouterr().err == "stopped; the same line goes on from here\n"


def test_of_the_workers_of_a_launch_only_the_first_fails_at_a_stage(pictures, tmp_path, monkeypatch, capsys):
    calls = []

    def broken(*_):
        calls.append(1)
        raise RuntimeError("no luck")

    monkeypatch.setattr(stage, "train_task", broken)
    line = words(pictures, tmp_path / "out", "finetune", "--quiet")
    assert run(*line) == 1
    (record,) = (tmp_path / "out" / "records").iterdir()
    before = record.read_bytes()
    with monkeypatch.context() as patch:
        patch.setenv("BENCH_LAUNCH_BEGAN", "0.0")  # they all began before that
        assert run(*line) == 1
    assert capsys.readouterr().err.count("RuntimeError: no luck (traceback in ") == 2
    assert (len(calls), record.read_bytes()) == (1, before)
    assert run(*line) == 1  # another launch tries again
    assert len(calls) == 2
