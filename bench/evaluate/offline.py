"""The linear evaluation of the literature: a linear classifier by SGD on augmented images through a frozen encoder.

As in the released code of CaSSLe and PNR: 100 epochs, batch 256, a tenth of the learning rate after 60 and 80 of them,
no warm-up, no weight decay, no rescaling of the rate; momentum 0.9 (CaSSLe) or 0 (PNR). Differs: augmentation is this
project's (PIL's bicubic) rather than DALI's; test features come from the evaluation transform, rounded to float16.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.config import LinearOfflineProbe
from bench.data import augment
from bench.data.arrays import Stats
from bench.data.images import TaskImages
from bench.data.scenarios import Scenario
from bench.errors import UserError
from bench.evaluate.features import Features
from bench.evaluate.probes import Scores, accuracies, count_classes, label
from bench.models.learner import Learner
from bench.seeding import generator, permutation, seed_of

NAME = "linear_offline"
PUBLISHED_RATES = {
    "moco": 3.0,
    "byol": 3.0,
    "simclr": 1.0,
    "supcon": 1.0,
    "vicreg": 0.3,
    "swav": 0.15,
    "barlow": 0.1,
    "simsiam": 30.0,
}
"""Learning rate of the scripts of CaSSLe and PNR, by objective."""

Feed = Callable[[int, Sequence[Tensor]], Iterable[Tensor]]
"""Epoch and its batches as positions (m,) -> features (m, F) of each batch."""


def published_rate(objective: str) -> float:
    """The published learning rate of an objective; raises UserError where there is none."""
    if objective not in PUBLISHED_RATES:
        known = ", ".join(PUBLISHED_RATES)
        raise UserError(f"probe.{NAME}: no published rate for '{objective}' ({known}): set probe.{NAME}.lr")
    return PUBLISHED_RATES[objective]


def rate_at(epoch: int, config: LinearOfflineProbe, rate: float) -> float:
    """Learning rate of an epoch: a tenth after each milestone, which is rounded to whole epochs."""
    passed = sum(epoch >= round(fraction * config.epochs) for fraction in config.milestones)
    return rate * 0.1**passed


def fit_sgd(
    feed: Feed, y: Tensor, classes: int, width: int, config: LinearOfflineProbe, rate: float, seed: int
) -> Scores:
    """Linear classifier by SGD on cross-entropy; y: (N,) labels on the device, width: of the features.

    Start, order and crops are functions of seed and epoch. Incomplete batches are left out; a batch is capped at N.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "probe", NAME, "start"))
        classifier = nn.Linear(width, classes).to(y.device)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=rate, momentum=config.momentum)
    batch = min(config.batch, len(y))
    for epoch in range(config.epochs):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(epoch, config, rate)
        order = torch.from_numpy(permutation(len(y), seed, "probe", NAME, "order", epoch))
        parts = order[: len(y) // batch * batch].split(batch)
        for index, features in zip(parts, feed(epoch, parts), strict=True):
            loss = F.cross_entropy(classifier(features), y[index.to(y.device)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    classifier.requires_grad_(False)
    return lambda test: classifier(test.to(y.device)).cpu()


@dataclass(frozen=True)
class Augmented:
    """A `Feed` of augmented training images through the frozen encoder, in eval mode and without gradient."""

    learner: Learner
    images: TaskImages
    recipe: augment.View
    size: int
    stats: Stats
    seed: int

    @torch.no_grad()
    def _encoded(self, images: Tensor, draw: augment.Draw) -> Tensor:
        encoder = self.learner.encoder
        was_training = encoder.training
        encoder.eval()
        views = augment.apply(images, draw, self.size, *self.stats)
        features = self.learner.encode(encoder, views[None])[0]
        encoder.train(was_training)
        return features

    def __call__(self, epoch: int, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Features of each batch."""
        source, rng = self.images, generator(self.seed, "probe", NAME, "augment", epoch)
        draws = augment.draw(self.recipe, len(source), source.height, source.width, source.channels, rng)
        for index, images in zip(parts, source.batches(parts), strict=True):
            yield self._encoded(images, augment.take(draws, index))


@dataclass(frozen=True)
class Cached:
    """A `Feed` of cached features x (N, F)."""

    x: Tensor

    def __call__(self, epoch: int, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        return (self.x[index] for index in parts)


def crops_and_flips(config: LinearOfflineProbe) -> augment.View:
    """Random-resized crop and horizontal flip, nothing else."""
    return augment.View(crop_scale=config.crop_scale, jitter_prob=0, gray_prob=0, blur_prob=0, solarize_prob=0)


def run_offline(
    config: LinearOfflineProbe,
    rate: float,
    features: Features,
    scenario: Scenario,
    learner: Learner | None,
    size: int,
    stats: Stats,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows {probe, on_task, value, n}: see `bench.evaluate.probes.accuracies`; in domain_il one classifier over all
    domains and one for each.

    rate: of learning. learner: of the frozen encoder, None to train on the cached features. size, stats: of its images.
    """
    data, classes = scenario.dataset, count_classes(features)
    rows = np.sort(np.concatenate([task.train for task in scenario.tasks]))  # the order of the cached features

    def fit(chosen: Tensor | None) -> Scores:
        mine = torch.arange(len(rows)) if chosen is None else chosen.nonzero()[:, 0]
        feed: Feed = Cached(features.train_x[mine].float())
        device = "cpu"
        if learner is not None:
            device = str(next(learner.encoder.parameters()).device)
            images = TaskImages(data.train.images, rows[mine.numpy()], device)
            feed = Augmented(learner, images, crops_and_flips(config), size, stats, seed)
        y = features.train_y[mine].to(device)
        return fit_sgd(feed, y, classes, features.train_x.shape[1], config, rate, seed)

    return accuracies(label(NAME, config), fit, features, scenario.name, len(scenario.tasks))
