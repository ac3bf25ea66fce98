"""Plans for data that is not there or not decoded: from its numbers, said so, and never for a run."""

import math

import numpy as np
import pytest

from bench.commands import grid
from bench.data import pending
from bench.data.arrays import Pending
from bench.data.named import NAMED
from bench.data.pending import load_or_foresee
from bench.engine import plan
from bench.engine.estimate import Estimate, estimate
from bench.engine.keys import input_size
from bench.engine.plan import Plan, make_plan, scenario_of
from bench.engine.store import Store
from bench.grid import build_runs
from bench.options import build_parser
from tests.data.image_folders import damage, fill
from tests.engine.tiny import run, without, words


def plan_of(line, out):
    return make_plan(build_runs(grid.request_of(build_parser().parse_args(line))), out, foresee=True)


def plan_words(line):
    """The words of `plan` for a run's: those less --format."""
    return ("plan", *without(line, "--format"))


def dataset_words(name, tmp_path, *more):
    line = words("", tmp_path / "out", "finetune", "--data-dir", str(tmp_path), "--image-size", "8", *more)
    line[line.index("--dataset") + 1] = name
    return line


def foreseen(name, tmp_path, size=8):
    return load_or_foresee(name, out=tmp_path, data_dir=tmp_path, image_size=size, skip_corrupt=False, quiet=True)


def test_a_public_dataset_that_is_not_there_is_planned_with_its_numbers(tmp_path):
    data = foreseen("imagenet1k", tmp_path, 224)
    assert data.train.images.shape == (1_281_167, 256, 256, 3)
    assert data.test.images.shape == (50_000, 256, 256, 3)
    assert len(data.classes) == 1000
    assert np.bincount(data.test.labels).tolist() == [50] * 1000
    assert data.pending == Pending(
        f"imagenet1k is not in {tmp_path}: planned with the counts of the public release", 1_331_167 * 256 * 256 * 3
    )


@pytest.mark.parametrize(("name", "images"), [("cifar100", (50_000, 32, 32, 3)), ("cifar10", (50_000, 32, 32, 3))])
def test_a_public_dataset_of_arrays_is_planned_without_downloading_it(name, images, tmp_path):
    data = foreseen(name, tmp_path, None)
    assert data.train.images.shape == images
    assert len(data.classes) == int(name.removeprefix("cifar"))
    assert data.pending.why == f"{name} is not in {tmp_path}: planned with the counts of the public release"
    assert not list(tmp_path.iterdir())


def test_a_release_with_domains_is_planned_with_the_images_of_each(tmp_path):
    data = foreseen("domainnet", tmp_path)
    for split, index in ((data.train, 1), (data.test, 2)):
        counts = dict(zip(data.domains, np.bincount(split.domains).tolist(), strict=True))
        assert counts == {domain[0]: domain[index] for domain in NAMED["domainnet"].counts.domains}


def test_images_that_are_foreseen_differ_from_one_another(tmp_path):
    images = foreseen("tiny_imagenet", tmp_path).train.images
    assert len(np.unique(images[[0, 1, 50_000, 99_999]].reshape(4, -1), axis=0)) == 4


def test_two_foreseen_datasets_have_two_digests(tmp_path):
    digests = {foreseen(name, tmp_path, size).digest for name, size in (("imagenet1k", 8), ("imagenet1k", 16))}
    assert len(digests | {foreseen("imagenet100", tmp_path).digest}) == 3


@pytest.mark.parametrize(("scenario", "tasks"), [("class_il", 5), ("data_il", 5), ("domain_il", 3)])
def test_every_scenario_is_planned_from_numbers(tmp_path, scenario, tasks):
    line = dataset_words("tiny_imagenet", tmp_path, "--scenario", scenario)
    line[line.index("--tasks") + 1] = str(tasks)
    made = plan_of(line, tmp_path / "out")
    assert len(made.runs[0].images) == tasks
    assert sum(made.runs[0].images) == 100_000 * (3 / 5 if scenario == "domain_il" else 1)
    assert {each.why.partition(":")[0] for each in made.pending} == {f"tiny_imagenet is not in {tmp_path}"}


def test_a_run_on_data_that_is_not_there_is_refused(tmp_path, capsys):
    assert run(*dataset_words("tiny_imagenet", tmp_path)) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: tiny_imagenet: neither ")
    assert "wget http" in text


