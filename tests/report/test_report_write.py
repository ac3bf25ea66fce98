"""The written report: files, exact columns, labels, determinism, and what must not be imported."""

import csv
import io
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import recording
from rich.console import Console

from bench import files
from bench.errors import UserError
from bench.files import write_atomic
from bench.report import figures
from bench.report.maintable import COLUMNS, QUICK_NOTE, SYNTHETIC_NOTE
from bench.report.write import FORMATS, ReportResult, terminal_table, write_report

ROOT = Path(__file__).parents[2]
ODD_NAME = "folder:/data/50%_off & {more}#1|x"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two scenarios, two objectives, seeds, a collapsed, a failed and an unfinished run, and a variant."""
    for seed in range(2):
        for strategy in ("finetune", "sycon"):
            recording.write(tmp_path, recording.rows_of(recording.config(strategy, seed=seed)))
        recording.write(
            tmp_path,
            recording.rows_of(
                recording.config("sycon", "byol", seed, scenario="data_il", preset="pilot", dataset=ODD_NAME)
            ),
        )
    collapsed = recording.config("lump", seed=0)
    recording.write(tmp_path, recording.marked(recording.rows_of(collapsed), reason="rank 1.2 | low"))
    failure = {"kind": "failure", "after_task": 1, "reason": "loss is NaN at step 12"}
    recording.write(tmp_path, [*recording.rows_of(recording.config("lump", seed=1))[:9], failure])
    recording.write(tmp_path, [recording.config("cassle", seed=0)])
    recording.write(tmp_path, recording.rows_of(recording.config(method={"sycon.weight": 2})))
    return tmp_path


def text_of(result: ReportResult, name: str) -> str:
    return next(path for path in result.files if path.name == name).read_text()


def rows_in(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_formats_select_the_files(out: Path) -> None:
    assert [path.name for path in write_report(out, ["md", "tex"]).files] == ["table.md", "table.tex"]
    assert [path.name for path in write_report(out, ["csv"]).files] == ["table.csv", "matrix.csv"]
    assert sorted(path.name for path in (out / "report").iterdir()) == [
        *("matrix.csv", "table.csv", "table.md", "table.tex")
    ]


def test_an_unknown_format_is_refused_with_the_nearest_one(out: Path) -> None:
    with pytest.raises(UserError, match=r"'pgn' \(did you mean 'png'"):
        write_report(out, ["md", "pgn"])
    assert not (out / "report").exists()


def test_an_empty_results_folder_is_an_error_and_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no records"):
        write_report(tmp_path, FORMATS)
    assert not list(tmp_path.iterdir())


def test_table_csv_has_exactly_its_columns_and_six_decimals(out: Path) -> None:
    text = text_of(write_report(out, ["csv"]), "table.csv")
    head = "scenario,dataset,tasks,objective,strategy,probe,metric,mean,std,ci_low,ci_high,n,stale"
    assert text.splitlines()[0] == head
    rows = rows_in(text)
    wanted = ("sycon", "linear", "average_accuracy")
    accuracy = next(r for r in rows if (r["strategy"], r["probe"], r["metric"]) == wanted)
    expected = [recording.plausible(recording.config(seed=s), "linear")[0][-1].mean() for s in range(2)]
    assert accuracy["mean"] == f"{sum(expected) / 2:.6f}"
    assert accuracy["std"] == f"{abs(expected[0] - expected[1]) / math.sqrt(2):.6f}"
    assert accuracy["n"] == "2"
    lump = next(r for r in rows if r["strategy"] == "lump")
    assert (lump["mean"], lump["std"], lump["n"]) == ("", "", "0")
    one_seed = next(r for r in rows if r["strategy"] == "sycon [sycon.weight=2]")
    assert one_seed["mean"]
    assert (one_seed["std"], one_seed["ci_low"], one_seed["n"]) == ("", "", "1")


def test_matrix_csv_has_exactly_its_columns_and_every_accuracy_row(out: Path) -> None:
    text = text_of(write_report(out, ["csv"]), "matrix.csv")
    head = "run_id,scenario,dataset,objective,strategy,seed,probe,after_task,on_task,accuracy,stale"
    assert text.splitlines()[0] == head
    rows = rows_in(text)
    recorded = "".join(path.read_text() for path in (out / "records").iterdir()).count('"kind": "accuracy"')
    assert len(rows) == recorded
    assert {row["after_task"] for row in rows} == {"-1", "0", "1", "2"}
    assert {row["dataset"] for row in rows} == {"fashion_mini", ODD_NAME}


def test_markdown_shows_counts_marks_reasons_and_definitions(out: Path) -> None:
    text = text_of(write_report(out, ["md"]), "table.md")
    assert "| moco | lump | † | † | † | † | † | † | 0/2† |" in text
    assert "| lump-moco" not in text
    assert "collapsed | collapsed after task 1: rank 1.2 \\| low |" in text
    assert "failed | after task 1: loss is NaN at step 12; 8 of 24 accuracy rows |" in text
    assert "incomplete | 0 of 24 accuracy rows |" in text
    assert "forgetting = mean over i < T-1 of (max over i <= t < T-1 of R[t, i]) - R[T-1, i]" in text
    assert "mean ± standard deviation over seeds" in text
    main = text.partition("## Probes side by side")[0].splitlines()
    widths = {line.replace("\\|", "").count("|") for line in main if line.startswith("| moco")}
    assert widths == {10}


def test_percentages_have_one_decimal_and_one_seed_has_no_spread(tmp_path: Path) -> None:
    rows = [recording.config(tasks=2, probes=("linear", "knn"))]
    rows += recording.accuracy_rows("linear", [[0.8, 0.3], [0.61, 0.9]], [0.1, 0.2])
    rows += recording.accuracy_rows("knn", [[0.8, 0.3], [0.5, 0.52]], [0.1, 0.2])
    recording.write(tmp_path, rows)
    text = text_of(write_report(tmp_path, ["md"]), "table.md")
    assert "| moco | sycon | 75.5 | 19.0 | 77.8 | 10.0 | 85.0 | 51.0 | 1/1 |" in text
    assert "| none | random | 15.0 | – | – | – | – | 15.0 | 1/1 |" in text


def test_what_is_undefined_is_no_collapse_and_no_zero(tmp_path: Path) -> None:
    for seed, value in enumerate((0.5, 0.1)):
        rows = [recording.config(seed=seed, tasks=1), *recording.accuracy_rows("linear", [[value]], [0.1])]
        rows += recording.accuracy_rows("knn", [[value]], [0.1])
        watch = {"kind": "watch", "after_task": 0, "collapsed": seed == 1, "reason": "rank 1"}
        recording.write(tmp_path, [*rows, watch])
    text = text_of(write_report(tmp_path, ["md"]), "table.md")
    assert "| moco | sycon | 50.0 | – | 50.0 | – | 50.0 | 50.0 | 1/2† |" in text


def test_only_a_clear_winner_is_bold(tmp_path: Path) -> None:
    for seed in range(3):
        for strategy, final in (("sycon", 0.6 + seed / 1000), ("cassle", 0.5)):
            head = recording.config(strategy, seed=seed, tasks=2, probes=("linear",))
            rows = recording.accuracy_rows("linear", [[0.7, 0.1], [final, final]], [0.1, 0.1])
            recording.write(tmp_path, [head, *rows])
    result = write_report(tmp_path, ["md", "tex"])
    assert "| moco | sycon | **60.1 ± 0.1** | **9.9 ± 0.1** |" in text_of(result, "table.md")
    assert "**50.0" not in text_of(result, "table.md")
    assert r"\textbf{60.1\,$\pm$\,0.1}" in text_of(result, "table.tex")
    assert "| sycon | cassle | 10.1 | 9.9 to 10.3 | 3 |" in text_of(result, "table.md")


def test_the_quick_tier_and_synthetic_domains_are_labelled(tmp_path: Path) -> None:
    recording.write(
        tmp_path, recording.rows_of(recording.config(preset="quick", synthetic_domains=True, note="5 made domains"))
    )
    result = write_report(tmp_path, ["md", "tex"])
    for name in ("table.md", "table.tex"):
        assert all(note in text_of(result, name) for note in (QUICK_NOTE, SYNTHETIC_NOTE, "5 made domains."))
    shutil.rmtree(tmp_path / "records")
    recording.write(tmp_path, recording.rows_of(recording.config(preset="paper")))
    plain = text_of(write_report(tmp_path, ["md"]), "table.md")
    assert QUICK_NOTE not in plain
    assert SYNTHETIC_NOTE not in plain


def test_special_characters_are_escaped_in_latex_and_markdown(out: Path) -> None:
    result = write_report(out, ["md", "tex"])
    assert r"folder:/data/50\%\_off \& \{more\}\#1\textbar{}x" in text_of(result, "table.tex")
    assert r"50%\_off & {more}#1\|x" in text_of(result, "table.md")


def test_latex_compiles_where_there_is_a_latex(out: Path, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here")
    write_report(out, ["tex"])
    (tmp_path / "main.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{report/table.tex}\end{document}"
    )
    run = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"], cwd=tmp_path, capture_output=True
    )
    assert run.returncode == 0, run.stdout.decode(errors="replace")[-2000:]


def test_every_format_gives_the_same_bytes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording.write(tmp_path, recording.rows_of(recording.config(tasks=2, probes=("linear",))))
    first = {path.name: path.read_bytes() for path in write_report(tmp_path, FORMATS).files}
    # a PDF takes half a second: one kind stands for all
    monkeypatch.setattr(figures, "KINDS", {"accuracy_matrix": figures.KINDS["accuracy_matrix"]})
    again = {path.name: path.read_bytes() for path in write_report(tmp_path, FORMATS).files}
    assert len(again) == 6
    assert {name: first[name] for name in again} == again
    stem = "class_il-fashion_mini-2tasks"
    kinds = ("accuracy_after_task", "accuracy_matrix", "forgetting_against_accuracy", "final_accuracy")
    tables = ("table.md", "table.tex", "table.csv", "matrix.csv")
    assert set(first) == {*tables, *(f"{kind}-{stem}.{form}" for kind in kinds for form in ("png", "pdf"))}
    assert all(first[name].startswith(b"\x89PNG") for name in first if name.endswith("png"))
    assert b"CreationDate" not in b"".join(first.values())


def test_the_order_in_which_runs_were_written_changes_nothing(tmp_path: Path) -> None:
    heads = [recording.config(s, seed=k) for s in ("finetune", "sycon") for k in range(2)]
    for folder, order in (("a", heads), ("b", heads[::-1])):
        for head in order:
            head_rows = recording.rows_of(head)
            recording.write(
                tmp_path / folder, [head_rows[0], *sorted(head_rows[1:], key=str)[:: 1 if folder == "a" else -1]]
            )
    texts = [[p.read_bytes() for p in write_report(tmp_path / f, ["md", "tex", "csv"]).files] for f in "ab"]
    assert texts[0] == texts[1]


def test_the_terminal_table_fits_eighty_columns_and_keeps_brackets(out: Path) -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(terminal_table(write_report(out, [])))
    shown = console.export_text()
    assert "sycon-moco" in shown
    assert "…" not in shown
    assert QUICK_NOTE in shown
    assert "0/2†" in shown
    wide = Console(width=120, file=io.StringIO(), record=True)
    wide.print(terminal_table(write_report(out, [])))
    assert "sycon-moco [sycon.weight=2]" in wide.export_text()
    assert all(len(line) <= 8 for column in COLUMNS for line in column.short.split("\n"))


def test_a_report_imports_neither_torch_nor_methods_and_matplotlib_only_for_figures(out: Path) -> None:
    code = """
