"""Every law on every pair of the registry: a new method file is tested by being there."""

import fcntl
import json
from itertools import product

import pytest

from bench.contract.laws import laws
from bench.contract.suite import contenders, declared
from bench.contract.world import world_size_faults
from methods import registry

PAIRS = list(product(contenders(), registry.classes("objective")))


def cases(names):
    """One case for each law and pair, expected to fail where a method has declared so."""
    found = []
    for law, (strategy, objective) in product(names, PAIRS):
        reason = declared(strategy, objective).get(law)
        marks = [] if reason is None else [pytest.mark.xfail(strict=True, reason=reason)]
        found.append(pytest.param(law, strategy, objective, id=f"{law}-{strategy}-{objective}", marks=marks))
    return found


@pytest.mark.parametrize(("law", "strategy", "objective"), cases(laws()))
def test_law_holds(law, strategy, objective):
    laws()[law](strategy, objective)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, worker_id):
    """What two processes say of every pair, asked by one worker for all."""
    folder = tmp_path_factory.getbasetemp()
    answer = (folder if worker_id == "master" else folder.parent) / "two_processes.json"
    with answer.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.exists():
            faults = {"-".join(pair): fault for pair, fault in world_size_faults(PAIRS).items()}
            answer.write_text(json.dumps(faults), encoding="utf-8")
        return json.loads(answer.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("law", "strategy", "objective"), cases(["world_size"]))
def test_law_of_two_processes_holds(law, strategy, objective, two_processes):
    assert two_processes[f"{strategy}-{objective}"] == ""


def test_declared_failures_name_laws():
    names = {*laws(), "world_size"}
    for kind in ("strategy", "objective"):
        for cls in registry.classes(kind).values():
            assert set(cls.expected_failures) <= names
            assert all(cls.expected_failures.values())
