"""A linear classifier trained beside the encoder on labelled images of all tasks, as released code has it on CIFAR.

It only looks on: what it sees of the networks is detached, and unless it is to leak it changes nothing of the run.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.data import augment
from bench.data.images import TaskImages
from bench.data.scenarios import Scenario
from bench.engine import checkpoint
from bench.engine.train import Views, part_of_batch
from bench.evaluate.features import EVERY_TASK, Features
from bench.models.gather import share
from bench.models.learner import Learner
from bench.models.optim import build_optimizer, learning_rate, set_learning_rate
from bench.seeding import generator, permutation, seed_of

PROBE = "linear_online"
"""Name that its accuracies are recorded under."""


class Online:
    """Takes a step of its own with every step of the run: called between the gradients of the step and its update.

    Each epoch of the task it begins a new shuffle of all images, and takes as many batches of it as the task has.
    """

    def __init__(self, learner: Learner, views: Views, scenario: Scenario) -> None:
        """views: of the task, for their recipe and seeds."""
        settings, data, device = views.settings, scenario.dataset, views.images.device
        self.learner, self.views, self.leak = learner, views, settings.online.leak
        rows = torch.cat([torch.from_numpy(task.train) for task in scenario.tasks]).sort().values.numpy()
        self.images = TaskImages(data.train.images, rows, device)
        self.labels = torch.from_numpy(data.train.labels[rows]).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(views.seeds.init, "online"))
            self.classifier = nn.Linear(learner.objective.features, len(data.classes)).to(device)
        lr = settings.online.lr
        # The lowest rate is the encoder's, unless that is above this one's highest.
        self.config = replace(settings.optim, lr=lr, weight_decay=0.0, min_lr=min(settings.optim.min_lr, lr))
        self.optimizer = build_optimizer(self.classifier, self.config, ())
        self.epoch = -1

    def __call__(self, step: int, steps: int) -> None:
        """One step on a batch of all classes; step: of the run's steps in this task."""
        per_epoch = len(self.views.images) // self.views.batch
        x, y = self._batch(*divmod(step, per_epoch), per_epoch)
        loss = F.cross_entropy(self.classifier(self._features(x)), y)
        set_learning_rate(self.optimizer, learning_rate(self.config, step, steps, per_epoch), self.config.lr)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _batch(self, epoch: int, index: int, per_epoch: int) -> tuple[Tensor, Tensor]:
        """This process' images (1, n, C, S, S) in the recipe of the second view, and the labels (B,) of all."""
        views = self.views
        if epoch != self.epoch:
            self.epoch = epoch
            names = ("online", views.task, epoch)
            self.order = torch.from_numpy(permutation(len(self.images), views.seeds.data, *names))
            count = per_epoch * views.batch
            self.draw = views.draw(views.recipes[1], count, generator(views.seeds.augment, *names))
        own = part_of_batch(index, views.batch, share(views.batch))
        x = augment.apply(self.images[self.order[own]], augment.take(self.draw, own), views.size, *views.stats)
        chosen = self.order[part_of_batch(index, views.batch)]
        return x.unsqueeze(0), self.labels[chosen.to(self.labels.device)]

    @torch.no_grad()
    def _features(self, x: Tensor) -> Tensor:
        """Features (B, F) of the online encoder, of all processes' images: with running statistics left alone, or with
        those of the batch, which then move the running ones, and the momentum encoder's too."""
        learner = self.learner
        if self.leak:
            if learner.target is not None:
                learner.encode_jointly(learner.target, x)
            return learner.encode_jointly(learner.encoder, x)[0]
        learner.encoder.eval()
        try:
            return learner.encode_jointly(learner.encoder, x)[0]
        finally:
            learner.encoder.train()

    def training_state(self) -> dict[str, Tensor]:
        """Everything that a step changes, under names of its own."""
        state = checkpoint.training_state(self.classifier, self.optimizer)
        return {f"online.{name}": value for name, value in state.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Puts a `training_state` back, from among other tensors."""
        mine = {n.removeprefix("online."): value for n, value in state.items() if n.startswith("online.")}
        checkpoint.restore_training_state(self.classifier, self.optimizer, mine)

    def carried_state(self) -> dict[str, Tensor]:
        """What passes from task to task: weight (C, F) and bias (C,)."""
        return dict(self.classifier.state_dict())

    def carry_on(self, state: dict[str, Tensor]) -> None:
        """Takes over the state of the task before."""
        self.classifier.load_state_dict(state)


def online_rows(classifier: dict[str, Tensor], features: Features, tasks: int) -> list[dict[str, Any]]:
    """Rows {probe, on_task, value, n}: accuracy in [0, 1] over all classes, unmasked, on the n test images of each
    task."""
    scores = F.linear(features.test_x.float(), classifier["weight"], classifier["bias"])
    right = scores.argmax(1) == features.test_y
    rows = []
    for task in range(tasks):
        mine = right[(features.test_task == task) | (features.test_task == EVERY_TASK)]
        rows.append({"probe": PROBE, "on_task": task, "value": round(float(mine.double().mean()), 8), "n": len(mine)})
    return rows
