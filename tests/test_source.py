"""Which files the code of a stage is: those its numbers depend on, and a new one only where somebody puts it."""

import pytest

from bench import source
from tests.changed_code import changed, copied, files

UNCOUNTED = {
    # they ask for runs, lead through them, and show what came of them
    *("bench/cli.py", "bench/options.py", "bench/errors.py", "bench/files.py", "bench/source.py", "bench/seal.py"),
    *("bench/commands/", "bench/report/", "bench/paper/", "bench/speed/", "bench/contract/", "bench/data/doctor/"),
    *("bench/launch/", "bench/upkeep/", "bench/engine/failures.py", "bench/engine/foreign.py"),
    *("bench/links.py", "bench/engine/artefacts.py", "bench/engine/board.py", "bench/output.py"),
    *("bench/engine/display.py", "bench/engine/environment.py", "bench/engine/estimate.py", "bench/engine/packing.py"),
    *("bench/engine/plan.py", "bench/engine/records.py", "bench/engine/runner.py", "bench/engine/store.py"),
    *("bench/lease.py", "bench/processes.py", "bench/torchrun.py", "bench/engine/company.py", "bench/engine/origin.py"),
    *("bench/engine/progress.py", "bench/engine/sizes.py", "bench/engine/stopping.py"),
    *("bench/evaluate/catalogue.py", "bench/evaluate/metrics.py", "methods/registry.py"),
    # a key holds what comes of them: settings, and the content of a dataset
    *("bench/config.py", "bench/grid.py", "bench/layers.py", "bench/recipes.py", "bench/engine/keys.py"),
    *("bench/data/build.py", "bench/data/class_lists/", "bench/data/datasets.py", "bench/data/decode.py"),
    *("bench/data/fashion_mini/", "bench/data/folders.py", "bench/data/idx.py", "bench/data/listing.py"),
    *("bench/data/named/", "bench/data/noise.py", "bench/data/pending.py"),
}
METHODS = ("methods/objectives/", "methods/strategies/")


def codes(root, strategy="cassle", objective="moco"):
    """Of a stage without a method, and of the first three that a run trains, as the code in a place has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "ROOT", root)
        return source.base_code(), *source.trained_codes(objective, strategy, 3)


def test_every_file_counts_or_does_not():
    counted = [name for name in files() if name in source.COUNTED]
    rest = files() - set(counted)
    places = tuple(place for place in UNCOUNTED if place.endswith("/")) + METHODS
    assert sorted(counted) == sorted(source.COUNTED)
    assert {name for name in rest if not name.startswith(places)} == {n for n in UNCOUNTED if n.endswith(".py")}


def test_what_the_harness_reads_of_methods_counts():
    for name in source.COUNTED:
        assert source._imported(source.ROOT, name) - {"methods/registry.py"} <= set(source.COUNTED)


def test_a_copy_elsewhere_has_the_same_codes(tmp_path):
    assert codes(copied(tmp_path)) == codes(source.ROOT)
    assert len(set(codes(source.ROOT))) == 4


@pytest.mark.parametrize(
    ("name", "first_changed"),
    [
        ("methods/strategies/cassle.py", 2),
        ("methods/objectives/moco.py", 1),
        ("methods/losses.py", 0),
        ("bench/engine/train.py", 0),
        ("methods/strategies/sycon.py", None),
        ("methods/strategies/entirely_new.py", None),
        ("bench/report/tables.py", None),
    ],
)
def test_a_change_changes_the_codes_from_the_first_stage_that_it_touches(tmp_path, name, first_changed):
    same = [one == other for one, other in zip(codes(source.ROOT), codes(changed(tmp_path, name)), strict=True)]
    expected = 4 if first_changed is None else first_changed
    assert same == [True] * expected + [False] * (4 - expected)


def test_a_method_that_imports_another_changes_with_it(tmp_path):
    heir = ("methods/strategies/heir.py", "from methods.strategies.cassle import CaSSLe\n")
    both, later = changed(tmp_path / "both", *heir), changed(tmp_path / "later", *heir)
    changed(later, "methods/strategies/cassle.py")
    assert codes(both, "heir")[:2] == codes(later, "heir")[:2]
    assert codes(both, "heir")[2:] != codes(later, "heir")[2:]


def test_a_stage_says_when_it_was_made_from_one_of_other_code():
    first, second = source.trained_codes("moco", "cassle", 2)
    assert source.following_code(None, "moco", "cassle") == first
    assert source.following_code(first, "moco", "cassle") == second
    assert source.following_code("0" * 12, "moco", "cassle") != second


@pytest.mark.parametrize("name", ["../../../etc/passwd", "gone"])
def test_a_method_that_is_not_here_has_a_code_of_its_own(name):
    assert codes(source.ROOT, name)[2] != codes(source.ROOT, "cassle")[2]
