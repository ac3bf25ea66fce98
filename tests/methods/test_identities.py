"""Where one method becomes another: the limits that tie strategies together, and the released defaults."""

import pytest
import torch
from torch.nn import functional as F

from methods import registry
from methods.base import Embeddings

OBJECTIVES = sorted(registry.classes("objective"))
CONTRASTIVE = [name for name in OBJECTIVES if registry.get("objective", name).contrastive]
OTHERS = [name for name in OBJECTIVES if name not in CONTRASTIVE]
N, D = 6, 5

every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def make(strategy, objective, **hparams):
    torch.manual_seed(0)
    cls = registry.get("objective", objective)
    sizes = {"hidden": 8, "output": D, **({"queue": 7} if objective in ("moco", "swav") else {})}
    sizes |= {"prototypes": 9} if objective == "swav" else {}
    o = cls(4, cls.Hparams(**sizes))
    torch.manual_seed(1)
    scls = registry.get("strategy", strategy)
    return o, scls(o, (1, 4, 4), scls.Hparams(**hparams))


def loss_and_gradient(strategy, objective, **hparams):
    """Loss of a batch that depends on nothing but the names, and its gradient on z and p."""
    o, s = make(strategy, objective, **hparams)
    rng = torch.Generator().manual_seed(2)
    z, u, k, frozen = (F.normalize(torch.randn(2, N, D, generator=rng), dim=-1) for _ in range(4))
    z, u = z.requires_grad_(), u.requires_grad_()
    predicts = objective in ("byol", "simsiam")
    e = Embeddings(z, u if predicts else None, k if o.momentum else None)
    value = s.loss(o, e, frozen if s.teacher else None)
    value.backward()
    return value.item(), [x.grad if x.grad is not None else torch.zeros_like(x) for x in (z, u)]


