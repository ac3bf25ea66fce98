"""The verdicts of `check`, and which pairs a name stands for."""

import pytest

from bench.contract import suite
from bench.contract.laws import Broken
from bench.errors import UserError
from methods import registry


def fail(strategy, objective):
    raise Broken("seen")


def crash(strategy, objective):
    raise ValueError("oops")


def hold(strategy, objective):
    return None


def verdicts(monkeypatch, objective="simclr", world="", **checks):
    monkeypatch.setattr(suite, "laws", lambda: checks)
    monkeypatch.setattr(suite, "world_size_faults", lambda pairs: dict.fromkeys(pairs, world))
    return {r.law: (r.mark, r.detail) for r in suite.check_pair("finetune", objective)}


def test_laws_hold_fail_or_crash(monkeypatch):
    assert verdicts(monkeypatch, kept=hold, broken=fail, crashed=crash) == {
        "kept": ("holds", ""),
        "broken": ("failed", "seen"),
        "crashed": ("failed", "ValueError: oops"),
        "world_size": ("holds", ""),
    }


def test_two_processes_are_judged_with_the_other_laws(monkeypatch):
    assert verdicts(monkeypatch, world="ranks differ")["world_size"] == ("failed", "ranks differ")


@pytest.mark.parametrize(("check", "mark"), [(fail, "declared"), (hold, "kept")])
def test_declared_failures_show_with_their_reason(monkeypatch, check, mark):
    assert verdicts(monkeypatch, "moco", view_order=check)["view_order"] == (mark, "each view has a queue of its own")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pnr-byol", [("sycon", "byol")]),
        ("sycon", [("sycon", o) for o in registry.classes("objective")]),
        ("pnr", [("sycon", o) for o in registry.classes("objective")]),
        ("moco", [(s, "moco") for s in suite.contenders()]),
    ],
)
def test_a_name_stands_for_its_pairs(name, expected):
    assert suite.pairs_of(name) == expected


@pytest.mark.parametrize("name", ["joint", "random", "joint-moco"])
def test_a_bound_has_no_laws(name):
    with pytest.raises(UserError, match=r"is a bound .* laws are about cassle, finetune"):
        suite.pairs_of(name)


def test_an_unknown_name_is_met_with_the_nearest():
    with pytest.raises(UserError, match=r"no method 'sycom' \(did you mean 'sycon'\?\)"):
        suite.pairs_of("sycom")
    with pytest.raises(registry.UnknownName, match="did you mean 'byol'"):
        suite.pairs_of("sycon-bylo")
