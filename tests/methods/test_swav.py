"""SwAV: what Sinkhorn's assignments are, when queues and prototypes come in, and how the frozen ones are distilled."""

from math import exp, sqrt

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from methods import losses
from methods.base import Embeddings
from methods.heads import Prototypes, per_view
from methods.objectives.byol import BYOL
from methods.objectives.swav import SwAV
from methods.strategies.cassle import CaSSLe
from tests.methods.test_losses import released_input
from tests.oracles import losses as oracle

N, D, K, Q = 6, 5, 7, 9


def make(**changes):
    torch.manual_seed(0)
    sizes = {"hidden": 8, "output": D, "prototypes": K, "queue": Q}
    return SwAV(4, SwAV.Hparams(**{**sizes, **changes})).double()


def batch(seed=0, count=N):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, D, generator=rng, dtype=torch.float64)


def scores(seed=0, shape=(N, K)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(objective, z=None):
    return float(objective.loss(Embeddings(batch() if z is None else z)).detach())


# --- assignments ------------------------------------------------------------------------------------------------------


def test_images_are_wholly_assigned_and_prototypes_equally_used():
    q = losses.sinkhorn(scores(), 0.5, 100)
    torch.testing.assert_close(q.sum(1), torch.ones(N, dtype=torch.float64))
    torch.testing.assert_close(q.sum(0), torch.full((K,), N / K, dtype=torch.float64))
    rough = losses.sinkhorn(scores(), 0.5, 1)
    torch.testing.assert_close(rough.sum(1), torch.ones(N, dtype=torch.float64))
    assert float((rough.sum(0) - N / K).abs().max()) > 1e-3


def test_equal_scores_are_spread_evenly():
    torch.testing.assert_close(losses.sinkhorn(torch.full((N, K), 3.0), 0.05, 3), torch.full((N, K), 1 / K))


def test_two_images_and_two_prototypes_have_a_closed_form():
    s = scores(shape=(2, 2))
    odds = exp(float(s[0, 0] + s[1, 1] - s[0, 1] - s[1, 0]) / 2 / 0.7)
    q = losses.sinkhorn(s, 0.7, 500)
    assert float(q[0, 0] / q[0, 1]) == pytest.approx(odds)
    assert float(q[1, 1] / q[1, 0]) == pytest.approx(odds)


def test_assignments_follow_the_order_of_images_and_prototypes():
    rows, columns = torch.randperm(N), torch.randperm(K)
    q = losses.sinkhorn(scores(), 0.3, 3)
    torch.testing.assert_close(losses.sinkhorn(scores()[rows][:, columns], 0.3, 3), q[rows][:, columns])


def test_what_all_images_score_alike_decides_nothing():
    shift = scores(1, (1, K))
    torch.testing.assert_close(losses.sinkhorn(scores() + shift, 0.3, 3), losses.sinkhorn(scores(), 0.3, 3))


def test_steep_scores_stay_within_float32():
    q = losses.sinkhorn(50 * scores().float(), 0.05, 3)
    assert bool(torch.isfinite(q).all())
    torch.testing.assert_close(q.sum(1), torch.ones(N))


@pytest.mark.parametrize("iterations", [1, 3])
def test_loss_of_given_scores_equals_its_loop_version(iterations):
    p = torch.stack([released_input(c, 5, 4) for c in (21, 22)])
    loss = losses.soft_cross_entropy(p / 0.1, losses.sinkhorn(p, 0.05, iterations).flip(0))
    nothing = np.zeros((2, 0, 4))
    assert float(loss) == pytest.approx(oracle.swav_of_scores(p.numpy(), nothing, 0.1, 0.05, iterations), rel=1e-12)


def test_gradient_passes_through_the_scores_and_not_through_the_assignments():
    objective, z = make(), batch().requires_grad_()
    objective.loss(Embeddings(z)).backward()
    weight = objective.prototypes.weight().detach()
    known = torch.cat([F.normalize(z.detach(), dim=-1), objective.queue], 1) @ weight.T
    fixed = losses.sinkhorn(known, 0.05, 3)[:, :N].flip(0)

    def loss(x):
        return losses.soft_cross_entropy(F.normalize(x, dim=-1) @ weight.T / 0.1, fixed)

    leaf = batch().requires_grad_()
    assert torch.autograd.gradcheck(loss, leaf)
    torch.testing.assert_close(z.grad, torch.autograd.grad(loss(leaf), leaf)[0])


# --- prototypes -------------------------------------------------------------------------------------------------------


def test_the_gain_of_prototypes_starts_as_the_length_of_a_linear_layer_and_the_direction_has_none():
    prototypes = Prototypes(D, K)
    start = prototypes.weight().detach()
    torch.testing.assert_close(start, prototypes.direction.detach())
    assert float(start.norm(dim=1).max()) < 0.99
    with torch.no_grad():
        prototypes.direction.mul_(3)
        torch.testing.assert_close(prototypes.weight(), start)
        prototypes.gain.mul_(2)
    torch.testing.assert_close(prototypes.weight(), 2 * start)


def test_prototypes_without_gain_are_unit_vectors():
    for layer in (make(unit_prototypes=True).prototypes, make(unit_prototypes=True).student_head()[1]):
        torch.testing.assert_close(layer.weight().norm(dim=1), torch.ones(K, dtype=layer.direction.dtype))
        assert [name for name, _ in layer.named_parameters()] == ["direction"]


def test_prototypes_stay_while_they_are_frozen_and_move_from_then_on():
    def gradients(progress):
        objective, z = make(freeze=0.25), batch().requires_grad_()
        objective.progress = progress
        objective.loss(Embeddings(z)).backward()
        assert float(z.grad.abs().sum()) > 0
        return [p.grad for p in objective.prototypes.parameters()]

    assert gradients(0.24) == [None, None]
    assert all(float(g.abs().sum()) > 0 for g in gradients(0.25))


# --- queues -----------------------------------------------------------------------------------------------------------


def test_queues_hold_the_unit_features_of_their_view_newest_first():
    objective = make()
    assert not objective.queue.any()
    first, second, third = (batch(seed, 4) for seed in (1, 2, 3))
    for z in (first, second, third):
        objective.after_step(Embeddings(z.requires_grad_()), 0.5)
    expected = F.normalize(torch.cat([third, second, first[:, :1]], 1), dim=-1).detach()
    torch.testing.assert_close(objective.queue, expected)
    assert not objective.queue.requires_grad
    assert torch.equal(objective.state_dict()["queue"], objective.queue)


def test_a_batch_larger_than_the_queue_fills_it():
    objective = make()
    objective.after_step(Embeddings(batch(count=Q + 2)), 0.5)
    torch.testing.assert_close(objective.queue, F.normalize(batch(count=Q + 2)[:, :Q], dim=-1))


def test_queues_join_the_assignment_from_their_start_on_and_are_no_part_of_the_prediction():
    objective = make(queue_start=0.5)
    objective.after_step(Embeddings(batch(1, Q)), 0.1)
    z, weight = batch(), objective.prototypes.weight().detach()
    for progress, known in ((0.49, torch.zeros(2, 0, D)), (0.5, objective.queue)):
        objective.progress = progress
        expected = oracle.swav(z.numpy(), known.numpy(), weight.numpy(), 0.1, 0.05, 3)
        assert value(objective, z) == pytest.approx(expected, rel=1e-12)


def test_a_task_begins_with_empty_queues():
    objective = make()
    fresh = value(objective)
    objective.after_step(Embeddings(batch(1, Q)), 0.5)
    assert abs(value(objective) - fresh) > 1e-3
    objective.on_task_start()
    assert value(objective) == fresh


# --- distillation -----------------------------------------------------------------------------------------------------


def entropy(objective, f):
    p = (F.normalize(f, dim=-1) @ objective.frozen.T / 0.1).softmax(-1)
    return float(-(p * p.log()).sum(-1).mean())


def test_a_student_equal_to_the_teacher_is_left_with_its_entropy_and_no_gradient():
    objective, f = make(), batch(2)
    objective.on_task_start()
    head = objective.student_head().double()
    head[1].load_state_dict(objective.prototypes.state_dict())
    g = f.clone().requires_grad_()
    loss = objective.distill(per_view(head, g), f)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(entropy(objective, f), rel=1e-12)
    assert float(g.grad.abs().max()) < 1e-12
    other = objective.student_head().double()
    assert float(objective.distill(per_view(other, f), f).detach()) > entropy(objective, f) + 1e-3


def test_the_teachers_prototypes_are_those_of_the_start_of_the_task():
    objective = make()
    student, f = scores(3, (2, N, K)), batch(2)
    before = float(objective.distill(student, f))
    with torch.no_grad():
        objective.prototypes.gain.mul_(3)
    assert float(objective.distill(student, f)) == before
    objective.on_task_start()
    torch.testing.assert_close(objective.frozen, objective.prototypes.weight().detach())
    assert abs(float(objective.distill(student, f)) - before) > 1e-3


def test_distance_is_0_for_equal_assignments_and_1_for_assignments_apart():
    objective, f = make(), batch(2)
    same = F.normalize(f, dim=-1) @ objective.frozen.T
    assert float(objective.distance(same, f)) == pytest.approx(0, abs=1e-12)
    worst = 40 * F.one_hot(same.argmin(-1), K).double()
    apart = float(objective.distance(worst, f))
    assert apart == pytest.approx(1 - sum(sqrt(p) for p in (same / 0.1).softmax(-1).amin(-1).flatten()) / (2 * N))
    assert 0 < float(objective.distance(scores(4, (2, N, K)), f)) < apart < 1


def test_the_student_has_prototypes_of_its_own_that_start_anew():
    objective = make()
    layers = [head[1].weight() for head in (objective.student_head(), objective.student_head())]
    assert layers[0].shape == (K, D)
    assert not torch.allclose(layers[0], layers[1])
    assert not torch.allclose(layers[0], objective.prototypes.weight().float())


def test_g_ends_in_the_students_prototypes_and_for_others_as_before():
    swav, byol = (CaSSLe(o, (1, 8, 8), CaSSLe.Hparams(hidden=8)) for o in (make(), BYOL(4, BYOL.Hparams(8, D, 8))))
    names = ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [type(layer).__name__ for layer in byol.predictor] == names
    assert [type(layer).__name__ for layer in swav.predictor] == [*names, "Unit", "Prototypes"]
    assert per_view(swav.predictor, batch().float()).shape == (2, N, K)
