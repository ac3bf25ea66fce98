"""Every loss against its loop version, and against the values of the released code."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from methods import registry
from methods.base import Embeddings
from tests.oracles import losses as oracle

SHAPES = [(4, 6), (7, 3), (9, 5)]
# None of them a default, no two alike: a value read in the place of another shows.
HPARAMS = {
    "moco": {"temperature": 0.31, "distill_temperature": 0.17, "queue": 11},
    "simclr": {"temperature": 0.31, "distill_temperature": 0.17},
    "byol": {},
    "simsiam": {},
    "barlow": {"off_diagonal": 0.02, "scale": 0.3},
    "vicreg": {"invariance": 3.0, "variance": 5.0, "covariance": 0.7},
    "swav": {"temperature": 0.31, "distill_temperature": 0.17, "epsilon": 0.12, "iterations": 2, "prototypes": 8},
}
HPARAMS["swav"] |= {"queue": 11}
OBJECTIVES = sorted(HPARAMS)
WEIGHT, REPEL = 1.7, 0.6

LOSS = {
    "moco": lambda o, e: oracle.moco(e.z, e.k, released(o.pool), o.hparams.temperature),
    "simclr": lambda o, e: oracle.simclr(e.z, o.hparams.temperature),
    "byol": lambda o, e: oracle.byol(e.p, e.k),
    "simsiam": lambda o, e: oracle.simsiam(e.p, e.z),
    "barlow": lambda o, e: oracle.barlow(*e.z, o.hparams.off_diagonal, o.hparams.scale),
    "vicreg": lambda o, e: oracle.vicreg(e.z, o.hparams.invariance, o.hparams.variance, o.hparams.covariance),
    "swav": lambda o, e: oracle.swav(e.z, *prototypes(o)[:2], *assignment(o)),
}
DISTILL = {
    "moco": lambda o, p, f: oracle.contrast(p, f, o.hparams.distill_temperature),
    "simclr": lambda o, p, f: oracle.contrast(p, f, o.hparams.distill_temperature),
    "byol": lambda o, p, f: oracle.predict(p, f),
    "simsiam": lambda o, p, f: oracle.predict_cosine(p, f),
    "barlow": lambda o, p, f: oracle.decorrelate(p, f, o.hparams.off_diagonal, o.hparams.scale),
    "vicreg": lambda o, p, f: oracle.predict_square(p, f),
    "swav": lambda o, p, f: oracle.knowledge(p, f, prototypes(o)[2], o.hparams.distill_temperature),
}
SYCON = {
    "moco": lambda o, s, e, p, f: oracle.sycon_moco(
        e.z, e.k, p, f, released(o.pool), released(s.past), o.hparams.temperature, o.hparams.distill_temperature, WEIGHT
    ),
    "simclr": lambda o, s, e, p, f: oracle.sycon_simclr(
        e.z, p, f, o.hparams.temperature, o.hparams.distill_temperature, o.hparams.pseudo_decoupled, WEIGHT
    ),
    "byol": lambda o, s, e, p, f: oracle.sycon_byol(e.p, e.k, p, f, WEIGHT, REPEL),
    "simsiam": lambda o, s, e, p, f: oracle.sycon_simsiam(e.p, e.z, p, f, WEIGHT, REPEL),
    "barlow": lambda o, s, e, p, f: oracle.sycon_barlow(
        e.z, p, f, o.hparams.off_diagonal, o.hparams.scale, WEIGHT, REPEL
    ),
    "vicreg": lambda o, s, e, p, f: oracle.sycon_vicreg(
        e.z, p, f, o.hparams.invariance, o.hparams.variance, o.hparams.covariance, WEIGHT, REPEL
    ),
    "swav": lambda o, s, e, p, f: oracle.sycon_swav(
        LOSS["swav"](o, e), p, f, prototypes(o)[2], o.hparams.distill_temperature, WEIGHT, REPEL
    ),
}


def prototypes(swav):
    """Queues by view, prototypes and frozen prototypes."""
    return [x.detach().double().numpy() for x in (swav.queue, swav.prototypes.weight(), swav.frozen)]


def assignment(swav):
    return swav.hparams.temperature, swav.hparams.epsilon, swav.hparams.iterations


def released(queue):
    """A queue in the released layout: slot v holds the keys *of* view v, (D, K)."""
    keys = queue.keys.detach().double().numpy()
    return [keys[1].T, keys[0].T]


class Recall(nn.Module):
    """A predictor that answers with the given views, whatever it is asked."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def forward(self, rows):
        return self.answers.flatten(0, 1)


def random_views(rng, shape, dtype, unit):
    x = torch.randn(2, *shape, generator=rng, dtype=torch.float64)
    return (F.normalize(x, dim=-1) if unit else x).to(dtype)


