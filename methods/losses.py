"""Losses as pure functions of embeddings: no state, no randomness, float32 in, a scalar out.

First axis = view where a shape begins with 2. Notation as in `base.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor
from torch.nn import functional as F

from methods.contrast import log_partition

P = ParamSpec("P")
_groups: ContextVar[int] = ContextVar("groups", default=1)


@contextmanager
def device_groups(count: int) -> Iterator[None]:
    """Inside, losses marked `per_device` divide the batch into so many equal parts, in its order, as devices that do
    not gather would."""
    token = _groups.set(count)
    try:
        yield
    finally:
        _groups.reset(token)


def _parts(x: Any, groups: int) -> Sequence[Any]:
    """A tensor (.., N, D) as `groups` tensors (.., N / groups, D), anything else as often; raises ValueError where N
    does not divide."""
    if not isinstance(x, Tensor):
        return [x] * groups
    if x.shape[-2] % groups:
        raise ValueError(f"a batch of {x.shape[-2]} does not divide into {groups} device groups")
    return x.chunk(groups, -2)


def per_device(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Marks what all images of a batch together decide: under `device_groups` it is the mean over the parts of the
    batch, whose gradient is the one that data-parallel processes average. Its tensors are (.., N, D)."""

    @wraps(loss)
    def averaged(*args: P.args, **named: P.kwargs) -> Tensor:
        groups = _groups.get()
        if groups == 1:
            return loss(*args, **named)
        columns = [_parts(x, groups) for x in (*args, *named.values())]
        values = []
        for part in zip(*columns, strict=True):
            values.append(loss(*part[: len(args)], **dict(zip(named, part[len(args) :], strict=True))))
        return torch.stack(values).mean(0)

    return averaged


def info_nce(q: Tensor, positive: Tensor, negatives: list[Tensor], temperature: float) -> Tensor:
    """InfoNCE against given negatives, arXiv:1911.05722 eq. 1, averaged over both views.

    q, positive: (2, N, D) unit rows, row i of view v with its positive[v, i]; negatives: each (2, K, D), [v] for
    anchors of view v.
    """
    return joint_info_nce([q], [positive], negatives, [temperature])[0]


def joint_info_nce(
    anchors: Sequence[Tensor], positives: Sequence[Tensor], negatives: list[Tensor], temperatures: Sequence[float]
) -> list[Tensor]:
    """InfoNCE of several sets of anchors, each with its positives and temperature, against the same negatives."""
    # Rows of all sets side by side under the lowest temperature: the others' are shorter in proportion.
    lowest = min(temperatures)
    rows = torch.cat([q * (lowest / t) for q, t in zip(anchors, temperatures, strict=True)], 1)
    views = [log_partition(rows[v], [keys[v] for keys in negatives], lowest) for v in range(2)]
    partitions = torch.stack(views).split([q.shape[1] for q in anchors], 1)
    own = [(q * k).sum(-1) / t for q, k, t in zip(anchors, positives, temperatures, strict=True)]
    return [(torch.logaddexp(rest, mine) - mine).mean() for rest, mine in zip(partitions, own, strict=True)]


@per_device
def nt_xent(z: Tensor, temperature: float, extra: Tensor | None = None) -> Tensor:
    """SimCLR's NT-Xent, arXiv:2002.05709 eq. 1; `extra` adds pseudo-negatives to the denominator of each row.

    z, extra: (2, N, D) unit rows. Row i of view v: its positive is z[1 - v, i]; z[v, i] is no candidate, and neither is
    extra[v, i] (the same crop).
    """
    rows = z.flatten(0, 1)
    candidates = [rows] if extra is None else [rows, extra.flatten(0, 1)]
    positive = (z[0] * z[1]).sum(-1).repeat(2) / temperature
    return (log_partition(rows, candidates, temperature, but_self=True) - positive).mean()


