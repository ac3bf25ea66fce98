"""A method is a file: dropped into a copy of `methods/`, it is found, listed, run and held to the laws."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import methods

pytestmark = pytest.mark.xdist_group("processes")
REPOSITORY = Path(__file__).parents[2]
STRATEGY = '''"""Half."""

from dataclasses import dataclass

from torch import Tensor

from methods.base import Embeddings, Objective, Strategy


class Half(Strategy):
    """Half of everything (arXiv:2112.04215)."""

    name = "half"
    aliases = ("demi",)
    teacher = True

    @dataclass(frozen=True)
    class Hparams:
        """weight: of the distillation."""

        weight: float = 0.5

    def loss(self, objective: Objective, e: Embeddings, frozen: Tensor | None) -> Tensor:
        """SSL and distillation."""
        assert frozen is not None
        return objective.loss(e) + self.hparams.weight * objective.distill(e.z, frozen)
'''
RANKED = (
    STRATEGY.replace("half", "ranked")
    .replace("Half", "Ranked")
    .replace('("demi",)', "()")
    .replace("return objective", "return (1 + (dist.get_rank() if dist.is_initialized() else 0)) * objective")
    .replace("from torch import Tensor", "import torch.distributed as dist\nfrom torch import Tensor")
)
# Prints what two processes say, the methods, and an error for each bad file: one process asks all, torch takes seconds.
ASK = """
import sys
from itertools import product
from pathlib import Path

import torch
from bench.cli import main
from bench.contract.laws import laws
from bench.contract.suite import pairs_of
from bench.contract.world import world_size_faults
from methods import registry


def check():
    assert registry.resolve("strategy", "demi") == "half"
    pairs = pairs_of("half")
    assert pairs == [("half", objective) for objective in registry.classes("objective")]
    for law, pair in product(("loss_is_pure", "gradients_reach", "source_is_cited"), pairs):
        laws()[law](*pair)
    laws()["every_hparam_matters"]("half", "byol")


def list_each(names):
    folder = Path("methods/strategies")
    for name in names:
        text = (folder / name).read_text()
        (folder / f"{name}.py").write_text(text)
        registry.classes.cache_clear()
        assert main(["list", "methods"]) == 2
        (folder / f"{name}.py").unlink()


if __name__ == "__main__":
    torch.set_num_threads(1)
    check()
    print(world_size_faults([("half", "simclr"), ("ranked", "simclr")]), flush=True)
    assert main(["list", "methods"]) == 0
    list_each(sys.argv[1:])
"""
TWIN = STRATEGY.replace('"half"', '"twin"').replace('"demi"', '"pnr"')


BAD = [
    ("torn", "class Torn(:\n", "methods/strategies/torn.py does not import: SyntaxError"),
    ("lost", "import nowhere\n", "methods/strategies/lost.py does not import: ModuleNotFoundError"),
    ("other", STRATEGY, "methods/strategies/other.py must define one strategy class with name = 'other'"),
    ("empty", "", "methods/strategies/empty.py must define one strategy class with name = 'empty'"),
    ("two-words", STRATEGY, "strategies/two-words.py: 'two-words' cannot name a method"),
    ("all", STRATEGY, "strategies/all.py: 'all' cannot name a method"),
    ("twin", TWIN, "strategies/twin.py: the name 'pnr' is taken by sycon.py"),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a process says that finds a copy of `methods/` before the original, with more files in it."""
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(Path(methods.__file__).parent, copy / "methods", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in (("half.py", STRATEGY), ("ranked.py", RANKED), *((name, text) for name, text, _ in BAD)):
        (copy / "methods" / "strategies" / name).write_text(text, encoding="utf-8")
    (copy / "ask.py").write_text(ASK, encoding="utf-8")
    path = os.pathsep.join([str(copy), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "ask.py", *(name for name, _, _ in BAD)]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)


def test_a_dropped_in_strategy_is_found_listed_run_and_checked(told):
    assert told.returncode == 0, told.stderr
    assert "Half of everything" in told.stdout


def test_a_strategy_that_knows_its_rank_breaks_the_law_of_two_processes(told):
    faults = ast.literal_eval(told.stdout.splitlines()[0])
    assert faults["half", "simclr"] == ""
    assert "off one process" in faults["ranked", "simclr"]


def test_a_file_that_cannot_be_used_is_one_line(told):
    lines = told.stderr.strip().splitlines()
    assert len(lines) == len(BAD)
    for line, (_, _, message) in zip(lines, BAD, strict=True):
        assert message in line
