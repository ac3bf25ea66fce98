"""Losses on parts of the batch: what so many devices that do not gather would compute."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from methods import losses, registry
from methods.base import Embeddings

N, D, GROUPS = 8, 5, 4
PARTS = np.split(np.arange(N), GROUPS)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def units(seed):
    return F.normalize(draw(2, N, D, seed=seed), dim=-1)


def objective(name):
    cls = registry.get("objective", name)
    torch.manual_seed(0)
    return cls(4, cls.Hparams(**{"hidden": 8, "output": D, **({"queue": 9} if name == "moco" else {})})).double()


TERMS = {
    "simclr": lambda x, y: objective("simclr").loss(Embeddings(x)),
    "simclr with pseudo-negatives": lambda x, y: objective("simclr").loss(Embeddings(x), y),
    "simclr distilled": lambda x, y: objective("simclr").distill(x, y),
    "simclr distilled with negatives": lambda x, y: objective("simclr").distill(x.flip(0), y, x, y),
    "moco distilled": lambda x, y: objective("moco").distill(x, y),
    "vicreg": lambda x, y: objective("vicreg").loss(Embeddings(x)),
    "byol": lambda x, y: objective("byol").loss(Embeddings(x, x, y)),
}


def value_and_gradient(term, x, y, groups):
    x = x.clone().requires_grad_()
    with losses.device_groups(groups):
        value = term(x, y)
    value.backward()
    return value.item(), x.grad


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_a_loss_of_groups_is_the_mean_of_the_losses_of_their_images_and_so_is_its_gradient(term):
    x, y = units(2), units(3)
    found, gradient = value_and_gradient(term, x, y, GROUPS)
    alone = [value_and_gradient(term, x[:, part], y[:, part], 1) for part in PARTS]
    assert found == pytest.approx(np.mean([value for value, _ in alone]), rel=1e-10)
    torch.testing.assert_close(gradient, torch.cat([g for _, g in alone], 1) / GROUPS)


@pytest.mark.parametrize("name", ["simclr", "simclr with pseudo-negatives", "moco distilled", "vicreg"])
def test_groups_change_losses_in_which_images_meet(name):
    x, y = units(2), units(3)
    whole, parts = (value_and_gradient(TERMS[name], x, y, groups)[0] for groups in (1, GROUPS))
    assert parts != pytest.approx(whole, rel=1e-3)


def test_moco_meets_the_whole_queue_from_every_group():
    moco = objective("moco")
    e = Embeddings(units(2), k=units(3))
    with losses.device_groups(GROUPS):
        grouped = moco.loss(e)
    torch.testing.assert_close(grouped, moco.loss(e))


def test_barlow_has_statistics_of_each_group_and_the_mean_of_their_correlations():
    a, b = draw(N, D, seed=4), draw(N, D, seed=5)
    with losses.device_groups(GROUPS):
        found = losses.cross_correlation(a, b, 0.005, 0.1)
    c = np.zeros((D, D))
    for part in PARTS:
        x, y = ((v - v.mean(0)) / np.sqrt(v.var(0) + 1e-5) for v in (a.numpy()[part], b.numpy()[part]))
        c += x.T @ y / len(part) / GROUPS
    on, off = ((np.diag(c) - 1) ** 2).sum(), (c**2).sum() - (np.diag(c) ** 2).sum()
    assert found.item() == pytest.approx(0.1 * (on + 0.005 * off), rel=1e-10)


def test_arguments_by_name_are_divided_too():
    x, y = units(2), units(3)
    with losses.device_groups(GROUPS):
        torch.testing.assert_close(losses.nt_xent(z=x, temperature=0.2, extra=y), losses.nt_xent(x, 0.2, y))


def test_groups_end_with_their_block():
    x = units(2)
    before = losses.nt_xent(x, 0.2)
    with pytest.raises(ZeroDivisionError), losses.device_groups(GROUPS):
        raise ZeroDivisionError
    assert torch.equal(losses.nt_xent(x, 0.2), before)


def test_a_batch_that_groups_do_not_divide_is_refused():
    with losses.device_groups(3), pytest.raises(ValueError, match="a batch of 8 does not divide into 3"):
        losses.nt_xent(units(2), 0.2)
