"""Every law on every pair of the registry: a new method file is tested by being there."""

from itertools import product

import pytest

from bench.contract.laws import laws
from bench.contract.suite import contenders, declared
from bench.contract.world import world_size_faults
from methods import registry

PAIRS = list(product(contenders(), registry.classes("objective")))


def cases(names, group):
    """One case for each law and pair, expected to fail where a method has declared so; group: of an objective."""
    found = []
    for law, (strategy, objective) in product(names, PAIRS):
        reason = declared(strategy, objective).get(law)
        marks = [] if reason is None else [pytest.mark.xfail(strict=True, reason=reason)]
        marks.append(pytest.mark.xdist_group(group(objective)))
        found.append(pytest.param(law, strategy, objective, id=f"{law}-{strategy}-{objective}", marks=marks))
    return found


# Laws on one objective share its first tasks.
@pytest.mark.parametrize(("law", "strategy", "objective"), cases(laws(), "laws-{}".format))
def test_law_holds(law, strategy, objective):
    laws()[law](strategy, objective)


@pytest.fixture(scope="module")
def two_processes():
    """What two processes say of every pair."""
    return world_size_faults(PAIRS)


@pytest.mark.parametrize(("law", "strategy", "objective"), cases(["world_size"], lambda _: "processes"))
def test_law_of_two_processes_holds(law, strategy, objective, two_processes):
    assert two_processes[strategy, objective] == ""


def test_declared_failures_name_laws():
    names = {*laws(), "world_size"}
    for kind in ("strategy", "objective"):
        for cls in registry.classes(kind).values():
            assert set(cls.expected_failures) <= names
            assert all(cls.expected_failures.values())