import sys
from pathlib import Path
from bench.report.write import terminal_table, write_report
heavy = ("torch", "methods", "matplotlib", "seaborn", "rich.live")
terminal_table(write_report(Path(sys.argv[1]), ["md", "tex", "csv"]))
print([name for name in heavy if name in sys.modules])
import bench.report.figures
print([name for name in heavy if name in sys.modules])
"""
    command = [sys.executable, "-c", code, str(out)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["[]", "['matplotlib', 'seaborn']"]


def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.md"
    write_atomic(path, b"old")

    def die(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", die)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_atomic_write_replaces_the_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomic(path, b"a long content")
    write_atomic(path, b"short")
    assert path.read_bytes() == b"short"
    assert list(tmp_path.iterdir()) == [path]


def test_halves_of_the_last_digit_are_rounded_to_even(tmp_path: Path) -> None:
    for name, value in (("finetune", 0.8045), ("sycon", 0.8055)):
        head = recording.config(name, tasks=1, probes=("linear",))
        recording.write(tmp_path, [head, *recording.accuracy_rows("linear", [[value]], [0.1])])
    text = text_of(write_report(tmp_path, ["md"]), "table.md")
    assert "| moco | finetune | 80.4 |" in text
    assert "| moco | sycon | 80.6 |" in text