def make_objective(name, width, **changes):
    torch.manual_seed(0)
    cls = registry.get("objective", name)
    objective = cls(4, cls.Hparams(**{"hidden": 8, "output": width, **HPARAMS[name], **changes}))
    if name == "swav":  # as later in a task: a full queue, and prototypes that are no longer the frozen ones
        objective.queue.copy_(F.normalize(torch.randn(objective.queue.shape), dim=-1))
        objective.frozen.normal_()
    return objective


def make_strategy(name, objective, **hparams):
    torch.manual_seed(1)
    cls = registry.get("strategy", name)
    return cls(objective, (1, 8, 8), cls.Hparams(**hparams))


def make_case(name, shape, dtype, seed=0, **changes):
    """An objective, its embeddings, outputs p of g and frozen projections f, all random."""
    rng = torch.Generator().manual_seed(seed)
    objective = make_objective(name, shape[1], **changes).to(dtype)
    unit = name == "moco"
    z, u, k, p, f = (random_views(rng, shape, dtype, unit) for _ in range(5))
    if name == "swav":  # g ends in scores
        p = random_views(rng, (shape[0], objective.hparams.prototypes), dtype, unit)
    predicts = name in ("byol", "simsiam")
    e = Embeddings(z, u if predicts else None, k if objective.momentum else None)
    return SimpleNamespace(objective=objective, e=e, p=p, f=f, as_loops=SimpleNamespace(**_numpy(z=z, p=u, k=k)))


def _numpy(**tensors):
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


def close(value, expected, dtype):
    assert value.dtype == dtype
    assert value.ndim == 0
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    assert float(value.detach()) == pytest.approx(expected, rel=tolerance, abs=tolerance / 10)


both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=[f"{n}x{d}" for n, d in SHAPES])
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def test_every_objective_of_the_registry_has_an_oracle():
    assert sorted(registry.classes("objective")) == OBJECTIVES


@both_precisions
@every_shape
@every_objective
def test_ssl_loss_equals_its_loop_version(name, shape, dtype):
    case = make_case(name, shape, dtype)
    close(case.objective.loss(case.e), LOSS[name](case.objective, case.as_loops), dtype)


@both_precisions
@every_shape
@every_objective
def test_distillation_equals_its_loop_version(name, shape, dtype):
    case = make_case(name, shape, dtype)
    expected = DISTILL[name](case.objective, case.p.double().numpy(), case.f.double().numpy())
    close(case.objective.distill(case.p, case.f), expected, dtype)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("byol", lambda p, f: oracle.predict(p, f)),
        ("simsiam", lambda p, f: oracle.predict_cosine(p, f)),
        ("barlow", lambda p, f: oracle.predict_cosine(p, f)),
        ("vicreg", lambda p, f: oracle.predict_square(p, f)),
        ("swav", lambda p, f, o: oracle.hellinger(p, f, prototypes(o)[2], o.hparams.distill_temperature)),
    ],
)
def test_distance_equals_its_loop_version(name, expected):
    case = make_case(name, (5, 4), torch.float64)
    more = (case.objective,) if name == "swav" else ()
    close(case.objective.distance(case.p, case.f), expected(case.p.numpy(), case.f.numpy(), *more), torch.float64)


@both_precisions
@every_shape
@every_objective
def test_cassle_is_the_loss_plus_the_weighted_distillation_of_g(name, shape, dtype):
    case = make_case(name, shape, dtype)
    strategy = make_strategy("cassle", case.objective, weight=WEIGHT, hidden=8)
    strategy.predictor = Recall(case.p)
    expected = LOSS[name](case.objective, case.as_loops) + WEIGHT * DISTILL[name](
        case.objective, case.p.double().numpy(), case.f.double().numpy()
    )
    close(strategy.loss(case.objective, case.e, case.f), expected, dtype)


@both_precisions
@every_shape
@pytest.mark.parametrize(
    ("name", "changes"),
    [*((name, {}) for name in OBJECTIVES), ("simclr", {"pseudo_decoupled": False})],
    ids=[*OBJECTIVES, "simclr-coupled"],
)
def test_sycon_equals_its_loop_version(name, changes, shape, dtype):
    case = make_case(name, shape, dtype, **changes)
    strategy = make_strategy("sycon", case.objective, weight=WEIGHT, repel=REPEL, hidden=8).to(dtype)
    strategy.predictor = Recall(case.p)
    p, f = case.p.double().numpy(), case.f.double().numpy()
    expected = SYCON[name](case.objective, strategy, case.as_loops, p, f)
    close(strategy.loss(case.objective, case.e, case.f), expected, dtype)


