"""Reading records: what is tolerated, what is refused, and what status a run gets."""

import json
from pathlib import Path

import numpy as np
import pytest
import recording

from bench.errors import UserError
from bench.report.records import Run, read_records, read_run


def read(path: Path) -> tuple[Run | None, list[str]]:
    warnings: list[str] = []
    return read_run(path, warnings), warnings


def written(tmp_path: Path, rows: list[dict]) -> Run:
    run, warnings = read(recording.write(tmp_path, rows))
    assert run is not None
    assert not warnings
    return run


def test_matrix_and_random_network_are_what_was_recorded(tmp_path: Path) -> None:
    head = recording.config(tasks=2, probes=("linear",))
    rows = [head, *recording.accuracy_rows("linear", [[0.8, 0.3], [0.6, 0.9]], [0.1, 0.2])]
    run = written(tmp_path, rows)
    assert run.status == "complete"
    np.testing.assert_array_equal(run.matrix("linear"), [[0.8, 0.3], [0.6, 0.9]])
    np.testing.assert_array_equal(run.random("linear"), [0.1, 0.2])


def test_a_torn_last_line_is_ignored_with_a_note(tmp_path: Path) -> None:
    path = recording.write(tmp_path, recording.rows_of(recording.config()))
    whole, _ = read(path)
    with path.open("ab") as file:
        file.write(b'{"kind":"accuracy","after_task":0,"on_\xc3')
    torn, warnings = read(path)
    assert warnings == [f"{path}: line {len(path.read_bytes().splitlines())} is left out: it is torn"]
    assert whole is not None
    assert torn is not None
    assert torn.accuracy == whole.accuracy


def test_an_unreadable_line_inside_is_skipped_with_its_number(tmp_path: Path) -> None:
    path = recording.write(tmp_path, recording.rows_of(recording.config()))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{torn", *lines[1:]]) + "\n")
    run, warnings = read(path)
    assert run is not None
    assert run.status == "complete"
    assert warnings == [f"{path}: line 2 is left out: it is no JSON object"]


def test_equal_duplicates_count_once_and_unknown_kinds_not_at_all(tmp_path: Path) -> None:
    rows = recording.rows_of(recording.config())
    run = written(tmp_path, [*rows, *rows, {"kind": "weather", "value": 7}])
    assert run.status == "complete"
    assert len(run.accuracy) == 2 * 4 * 3


def test_contradicting_rows_are_refused_naming_the_file_and_both_values(tmp_path: Path) -> None:
    rows = recording.rows_of(recording.config())
    other = next(row for row in rows if row["kind"] == "accuracy") | {"value": 0.123456}
    path = recording.write(tmp_path, [*rows, other])
    with pytest.raises(UserError) as error:
        read(path)
    first = next(row for row in rows if row["kind"] == "accuracy")["value"]
    assert all(text in str(error.value) for text in (str(path), "0.123456", str(first)))
    assert "\n" not in str(error.value)


def test_a_second_config_may_come_from_another_machine_but_not_be_another_config(tmp_path: Path) -> None:
    head = recording.config()
    rows = recording.rows_of(head)
    written(tmp_path, [*rows, head | {"environment": {"torch": "3"}}])
    with pytest.raises(UserError, match=r'"dataset": "cifar100"'):
        written(tmp_path, [*rows, head | {"dataset": "cifar100"}])


@pytest.mark.parametrize("change", [{"value": 1.5}, {"on_task": 9}, {"after_task": -2}, {"value": None}])
def test_a_row_out_of_range_is_refused_naming_the_file(tmp_path: Path, change: dict) -> None:
    rows = recording.rows_of(recording.config())
    rows[1] = rows[1] | change
    with pytest.raises(UserError, match=r"is out of range|lacks a valid value"):
        written(tmp_path, rows)


def test_a_file_without_a_config_line_is_skipped_with_a_warning(tmp_path: Path) -> None:
    recording.write(tmp_path, recording.rows_of(recording.config(seed=0)))
    headless = recording.write(tmp_path, [{"kind": "failure", "after_task": 0, "reason": "x"}])
    runs, warnings = read_records(tmp_path / "records")
    assert len(runs) == 1
    assert warnings == [f"{headless}: skipped, it has no config line"]


def test_a_config_line_without_a_field_is_refused_naming_it(tmp_path: Path) -> None:
    head = recording.config()
    del head["method_setting"]
    with pytest.raises(UserError, match="method_setting"):
        read(recording.write(tmp_path, [head]))


def test_no_records_at_all_is_an_error_naming_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        read_records(tmp_path / "records")
    recording.write(tmp_path, [{"kind": "failure", "after_task": 0, "reason": "x"}])
    with pytest.raises(UserError, match="no run"):
        read_records(tmp_path / "records")


def test_a_run_that_lacks_one_accuracy_is_incomplete_and_says_how_much_it_has(tmp_path: Path) -> None:
    rows = recording.rows_of(recording.config())
    rows.remove(next(row for row in rows if row["kind"] == "accuracy"))
    run = written(tmp_path, rows)
    assert (run.status, run.reason) == ("incomplete", "23 of 24 accuracy rows")


def test_a_failed_run_gives_its_last_reason_and_a_later_success_stands(tmp_path: Path) -> None:
    rows = recording.rows_of(recording.config())
    failures = [{"kind": "failure", "after_task": 1, "reason": why} for why in ("out of memory", "loss is NaN")]
    run = written(tmp_path, [*rows[:10], *failures])
    assert run.status == "failed"
    assert run.reason.startswith("after task 1: loss is NaN; ")
    assert "memory" not in run.reason
    assert written(tmp_path, [*rows[:10], *failures, *rows[10:]]).status == "complete"


def test_a_collapsed_run_is_marked_with_the_task_and_the_reason(tmp_path: Path) -> None:
    run = written(tmp_path, recording.marked(recording.rows_of(recording.config()), after_task=1))
    assert (run.status, run.reason) == ("marked", "collapsed after task 1: rank 1.2")


def test_an_untrained_network_that_looks_collapsed_marks_nothing(tmp_path: Path) -> None:
    watch = {"kind": "watch", "after_task": -1, "collapsed": True, "reason": "rank 1"}
    assert written(tmp_path, [*recording.rows_of(recording.config()), watch]).status == "complete"


def test_a_probe_added_later_does_not_make_a_run_incomplete(tmp_path: Path) -> None:
    extra = {"kind": "accuracy", "after_task": 0, "on_task": 0, "probe": "knn(k=50)", "value": 0.5, "n": 400}
    run = written(tmp_path, [*recording.rows_of(recording.config()), extra])
    assert run.status == "complete"
    assert np.isnan(run.matrix("knn(k=50)")).sum() == 8


def test_a_nan_in_a_repeated_row_is_no_contradiction(tmp_path: Path) -> None:
    watch = {"kind": "watch", "after_task": 0, "effective_rank": float("nan"), "collapsed": False}
    rows = [row for row in recording.rows_of(recording.config()) if row["kind"] != "watch"]
    assert "NaN" in json.dumps(watch)
    assert written(tmp_path, [*rows, watch, watch]).status == "complete"
