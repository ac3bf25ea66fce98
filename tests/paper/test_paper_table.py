"""The table from recorded runs: what stands in a cell, which difference is formed, and which footnotes say why not."""

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from bench.paper.ledger import read_ledger
from bench.paper.render import csv_text, latex, markdown, terminal
from bench.paper.suite import Cell, read_suite, sheet
from bench.paper.table import make_table
from bench.report.records import Run
from tests.paper.suites import TEXT, write
from tests.report import recording

LEDGER = """metrics: {final: average_accuracy, mean: average_incremental_accuracy}
protocols:
  same:
    {description: the same, family: linear, probe: linear, encoder: resnet18, precision: fp32, batch: 256, seeds: 1,
     epochs: {cifar100: 500}, facts: a paper}
  other: {description: an online classifier, family: linear, encoder: resnet18, facts: a paper}
  neighbours: {description: k neighbours, family: knn, facts: a paper}
  dark: {description: not known, family: unknown, facts: a summary}
rows:
"""
ROW = "{source: A, version: v1, where: table 1, dataset: cifar100, scenario: class_il, url: 'http://x'"
FACTS = {
    "recipe": "",
    "settings": {
        "encoder": {"name": "resnet18", "width": 64},
        "train": {"epochs": 500, "batch": 256},
        "numerics": {"precision": "fp32"},
    },
}


def published(
    protocol="same", tasks=3, objective="moco", strategy="finetune", metric="final", value=60.0, confidence="exact"
):
    return (
        f"- {ROW}, protocol: {protocol}, tasks: {tasks}, objective: {objective}, strategy: {strategy}, "
        f"metric: {metric}, value: {value}, std: null, confidence: {confidence}, note: ''}}\n"
    )


def head(strategy="finetune", objective="moco", seed=0, facts=FACTS, **changes):
    chosen = {"dataset": "cifar100", "preset": "paper", "config": facts} | changes
    return recording.config(strategy, objective, seed, **chosen)


