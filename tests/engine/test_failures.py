"""What fails is reported with its reason, stops nothing else, and is tried again by the next start."""

import shutil

import pytest

from bench.commands import grid as command
from bench.engine import runner, stage
from bench.evaluate import features
from bench.report.records import read_run
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
    assert failures[0]["reason"] in (out / "report" / "table.md").read_text()


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
    (log,) = (tmp_path / "out" / "logs").iterdir()
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


def test_a_healthy_run_is_not_marked(grid):
    assert {found.status for found in states(grid.out).values()} == {"complete"}


def test_an_interrupt_ends_with_status_130_and_one_line(copied, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "execute", interrupted)
    assert run(*copied.line) == 130
    assert capsys.readouterr().err == "stopped; the same line goes on from here\n"
