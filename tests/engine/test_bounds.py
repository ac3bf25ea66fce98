"""Joint training and the random network: runs without a sequence, which bound those that have one."""

import csv

import numpy as np
import pytest

from bench.engine.plan import scenario_of
from bench.engine.task import build_learner
from bench.report.records import read_run
from bench.report.statistics import summarise
from tests.engine.tiny import planned, records, results, run, words

pytestmark = pytest.mark.xdist_group("grid")


@pytest.fixture(scope="module")
def bounds(pictures, tmp_path_factory):
    """A results folder of fine-tuning between its bounds, and its command line."""
    out = tmp_path_factory.mktemp("bounds")
    line = words(pictures, out, "random,finetune,joint", "--format", "md,csv,png", "--quiet")
    assert run(*line) == 0
    return out, line


def test_joint_training_sees_every_training_image_once_and_task_by_task_none_twice(pictures, tmp_path):
    plan = planned(*words(pictures, tmp_path, "finetune,joint"))
    tasks = scenario_of(plan.runs[0].config, tmp_path).tasks
    (joint,) = (stage for stage in plan.stages.values() if stage.kind == "joint")
    together = np.sort(np.concatenate([stage.rows(tasks) for stage in plan.stages.values() if stage.kind == "task"]))
    assert np.array_equal(joint.rows(tasks), together)
    assert len(np.unique(together)) == len(together) == sum(plan.runs[1].images)


def test_bounds_share_the_random_network_and_train_once_or_never(pictures, tmp_path):
    plan = planned(*words(pictures, tmp_path, "random,finetune,joint"))
    by_name = {each.config.strategy: each for each in plan.runs}
    random, chain, joint = (by_name[name] for name in ("random", "finetune", "joint"))
    assert random.stages == chain.stages[:2] == joint.stages[:2]
    assert (random.after, chain.after, joint.after) == ((-2, -1), (-2, -1, 0, 1), (-2, -1, 1))


def test_the_random_network_is_one_run_whatever_the_objective(pictures, tmp_path):
    plan = planned(*words(pictures, tmp_path, "random-moco,random-byol,finetune-moco,finetune-byol"))
    assert [run.config.strategy for run in plan.runs] == ["random", "finetune", "finetune"]


def test_a_joint_network_has_no_strategy(pictures, tmp_path):
    plan = planned(*words(pictures, tmp_path, "joint"))
    (joint,) = (stage for stage in plan.stages.values() if stage.kind == "joint")
    learner = build_learner(joint.run, scenario_of(joint.run, tmp_path), joint.task)
    assert learner.strategy is None
    assert learner.teacher is None


def test_records_of_bounds_are_complete_with_fewer_rows(bounds):
    out, _ = bounds
    for path in (out / "records").glob("*.jsonl"):
        assert read_run(path, []).status == "complete"
    found = records(out)
    after = {name: {row["after_task"] for row in rows if row["kind"] == "accuracy"} for name, rows in found.items()}
    assert after == {"random-moco": {-1}, "finetune-moco": {-1, 0, 1}, "joint-moco": {-1, 1}}


def test_an_unfinished_joint_run_is_not_complete(bounds, tmp_path):
    out, _ = bounds
    (path,) = (p for p in (out / "records").glob("*.jsonl") if '"strategy": "joint"' in p.read_text())
    lines = [line for line in path.read_text().splitlines(True) if '"after_task": 1' not in line]
    (tmp_path / path.name).write_text("".join(lines))
    assert read_run(tmp_path / path.name, []).status == "incomplete"


def test_the_report_shows_bounds_and_compares_nothing_with_them(bounds):
    out, _ = bounds
    summary = summarise(out)
    assert [group.strategies for group in summary.groups] == [("finetune",)]
    cells = summary.cells[summary.cells.probe == "linear"].set_index(["strategy", "metric"])["mean"]
    assert 0 < cells["joint", "average_accuracy"] <= 1
    assert np.isnan(cells["joint", "forgetting"])
    assert sorted(summary.cells.strategy.unique()) == ["finetune", "joint", "pixels", "random"]
    assert set(summary.cells[summary.cells.strategy == "random"].objective) == {"none"}
    text = (out / "report" / "table.md").read_text()
    assert "| moco | joint |" in text
    assert "Without a run to show" not in text
    with (out / "report" / "matrix.csv").open() as file:
        assert {row["after_task"] for row in csv.DictReader(file) if row["strategy"] == "joint"} == {"-1", "1"}


def test_another_start_and_more_probes_train_nothing(bounds, monkeypatch):
    out, line = bounds
    before = results(out)

    def refuse(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr("bench.engine.stage.train_task", refuse)
    assert run(*line, "--format", "md") == 0
    assert results(out) == before
    assert run("eval", "--out", str(out), "--probe", "knn", "--set", "probe.knn.k=3", "--format", "csv", "--quiet") == 0
    joint = [row for row in records(out)["joint-moco"] if row.get("probe") == "knn(k=3)"]
    assert {row["after_task"] for row in joint if row["kind"] == "accuracy"} == {-1, 1}


def test_speed_measures_contenders_only(pictures, tmp_path, capsys):
    assert run("speed", "--methods", "random", "--dataset", f"folder:{pictures}", "--out", str(tmp_path)) == 2
    assert "random has no steps of its own" in capsys.readouterr().err
