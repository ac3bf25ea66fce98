"""Continual-learning metrics: pure functions of the accuracy matrix of a run.

Everywhere `R` is (..., T, T), fractions in [0, 1]: `R[t, i]` is the accuracy on the test set of task i after
training on tasks 0..t, and `random` is (..., T): the accuracy of the network before any training. Leading axes
are runs, each of which gives the very number that it gives alone. Means over nothing (T = 1) are nan. In
data-incremental scenarios every task has the same test set, so all columns of `R` are equal.
"""

# ruff: noqa: N802, N803, N806 - R and T are the letters of the literature
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def average_accuracy(R: Array) -> Array:
    """Accuracy over all tasks at the end: `mean over i of R[T-1, i]`, in [0, 1]; Lopez-Paz & Ranzato,
    arXiv:1706.08840.
    """
    return _mean(_square(R)[..., -1, :])


def average_incremental_accuracy(R: Array) -> Array:
    """Accuracy over the tasks seen so far, averaged over the sequence; Rebuffi et al. (iCaRL),
    arXiv:1611.07725.

    `mean over t of (mean over i <= t of R[t, i])`, in [0, 1].
    """
    R = _square(R)
    return _mean(np.stack([_mean(R[..., t, : t + 1]) for t in range(R.shape[-1])], axis=-1))


def forgetting(R: Array) -> Array:
    """How far earlier tasks fell from their best, in [-1, 1]; Chaudhry et al. 2018, arXiv:1801.10112 eq. 3.

    `mean over i < T-1 of (max over i <= t < T-1 of R[t, i]) - R[T-1, i]`. The last row is no candidate for
    the maximum, so the value is negative where earlier tasks improved. nan for T = 1.
    """
    R = _square(R)
    last = R.shape[-1] - 1
    best = [R[..., i:last, i].max(axis=-1) for i in range(last)]
    return _mean(np.stack([*best, R[..., last, last]], axis=-1)[..., :last] - R[..., last, :last])


def forgetting_max_all(R: Array) -> Array:
    """As `forgetting`, but every row is a candidate for the maximum, as in the code of mammoth, PyCIL and
    Osiris.

    `mean over i < T-1 of (max over all t of R[t, i]) - R[T-1, i]`, in [0, 1]: improvement counts as 0. nan
    for T = 1.
    """
    R = _square(R)
    return _mean((R.max(axis=-2) - R[..., -1, :])[..., :-1])


def forgetting_first(R: Array) -> Array:
    """How far earlier tasks fell from where they stood when just learned, in [-1, 1]; as in Avalanche and
    UCL.

    `mean over i < T-1 of R[i, i] - R[T-1, i]`, the negative of `backward_transfer`. nan for T = 1.
    """
    R = _square(R)
    return _mean((_diagonal(R) - R[..., -1, :])[..., :-1])


def forgetting_div_T(R: Array) -> Array:
    """As `forgetting_max_all`, but the last task counts too; a known slip in released code, here for
    comparison only.

    `mean over all i of (max over all t of R[t, i]) - R[T-1, i]`, in [0, 1]. nan for T = 1.
    """
    R = _square(R)
    lost = R.max(axis=-2) - R[..., -1, :]
    return _mean(lost if R.shape[-1] > 1 else lost[..., :0])


def backward_transfer(R: Array) -> Array:
    """What later training did to earlier tasks, in [-1, 1]; Lopez-Paz & Ranzato, arXiv:1706.08840 eq. 3.

    `mean over i < T-1 of R[T-1, i] - R[i, i]`. nan for T = 1.
    """
    R = _square(R)
    return _mean((R[..., -1, :] - _diagonal(R))[..., :-1])


def forward_transfer(R: Array, random: Array) -> Array:
    """What earlier training does for a task not yet seen, in [-1, 1]; Lopez-Paz & Ranzato, arXiv:1706.08840
    eq. 4.

    `mean over i >= 1 of R[i-1, i] - random[i]`. nan for T = 1.
    """
    R = _square(R)
    if random.shape != R.shape[:-1]:
        raise ValueError(f"random must be {R.shape[:-1]}, not {random.shape}")
    return _mean(_diagonal(R, 1) - random[..., 1:])