@every_objective
def test_g_reads_the_online_projections_one_view_at_a_time(name):
    case = make_case(name, (6, 5), torch.float64)
    strategy = make_strategy("cassle", case.objective, weight=WEIGHT, hidden=8).double()
    g = [strategy.predictor(view) for view in case.e.z]
    expected = LOSS[name](case.objective, case.as_loops) + WEIGHT * DISTILL[name](
        case.objective, torch.stack(g).detach().numpy(), case.f.numpy()
    )
    close(strategy.loss(case.objective, case.e, case.f), expected, torch.float64)


# --- values of the released code --------------------------------------------------------------------------------------


def released_input(c, rows, columns):
    """X_c[i, j] = sin(0.9 i + 1.7 j + 0.31 c + 0.05 i j c)."""
    i, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return torch.from_numpy(np.sin(0.9 * i + 1.7 * j + 0.31 * c + 0.05 * i * j * c))


def released_pair(first, unit):
    x = torch.stack([released_input(c, 5, 6) for c in (first, first + 1)])
    return F.normalize(x, dim=-1) if unit else x


def fill(pool, first):
    """Columns of X_first are the keys of view 0, those of the next of view 1."""
    slots = [F.normalize(released_input(c, 6, 8).T, dim=-1) for c in (first, first + 1)]
    pool.keys.copy_(torch.stack([slots[1], slots[0]]))


RELEASED = [
    ("moco", "finetune", 2.41711346),
    ("moco", "sycon", 6.40737439),
    ("simclr", "finetune", 0.81643695),
    ("byol", "finetune", 4.13591599),
    ("barlow", "finetune", 0.0288545),
    ("vicreg", "finetune", 17.65940560),
]


@pytest.mark.parametrize(("name", "strategy_name", "value"), RELEASED, ids=[f"{s}-{o}" for o, s, _ in RELEASED])
def test_default_losses_have_the_values_of_the_released_code(name, strategy_name, value):
    cls = registry.get("objective", name)
    objective = cls(4, cls.Hparams(output=6, **({"queue": 8} if name == "moco" else {}))).double()
    strategy = make_strategy(strategy_name, objective).double()
    unit = name == "moco"
    z, k, f, p = (released_pair(first, unit) for first in (1, 3, 5, 7))
    if name == "moco":
        fill(objective.pool, 11)
    if strategy_name == "sycon":
        fill(strategy.past, 13)
        strategy.predictor = Recall(p)
    e = Embeddings(z, p if name == "byol" else None, k if objective.momentum else None)
    assert float(strategy.loss(objective, e, f).detach()) == pytest.approx(
        value, abs=1e-6 if name != "barlow" else 1e-7
    )


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "swav"])  # its assignments are held fixed
def test_gradient_of_the_ssl_loss_is_that_of_finite_differences(name):
    case = make_case(name, (4, 3), torch.float64)
    field = "z" if case.e.p is None else "p"
    leaf = getattr(case.e, field).clone().requires_grad_()
    extra = case.f if name == "simclr" else case.objective.new_pool().double().keys if name == "moco" else None
    assert torch.autograd.gradcheck(lambda x: case.objective.loss(case.e._replace(**{field: x}), extra), leaf)


@every_objective
def test_gradient_of_the_distillation_is_that_of_finite_differences(name):
    case = make_case(name, (4, 3), torch.float64)
    leaves = [case.p.clone().requires_grad_()]
    if case.objective.contrastive:
        leaves.append(case.e.z.clone().requires_grad_())
        assert torch.autograd.gradcheck(lambda p, own: case.objective.distill(p, case.f, own, case.f), leaves)
    assert torch.autograd.gradcheck(lambda p: case.objective.distill(p, case.f), leaves[0])


def test_simsiam_stops_the_gradient_of_its_target():
    case = make_case("simsiam", (4, 3), torch.float64)
    z, p = case.e.z.requires_grad_(), case.e.p.requires_grad_()
    case.objective.loss(Embeddings(z, p)).backward()
    assert z.grad is None
    assert p.grad.abs().sum() > 0


def test_gradient_of_sycon_simclr_passes_through_the_negatives_of_the_distillation():
    case = make_case("simclr", (4, 3), torch.float64)
    z = case.e.z.requires_grad_()
    case.objective.distill(case.p, case.f, z, case.f).backward()
    assert z.grad.abs().sum() > 0


@every_objective
@pytest.mark.parametrize("strategy_name", ["cassle", "sycon"])
def test_loss_writes_into_nothing_it_was_given(strategy_name, name):
    case = make_case(name, (4, 3), torch.float64)
    strategy = make_strategy(strategy_name, case.objective, hidden=4).double()
    given = [x for x in (*case.e, case.f, *case.objective.buffers()) if x is not None]
    before = [x.clone() for x in given]
    strategy.loss(case.objective, case.e, case.f)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
