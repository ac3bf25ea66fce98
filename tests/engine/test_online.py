"""The classifier trained beside the encoder: what it may change, what it learns, and what passes on of it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bench.config import OnlineConfig
from bench.contract.trial import Trial, differing, equal, packed
from bench.data import augment
from bench.engine import stage
from bench.engine.checkpoint import load_tensors, restore_training_state, training_state
from bench.engine.online import Online, online_rows
from bench.engine.train import train_task
from bench.evaluate.features import EVERY_TASK, Features
from bench.models.optim import build_optimizer
from bench.report.records import read_run
from bench.seeding import generator, permutation
from tests.engine.tiny import differing as differing_files
from tests.engine.tiny import planned, records, results, run, words

pytestmark = pytest.mark.xdist_group("grid")
ON = ("--set", "online.run=true")


def trial(objective="byol", data_seed=0, **online):
    """A pair at toy size with a classifier, or without one."""
    made = Trial.of("cassle", objective, data_seed=data_seed)
    made.run = replace(made.run, settings=replace(made.run.settings, online=OnlineConfig(**online)))
    return made


def train(made, saved=None, start=0):
    """The states of learner and classifier behind each step of task 0, from `saved` behind `start` steps if given."""
    learner, views = made.learner(0), made.views(0)
    optimizer = build_optimizer(learner, made.run.settings.optim, learner.constant_lr)
    online = Online(learner, views, made.scenario) if made.run.settings.online.run else None
    if saved is not None:
        restore_training_state(learner, optimizer, saved)
        online.restore(saved)
    states = []

    def after(progress):
        state = training_state(learner, optimizer) | ({} if online is None else online.training_state())
        states.append(packed(state))

    train_task(learner, optimizer, views, made.run.settings, start, after, online)
    return states


def of_run(state):
    return {name: value for name, value in state.items() if not name.startswith("online.")}


def of_classifier(state):
    return {name: value for name, value in state.items() if name.startswith("online.")}


@pytest.mark.parametrize("objective", ["byol", "simclr"])
def test_without_leak_a_run_is_the_same_bit_by_bit_with_and_without_the_classifier(objective):
    with_it, without = train(trial(objective, run=True))[-1], train(trial(objective))[-1]
    assert differing(of_run(with_it), without) == ""


def test_without_leak_labels_and_images_of_other_tasks_reach_the_classifier_alone():
    mine, theirs = (train(trial(data_seed=seed, run=True))[-1] for seed in (1, 2))
    assert differing(of_run(mine), of_run(theirs)) == ""
    assert not equal(of_classifier(mine), of_classifier(theirs))


def test_with_leak_the_running_statistics_of_both_networks_move_and_nothing_else_of_the_first_task():
    leaky, clean = train(trial(run=True, leak=True))[-1], train(trial(run=True))[-1]
    moved = {name for name in of_run(clean) if not torch.equal(leaky[name], clean[name])}
    assert {name.split(".")[1] for name in moved} == {"encoder", "target"}
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in moved)
    assert not equal(of_classifier(leaky), of_classifier(clean))


def test_with_leak_statistics_take_three_batches_a_step_and_the_last_is_of_all_classes():
    made = trial(run=True, leak=True)
    learner, views = made.learner(0), made.views(0)
    online = Online(learner, views, made.scenario)
    learner(views(0, 0))
    before = learner.encoder.stem[1].running_mean.clone()
    x, _ = online._batch(0, 0, 2)
    maps = learner.encoder.stem[0](learner.prepare(x)[0])
    online(0, 4)
    bn = learner.encoder.stem[1]
    torch.testing.assert_close(bn.running_mean, 0.9 * before + 0.1 * maps.mean((0, 2, 3)).detach())
    assert int(bn.num_batches_tracked) == int(learner.target.stem[1].num_batches_tracked) == 3


def test_a_step_is_gradient_descent_on_batches_of_all_tasks_in_the_recipe_of_the_second_view():
    made = trial(run=True, lr=0.5)
    settings = made.run.settings
    optim = replace(settings.optim, name="sgd", weight_decay=0.3, momentum=0.0)
    made.run = replace(made.run, settings=replace(settings, optim=optim))
    learner, views = made.learner(0), made.views(0)
    online = Online(learner, views, made.scenario)
    weight, bias = (online.classifier.state_dict()[name].clone().requires_grad_() for name in ("weight", "bias"))
    online(0, 4)
    train_split, per_epoch, batch = made.scenario.dataset.train, 2, settings.train.batch
    rows = permutation(len(train_split.labels), 0, "online", 0, 0)[:batch]
    assert len({int(np.flatnonzero([row in t.train for t in made.scenario.tasks])[0]) for row in rows}) > 1
    recipe = settings.augment.view2
    draw = augment.draw(recipe, per_epoch * batch, 8, 8, 1, generator(0, "online", 0, 0))
    images = torch.from_numpy(train_split.images[rows].transpose(0, 3, 1, 2).copy())
    x = augment.apply(images, augment.take(draw, slice(0, batch)), 8, *views.stats)
    learner.encoder.eval()
    with torch.no_grad():
        h = learner.encoder(x)
    F.cross_entropy(h @ weight.T + bias, torch.from_numpy(train_split.labels[rows])).backward()
    state = online.carried_state()
    torch.testing.assert_close(state["weight"], (weight - 0.5 * weight.grad).detach())
    torch.testing.assert_close(state["bias"], (bias - 0.5 * bias.grad).detach())


def test_the_classifier_learns_under_its_own_rate_on_the_schedule_of_the_run():
    made = trial(run=True, lr=0.25)
    optim = replace(made.run.settings.optim, warmup_epochs=1, warmup_start_lr=0.05)
    made.run = replace(made.run, settings=replace(made.run.settings, optim=optim))
    online = Online(made.learner(0), made.views(0), made.scenario)
    rates = []
    for step in range(4):
        online(step, 4)
        rates.append(online.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.05, 0.15, 0.25, 0.125])
    assert {group["weight_decay"] for group in online.optimizer.param_groups} == {0.0}


@pytest.mark.parametrize("leak", [False, True])
def test_stopped_after_any_step_the_classifier_goes_on_bit_by_bit(leak):
    made = trial(run=True, leak=leak)
    states = train(made)
    for steps in range(1, len(states)):
        assert differing(states[-1], train(made, states[steps - 1], steps)[-1]) == ""


def test_rows_are_accuracies_over_all_classes_by_task():
    classifier = {"weight": torch.eye(3), "bias": torch.tensor([0.0, 0.0, 0.5])}
    x = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.4, 0.3, 0], [0, 0, 1]]).half()
    y, nothing = torch.tensor([0, 1, 0, 2]), torch.zeros(0)
    tasks = torch.tensor([0, 0, 0, 1])
    expected = [(0, 0.66666667, 3), (1, 1.0, 1)]
    for test_task, wanted in ((tasks, expected), (torch.full((4,), EVERY_TASK), [(0, 0.75, 4), (1, 0.75, 4)])):
        found = online_rows(classifier, Features(nothing, nothing, nothing, x, y, test_task), 2)
        assert [(row["on_task"], row["value"], row["n"]) for row in found] == wanted
        assert {row["probe"] for row in found} == {"linear_online"}


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """finetune on two tasks with the classifier, and its command line."""
    out = tmp_path_factory.mktemp("online") / "out"
    line = words(pictures, out, "finetune-byol", "--quiet", *ON)
    assert run(*line) == 0
    return out, line


def test_its_accuracies_are_recorded_after_every_task_and_the_run_is_complete(finished):
    out, _ = finished
    (path,) = (out / "records").glob("*.jsonl")
    found = read_run(path, [])
    assert found.status == "complete"
    assert "linear_online" in found.probes
    matrix = found.matrix("linear_online")
    assert matrix.shape == (2, 2)
    assert np.isfinite(matrix).all()
    assert np.isnan(found.random("linear_online")).all()
    assert all(name != "linear_online" for name, _ in found.pixels)


def test_its_rows_are_those_of_its_weights_on_the_cached_features(finished):
    out, _ = finished
    (rows,) = records(out).values()
    key = rows[0]["stages"][-1]
    classifier, _ = load_tensors(out / "stages" / key / "online.safetensors")
    features = Features(**load_tensors(out / "stages" / key / "features.safetensors")[0])
    right = (features.test_x.float() @ classifier["weight"].T + classifier["bias"]).argmax(1) == features.test_y
    for task in range(2):
        (row,) = (r for r in rows if r.get("probe") == "linear_online" and (r["after_task"], r["on_task"]) == (1, task))
        assert row["value"] == pytest.approx(float(right[features.test_task == task].float().mean()), abs=1e-6)


def test_it_is_carried_from_task_to_task(finished, tmp_path, monkeypatch):
    out, line = finished
    again = shutil.copytree(out, tmp_path / "out")
    first, second = next(iter(records(out).values()))[0]["stages"][-2:]
    shutil.rmtree(again / "stages" / second)
    taken, real = [], Online.carry_on

    def watched(self, state):
        real(self, state)
        taken.append(packed(self.carried_state()))

    monkeypatch.setattr(Online, "carry_on", watched)
    assert run(*[str(again) if word == str(out) else word for word in line]) == 0
    assert len(taken) == 1
    assert equal(taken[0], load_tensors(out / "stages" / first / "online.safetensors")[0])


def test_a_grid_killed_inside_a_task_ends_with_the_bytes_of_an_undisturbed_one(finished, tmp_path, monkeypatch):
    out, line = finished
    other = [str(tmp_path / "out") if word == str(out) else word for word in line]
    calls = []
    real = stage._Saver.__call__

    def dying(self, progress):
        real(self, progress)
        calls.append(progress.step)
        if len(calls) in (2, 5):
            raise KeyboardInterrupt

    monkeypatch.setattr(stage._Saver, "__call__", dying)
    statuses = [run(*other, "--save-every", "0") for _ in range(3)]
    assert statuses == [130, 130, 0]
    assert calls[:3] == [1, 2, 3]
    assert differing_files(results(out), results(tmp_path / "out")) == []


def test_the_classifier_enters_the_keys_of_tasks_alone_and_only_where_there_is_one(pictures, tmp_path):
    def stages(*more):
        (single,) = planned(*words(pictures, tmp_path, "finetune-byol", *more)).runs
        return single.stages

    plain, on = stages(), stages(*ON)
    assert stages("--set", "online.leak=true", "--set", "online.lr=3") == plain
    assert on[:2] == plain[:2]
    keys = {on[2], stages(*ON, "--set", "online.leak=true")[2], stages(*ON, "--set", "online.lr=3")[2], plain[2]}
    assert len(keys) == 4
