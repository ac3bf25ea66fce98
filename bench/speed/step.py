"""One training step under the stopwatch: whole, in parts, and only its passes through encoders."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor

from bench.config import RunConfig
from bench.data.images import TaskImages
from bench.data.scenarios import Scenario
from bench.engine.keys import input_size, input_statistics
from bench.engine.online import Online
from bench.engine.task import build_learner, start_task
from bench.engine.train import Diverged, Views, step_inputs, train_steps
from bench.models.optim import build_optimizer

PARTS = ("augmentation", "encoder", "teacher and momentum", "heads and loss", "optimizer and EMA")
SECONDS = 0.5
"""Of one measurement, which is at least one call."""


def now(device: str) -> float:
    """Seconds, after all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def mean_seconds(works: Sequence[Callable[[], object]], device: str) -> list[float]:
    """Mean time of each work, done in turns for `SECONDS` each on average; the first turn does not count."""
    spent = [0.0] * len(works)
    for work in works:
        work()
    turns = 0
    while sum(spent) < SECONDS * len(works):
        for index, work in enumerate(works):
            began = now(device)
            work()
            spent[index] += now(device) - began
        turns += 1
    return [seconds / turns for seconds in spent]


class Trial:
    """A method at its second task (with its strategy, as all tasks but the first), ready to take steps."""

    def __init__(self, run: RunConfig, scenario: Scenario, plain: bool = False, task: int = 1) -> None:
        """plain: as released code would run it, in float32; task: 0 for the shared first one, without strategy."""
        self.run, self.scenario, self.settings = run, scenario, run.settings
        self.device = self.settings.numerics.device
        self.learner = build_learner(run, scenario, task, plain)
        if task > 0:
            start_task(self.learner, run, scenario, task)
        self.learner.train()
        rows = scenario.tasks[min(task, len(scenario.tasks) - 1)].train
        images = TaskImages(scenario.dataset.train.images, rows, self.device)
        self.stats = input_statistics(run, scenario)
        self.size = input_size(run, scenario)
        self.views = Views(images, self.settings, run.seeds, task, self.size, self.stats)
        self.optimizer = build_optimizer(self.learner, self.settings.optim, self.learner.constant_lr)
        self.per_epoch = len(images) // self.views.batch
        self.online = Online(self.learner, self.views, scenario) if self.settings.online.run and not plain else None
        self._steps = self._endless()
        self._parts_step = 0

    @cached_property
    def _resident(self) -> Tensor:
        shape = (2, self.views.batch, self.views.images.channels, self.size, self.size)
        pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        return self.learner.prepare(pixels.to(self.device))

    def _endless(self) -> Iterator[object]:
        while True:
            yield from train_steps(self.learner, self.optimizer, self.views, self.settings, 0, self.online)

    def whole(self) -> None:
        """A step of the training loop, with everything in it; one whose loss is no number takes as long as any."""
        try:
            next(self._steps)
        except Diverged:
            self._steps = self._endless()

    def limit(self) -> None:
        """The same passes through encoders alone, on prepared random images that are there already."""
        self.learner.targets(self._resident)
        h = self.learner.features(self._resident)
        self.optimizer.zero_grad()
        h.backward(torch.ones_like(h))

    def parts(self) -> dict[str, float]:
        """Seconds of each of `PARTS` in one step, waiting for the device after each."""
        seconds = dict.fromkeys(PARTS, 0.0)

        @contextmanager
        def watch(part: str) -> Iterator[None]:
            began = now(self.device)
            yield
            seconds[part] += now(self.device) - began

        learner, step = self.learner, self._parts_step
        self._parts_step = (step + 1) % (self.per_epoch * self.settings.train.epochs)
        with watch("augmentation"):
            batch = step_inputs(learner, self.views, step, self.per_epoch)
        prepared = learner.prepare(batch)
        with watch("teacher and momentum"):
            target, teacher = learner.targets(prepared)
        with watch("encoder"):
            h = learner.features(prepared)
        with watch("heads and loss"):
            leaf = h.detach().requires_grad_()
            output = learner.heads(leaf, target, teacher)
            self.optimizer.zero_grad()
            output.loss.backward()
        assert leaf.grad is not None
        with watch("encoder"):
            h.backward(leaf.grad)
        with watch("optimizer and EMA"):
            self.optimizer.step()
            learner.after_step(output, 0.5)
        return seconds
