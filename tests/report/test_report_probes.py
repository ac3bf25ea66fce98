"""What a report says of probes: which one stands behind a number, all of them side by side, and other datasets."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import recording
from rich.console import Console

from bench.evaluate.catalogue import KINDS, PROBES, probe_description
from bench.report import curves
from bench.report.statistics import summarise
from bench.report.write import terminal_table, write_report


def written(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in write_report(out, ["md", "tex", "csv"]).files}


def transfer_rows(values: dict[tuple[str, int], float], dataset: str = "cifar10") -> list[dict[str, Any]]:
    return [
        {"kind": "transfer", "dataset": dataset, "probe": probe, "after_task": after, "value": value, "n": 100}
        for (probe, after), value in values.items()
    ]


def test_every_probe_has_a_kind_and_a_description_of_its_own() -> None:
    assert {entry.kind for entry in PROBES.values()} <= set(KINDS)
    assert len({probe_description(name) for name in PROBES}) == len(PROBES)


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("linear", ["linear probe: L-BFGS", "all classes and tasks (task-agnostic)"]),
        ("linear_aware", ["linear probe: L-BFGS", "(task-aware)"]),
        ("knn(k=50,temperature=0.1)", ["knn probe: ", "(task-agnostic); k=50, temperature=0.1"]),
        ("linear_offline(epochs=10)_aware", ["linear_offline probe: ", "by SGD on randomly", "task-aware); epochs=10"]),
        ("linear_offline(milestones=(0.5, 0.8))", ["milestones=(0.5, 0.8)"]),
        ("linear_1pct", ["linear_1pct probe: ", "1 % of the labels"]),
    ],
)
def test_a_description_names_classifier_scope_and_settings(label: str, parts: list[str]) -> None:
    assert [part for part in parts if part not in probe_description(label)] == []


def test_a_probe_that_is_not_known_is_named_and_not_described() -> None:
    assert probe_description("mine(a=1)_aware") == "mine(a=1)_aware probe"


def test_every_table_and_figure_says_which_probe_its_numbers_are_of(tmp_path: Path) -> None:
    recording.write(tmp_path, recording.rows_of(recording.config(headline="ncm", probes=("ncm", "knn"))))
    texts, said = written(tmp_path), probe_description("ncm")
    assert texts["table.md"].splitlines().count(said) == 1
    assert said in texts["table.tex"]
    assert "kNN accuracy = average accuracy by the knn probe: weighted votes" in texts["table.md"]
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(terminal_table(write_report(tmp_path, [])))
    assert said in console.export_text()
    (data,) = curves.sequences(summarise(tmp_path))
    assert data.description == said


def test_figures_carry_the_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.report import figures

    recording.write(tmp_path, recording.rows_of(recording.config(tasks=2)))
    footers: list[list[str]] = []
    monkeypatch.setattr(figures, "add_texts", lambda figure, title, footer: footers.append(list(footer)))
    monkeypatch.setattr(figures, "KINDS", {"final_accuracy": figures.KINDS["final_accuracy"]})
    write_report(tmp_path, ["png"])
    assert [f"{probe_description('linear')}." in footer for footer in footers] == [True]


def test_probes_stand_side_by_side_agnostic_and_aware_apart(tmp_path: Path) -> None:
    probes = ("linear", "linear_aware", "knn", "knn_aware")
    rows = [recording.config(tasks=2, probes=probes)]
    for probe, value in zip(probes, (0.5, 0.8, 0.4, 0.7), strict=True):
        rows += recording.accuracy_rows(probe, [[value, value], [value, value]], [0.1, 0.1])
    rows += recording.accuracy_rows("ncm", [[0.3, 0.3], [0.3, 0.3]], [0.1, 0.1])  # run afterwards
    recording.write(tmp_path, rows)
    text = written(tmp_path)["table.md"].partition("## Probes side by side")[2]
    assert "| objective | strategy | linear | knn | ncm |\n" in text
    assert "| moco | sycon | 50.0 | 40.0 | 30.0 |\n" in text
    assert "| objective | strategy | linear_aware | knn_aware |\n" in text
    assert "| moco | sycon | 80.0 | 70.0 |\n" in text
    assert "| none | random | 10.0 | 10.0 | 10.0 |\n" in text
    for probe in (*probes, "ncm"):
        assert f"- {probe_description(probe)}\n" in text


def test_one_probe_has_nothing_beside_it(tmp_path: Path) -> None:
    recording.write(tmp_path, recording.rows_of(recording.config(probes=("linear", "linear_aware"))))
    assert "side by side" not in written(tmp_path)["table.md"]


def test_transfer_is_shown_after_every_task_with_the_references(tmp_path: Path) -> None:
    for seed, lift in enumerate((0.0, 0.02)):
        values = {("linear", -2): 0.2, ("linear", -1): 0.3, ("linear", 0): 0.4 + lift, ("linear", 1): 0.5 + lift}
        rows = recording.rows_of(recording.config(seed=seed, tasks=2))
        recording.write(tmp_path, [*rows, *transfer_rows(values), *transfer_rows({("knn", 1): 0.6})])
    texts = written(tmp_path)
    text = texts["table.md"].partition("## Transfer to other datasets")[2]
    assert "### class_il / fashion_mini / 2 tasks: transfer to cifar10" in text
    assert "linear probe: L-BFGS logistic regression on cached features of cifar10, all its classes" in text
    assert "| objective | strategy | after task 0 | after task 1 (last) | n |" in text
    assert "| moco | sycon | 41.0 ± 1.4 | 51.0 ± 1.4 | 2 |" in text
    assert "| none | random | – | 30.0 ± 0.0 | 2 |" in text
    assert "| none | pixels | – | 20.0 ± 0.0 | 2 |" in text
    assert "| moco | sycon | – | 60.0 ± 0.0 | 2 |" in text
    assert r"moco & sycon & 41.0 $\pm$ 1.4 & 51.0 $\pm$ 1.4 & 2 \\" in texts["table.tex"]
    assert texts["table.tex"].partition("{\\footnotesize")[2].count(r"\begin{tabular}{llrrr}") == 2
    found = list(csv.DictReader(io.StringIO(texts["transfer.csv"])))
    linear = {row["strategy"]: row for row in found if row["probe"] == "linear" and row["after_task"] != "0"}
    assert {name: (row["after_task"], row["mean"], row["n"]) for name, row in linear.items()} == {
        "pixels": ("-2", "0.200000", "2"),
        "random": ("-1", "0.300000", "2"),
        "sycon": ("1", "0.510000", "2"),
    }
    assert linear["sycon"]["target"] == "cifar10"


def test_unfinished_and_collapsed_runs_are_no_part_of_the_transfer_table(tmp_path: Path) -> None:
    values = {("linear", 0): 0.5}
    done = recording.rows_of(recording.config(tasks=1))
    recording.write(tmp_path, [*done, *transfer_rows(values)])
    lost = recording.marked(recording.rows_of(recording.config("lump", tasks=1)), after_task=0)
    recording.write(tmp_path, [*lost, *transfer_rows(values)])
    recording.write(tmp_path, [recording.config("cassle", tasks=1), *transfer_rows(values)])
    found = list(csv.DictReader(io.StringIO(written(tmp_path)["transfer.csv"])))
    assert [row["strategy"] for row in found] == ["sycon"]


def test_without_other_datasets_there_is_no_transfer_table(tmp_path: Path) -> None:
    recording.write(tmp_path, recording.rows_of(recording.config()))
    texts = written(tmp_path)
    assert "transfer.csv" not in texts
    assert "Transfer to other" not in texts["table.md"]


def test_transfer_rows_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    from bench.errors import UserError

    rows = recording.rows_of(recording.config())
    recording.write(tmp_path, [*rows, *transfer_rows({("linear", 0): 0.5}), *transfer_rows({("linear", 0): 0.6})])
    with pytest.raises(UserError, match="two rows contradict each other"):
        write_report(tmp_path, ["md"])