@per_device
def pseudo_nt_xent(
    p: Tensor, teacher: Tensor, own: Tensor, past: Tensor, temperature: float, decoupled: bool
) -> Tensor:
    """Sy-CON's distillation with in-batch negatives (PNR, ICML 2024, SimCLR form): p[v, i] is drawn to teacher[v, i].

    p, teacher, own, past: (2, N, D) unit rows. Negatives of row (v, i): all of `past` and `own` but the entries (v, i).
    decoupled: whether the positive stays out of its own denominator, as in the released code (cf. arXiv:2110.06848).
    """
    rows = p.flatten(0, 1)
    positive = (rows * teacher.flatten(0, 1)).sum(-1) / temperature
    candidates = [past.flatten(0, 1), own.flatten(0, 1)]
    partition = log_partition(rows, candidates, temperature, but_self=True)
    if not decoupled:
        partition = torch.logaddexp(partition, positive)
    return (partition - positive).mean()


@per_device
def two_way_contrast(p: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """CaSSLe's distillation with a contrastive loss (arXiv:2112.04215), in both directions as released.

    p, teacher: (2, N, D) unit rows. Softmax over all 2N rows of the other network, the same view of the same image
    being the positive; once with p as anchors, once with the teacher.
    """
    rows, frozen = p.flatten(0, 1), teacher.flatten(0, 1)
    positive = (rows * frozen).sum(-1) / temperature
    both_ways = log_partition(rows, [frozen], temperature) + log_partition(frozen, [rows], temperature)
    return (both_ways / 2 - positive).mean()


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """2 - 2 cos(a, b), BYOL's regression loss (arXiv:2006.07733 eq. 2), averaged over all rows; range [0, 4]."""
    return 2 - 2 * F.cosine_similarity(a, b, dim=-1).mean()


def negative_cosine(a: Tensor, b: Tensor) -> Tensor:
    """-cos(a, b), SimSiam's loss (arXiv:2011.10566 eq. 1), averaged over all rows; range [-1, 1]."""
    return -F.cosine_similarity(a, b, dim=-1).mean()


def cross_correlation(a: Tensor, b: Tensor, off_diagonal: float, scale: float) -> Tensor:
    """Barlow Twins, arXiv:2103.03230 eq. 1: scale * (sum_i (C_ii - 1)^2 + off_diagonal * sum_{i != j} C_ij^2).

    a, b: (N, D), standardised per dimension with the biased variance (+ 1e-5) of the batch. Under `device_groups` C is
    the mean of the parts' correlations, as released, with all of its gradient.
    """
    c = _correlation(a, b)
    on = (c.diagonal() - 1).square().sum()
    off = c.square().sum() - c.diagonal().square().sum()
    return scale * (on + off_diagonal * off)


@per_device
def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlations (D, D) of dimensions over the batch; a, b: (N, D)."""
    standard = [(x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in (a, b)]
    return standard[0].T @ standard[1] / len(a)


@per_device
def hinged_std(z: Tensor) -> Tensor:
    """VICReg's variance term of one view, arXiv:2105.04906 eq. 1, with threshold 1 and eps 1e-4; z: (N, D)."""
    return F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()


@per_device
def squared_covariance(z: Tensor) -> Tensor:
    """VICReg's covariance term of one view, arXiv:2105.04906 eq. 4: sum of squared off-diagonal entries over D; z:
    (N, D)."""
    centred = z - z.mean(0)
    c = centred.T @ centred / (len(z) - 1)
    return (c.square().sum() - c.diagonal().square().sum()) / z.shape[1]


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignments of rows to prototypes of equal weight, arXiv:2006.09882 eq. 3 to 5, by Sinkhorn-Knopp.

    scores: (..., N, K) -> the same shape, rows sum to 1. Each iteration makes the totals of the prototypes equal, then
    those of the rows. In logarithms, as exp(scores / epsilon) may leave float32's range.
    """
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(-2, keepdim=True)
        log_q = log_q - log_q.logsumexp(-1, keepdim=True)
    return log_q.exp()


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-sum_k targets_k log softmax(logits)_k, averaged over all rows; both (..., K)."""
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()


def hellinger(a: Tensor, b: Tensor) -> Tensor:
    """Squared Hellinger distance 1 - sum_k sqrt(p_k q_k) of p = softmax(a) and q = softmax(b), averaged over all rows;
    range [0, 1]."""
    return 1 - ((a.log_softmax(-1) + b.log_softmax(-1)) / 2).exp().sum(-1).mean()
