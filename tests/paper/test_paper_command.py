"""`paper`: a table of tiny runs from one command, again without training, and refusals."""

from pathlib import Path

import pytest

from bench import cli
from bench.commands import grid, paper
from bench.engine import stage
from bench.paper.ledger import read_ledger
from bench.paper.suite import read_suite, sheet
from bench.paper.table import write_asked
from tests.engine.tiny import SIZES, paint_folder
from tests.paper.suites import TEXT, write
from tests.report import recording

pytestmark = pytest.mark.xdist_group("paper")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    keys = [size.replace("=", ": ") for name in ("moco", "simclr", "cassle") for size in SIZES[name]]
    keys += ["train.epochs: 1", "train.batch: 16", "encoder.name: resnet4", "optim.lr: 0.03"]
    keys += ["numerics.device: cpu", "numerics.precision: fp32"]
    pictures = paint_folder(folder / "pictures")
    text = TEXT.replace("{train.epochs: 1}", "{" + ", ".join(keys) + "}").replace("tasks: 5", "tasks: 2")
    text = text.replace("barlow", "simclr").replace("dataset: fashion_mini", f"dataset: 'folder:{pictures}'")
    return ["paper", write(folder, text), "--out", str(folder / "out"), "--quiet"]


def test_a_table_is_made_from_nothing_and_again_without_training(line, capsys, monkeypatch):
    assert cli.main([*line, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "4 runs, 8 stages" in text
    assert text.count("not run") == 4
    out = Path(line[3])
    assert not (out / "report").exists()

    assert cli.main(line) == 0
    first = {path.name: path.read_bytes() for path in (out / "report").iterdir()}
    assert sorted(first) == ["paper-tiny-quick.csv", "paper-tiny-quick.md", "paper-tiny-quick.tex"]
    shown = first["paper-tiny-quick.md"].decode()
    assert "not run" not in shown
    assert shown.count("| 1/1 | 1/1 |") == 2
    assert "dataset: published cifar100, here folder:pictures" not in shown  # two tasks: the ledger has no such number
    assert "not in the ledger" in shown

    monkeypatch.setattr(stage, "train_task", lambda *_: pytest.fail("trained again"))
    assert cli.main(line) == 0
    assert {path.name: path.read_bytes() for path in (out / "report").iterdir()} == first
    assert cli.main([*line, "--dry-run"]) == 0
    assert "4 runs, 8 stages (4 shared): 8 done" in capsys.readouterr().out


def test_more_seeds_are_added_to_what_is_there(line, capsys):
    assert cli.main([*line, "--seeds", "0-1"]) == 0
    assert capsys.readouterr().out.count("2/2") == 4


def test_a_block_without_its_data_is_left_out_with_a_warning(line, capsys, tmp_path):
    text = (
        Path(line[1]).read_text().replace("parts:\n", "parts:\n  - {dataset: cifar100, scenario: class_il, tasks: 9}\n")
    )
    words = ["paper", write(tmp_path, text), *line[2:]]
    assert cli.main(words) == 1
    told = capsys.readouterr()
    assert "class_il / cifar100 / 9 tasks is left out: class_il: 9 tasks, but folder:pictures has 4 classes" in told.err
    assert "not run" in told.out
    assert "1/1" in told.out
    only = text.replace("tasks: 2", "tasks: 8")
    assert cli.main(["paper", write(tmp_path, only), *line[2:]]) == 2
    assert "error: class_il: 9 tasks, but" in capsys.readouterr().err


def test_a_failed_run_makes_the_status_one(line, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("broken")

    monkeypatch.setattr(stage, "train_task", fail)
    words = [*line[:2], "--out", str(tmp_path / "out"), "--quiet"]
    assert cli.main(words) == 1
    told = capsys.readouterr()
    assert "4 of 4 runs failed" in told.err
    assert "broken" in told.out


def test_the_list_names_every_table_and_what_is_done(capsys, tmp_path):
    head = recording.config(tasks=2, probes=("linear",))
    recording.write(tmp_path, recording.rows_of(head))
    write_asked(tmp_path, sheet(read_suite("sycon-moco", read_ledger()), "quick"), [head["run_id"], "0" * 16])
    assert cli.main(["paper", "list", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for word in ("cassle-main", "pnr-width", "CVPR 2022", "domainnet", "quick 1/2", "none asked for"):
        assert word in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("casle-main",), "unknown table 'casle-main' (did you mean 'cassle-main'?)"),
        (("lst",), "unknown table 'lst' (did you mean 'list'?)"),
        (("missing.yaml",), "cannot read missing.yaml"),
        (("cassle-main", "--tier", "papr"), "--tier 'papr': cassle-main has none (did you mean 'paper'?)"),
        (("cassle-main", "--seeds", "x"), "--seeds 'x' does not parse"),
        (("cassle-main", "--tierr", "quick"), "unknown argument '--tierr' (did you mean '--tier'?)"),
        ((), "the following arguments are required: NAME"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_two(words, message, capsys, tmp_path):
    assert cli.main(["paper", *words, "--out", str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    assert message in text
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cassle-main", "pnr-class"])
def test_before_any_run_tier_paper_names_only_the_differences_that_it_must(name, tmp_path, monkeypatch):
    tables, print_tables = [], paper._print
    monkeypatch.setattr(paper, "_print", lambda *given: tables.extend(print_tables(*given)))
    monkeypatch.setattr(grid, "print_plan", lambda *_, **__: None)  # which would measure the steps of ResNet-18
    assert cli.main(["paper", name, "--tier", "paper", "--dry-run", "--out", str(tmp_path), "--quiet"]) == 0
    (table,) = tables
    published = [entry for entry in table.entries() if entry.published is not None]
    kinds = {note.partition(":")[0] for note in table.footnotes}
    assert {entry.runs.state for entry in table.entries()} == {"not run"}
    assert published
    if name == "cassle-main":
        assert kinds == {"precision"}
        assert all(entry.comparable for entry in published)
    else:
        assert kinds == {"precision", "seeds", "class list"}
