"""`eval` runs probes on cached features: without training, without the images."""

import shutil

import pytest

from bench.engine.store import Store
from tests.engine.tiny import differing, paint_folder, records, results, rows, run, words

pytestmark = pytest.mark.xdist_group("grid")


def evaluate(out, *more):
    return run("eval", "--out", str(out), "--format", "md", "--quiet", *more)


def test_a_probe_with_other_settings_adds_rows_without_images_or_training(tmp_path, trained):
    folder = paint_folder(tmp_path / "pictures")
    out = tmp_path / "out"
    assert run(*words(folder, out, "finetune,cassle", "--quiet")) == 0
    trained.clear()
    shutil.rmtree(folder)
    shutil.rmtree(out / "datasets")
    before = {path: rows(path) for path in (out / "records").glob("*.jsonl")}
    assert evaluate(out, "--probe", "knn", "--set", "probe.knn.k=5") == 0
    assert not trained
    for path, known in before.items():
        assert rows(path)[: len(known)] == known
        new = rows(path)[len(known) :]
        # 4 stages (pixels, random network, 2 tasks) x 2 test sets x (agnostic, aware)
        assert len(new) == 16
        assert {row["probe"] for row in new} == {"knn(k=5)", "knn(k=5)_aware"}
        assert {row.get("after_task", "pixels") for row in new} == {"pixels", -1, 0, 1}


def test_the_same_probe_again_adds_nothing(copied):
    before = results(copied.out)
    assert evaluate(copied.out) == 0
    assert differing(before, results(copied.out)) == []


def test_a_probe_that_is_gone_is_computed_as_it_was(copied):
    before = results(copied.out)
    for path in (copied.out / "stages").glob("*/probe-*.json"):
        path.unlink()
    assert evaluate(copied.out) == 0
    assert differing(before, results(copied.out)) == []


def test_stages_without_features_or_in_work_are_left_out_and_counted(copied, capsys):
    first, second = records(copied.out)["finetune-moco"][0]["stages"][2:]
    Store(copied.out).features(second).unlink()
    with Store(copied.out).lock(first) as held:
        held.lease.tell({"step": 1})
        held.lease.beat()
        assert evaluate(copied.out, "--probe", "knn", "--set", "probe.knn.k=3") == 0
    # the first task is in work for each of three runs
    assert "4 stages have no cached features" in capsys.readouterr().err


def test_unfinished_stages_are_left_out(copied, capsys):
    stages = records(copied.out)["finetune-moco"][0]["stages"]
    (copied.out / "stages" / stages[-1] / "stage.json").unlink()
    assert evaluate(copied.out, "--probe", "ncm") == 0
    assert "1 stages have no cached features" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[1]\n", '{"kind": "accuracy"}\n'])
def test_a_record_without_config_row_is_refused_in_one_line(copied, capsys, content):
    (copied.out / "records" / "0.jsonl").write_text(content)
    assert evaluate(copied.out) == 2
    assert capsys.readouterr().err.startswith(f"error: {copied.out}/records/0.jsonl: ")
