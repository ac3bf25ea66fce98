"""Probes on cached features: what a simple classifier reads from a frozen encoder."""

from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.config import KnnProbe, LinearProbe, NcmProbe, ProbeConfig
from bench.evaluate.catalogue import AWARE
from bench.evaluate.features import EVERY_TASK, Features
from bench.seeding import generator

PART = 512
"""Images whose neighbours are looked for at once."""
FOLDS = 32

Scores = Callable[[Tensor], Tensor]
"""Features (n, F) -> scores (n, C), the higher the likelier."""


def fit_linear(
    x: Tensor, y: Tensor, classes: int, config: LinearProbe, seed: int, unlabelled: Tensor | None = None
) -> Scores:
    """Multinomial logistic regression on standardised features by L-BFGS; x: (N, F), y: (N,) in [0, classes).

    unlabelled: (M, F) features whose mean and standard deviation are taken instead of those of x.
    """
    reference = x if unlabelled is None else unlabelled
    mean, std = reference.mean(0), reference.std(0)
    # A feature without spread in training says nothing; scaled up, its rounding and its rare test values would.
    std = std.masked_fill(std <= 1e-5 * torch.maximum(reference.amax(0), -reference.amin(0)), 1.0)
    # Rows that begin at a multiple of 64 bytes: the products below are faster, and equal bit by bit.
    standard = x.new_ones(len(x), (x.shape[1] // 16 + 1) * 16)[:, : x.shape[1] + 1]
    torch.sub(x, mean, out=standard[:, :-1]).div_(std)
    start = torch.randn(x.shape[1] + 1, classes, generator=generator(seed, "probe", "linear")) * 0.01
    weight = start.to(x.device).requires_grad_()
    lbfgs = torch.optim.LBFGS(
        [weight],
        max_iter=config.iterations,
        history_size=10,
        tolerance_grad=1e-5,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        lbfgs.zero_grad()
        loss = F.cross_entropy(standard @ weight, y) + config.l2 * weight[:-1].square().sum()
        loss.backward()
        return loss

    lbfgs.step(closure)
    w = weight.detach()
    return lambda test: ((test - mean) / std) @ w[:-1] + w[-1]


def fit_knn(x: Tensor, y: Tensor, classes: int, config: KnnProbe, seed: int) -> Scores:
    """Votes of the k nearest by cosine, weighted exp(cos / temperature) (arXiv:1805.01978); k is capped at the images
    there."""
    bank = F.normalize(x, dim=1)
    k = min(config.k, len(x))

    def scores(test: Tensor) -> Tensor:
        rows = []
        cosines = x.new_empty(min(PART, len(test)), len(x))
        for part in F.normalize(test, dim=1).split(PART):
            cosine, index = _largest(torch.mm(part, bank.T, out=cosines[: len(part)]), k)
            # Relative to the nearest, so that a low temperature cannot overflow.
            weight = ((cosine - cosine[:, :1]) / config.temperature).exp()
            rows.append(x.new_zeros(len(part), classes).scatter_add_(1, y[index], weight))
        return torch.cat(rows)

    return scores


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of (n, N) and where they are, as `topk`, which is slow on long rows: they are among the
    k columns of largest maximum where a row is folded into `FOLDS` lines, and in the rest that fills no line."""
    count, length = len(values), values.shape[1] // FOLDS
    if length <= k:
        return torch.topk(values, k)
    columns = values[:, : FOLDS * length].view(count, FOLDS, length).amax(1).topk(k).indices
    folded = columns[:, :, None] + length * torch.arange(FOLDS, device=values.device)
    rest = torch.arange(FOLDS * length, values.shape[1], device=values.device).expand(count, -1)
    candidates = torch.cat([folded.flatten(1), rest], 1)
    found, position = values.gather(1, candidates).topk(k)
    return found, candidates.gather(1, position)


def fit_ncm(x: Tensor, y: Tensor, classes: int, config: NcmProbe, seed: int) -> Scores:
    """Nearest class mean on unit-length features; classes without images score lowest."""
    unit = F.normalize(x, dim=1)
    sums = x.new_zeros(classes, x.shape[1]).index_add_(0, y, unit)
    means = F.normalize(sums, dim=1)
    absent = torch.bincount(y, minlength=classes) == 0
    return lambda test: (F.normalize(test, dim=1) @ means.T).masked_fill(absent, -2.0)


def few_labels(y: Tensor, fraction: float, seed: int) -> Tensor:
    """Rows of a class-balanced part of the labels y (N,), ascending: of each class that is there, `fraction` of the
    mean class size, at least one image and at most all; a smaller fraction's rows are among a larger one's."""
    classes = y.unique().tolist()
    count = max(1, round(fraction * len(y) / len(classes)))
    chosen = []
    for label in classes:
        rows = (y == label).nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=generator(seed, "probe", "few labels", label))
        chosen.append(rows[order[:count]])
    return torch.cat(chosen).sort().values


def fit_few(fraction: float, x: Tensor, y: Tensor, classes: int, config: LinearProbe, seed: int) -> Scores:
    """`fit_linear` on few of the labels; the standardisation, which needs none, is that of all features."""
    rows = few_labels(y, fraction, seed)
    return fit_linear(x[rows], y[rows], classes, config, seed, unlabelled=x)


FITS: dict[str, Callable[..., Scores]] = {
    "linear": fit_linear,
    "knn": fit_knn,
    "ncm": fit_ncm,
    "linear_1pct": partial(fit_few, 0.01),
    "linear_10pct": partial(fit_few, 0.1),
}
"""Of every probe on cached features: (x, y, classes, config, seed) -> scores."""


def label(name: str, config: Any) -> str:
    """`knn`, or `knn(k=50)` where settings differ from the defaults."""
    default = getattr(ProbeConfig(), name)
    changed = [
        f"{f.name}={getattr(config, f.name)}"
        for f in fields(config)
        if getattr(config, f.name) != getattr(default, f.name)
    ]
    return f"{name}({','.join(changed)})" if changed else name


def probe_names(name: str, config: Any, scenario: str) -> list[str]:
    """The record names that a probe gives: its label and, where tasks can be told apart, `LABEL_aware`."""
    word = label(name, config)
    return [word] if scenario == "data_il" else [word, f"{word}{AWARE}"]


def run_probe(name: str, config: Any, features: Features, scenario: str, tasks: int, seed: int) -> list[dict[str, Any]]:
    """Rows {probe, on_task, value, n} of a probe on cached features: see `accuracies`."""
    x, y, classes = features.train_x.float(), features.train_y, count_classes(features)

    def fit(chosen: Tensor | None) -> Scores:
        own = (x, y) if chosen is None else (x[chosen], y[chosen])
        return FITS[name](*own, classes, config, seed)

    return accuracies(label(name, config), fit, features, scenario, tasks)


def count_classes(features: Features) -> int:
    """Number of classes that a classifier has: one above the highest label."""
    return int(max(features.train_y.max(), features.test_y.max())) + 1


def accuracies(
    word: str, fit: Callable[[Tensor | None], Scores], features: Features, scenario: str, tasks: int
) -> list[dict[str, Any]]:
    """Rows {probe, on_task, value, n}: accuracy in [0, 1] on the n test images of each task.

    fit: makes the classifier from the training images of a mask (N,), or from all. Task-agnostic: one classifier over
    all classes and all training images. Task-aware (`_aware`): in class_il the same classifier restricted to the
    classes of the task; in domain_il a classifier fitted on the domain alone. In data_il every task has the whole test
    set, and there is no aware row.
    """
    test = features.test_x.float()
    scores = fit(None)(test)
    right = scores.argmax(1) == features.test_y
    rows = []
    for task in range(tasks):
        chosen = (features.test_task == task) | (features.test_task == EVERY_TASK)
        rows.append(_row(word, task, right[chosen]))
        mine = features.train_task == task
        if scenario == "class_il":
            absent = torch.ones(scores.shape[1], dtype=torch.bool)
            absent[features.train_y[mine].unique()] = False
            aware = scores[chosen].masked_fill(absent, float("-inf"))
        elif scenario == "domain_il":
            aware = fit(mine)(test[chosen])
        else:
            continue
        rows.append(_row(f"{word}{AWARE}", task, aware.argmax(1) == features.test_y[chosen]))
    return rows


def _row(probe: str, task: int, right: Tensor) -> dict[str, Any]:
    return {"probe": probe, "on_task": task, "value": round(float(right.double().mean()), 8), "n": len(right)}


def settings_of(name: str, config: Any) -> dict[str, Any]:
    """Name and settings of a probe as plain values, to hash and to record."""
    return {"name": name, **asdict(config)}
