"""A run whose record another machine has made is not made again, unless asked for; then both must say the same."""

import shutil

import pytest

from bench import source
from bench.engine.foreign import without_merged
from bench.engine.store import Store
from bench.report.records import read_run
from tests.changed_code import changed
from tests.engine.tiny import differing, planned, records, results, run, without, words

pytestmark = pytest.mark.xdist_group("grid")


@pytest.fixture
def halves(copied, grid):
    """A copy of the grid without anything of sycon's own, into which sycon's record is merged from the grid."""
    head = records(copied.out)["sycon-moco"][0]
    shutil.rmtree(Store(copied.out).stage(head["stages"][-1]))
    for folder in ("records", "timings"):
        (copied.out / folder / f"{head['run_id']}.jsonl").unlink()
    assert run("merge", str(grid.out), "--out", str(copied.out)) == 0
    return copied, Store(copied.out).merged(head["run_id"])


def test_a_run_that_is_merged_and_complete_is_not_trained_here(halves, trained, capsys):
    copied, merged = halves
    assert [path.name for path in merged.parent.iterdir()] == [merged.name]
    before = results(copied.out)
    assert run(*copied.line) == 0
    assert trained == {}
    assert differing(before, results(copied.out)) == []
    text = capsys.readouterr().err
    assert "1 of 3 runs are merged from elsewhere and complete: nothing of them is made here" in text
    assert run("plan", *without(copied.line, "--format")) == 0
    text = capsys.readouterr()
    assert "2 runs, 5 stages" in text.out
    assert "1 of 3 runs are merged" in text.err


def test_where_its_origin_is_removed_it_is_trained_and_must_say_the_same(halves, grid, trained):
    copied, merged = halves
    merged.unlink()
    assert run(*copied.line) == 0
    assert trained == {1: 1}
    assert differing(results(grid.out), results(copied.out)) == []


def test_a_merged_run_of_other_code_is_trained_where_that_is_asked_for(halves, trained, tmp_path, monkeypatch):
    copied, merged = halves
    monkeypatch.setattr(source, "ROOT", changed(tmp_path / "code", "methods/strategies/sycon.py"))
    assert run(*copied.line) == 0
    assert trained == {}
    assert run(*copied.line, "--retrain", "stale") == 0
    assert trained == {1: 1}
    assert not merged.exists()
    assert not read_run(Store(copied.out).record(merged.stem), []).stale


def test_a_run_whose_record_lacks_anything_is_made_here(halves):
    copied, merged = halves
    store = Store(copied.out)
    assert len(without_merged(planned(*copied.line), store).runs) == 2
    wider = planned(*copied.line, "--probes", "linear,knn,ncm,linear_10pct")
    assert without_merged(wider, store) is wider
    further = planned(*copied.line, "--transfer", "fashion_mini")
    assert without_merged(further, store) is further
    path = store.record(merged.stem)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-9]))
    whole = planned(*copied.line)
    assert without_merged(whole, store) is whole


def test_a_folder_of_merged_records_alone_is_a_finished_grid(grid, pictures, tmp_path, trained):
    out = tmp_path / "out"
    assert run("merge", str(grid.out), "--out", str(out)) == 0
    assert run(*words(pictures, out, "finetune,cassle,sycon", "--quiet")) == 0
    assert trained == {}
    assert (out / "report" / "table.md").exists()
