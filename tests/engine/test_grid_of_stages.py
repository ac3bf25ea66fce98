"""A grid trains what its runs share once, records it once, and never again."""

import json
import math

import pytest

from bench.engine.estimate import estimate
from bench.engine.progress import done_and_stale, is_done, status_of
from bench.engine.records import config_row
from bench.engine.store import Store
from bench.report.records import read_run
from bench.source import base_code, trained_codes
from tests.engine.tiny import differing, planned, records, results, rows, run, without, words

pytestmark = pytest.mark.xdist_group("grid")


def test_three_strategies_train_the_first_task_once(grid):
    assert grid.trained == {0: 1, 1: 3}


def test_records_of_a_finished_grid_are_complete(grid):
    found = records(grid.out)
    assert sorted(found) == ["cassle-moco", "finetune-moco", "sycon-moco"]
    for path in (grid.out / "records").glob("*.jsonl"):
        assert read_run(path, []).status == "complete"


def test_strategies_share_the_rows_of_the_first_task_and_differ_after_it(grid):
    def accuracies(name, task):
        return [row for row in records(grid.out)[name] if row["kind"] == "accuracy" and row["after_task"] == task]

    for task in (-1, 0):
        assert accuracies("finetune-moco", task) == accuracies("cassle-moco", task) == accuracies("sycon-moco", task)
    assert accuracies("finetune-moco", 1) != accuracies("cassle-moco", 1)


def test_a_record_says_which_stages_and_code_made_it(grid):
    for found in records(grid.out).values():
        made = {row["after_task"]: row for row in found if row["kind"] == "stage"}
        assert [made[task]["stage"] for task in (-2, -1, 0, 1)] == found[0]["stages"]
        assert made[-2]["code"] == made[-1]["code"] == base_code()
        assert (made[0]["code"], made[1]["code"]) == trained_codes(found[0]["objective"], found[0]["strategy"], 2)
        assert not any("sessions" in row for row in made.values())  # one went through undisturbed


def test_a_second_start_trains_nothing_and_changes_nothing(copied, trained):
    before = results(copied.out)
    assert run(*copied.line) == 0
    assert not trained
    assert differing(before, results(copied.out)) == []


def test_a_new_strategy_starts_from_the_cached_first_task(copied, trained, pictures):
    assert run(*words(pictures, copied.out, "lump", "--quiet")) == 0
    assert trained == {1: 1}


def test_a_lost_stage_is_made_again_bit_by_bit(copied, trained):
    before = results(copied.out)
    lost = records(copied.out)["sycon-moco"][0]["stages"][-1]
    for path in (copied.out / "stages" / lost).iterdir():
        path.unlink()
    assert run(*copied.line) == 0
    assert trained == {1: 1}
    assert differing(before, results(copied.out)) == []


def test_without_its_marker_a_stage_is_finished_from_its_model(copied, trained):
    before = results(copied.out)
    for marker in (copied.out / "stages").glob("*/stage.json"):
        marker.unlink()
    assert run(*copied.line) == 0
    assert not trained
    assert differing(before, results(copied.out)) == []


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.05], ids=["last line", "half the file", "in the config line"])
def test_a_torn_record_is_repaired(copied, kept):
    before = results(copied.out)
    for path in (copied.out / "records").glob("*.jsonl"):
        data = path.read_bytes()
        path.write_bytes(data[: int(kept * len(data))])
    assert run(*copied.line) == 0
    assert differing(before, results(copied.out)) == []


def test_a_half_written_temporary_file_is_neither_read_nor_kept(copied):
    before = results(copied.out)
    stage = copied.out / "stages" / records(copied.out)["finetune-moco"][0]["stages"][-1]
    (stage / "stage.json").unlink()
    torn = stage / "owner" / "ab" / ".model.safetensors.17.ab.tmp"
    torn.parent.mkdir(parents=True)  # nobody alive
    torn.write_bytes(b"half")
    assert run(*copied.line) == 0
    assert not torn.exists()
    assert differing(before, results(copied.out)) == []


def test_a_plan_counts_runs_stages_and_what_is_shared(copied, capsys):
    assert run("plan", *without(copied.line, "--format")) == 0
    assert "3 runs, 6 stages (3 shared): 6 done, 0 begun, 0 to do" in capsys.readouterr().out
    plan = planned(*copied.line, "--seeds", "0-1")
    status = status_of(plan, Store(copied.out), done_and_stale(plan, Store(copied.out))[0])
    assert (len(plan.runs), status.done, status.to_do, status.shared) == (6, 6, 6, 6)


def test_a_plan_prints_time_and_disk_and_trains_nothing(pictures, tmp_path, capsys):
    line = words(pictures, tmp_path / "out", "finetune,sycon")
    assert run("plan", *without(line, "--format")) == 0
    text = capsys.readouterr().out
    assert " on disk (from a few measured steps" in text
    assert "finetune" in text
    assert not list((tmp_path / "out" / "stages").iterdir())


def test_an_estimate_is_finite_before_and_after_a_first_run(grid, pictures, tmp_path):
    store = Store(tmp_path)
    fresh = estimate(planned(*words(pictures, tmp_path, "cassle")), store)
    assert 0 < fresh.seconds < 3600
    assert fresh.bytes > 10_000
    assert fresh.measured == 4  # pixels, init, first task, later task
    longer = planned(*words(pictures, grid.out, "cassle", "--seeds", "0-1"))
    known = estimate(longer, Store(grid.out))
    assert math.isfinite(known.seconds)
    assert known.measured == 0


def test_an_estimate_survives_a_learning_rate_that_diverges(pictures, tmp_path):
    wild = words(pictures, tmp_path, "finetune", "--set", "optim.name=sgd", "--set", "optim.lr=1e9")
    assert math.isfinite(estimate(planned(*wild), Store(tmp_path)).seconds)


def test_timings_name_every_stage_once(grid):
    for path in (grid.out / "timings").glob("*.jsonl"):
        named = [(row["after_task"], row["stage"]) for row in rows(path)]
        assert len(named) == len(set(named))
    trained = {
        stage for path in (grid.out / "timings").glob("*.jsonl") for row in rows(path) for stage in [row["stage"]]
    }
    assert trained == {path.name for path in (grid.out / "stages").iterdir()}


def test_a_stage_lacking_one_probe_is_not_done(copied):
    plan, store = planned(*copied.line), Store(copied.out)
    stage = next(iter(plan.stages.values()))
    assert is_done(stage, store)
    next(store.stage(stage.key).glob("probe-knn-*.json")).unlink()
    assert not is_done(stage, store)


def test_changed_probe_settings_reuse_the_features(copied, trained):
    assert run(*copied.line, "--set", "probe.linear.l2=0.01") == 0
    assert not trained
    probes = {row["probe"] for row in records(copied.out)["finetune-moco"] if row["kind"] == "accuracy"}
    assert "linear(l2=0.01)" in probes


def test_the_headline_is_the_linear_probe_as_it_is_set(pictures, tmp_path):
    (planned_run,) = planned(*words(pictures, tmp_path, "finetune", "--set", "probe.linear.l2=0.01")).runs
    row = json.loads(json.dumps(config_row(planned_run)))
    assert row["headline"] == "linear(l2=0.01)"
    assert row["headline"] in row["probes"]