class Place:
    """A folder with a suite, a ledger and recorded runs; `table` makes the table of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.planned: dict[Cell, list[Run]] = {}
        self.numbers, self.lists = [published()], "{}"
        self.text = TEXT.replace("tasks: 5", "tasks: 3").replace("[cassle-online-probe]", "[same, other, neighbours]")

    def record(self, rows, cell=("finetune", "moco")):
        recording.write(self.out, rows)
        self.planned.setdefault(Cell(0, *cell, ""), []).append(Run(self.out, rows[0]))

    def table(self, tier="paper", absent=None):
        ledger = LEDGER.replace("facts: a paper}", f"class_lists: {self.lists}, facts: a paper}}", 1)
        (self.folder / "ledger.yaml").write_text(ledger + "".join(self.numbers))
        ledger = read_ledger(self.folder / "ledger.yaml")
        suite = read_suite(write(self.folder, self.text), ledger)
        return make_table(sheet(suite, tier), self.planned, absent or {}, ledger, self.out)

    def entry(self, **how):
        made = self.table(**how)
        first = made.entries()[0]
        return first, [made.footnotes[number - 1] for number in first.notes]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_run_of_the_same_protocol_is_subtracted_without_a_footnote(place):
    place.record(recording.rows_of(head()))
    entry, notes = place.entry()
    mean = 100 * recording.plausible(head(), "linear")[0][-1].mean()
    assert entry.here.mean == pytest.approx(mean)
    assert entry.difference == pytest.approx(mean - 60)
    assert entry.comparable
    assert notes == []


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"dataset": "fashion_mini"}, "dataset: published cifar100, here fashion_mini"),
        ({"scenario": "data_il"}, "scenario: published class_il, here data_il"),
        ({"tasks": 2}, "tasks: published 3, here 2"),
        ({"preset": "pilot"}, "preset: here pilot, not paper"),
        ({"encoder": {"name": "resnet18", "width": 16}}, "encoder: published resnet18, here resnet18 of width 16"),
        ({"train": {"epochs": 20, "batch": 256}}, "epochs per task: published 500, here 20"),
    ],
)
def test_each_difference_of_data_or_scale_has_its_footnote_and_forbids_the_subtraction(changes, note, place):
    settings = FACTS["settings"] | {key: changes[key] for key in ("encoder", "train") if key in changes}
    rest = {key: value for key, value in changes.items() if key not in settings}
    place.record(recording.rows_of(head(facts=FACTS | {"settings": settings}, **rest)))
    entry, notes = place.entry()
    assert notes == [note]
    assert not entry.comparable
    assert entry.difference != entry.difference


@pytest.mark.parametrize(
    ("note", "blocked"),
    [
        ("", "CMC, solo-learn, CaSSLe"),
        ("another ImageNet-100 class list (fingerprint 82b5291afc03, 8 classes in common with CMC's)", ""),
        (
            "another ImageNet-100 class list (fingerprint 0, 9 classes)",
            "another ImageNet-100 class list (fingerprint 0",
        ),
    ],
)
def test_imagenet100s_of_other_classes_are_not_subtracted(note, blocked, place):
    place.numbers = [published().replace("cifar100", "imagenet100")]
    place.lists, place.text = "{imagenet100: kaggle}", place.text.replace("cifar100", "imagenet100")
    place.record(recording.rows_of(head(dataset="imagenet100", note=note)))
    entry, notes = place.entry()
    assert entry.comparable == (not blocked)
    assert [text for text in notes if text.startswith("class list")] == [
        text for text in notes if blocked and f"published Kaggle ambityga/imagenet100, here {blocked}" in text
    ]
    assert any("class list" in text for text in notes) == bool(blocked)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"train": {"epochs": 500, "batch": 64}}, "batch: published 256, here 64"),
        ({"numerics": {"precision": "bf16"}}, "precision: published fp32, here bf16"),
        ({"numerics": {}}, "precision: published fp32, here not recorded"),
    ],
)
def test_a_difference_in_detail_has_its_footnote_beside_the_subtraction(changes, note, place):
    place.record(recording.rows_of(head(facts=FACTS | {"settings": FACTS["settings"] | changes})))
    entry, notes = place.entry()
    assert notes == [note]
    assert entry.difference == entry.difference


def test_changed_settings_and_a_missing_recipe_have_their_footnotes(place):
    place.text = place.text.replace('recipe: ""', "recipe: pnr")
    place.record(recording.rows_of(head(overrides={"optim.lr": 0.5})))
    assert place.entry()[1] == [
        "recipe: published pnr, here none",
        "settings: here optim.lr=0.5 over those of the preset and recipe",
    ]
    place.planned.clear()
    place.record(recording.rows_of(head(facts=FACTS | {"recipe": "pnr"})))
    assert place.entry()[1] == []


def test_more_seeds_than_published_are_averaged_and_named(place):
    for seed in range(2):
        place.record(recording.rows_of(head(seed=seed)))
    entry, notes = place.entry()
    assert (entry.here.n, notes) == (2, ["seeds: published 1, here 2"])
    assert entry.here.std > 0
    assert entry.comparable


def test_another_linear_probe_is_named_and_one_of_another_kind_is_not_subtracted(place):
    place.record(recording.rows_of(head()))
    unknown = [
        "epochs per task: published number does not state it, here 500",
        "batch: published number does not state it, here 256",
        "precision: published number does not state it, here fp32",
        "seeds: published number does not state them, here 1",
    ]
    place.numbers = [published("other")]
    entry, notes = place.entry()
    assert notes == ["probe: published an online classifier, here linear", *unknown]
    assert entry.comparable
    place.numbers = [published("neighbours")]
    entry, notes = place.entry()
    assert notes[0] == "probe: published k neighbours, here linear"
    assert not entry.comparable


def test_another_metric_is_not_subtracted(place):
    place.record(recording.rows_of(head()))
    place.numbers = [published(metric="mean")]
    entry, notes = place.entry()
    assert (notes, entry.comparable) == (["metric: published mean, here average_accuracy"], False)


def test_a_quoted_number_is_printed_and_marked_but_never_subtracted(place):
    place.record(recording.rows_of(head()))
    place.numbers = [published(confidence="quoted")]
    entry, notes = place.entry()
    assert notes == ["quoted: its protocol is not known, so no difference is formed"]
    assert entry.difference != entry.difference
    assert "60.0§ [1]" in markdown(place.table())


def test_below_tier_paper_nothing_is_comparable_even_where_all_agrees(place):
    place.record(recording.rows_of(head()))
    entry, notes = place.entry(tier="quick")
    assert (entry.comparable, notes) == (False, [])
    assert entry.difference != entry.difference
    assert "published (not comparable) | 60.0‡ |" in markdown(place.table(tier="quick"))


def test_cells_that_were_never_run_or_published_say_so(place):
    place.record(recording.rows_of(head()))
    place.record([head("cassle")], ("cassle", "moco"))
    text = markdown(place.table())
    assert f"| finetune | here | {place.entry()[0].here.mean:.1f} | not run |" in text
    assert "|  | published | 60.0 | not in the ledger |" in text
    assert "| cassle | here | not run | not run |\n|  | published | not in the ledger | not in the ledger |\n" in text
    assert "|  | n | 0/1 | – |" in text
    assert "not in the ledger: no number of this cell has been checked" in text


def test_collapsed_failed_and_unfinished_runs_are_marked_and_left_out(place):
    failure = {"kind": "failure", "after_task": 1, "reason": "loss is NaN"}
    place.record(recording.marked(recording.rows_of(head())))
    place.record([*recording.rows_of(head(objective="barlow"))[:9], failure], ("finetune", "barlow"))
    place.record(recording.rows_of(head("cassle"))[:9], ("cassle", "moco"))
    made = place.table()
    assert [entry.runs.state for entry in made.entries()] == ["collapsed", "failed", "unfinished", "not run"]
    text = markdown(made)
    assert "| finetune | here | † | failed |" in text
    assert "| 0/1† | 0/1 |" in text
    assert "): collapsed after task 1: rank 1.2" in text
    assert "): unfinished: 8 of" in text
    assert "loss is NaN" in text
    place.record(recording.rows_of(head(seed=1)))
    entry, _ = place.entry()
    assert (entry.here.n, len(entry.runs.planned), entry.runs.state) == (1, 2, "")


def test_a_probe_that_the_run_lacks_leaves_no_number_and_a_warning(place):
    place.record(recording.rows_of(head(probes=("knn",))))
    made = place.table()
    assert made.entries()[0].runs.state == "not measured"
    assert made.warnings == ("runs without the linear probe, which this block prints, are not measured",)


def test_a_probe_with_settings_is_found_under_its_own_name(place):
    place.record(recording.rows_of(head(probes=("linear(l2=1.0)",))))
    entry, notes = place.entry()
    assert entry.runs.probe == "linear(l2=1.0)"
    assert notes == ["probe: published the same, here linear(l2=1.0)"]


def test_a_part_without_data_is_shown_with_the_reason(place):
    made = place.table(absent={0: "no such folder"})
    assert made.blocks[0].title == "class_il / cifar100 / 3 tasks (not run: no such folder)"


def test_footnotes_are_numbered_once_and_spans_are_joined(place):
    place.numbers = [published(objective=name) for name in ("moco", "barlow")]
    settings = FACTS["settings"] | {"train": {"epochs": 1, "batch": 8}}
    for name in ("moco", "barlow"):
        rows = recording.rows_of(head(objective=name, preset="pilot", facts=FACTS | {"settings": settings}))
        place.record(rows, ("finetune", name))
    made = place.table()
    assert len(made.footnotes) == 3
    assert markdown(made).count("60.0‡ [1-3]") == 2
    assert [entry.notes for entry in made.entries()[:2]] == [(1, 2, 3), (1, 2, 3)]


def test_csv_has_one_line_per_cell_with_source_and_notes(place):
    place.record(recording.rows_of(head(preset="pilot")))
    rows = list(csv.DictReader(io.StringIO(csv_text(place.table()))))
    assert [(row["strategy"], row["objective"]) for row in rows] == [
        *(("finetune", "moco"), ("finetune", "barlow")),
        *(("cassle", "moco"), ("cassle", "barlow")),
    ]
    first = rows[0]
    assert (first["published"], first["comparable"], first["difference"]) == ("60.0000", "no", "")
    assert (first["n"], first["planned"], first["state"], first["url"]) == ("1", "1", "complete", "http://x")
    assert first["notes"] == "preset: here pilot, not paper"
    assert (rows[1]["published"], rows[1]["mean"], rows[1]["state"]) == ("", "", "not run")


def test_the_terminal_shows_the_same_cells_as_the_file(place):
    place.record(recording.rows_of(head()))
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(terminal(place.table()))
    shown = console.export_text()
    difference = place.entry()[0].difference
    assert f"{difference:+.1f}" in shown
    assert "not in the ledger" in shown
    assert "Two by two" in shown


def test_latex_compiles_where_there_is_a_latex(place):
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here")
    place.numbers = [published(value=90.5), published(objective="barlow", confidence="quoted")]
    place.record(recording.rows_of(head()))
    place.record(recording.marked(recording.rows_of(head("cassle", preset="50%_quick & #1"))), ("cassle", "moco"))
    text = latex(place.table())
    assert "$-$" in text
    (place.folder / "table.tex").write_text(text)
    (place.folder / "main.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table.tex}\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    run = subprocess.run(command, cwd=place.folder, capture_output=True)
    assert run.returncode == 0, run.stdout.decode(errors="replace")[-2000:]


def test_a_variant_never_gets_the_published_number_of_the_plain_method(place):
    place.text = place.text.replace("[moco, barlow]", "[moco]").replace("columns: objective", "columns: variant")
    place.text += "variants: [{name: a}, {name: b}]\n"
    assert [entry.published for entry in place.table().entries()] == [None] * 4
    place.text = place.text.replace(", {name: b}", "")
    assert place.entry()[0].published.value == 60


def test_a_cell_of_other_code_is_marked_and_the_mark_explained(place):
    place.record(recording.made_by(recording.rows_of(head()), "0" * 12, 2))
    place.record(recording.rows_of(head("cassle")), ("cassle", "moco"))
    made = place.table()
    text = markdown(made)
    assert [line.count("¶") for line in text.splitlines() if "| here |" in line] == [1, 0]
    assert "¶ stale: averages runs that other code" in text
    assert [row["stale"] for row in csv.DictReader(io.StringIO(csv_text(made)))] == ["yes", "no", "no", "no"]
    assert r"\P{}" in latex(made)