def same(first, second):
    assert first[0] == pytest.approx(second[0], rel=1e-6)
    for a, b in zip(first[1], second[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def differ(first, second):
    assert first[0] != pytest.approx(second[0], rel=1e-3)


@every_objective
def test_finetune_is_the_objective_alone(name):
    o, s = make("finetune", name)
    rng = torch.Generator().manual_seed(3)
    z, u, k = (F.normalize(torch.randn(2, N, D, generator=rng), dim=-1) for _ in range(3))
    e = Embeddings(z, u, k)
    assert s.loss(o, e, None).item() == o.loss(e).item()


@every_objective
def test_cassle_of_weight_0_is_finetune(name):
    same(loss_and_gradient("cassle", name, weight=0.0), loss_and_gradient("finetune", name))
    differ(loss_and_gradient("cassle", name), loss_and_gradient("finetune", name))


@every_objective
def test_sycon_without_pseudo_negatives_is_cassle(name):
    plain = loss_and_gradient("sycon", name, pseudo_negatives=False, hidden=16)
    same(plain, loss_and_gradient("cassle", name, hidden=16))
    differ(plain, loss_and_gradient("sycon", name, hidden=16))


@pytest.mark.parametrize("name", OTHERS)
def test_sycon_that_repels_by_0_is_cassle(name):
    same(loss_and_gradient("sycon", name, repel=0.0, hidden=16), loss_and_gradient("cassle", name, hidden=16))


@pytest.mark.parametrize("name", OTHERS)
def test_sycon_of_no_weight_that_repels_by_0_is_finetune(name):
    same(loss_and_gradient("sycon", name, repel=0.0, weight=0.0), loss_and_gradient("finetune", name))


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_sycon_of_weight_0_still_has_pseudo_negatives_in_the_ssl_loss(name):
    without, with_ = loss_and_gradient("finetune", name), loss_and_gradient("sycon", name, weight=0.0)
    assert with_[0] > without[0]


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_sycon_has_no_repelling_term_with_a_contrastive_objective(name):
    same(loss_and_gradient("sycon", name, repel=0.0), loss_and_gradient("sycon", name, repel=9.0))


@pytest.mark.parametrize(
    ("name", "weight", "repel"),
    [
        *(("moco", 1, 0), ("simclr", 1, 0), ("byol", 1, 0.5), ("barlow", 1, 1), ("vicreg", 25, 23)),
        *(("simsiam", 1, 0.5), ("swav", 1, 0.5)),  # no weight of their repelling term was released
    ],
)
def test_terms_have_the_released_cifar_weights(name, weight, repel):
    _, cassle = make("cassle", name)
    _, sycon = make("sycon", name)
    assert (cassle.weight, sycon.weight, sycon.repel) == (weight, weight, repel)
    _, own = make("sycon", name, weight=0.25, repel=0.125)
    assert (own.weight, own.repel) == (0.25, 0.125)


RELEASED = {
    "moco": {"hidden": 2048, "output": 128, "temperature": 0.2, "distill_temperature": 0.2, "queue": 65536},
    "simclr": {"hidden": 2048, "output": 128, "temperature": 0.2, "distill_temperature": 0.2, "pseudo_decoupled": True},
    "byol": {"hidden": 4096, "output": 256, "predictor_hidden": 4096, "tau_start": 0.99, "tau_end": 1.0},
    "simsiam": {"hidden": 2048, "output": 128, "predictor_hidden": 512},
    "barlow": {"hidden": 2048, "output": 2048, "off_diagonal": 0.005, "scale": 0.1},
    "vicreg": {"hidden": 2048, "output": 2048, "invariance": 25, "variance": 25, "covariance": 1},
}
RELEASED["moco"] |= {"tau_start": 0.99, "tau_end": 0.999}
RELEASED["swav"] = {"hidden": 2048, "output": 128, "prototypes": 3000, "unit_prototypes": False, "temperature": 0.1}
RELEASED["swav"] |= {"epsilon": 0.05, "iterations": 3, "queue": 3840, "queue_start": 50 / 500, "freeze": 2 / 500}
RELEASED["swav"] |= {"distill_temperature": 0.1}


@every_objective
def test_defaults_are_the_released_cifar_values(name):
    assert vars(registry.get("objective", name).Hparams()) == RELEASED[name]


@pytest.mark.parametrize("name", ["byol", "moco"])
def test_momentum_rate_goes_from_start_to_end_on_a_cosine(name):
    o, _ = make("finetune", name)
    start, end = o.hparams.tau_start, o.hparams.tau_end
    rates = [o.tau(step / 8) for step in range(9)]
    assert rates[0] == pytest.approx(start)
    assert rates[4] == pytest.approx((start + end) / 2)
    assert rates[8] == pytest.approx(end)
    assert rates == sorted(rates)


# --- LUMP -------------------------------------------------------------------------------------------------------------


class Ones:
    """Images of one value, as a task gives them."""

    def __init__(self, value, count=50):
        self.value, self.count = value, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        assert int(index.max()) < self.count
        return torch.full((len(index), 1, 4, 4), self.value, dtype=torch.uint8)


def lump(memory=60):
    from methods.base import TaskContext

    _, strategy = make("lump", "simclr", memory=memory)
    for task in (1, 2, 3):
        strategy.on_task_start(TaskContext(task, Ones(task), torch.Generator().manual_seed(task)))
        yield strategy.memory[:, 0, 0, 0].tolist(), strategy


def test_lump_shares_its_memory_among_the_tasks_seen():
    shares = [[memory.count(task) for task in (1, 2, 3)] for memory, _ in lump()]
    assert shares[0] == [60, 0, 0]
    assert shares[1] == [30, 30, 0]
    assert shares[2][2] == 20
    assert min(shares[2]) >= 10


def test_lump_mixes_each_view_with_the_same_remembered_image():
    from methods.base import StepContext

    strategy = list(lump())[-1][1]
    strategy.memory.fill_(3)
    seen = []

    def augment(images, generator):
        seen.append(images)
        return torch.stack([images.float(), images.float() + 1])

    views = torch.zeros(2, 5, 1, 4, 4)
    mixed = strategy.inputs(views, StepContext(augment, torch.Generator().manual_seed(0)))
    mix = 1 - float(mixed[0, 0, 0, 0, 0]) / 3
    assert 0 < mix < 1
    torch.testing.assert_close(mixed, torch.stack([views[0] + (1 - mix) * 3, views[1] + (1 - mix) * 4]))
    assert seen[0].shape == (5, 1, 4, 4)
    assert seen[0].dtype == torch.uint8


def test_lump_mixes_by_a_beta_distribution():
    from methods.base import StepContext

    _, strategy = make("lump", "simclr", alpha=0.4)
    ones = torch.ones(2, 1, 1, 4, 4)

    def weight(seed):
        context = StepContext(lambda images, generator: torch.zeros_like(ones), torch.Generator().manual_seed(seed))
        return float(strategy.inputs(ones, context)[0, 0, 0, 0, 0])

    weights = torch.tensor([weight(seed) for seed in range(2000)])
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)).
    assert float(weights.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(weights.var()) == pytest.approx(1 / (4 * 1.8), abs=0.01)
