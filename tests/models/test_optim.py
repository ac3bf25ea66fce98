"""LARS against its loop version and the released values, groups of parameters, and the learning rate."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bench.config import OptimConfig
from bench.errors import UserError
from bench.models.optim import LARS, build_optimizer, learning_rate, set_learning_rate
from tests.oracles import optim as oracle

SETTINGS = {"lr": 0.4, "momentum": 0.9, "weight_decay": 1e-4, "eta": 0.02, "clip": True}


def released_input(c, rows, columns):
    """X_c[i, j] = sin(0.9 i + 1.7 j + 0.31 c + 0.05 i j c)."""
    i, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return torch.from_numpy(np.sin(0.9 * i + 1.7 * j + 0.31 * c + 0.05 * i * j * c))


def released_step(dtype=torch.float32, grad_dtype=torch.float64, **changes):
    """Moves of a 3x3 weight (first row) and of a bias in two steps with the same gradients."""
    weight = nn.Parameter(released_input(1, 3, 3).to(dtype))
    bias = nn.Parameter(released_input(3, 1, 3)[0].to(dtype))
    grads = [released_input(2, 3, 3).to(grad_dtype).to(dtype), released_input(4, 1, 3)[0].to(grad_dtype).to(dtype)]
    groups = [{"params": [weight]}, {"params": [bias], "exclude": True}]
    optimizer = LARS(groups, **{**SETTINGS, **changes})
    moves = []
    for _ in range(2):
        before = weight.detach().clone(), bias.detach().clone()
        weight.grad, bias.grad = (g.clone() for g in grads)
        optimizer.step()
        moves.append(((weight.detach() - before[0])[0].tolist(), (bias.detach() - before[1]).tolist()))
    return moves


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_lars_takes_the_steps_of_the_released_code(dtype):
    (weight, bias), (again, _) = released_step(dtype)
    assert weight == pytest.approx([-0.01160928, -0.01463127, 0.01537960], abs=2e-7)
    assert bias == pytest.approx([-0.37831360, -0.08009199, 0.39895242], abs=2e-7)
    assert again == pytest.approx([-0.02184130, -0.02752677, 0.02893465], abs=3e-7)


def test_lars_takes_the_same_steps_on_gradients_of_bf16_autocast():
    # The released wrapper is off outside fp16 and would move the weight 30 times as far.
    (weight, bias), _ = released_step(grad_dtype=torch.bfloat16)
    assert weight == pytest.approx([-0.01160928, -0.01463127, 0.01537960], rel=0.01)
    assert bias == pytest.approx([-0.37831360, -0.08009199, 0.39895242], rel=0.01)


def test_lars_under_autocast_is_the_rule_on_the_gradients_it_finds():
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.randn(8, 6))
    out.float().square().mean().backward()
    expected = [
        oracle.lars_step(p.detach().numpy(), p.grad.numpy(), None, **SETTINGS, exclude=p.ndim == 1)[0]
        for p in (layer.weight, layer.bias)
    ]
    LARS([{"params": [layer.weight]}, {"params": [layer.bias], "exclude": True}], **SETTINGS).step()
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(layer.bias.detach().numpy(), expected[1], rtol=1e-5, atol=1e-7)


CASES = {
    "plain": {},
    "without clip": {"clip": False},
    "without decay": {"weight_decay": 0.0},
    "strong decay": {"weight_decay": 0.3},
    "small rate, clipped": {"lr": 1e-3, "eta": 0.9},
    "without momentum": {"momentum": 0.0},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
@pytest.mark.parametrize("exclude", [False, True], ids=["scaled", "excluded"])
def test_lars_equals_a_loop_over_parameters(changes, exclude):
    settings = {**SETTINGS, **changes}
    rng = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,), (2, 3, 3, 3), (4, 4), (4, 4), (1,)]
    params = [nn.Parameter(torch.randn(s, generator=rng, dtype=torch.float64)) for s in shapes]
    with torch.no_grad():
        params[3].zero_()  # a zero weight, and below a zero gradient: neither scaled nor decayed
    optimizer = LARS([{"params": params, "exclude": exclude}], **settings)
    weights, buffers = [p.detach().numpy().copy() for p in params], [None] * len(params)
    for _ in range(4):
        for i, p in enumerate(params):
            p.grad = torch.randn(shapes[i], generator=rng, dtype=torch.float64) * (0.0 if i == 4 else 0.1)
            weights[i], buffers[i] = oracle.lars_step(
                weights[i], p.grad.numpy(), buffers[i], **settings, exclude=exclude
            )
        optimizer.step()
    for p, w in zip(params, weights, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12, atol=1e-15)


def test_lars_leaves_parameters_without_gradient_alone():
    used, idle = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    used.grad = torch.ones(2, 2)
    optimizer = LARS([{"params": [idle, used]}], **SETTINGS)
    optimizer.step()
    assert torch.equal(idle, torch.ones(2, 2))
    assert not torch.equal(used, torch.ones(2, 2))
    assert idle not in optimizer.state


def test_lars_does_not_write_into_gradients():
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.full((2, 2), 3.0)
    LARS([{"params": [p]}], **SETTINGS).step()
    assert torch.equal(p.grad, torch.full((2, 2), 3.0))


def test_a_learning_rate_of_zero_moves_nothing():
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    LARS([{"params": [p]}], **{**SETTINGS, "lr": 0.0}).step()
    assert torch.equal(p, torch.ones(2, 2))


# --- groups -----------------------------------------------------------------------------------------------------------


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.predictor = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def groups(config, constant=("predictor",)):
    module = Heads()
    names = {id(p): name for name, p in module.named_parameters()}
    optimizer = build_optimizer(module, config, constant)
    return optimizer, {
        (g["exclude"], g["constant"]): [names[id(p)] for p in g["params"]] for g in optimizer.param_groups
    }


def test_biases_and_norms_are_excluded_and_frozen_parameters_absent():
    _, found = groups(OptimConfig())
    assert found == {
        (False, False): ["encoder.0.weight"],
        (True, False): ["encoder.0.bias", "encoder.1.weight", "encoder.1.bias"],
        (False, True): ["predictor.weight"],
        (True, True): ["predictor.bias"],
    }


def test_exclusion_can_be_switched_off():
    _, found = groups(replace(OptimConfig(), exclude_bias_and_norm=False), ())
    assert found[False, False] == [
        *("encoder.0.weight", "encoder.0.bias", "encoder.1.weight"),
        *("encoder.1.bias", "predictor.weight", "predictor.bias"),
    ]
    assert len(found) == 1


def test_constant_groups_keep_the_base_rate():
    optimizer, _ = groups(OptimConfig())
    set_learning_rate(optimizer, 0.01, 0.6)
    assert {(g["constant"], g["lr"]) for g in optimizer.param_groups} == {(True, 0.6), (False, 0.01)}


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_every_optimizer_takes_the_configured_values(name):
    config = OptimConfig(name=name, lr=0.3, momentum=0.8, weight_decay=0.01, eta=0.05, clip=False)
    optimizer, _ = groups(config)
    assert type(optimizer).__name__.lower() == name
    for group in optimizer.param_groups:
        assert group["lr"] == 0.3
        assert group["weight_decay"] == (0.01 if name == "lars" or not group["exclude"] else 0.0)
        if name != "adamw":
            assert group["momentum"] == 0.8
        if name == "lars":
            assert (group["eta"], group["clip"]) == (0.05, False)


# --- learning rate ----------------------------------------------------------------------------------------------------

CONFIG = OptimConfig(lr=0.6, warmup_epochs=10, warmup_start_lr=0.003, min_lr=0.001)
PER_EPOCH, STEPS = 4, 4 * 50


def rates(config=CONFIG, steps=STEPS):
    return [learning_rate(config, step, steps, PER_EPOCH) for step in range(steps + 1)]


def test_learning_rate_equals_its_formula():
    expected = [oracle.learning_rate(step, STEPS, 40, 0.6, 0.003, 0.001) for step in range(STEPS + 1)]
    assert rates() == pytest.approx(expected, rel=1e-12)


def test_learning_rate_starts_low_peaks_after_warm_up_and_ends_at_the_minimum():
    found = rates()
    assert found[0] == pytest.approx(0.003)
    assert found[40] == max(found) == pytest.approx(0.6)
    assert found[120] == pytest.approx((0.6 + 0.001) / 2)
    assert found[-1] == pytest.approx(0.001)


def test_learning_rate_rises_then_falls():
    found = rates()
    assert found[:41] == sorted(found[:41])
    assert found[40:] == sorted(found[40:], reverse=True)


def test_learning_rate_without_warm_up_starts_at_its_peak():
    assert rates(replace(CONFIG, warmup_epochs=0))[0] == 0.6


def test_warm_up_longer_than_the_task_never_ends():
    found = [learning_rate(CONFIG, step, 20, PER_EPOCH) for step in range(20)]
    assert found == pytest.approx([0.003 + 0.597 * step / 20 for step in range(20)])


def test_warm_up_never_starts_above_a_small_rate():
    assert rates(replace(CONFIG, lr=0.002))[0] == 0.002


def test_warm_up_may_take_a_fraction_of_an_epoch():
    found = rates(replace(CONFIG, warmup_epochs=0.5))
    assert found[2] == 0.6
    assert found[1] == pytest.approx((0.003 + 0.6) / 2)


# --- by epoch, as released --------------------------------------------------------------------------------------------

RELEASED = OptimConfig(lr=0.6, schedule="epoch")


def epoch_rates(config, epochs):
    """The rate of every step of a task."""
    return [learning_rate(config, step, epochs * PER_EPOCH, PER_EPOCH) for step in range(epochs * PER_EPOCH)]


def test_the_schedule_by_epoch_has_the_released_values():
    found = epoch_rates(RELEASED, 500)[::PER_EPOCH]
    golden = {0: 0.003, 1: 0.069333, 5: 0.334667, 100: 0.551426, 250: 0.309615, 499: 6e-6}
    assert {epoch: round(found[epoch], 6) for epoch in golden} == golden
    assert found[9] == found[10] == pytest.approx(0.6)
    assert found[11] < 0.6


def test_the_schedule_by_epoch_is_constant_within_an_epoch():
    found = epoch_rates(RELEASED, 20)
    assert all(len(set(found[first : first + PER_EPOCH])) == 1 for first in range(0, len(found), PER_EPOCH))
    assert len(set(found)) == 19


def test_the_schedule_by_epoch_without_warm_up_is_a_cosine_from_the_first_epoch():
    found = epoch_rates(replace(RELEASED, warmup_epochs=0, min_lr=0.1), 8)[::PER_EPOCH]
    assert found == pytest.approx([0.1 + 0.25 * (1 + np.cos(np.pi * epoch / 8)) for epoch in range(8)])


def test_a_warm_up_of_one_epoch_by_epoch_stays_at_its_start():
    assert epoch_rates(replace(RELEASED, warmup_epochs=1), 3)[::PER_EPOCH][:2] == pytest.approx([0.003, 0.6])


def test_a_fraction_of_an_epoch_is_refused_where_the_rate_changes_by_epoch():
    with pytest.raises(UserError, match=r"optim.warmup_epochs 0.5 must be whole under optim.schedule epoch"):
        OptimConfig(schedule="epoch", warmup_epochs=0.5)
