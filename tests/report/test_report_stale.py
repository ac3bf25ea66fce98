"""What other code than the present has made is marked wherever it is averaged."""

import csv
import io
from pathlib import Path

import pytest
import recording
from matplotlib.patches import Rectangle
from rich.console import Console
from test_report_figures import data_of, drawn

from bench.report.figures import KINDS
from bench.report.layout import STALE_HATCH
from bench.report.records import read_run
from bench.report.text import STALE, STALE_NOTE, tex
from bench.report.write import terminal_table, write_report


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """finetune and sycon, two seeds each; one stage of one of sycon's is stale."""
    for seed in range(2):
        for strategy in ("finetune", "sycon"):
            rows = recording.rows_of(recording.config(strategy, seed=seed))
            transfer = {"kind": "transfer", "after_task": 2, "dataset": "other", "probe": "knn", "value": 0.5}
            rows.append(transfer)
            recording.write(
                tmp_path, recording.made_by(rows, "0" * 12, 1) if (strategy, seed) == ("sycon", 1) else rows
            )
    return tmp_path


def texts_of(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in write_report(out, ["md", "tex", "csv"]).files}


def test_tables_mark_the_cells_that_average_a_stale_run_and_say_why(out: Path) -> None:
    texts = texts_of(out)
    markdown = texts["table.md"]
    assert f"- {STALE_NOTE}\n" in markdown
    for line in markdown.splitlines():
        if line.startswith(("| moco | ", "| class_il")):
            assert (STALE in line) == ("sycon" in line), line
    assert "2/2¶ |" in markdown
    assert "| moco | sycon | – | – | 50.0 ± 0.0 | 2¶ |" in markdown
    assert r"2/2\P{} \\" in texts["table.tex"]
    assert tex(STALE_NOTE) in texts["table.tex"]
    assert "-{}-retrain" in texts["table.tex"]
    for name in ("table.csv", "transfer.csv"):
        stale = {row["strategy"]: row["stale"] for row in csv.DictReader(io.StringIO(texts[name]))}
        assert {name for name, word in stale.items() if word == "yes"} == {"sycon"}
    marked = {
        (row["seed"], row["after_task"])
        for row in csv.DictReader(io.StringIO(texts["matrix.csv"]))
        if row["stale"] == "yes"
    }
    assert marked == {("1", "1")}


def test_the_terminal_marks_them_too(out: Path) -> None:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(terminal_table(write_report(out, [])))
    shown = console.export_text()
    assert [STALE in line for line in shown.splitlines() if line.startswith(("finetune", "sycon"))] == [False, True]
    assert STALE_NOTE in shown


def test_a_stale_random_network_is_marked_apart_from_the_methods(tmp_path: Path) -> None:
    recording.write(tmp_path, recording.made_by(recording.rows_of(recording.config()), "0" * 12, -1))
    lines = texts_of(tmp_path)["table.md"].splitlines()
    marked = [line.split(" | ")[1] for line in lines if line.startswith("| ") and "1/1¶" in line]
    assert marked == ["random", "sycon"]


def test_records_of_the_present_code_or_of_none_are_not_stale(tmp_path: Path) -> None:
    rows = recording.rows_of(recording.config())
    recording.write(tmp_path, rows)
    silent = [{k: v for k, v in row.items() if k != "code"} for row in recording.rows_of(recording.config("lump"))]
    recording.write(tmp_path, silent)
    assert STALE not in "".join(texts_of(tmp_path).values())


def test_a_stage_that_old_and_present_code_made_alike_is_not_stale(tmp_path: Path) -> None:
    rows = recording.rows_of(recording.config())
    old = recording.made_by(rows, "0" * 12, 1)
    run = read_run(recording.write(tmp_path, [*old, *(row for row in rows if row["kind"] == "stage")]), [])
    assert run is not None
    assert not run.stale


def test_joint_training_has_the_code_of_a_first_task(tmp_path: Path) -> None:
    head = recording.config("joint", after=[-2, -1, 2])
    first = next(r for r in recording.rows_of(recording.config()) if r["kind"] == "stage" and r["after_task"] == 0)
    run = read_run(recording.write(tmp_path, [head, first | {"after_task": 2}]), [])
    assert run is not None
    assert not run.stale


@pytest.mark.parametrize("kind", KINDS)
def test_figures_hatch_or_cross_out_what_is_stale_and_say_so(out: Path, kind: str) -> None:
    data = data_of(out)
    figure = drawn(kind, data)
    ax = figure.axes[0]
    crossed = [line for line in ax.lines if line.get_marker() == "x"]
    hatched = [patch for patch in ax.patches if patch.get_hatch() == STALE_HATCH]
    if kind == "accuracy_matrix":
        assert [any(isinstance(p, Rectangle) and p.get_hatch() for p in a.patches) for a in figure.axes[:2]] == [
            *(False, True)
        ]
    elif kind == "final_accuracy":
        assert len(hatched) == 3  # sycon on each of three tasks
    else:
        assert len(crossed) == 1
    assert "--retrain stale" in " ".join(figure.get_supxlabel().split())
    for legend in figure.legends:
        assert legend.get_texts()[-1].get_text() == "stale"