def test_a_plan_says_what_it_is_made_from_and_what_it_costs(tmp_path, capsys):
    more = ("--probes", "ncm", "--set", "probe.headline=ncm")
    assert run(*plan_words(dataset_words("tiny_imagenet", tmp_path, *more))) == 0
    out = capsys.readouterr().out
    assert f"tiny_imagenet is not in {tmp_path}: planned with the counts of the public release; 21 MB of decoded" in out
    assert "core-hours), " in out
    assert not (tmp_path / "out" / "datasets").exists()


def test_images_to_be_decoded_count_as_disk(tmp_path):
    ahead = Plan(pending={Pending("one", 5), Pending("two", 7)})
    assert estimate(ahead, Store(tmp_path)).bytes == 12


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (Estimate(7200, 3e9, 0, 14400, 0), "about 2.0 h with one job (4 core-hours), 3.0 GB on disk"),
        (Estimate(7200, 3e11, 0, 0, 7200), "about 2.0 h with one job (2 GPU-hours), 300 GB on disk"),
        (Estimate(720_000, 5e6, 0, 720_000, 720), "(200 core-hours and 0.2 GPU-hours), 5 MB on disk"),
        (Estimate(36, 5e6, 0, 36, 0), "about 36 s with one job (0.01 core-hours), 5 MB on disk"),
    ],
)
def test_hours_are_those_of_cores_and_of_gpus(tmp_path, capsys, monkeypatch, pictures, cost, text):
    monkeypatch.setattr(grid, "estimate", lambda ahead, store, done: cost)
    made = plan_of(words(pictures, tmp_path, "finetune"), tmp_path)
    grid.print_plan(made, Store(tmp_path), details=True)
    assert text in capsys.readouterr().out


def test_core_hours_count_the_threads_of_a_stage(tmp_path, monkeypatch, pictures):
    monkeypatch.setattr("bench.engine.estimate._Pricing._measure", lambda pricing, stage, run: (0.0, 10.0))
    monkeypatch.setattr("bench.engine.estimate._bytes", lambda stage, out: 0)
    made = plan_of(words(pictures, tmp_path, "finetune", "--set", "numerics.threads=3"), tmp_path)
    cost = estimate(made, Store(tmp_path))
    assert math.isclose(cost.seconds, 10 * len(made.stages))
    assert math.isclose(cost.core_seconds, 3 * cost.seconds)
    assert cost.gpu_seconds == 0


# data that is there


def test_files_that_take_long_to_decode_are_planned_from_their_list(tmp_path, monkeypatch, pictures):
    monkeypatch.setattr(pending, "DECODED_AT_ONCE", 1000)
    line = words(pictures, tmp_path, "finetune")
    made = plan_of(line, tmp_path)
    (each,) = made.pending
    assert each == Pending(
        "folder:pictures is not decoded yet: planned from the list of its 200 files", 200 * 8 * 8 * 3
    )
    assert not (tmp_path / "datasets").exists()
    decoded = make_plan([made.runs[0].config], tmp_path)  # as a run does
    assert decoded.runs[0].images == made.runs[0].images
    assert decoded.runs[0].task_names == made.runs[0].task_names
    assert decoded.stages.keys().isdisjoint(made.stages)


def test_decoded_files_are_planned_as_a_run_would(tmp_path, monkeypatch, pictures):
    line = words(pictures, tmp_path, "finetune")
    first = plan_of(line, tmp_path)
    monkeypatch.setattr(pending, "DECODED_AT_ONCE", 0)
    plan._scenario.cache_clear()
    plan._dataset.cache_clear()
    assert plan_of(line, tmp_path).stages.keys() == first.stages.keys()
    assert not first.pending


def test_small_folders_are_decoded_so_that_broken_files_are_named(tmp_path, capsys):
    folder = fill(tmp_path / "pictures", count=12)
    damage(folder / "cat" / "03.png", "empty")
    assert run(*plan_words(words(folder, tmp_path / "out", "finetune"))) == 2
    assert "cat/03.png: is empty" in capsys.readouterr().err


def test_a_named_dataset_has_its_usual_input_unless_another_is_given(tmp_path):
    line = dataset_words("imagenet100", tmp_path)
    for given, side in ((line, 8), (without(line, "--image-size"), 224)):
        made = plan_of(given, tmp_path)
        config = made.runs[0].config
        assert input_size(config, scenario_of(config, tmp_path, foresee=True)) == side