def plasticity(R: Array) -> Array:
    """Accuracy on each task when it has just been learned: `mean over i of R[i, i]`, in [0, 1]."""
    return _mean(_diagonal(_square(R)))


def stability(R: Array) -> Array:
    """Accuracy kept on the earlier tasks at the end: `mean over i < T-1 of R[T-1, i]`, in [0, 1]. nan for T =
    1.

    The counterpart of `plasticity`; the name has no agreed formula, this one is this project's choice. It
    obeys `T * average_accuracy = (T-1) * stability + R[T-1, T-1]`.
    """
    return _mean(_square(R)[..., -1, :-1])


class Metric(NamedTuple):
    """A metric of the registry: its function, its formula in words, what it says, and which direction is
    good.
    """

    function: Callable[..., Array]
    formula: str
    description: str
    higher_is_better: bool
    needs_random: bool = False


METRICS: dict[str, Metric] = {
    "average_accuracy": Metric(
        average_accuracy, "mean over i of R[T-1, i]", "accuracy over all tasks at the end", True
    ),
    "average_incremental_accuracy": Metric(
        average_incremental_accuracy,
        "mean over t of (mean over i <= t of R[t, i])",
        "accuracy over the tasks seen so far, averaged over the sequence",
        True,
    ),
    "forgetting": Metric(
        forgetting,
        "mean over i < T-1 of (max over i <= t < T-1 of R[t, i]) - R[T-1, i]",
        "how far earlier tasks fell from their best (the headline definition)",
        False,
    ),
    "forgetting_max_all": Metric(
        forgetting_max_all,
        "mean over i < T-1 of (max over all t of R[t, i]) - R[T-1, i]",
        "forgetting that is never negative: the last row is a candidate for the maximum",
        False,
    ),
    "forgetting_first": Metric(
        forgetting_first,
        "mean over i < T-1 of R[i, i] - R[T-1, i]",
        "how far earlier tasks fell from where they stood when just learned",
        False,
    ),
    "forgetting_div_T": Metric(
        forgetting_div_T,
        "mean over all i of (max over all t of R[t, i]) - R[T-1, i]",
        "forgetting_max_all that also counts the last task",
        False,
    ),
    "backward_transfer": Metric(
        backward_transfer,
        "mean over i < T-1 of R[T-1, i] - R[i, i]",
        "what later training did to earlier tasks",
        True,
    ),
    "forward_transfer": Metric(
        forward_transfer,
        "mean over i >= 1 of R[i-1, i] - random[i]",
        "what earlier training does for a task not yet seen, against the random network",
        True,
        needs_random=True,
    ),
    "plasticity": Metric(plasticity, "mean over i of R[i, i]", "accuracy on each task when just learned", True),
    "stability": Metric(
        stability, "mean over i < T-1 of R[T-1, i]", "accuracy kept on the earlier tasks at the end", True
    ),
}

FORGETTING_DEFINITIONS = ("forgetting", "forgetting_max_all", "forgetting_first", "forgetting_div_T")


def compute(R: Array, random: Array) -> dict[str, Array]:
    """Every metric of the registry by name, for one probe of one run or of many; fractions, nan where undefined."""
    return {
        name: metric.function(R, random) if metric.needs_random else metric.function(R)
        for name, metric in METRICS.items()
    }


def _square(R: Array) -> Array:
    if R.ndim < 2 or R.shape[-2] != R.shape[-1] or not R.shape[-1]:
        raise ValueError(f"an accuracy matrix is (T, T), not {R.shape}")
    return R


def _diagonal(R: Array, offset: int = 0) -> Array:
    return np.diagonal(R, offset, axis1=-2, axis2=-1)


def _mean(values: Array) -> Array:
    """Over the last axis, which is made contiguous: numpy then adds in the same order for one run and for many."""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], np.nan)
    return np.ascontiguousarray(values).mean(axis=-1)
