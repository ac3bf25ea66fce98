"""Suites: those that ship are whole, and a file that is not is refused in one line."""

from pathlib import Path

import pytest

from bench.errors import UserError
from bench.paper.ledger import read_ledger
from bench.paper.suite import Cell, read_suite, sheet, suite_names
from bench.paper.table import make_table
from tests.paper.suites import TEXT, write

LEDGER = read_ledger()


def test_the_tables_of_the_papers_ship_with_every_tier():
    names = suite_names()
    assert {"cassle-main", "pnr-class", "pnr-data", "pnr-domain", "pnr-queue", "pnr-width", "sycon-moco"} <= set(names)
    for name in names:
        suite = read_suite(name, LEDGER)
        assert set(suite.tiers) == {"quick", "pilot", "paper"}
        assert suite.recipe in ("pnr", "cassle")
        assert sheet(suite, "quick").dataset == "fashion_mini"
        assert len(set(suite.cells())) == len(suite.cells())


def test_the_main_table_of_cassle_has_a_published_number_in_every_cell():
    suite = read_suite("cassle-main", LEDGER)
    for cell in suite.cells():
        part = suite.parts[cell.part]
        where = (part.protocols, part.dataset, part.scenario, part.tasks)
        assert LEDGER.find(*where, cell.objective, cell.strategy) is not None
    assert len(suite.cells()) == 24


def test_cells_are_named_by_their_place_on_every_axis(tmp_path):
    suite = read_suite(write(tmp_path), LEDGER)
    assert suite.name == "tiny"
    assert suite.cells() == [Cell(0, s, o, "") for s in ("finetune", "cassle") for o in ("moco", "barlow")]


def test_a_block_says_where_the_domains_are_not_the_papers():
    suite = read_suite("pnr-domain", LEDGER)
    titles = {tier: make_table(sheet(suite, tier), {}, {}, LEDGER, Path()).blocks[0].title for tier in suite.tiers}
    assert titles["paper"] == "domain_il / domainnet / 6 tasks, linear_offline probe"
    assert titles["quick"] == "domain_il / domainnet / 6 tasks, here on every domain of fashion_mini"


def test_a_tier_has_its_own_variants_and_settings_over_those_of_the_suite(tmp_path):
    text = TEXT.replace("[moco, barlow]", "[moco]").replace("columns: objective", "columns: variant")
    text += "settings: {optim.lr: 0.1, train.epochs: 9}\nvariants: [{name: a, settings: {moco.queue: 65536}}]\n"
    text = text.replace("settings: {train.epochs: 1}", "settings: {train.epochs: 1}, variants: [{name: b}, {name: c}]")
    suite = read_suite(write(tmp_path, text), LEDGER)
    small, full = sheet(suite, "quick"), sheet(suite, "paper")
    assert small.suite.axis("variant") == ("b", "c")
    assert full.suite.axis("variant") == ("a",)
    keys = {name: given.value for name, given in small.keys(small.suite.parts[0], small.suite.variants[0]).items()}
    assert keys == {"optim.lr": 0.1, "train.epochs": 1}
    whole = full.keys(full.suite.parts[0], full.suite.variants[0])
    assert {name: given.value for name, given in whole.items()} == {
        "optim.lr": 0.1,
        "train.epochs": 9,
        "moco.queue": 65536,
    }


def test_probe_settings_and_recipe_of_a_part_are_for_tier_paper_only(tmp_path):
    text = TEXT.replace("[cassle-online-probe]", "[cassle-online-probe], probe: knn, settings: {probe.knn.k: 5}")
    suite = read_suite(write(tmp_path, text.replace('recipe: ""', "recipe: pnr")), LEDGER)
    part, variant = suite.parts[0], suite.variants[0]
    small, full = sheet(suite, "quick"), sheet(suite, "paper")
    assert (small.probe(part), small.recipe, list(small.keys(part, variant))) == ("linear", "", ["train.epochs"])
    assert (full.probe(part), full.recipe, list(full.keys(part, variant))) == ("knn", "pnr", ["probe.knn.k"])


def test_a_dataset_stands_in_below_tier_paper_and_chooses_blocks_at_it(tmp_path):
    suite = read_suite("cassle-main", LEDGER)
    assert sheet(suite, "quick", "folder:x").spec(suite.parts[1]) == "folder:x"
    chosen = sheet(suite, "paper", "imagenet100")
    assert [(part.dataset, chosen.spec(part)) for part in chosen.suite.parts] == [("imagenet100", "imagenet100")]
    with pytest.raises(UserError, match=r"--dataset 'cifar10': .*did you mean 'cifar100'"):
        sheet(suite, "paper", "cifar10")
    with pytest.raises(UserError, match=r"--tier 'quik': .*did you mean 'quick'"):
        sheet(suite, "quik")


def test_other_domains_than_the_papers_are_all_taken():
    suite = read_suite("pnr-domain", LEDGER)
    part = suite.parts[0]
    assert sheet(suite, "paper").tasks(part) == 6
    assert sheet(suite, "quick").tasks(part) is None
    other = read_suite("pnr-class", LEDGER)
    assert sheet(other, "quick").tasks(other.parts[1]) == 10


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("probe: linear\n", "prob: linear\n", r":5: unknown field 'prob' of a suite \(did you mean 'probe'\?\)"),
        ("title: Two by two\n", "", ":1: a suite lacks the field 'title'"),
        ("average_accuracy", "averag_accuracy", r":4: metric: unknown 'averag_accuracy' \(did you mean"),
        ("[cassle-online-probe]", "[casle-online-probe]", r":11: protocols: unknown 'casle-online-probe' \(did you"),
        ("tasks: 5", "tasks: five", ":11: tasks takes a whole number, not 'five'"),
        ("tasks: 5", "tasks: 0", ":11: tasks must be at least 1, not 0"),
        ("class_il", "class_ill", r":11: scenario cannot be 'class_ill' \(did you mean"),
        ("dataset: cifar100, ", "", ":11: an item of parts lacks the field 'dataset'"),
        ("  quick:", "  quik:", r"unknown tier 'quik' \(did you mean 'quick'\?\)"),
        ("columns: objective", "columns: strategy", ":9: columns: 'strategy' already stands in the rows"),
        ("columns: objective", "columns: variant", ":8: rows: strategy by variant leaves no place for 2 of objective"),
        ("columns: objective", "columns: dataset", ":9: columns cannot be 'dataset'"),
        ("[finetune, cassle]", "[cassle, cassle]", "strategy 'cassle' is given twice"),
        ("[finetune, cassle]", "[]", "no strategy is named"),
        ("  paper: {preset: paper}", "  paper: {preset: paper, dataset: cifar10}", "tier paper takes the data of"),
        ("  paper: {preset: paper}", "  paper: {preset: paper, fidelity: relesed}", "unknown fidelity 'relesed'"),
    ],
)
def test_a_suite_is_refused_in_one_line(old, new, message, tmp_path):
    assert old in TEXT
    with pytest.raises(UserError, match=message) as found:
        read_suite(write(tmp_path, TEXT.replace(old, new)), LEDGER)
    assert "\n" not in str(found.value)


def test_an_unknown_table_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"unknown table 'casle-main' \(did you mean 'cassle-main'\?\)"):
        read_suite("casle-main", LEDGER)
