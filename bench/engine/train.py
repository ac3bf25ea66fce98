"""The training loop of one task."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.config import Seeds, Settings
from bench.data import augment
from bench.data.arrays import Stats
from bench.data.images import TaskImages
from bench.evaluate.features import embedding_std
from bench.models.gather import in_parallel, share
from bench.models.learner import Learner
from bench.models.optim import learning_rate, set_learning_rate
from bench.seeding import generator, permutation, seed_of
from methods.base import StepContext, Strategy

Observer = Callable[[int, int], None]
"""Sees the networks between a step's gradients and its update: (step, steps of the task)."""


WATCH_EVERY = 20
"""Steps between looks at the embeddings."""
WHOLE = slice(None)


class Diverged(Exception):
    """The loss is no longer a number; the message says at which step."""


class Progress(NamedTuple):
    """Where the loop stands after a step."""

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float | None
    """Of this step, where it was read from the device."""
    spread: float | None
    """Of the embeddings of this step, every so many steps; see `embedding_std`."""
    augment_seconds: float


def part_of_batch(index: int, batch: int, own: slice = WHOLE) -> slice:
    """Positions in an epoch's order of batch `index`, or of what is `own` of it."""
    chosen = range(index * batch, (index + 1) * batch)[own]
    return slice(chosen.start, chosen.stop)


class Views:
    """Two augmented views of a task's images; every number is a function of seed, task, epoch and position."""

    def __init__(
        self, images: TaskImages, settings: Settings, seeds: Seeds, task: int, size: int, stats: Stats
    ) -> None:
        self.settings, self.images, self.recipes = settings, images, (settings.augment.view1, settings.augment.view2)
        self.seeds, self.task, self.size, self.stats = seeds, task, size, stats
        self.batch, self.epochs = settings.train.batch, settings.train.epochs
        self.epoch = -1

    def __call__(self, epoch: int, index: int, own: slice = WHOLE) -> Tensor:
        """Batch `index` of an epoch, or what is `own` of it: (2, n, C, S, S) normalised float32; the images of the next
        are read ahead."""
        if epoch != self.epoch:
            self._begin(epoch)
        part = part_of_batch(index, self.batch, own)
        images = self.images[self.order[part]]
        self._read_ahead(index + 1, own)
        return self._apply(images, [augment.take(draw, part) for draw in self.draws])

    def _apply(self, images: Tensor, draws: Sequence[augment.Draw]) -> Tensor:
        """All views in one go, since no sample depends on another: (2, n, C, S, S)."""
        joined = augment.Draw(*(torch.cat(parts) for parts in zip(*draws, strict=True)))
        views = augment.apply(images.repeat(len(draws), 1, 1, 1), joined, self.size, *self.stats)
        return views.unflatten(0, (len(draws), len(images)))

    def _begin(self, epoch: int) -> None:
        self.epoch = epoch
        self.order = self._order(epoch)
        self.draws = [
            self.draw(recipe, len(self.images), generator(self.seeds.augment, "augment", self.task, epoch, view))
            for view, recipe in enumerate(self.recipes)
        ]

    def _order(self, epoch: int) -> Tensor:
        return torch.from_numpy(permutation(len(self.images), self.seeds.data, "data", self.task, epoch))

    def _read_ahead(self, index: int, own: slice) -> None:
        """Batch `index` of this epoch, or the first of the next; the incomplete batch of an epoch is never used."""
        if index < len(self.images) // self.batch:
            self.images.read_ahead(self.order[part_of_batch(index, self.batch, own)])
        elif self.epoch + 1 < self.epochs:
            self.images.read_ahead(self._order(self.epoch + 1)[part_of_batch(0, self.batch, own)])

    def draw(self, recipe: augment.View, count: int, rng: torch.Generator) -> augment.Draw:
        """The numbers of `count` samples of images of this size."""
        return augment.draw(recipe, count, self.images.height, self.images.width, self.images.channels, rng)

    def augment(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Two views of other images, e.g. remembered ones: uint8 (n, C, h, w) -> (2, n, C, S, S)."""
        return self._apply(images, [self.draw(recipe, len(images), rng) for recipe in self.recipes])


def train_task(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    views: Views,
    settings: Settings,
    start: int,
    after_step: Callable[[Progress], None],
    observe: Observer | None = None,
) -> None:
    """Trains from step `start` to the end of the task; raises Diverged where the loss becomes NaN or infinite.

    Nothing but `learner`, `optimizer` and the step number carries over between steps, so that a checkpoint of those
    three continues bit by bit. `after_step` is called after each, `observe` within.
    """
    for progress in train_steps(learner, optimizer, views, settings, start, observe):
        after_step(progress)


def train_steps(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    views: Views,
    settings: Settings,
    start: int,
    observe: Observer | None = None,
) -> Iterator[Progress]:
    """The steps of `train_task`, one each time the next is asked for."""
    per_epoch = len(views.images) // settings.train.batch
    epochs = settings.train.epochs
    steps = per_epoch * epochs
    reads_loss = 1 if views.images.device == "cpu" else 20
    devices = [] if views.images.device == "cpu" else [torch.cuda.current_device()]
    lag = int(settings.train.ema_skip_first)
    learner.train()
    network = in_parallel(learner)
    for step in range(start, steps):
        if step == start or step % per_epoch == 0:
            learner.begin_epoch(step // per_epoch)
        began = time.perf_counter()
        batch = step_inputs(learner, views, step, per_epoch)
        augment_seconds = time.perf_counter() - began
        rate = learning_rate(settings.optim, step, steps, per_epoch)
        set_learning_rate(optimizer, rate, settings.optim.lr)
        with torch.random.fork_rng(devices):
            # Dropout and stochastic depth draw from the global generators: heads the same on every process.
            seed = seed_of(views.seeds.augment, "network", views.task, step)
            torch.default_generator.manual_seed(seed)
            if views.images.device == "cuda":
                torch.cuda.manual_seed_all(seed)
            learner.before_step(step / steps)
            output = network(batch)
            optimizer.zero_grad()
            output.loss.backward()
            if observe is not None:
                observe(step, steps)
        optimizer.step()
        learner.after_step(output, max(0, step - lag) / steps, follow=step >= lag)
        loss = None
        if step % reads_loss == reads_loss - 1 or step == steps - 1:
            loss = float(output.loss.detach())
            if not math.isfinite(loss):
                raise Diverged(f"loss is {loss} at step {step} of {steps} (try a lower optim.lr)")
        watched = step % WATCH_EVERY == WATCH_EVERY - 1 or step == steps - 1
        spread = embedding_std(output.embeddings.z.detach().flatten(0, 1)) if watched else None
        yield Progress(step + 1, steps, step // per_epoch, epochs, loss, spread, augment_seconds)


def step_inputs(learner: Learner, views: Views, step: int, per_epoch: int) -> Tensor:
    """This process' views (2, n, C, S, S) of a step, as the strategy wants them."""
    epoch, index = divmod(step, per_epoch)
    strategy = learner.strategy
    if strategy is None or type(strategy).inputs is Strategy.inputs:
        return views(epoch, index, share(views.batch))
    # What mixes or replays images sees the whole batch, everywhere.
    rng = generator(views.seeds.augment, "inputs", views.task, step)
    mixed = strategy.inputs(views(epoch, index), StepContext(views.augment, rng))
    return mixed[:, share(mixed.shape[1])]
