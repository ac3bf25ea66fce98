"""Pictures to learn from, and one finished grid that tests copy instead of training it again."""

import shutil
from collections import Counter
from typing import NamedTuple

import pytest

from bench.engine import stage
from bench.speed import step
from tests.engine.tiny import paint_folder, run, words


class Finished(NamedTuple):
    """A results folder, the command line that filled it, and how often it trained each task."""

    out: object
    line: list
    trained: Counter


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    return paint_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    """An estimate measures steps for a moment only."""
    monkeypatch.setattr(step, "SECONDS", 0.02)


@pytest.fixture
def trained(monkeypatch):
    """Counts trainings by task index."""
    return count_trainings(monkeypatch)


def count_trainings(monkeypatch):
    calls = Counter()
    real = stage.train_task

    def counting(learner, optimizer, views, *rest):
        calls[views.task] += 1
        real(learner, optimizer, views, *rest)

    monkeypatch.setattr(stage, "train_task", counting)
    return calls


@pytest.fixture(scope="session")
def grid(pictures, tmp_path_factory):
    """finetune, cassle and sycon on two tasks, trained undisturbed by one job."""
    out = tmp_path_factory.mktemp("grid") / "out"
    line = words(pictures, out, "finetune,cassle,sycon", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        calls = count_trainings(patch)
        assert run(*line) == 0
    return Finished(out, line, calls)


@pytest.fixture
def copied(grid, tmp_path):
    """A copy of the finished grid that a test may damage."""
    return copy_of(grid, tmp_path / "out")


def copy_of(finished, out):
    shutil.copytree(finished.out, out)
    line = [str(out) if word == str(finished.out) else word for word in finished.line]
    return Finished(out, line, finished.trained)


@pytest.fixture(scope="session")
def few_pictures(tmp_path_factory):
    return paint_folder(tmp_path_factory.mktemp("data") / "few", 30)


@pytest.fixture(scope="session")
def least(few_pictures, tmp_path_factory):
    """A grid that has every kind of file of a stage, and trains in a fraction of a second."""
    out = tmp_path_factory.mktemp("least") / "out"
    line = words(few_pictures, out, "finetune,cassle", "--quiet", "--probes", "knn", "--epochs", "2")
    line += ["--set", "probe.headline=knn", "--set", "online.run=true"]
    assert run(*line) == 0
    return Finished(out, line, Counter())


@pytest.fixture
def little(least, tmp_path):
    """A copy of it that a test may damage."""
    return copy_of(least, tmp_path / "out")
