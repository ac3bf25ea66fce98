"""Switches of the learner for what released code does: the teacher's mode, the lag of momentum networks, device
groups."""

from dataclasses import replace

import pytest
import torch

from bench.contract.trial import STEPS, Trial, packed
from bench.engine.train import train_steps
from bench.models.optim import build_optimizer
from methods.base import Embeddings
from tests.models.test_learner import batch, make, modes

PER_EPOCH = STEPS // 2


def trial(strategy, objective, **train):
    """A pair at toy size, two epochs of two steps per task, under settings of `train`."""
    made = Trial.of(strategy, objective)
    settings = made.run.settings
    made.run = replace(made.run, settings=replace(settings, train=replace(settings.train, **train)))
    return made


def steps_of(made, task=0):
    """The learner, and its progress through a task, one step at a time."""
    learner = made.learner(task)
    optimizer = build_optimizer(learner, made.run.settings.optim, learner.constant_lr)
    return learner, train_steps(learner, optimizer, made.views(task), made.run.settings, 0)


def parameters(module):
    return [p.detach().clone() for p in module.parameters()]


def test_the_reference_teacher_is_in_eval_mode_for_an_epoch_and_then_in_training_mode():
    learner, steps = steps_of(trial("cassle", "byol", teacher_bn="reference"), task=1)
    seen = []
    for _ in steps:
        seen.append(modes(learner.teacher))
        assert modes(learner.encoder) == {True}
    assert seen == [{False}] * PER_EPOCH + [{True}] * PER_EPOCH


def test_the_reference_teacher_moves_its_statistics_from_the_second_epoch_on():
    learner, steps = steps_of(trial("cassle", "byol", teacher_bn="reference"), task=1)
    start, moved = packed(learner.teacher.state_dict()), []
    for _ in steps:
        now = learner.teacher.state_dict()
        moved.append(any(not torch.equal(now[name], start[name]) for name in start))
        assert all(torch.equal(now[name], start[name]) for name, _ in learner.teacher.named_parameters())
    assert moved == [False] * PER_EPOCH + [True] * PER_EPOCH


def test_a_teacher_back_in_eval_mode_knows_the_statistics_that_moved():
    learner = make(teacher_bn="reference")
    learner.begin_epoch(0)
    before = learner(batch()).frozen
    learner.begin_epoch(1)
    learner(batch(1))
    learner.begin_epoch(0)
    after = learner(batch()).frozen
    assert not torch.allclose(before, after, atol=1e-4)
    learner.teacher._folded.clear()
    torch.testing.assert_close(learner(batch()).frozen, after)


@pytest.mark.parametrize("objective", ["moco", "byol"])
def test_momentum_networks_that_skip_the_first_step_lag_one_step_behind(objective):
    learner, steps = steps_of(trial("finetune", objective, ema_skip_first=True))
    pairs = [(learner.target, learner.encoder), (learner.objective.target_projector, learner.objective.projector)]
    for step, before in enumerate([parameters(target) for target, _ in pairs] for _ in range(STEPS)):
        next(steps)
        tau = 1.0 if step == 0 else learner.objective.tau((step - 1) / STEPS)
        for (target, online), old in zip(pairs, before, strict=True):
            for p, q, b in zip(target.parameters(), online.parameters(), old, strict=True):
                torch.testing.assert_close(p.data, tau * b + (1 - tau) * q.data, rtol=1e-5, atol=1e-7)
                assert step > 0 or torch.equal(p.data, b)


def test_queues_take_the_first_batch_even_where_momentum_networks_skip_it():
    learner, steps = steps_of(trial("finetune", "moco", ema_skip_first=True, batch=4))
    before = learner.objective.pool.keys.clone()
    next(steps)
    assert not torch.equal(learner.objective.pool.keys, before)


def test_without_the_switch_momentum_networks_move_in_the_first_step():
    learner, steps = steps_of(trial("finetune", "byol"))
    before = parameters(learner.target)
    next(steps)
    assert any(not torch.equal(p, b) for p, b in zip(learner.target.parameters(), before, strict=True))


def test_device_groups_reach_the_losses_and_not_batch_norm():
    whole, grouped = make("finetune", "vicreg"), make("finetune", "vicreg", device_groups=2)
    expected, found = whole(batch()), grouped(batch())
    assert torch.equal(found.embeddings.z, expected.embeddings.z)
    halves = [whole.objective.loss(Embeddings(z)) for z in expected.embeddings.z.chunk(2, 1)]
    torch.testing.assert_close(found.loss, sum(halves) / 2)
    assert not torch.isclose(found.loss, expected.loss, rtol=1e-3)


def test_device_groups_of_a_run_reach_its_learner():
    assert trial("finetune", "simclr", device_groups=4).learner(0).device_groups == 4
