"""A task under way: the learner as the seeds of its run make it, and all that the steps of its training change."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.config import RunConfig
from bench.data.images import TaskImages
from bench.data.scenarios import Scenario
from bench.engine.checkpoint import restore_training_state, training_state
from bench.engine.keys import input_size, input_statistics
from bench.engine.online import Online
from bench.engine.plan import Stage
from bench.engine.train import Views
from bench.models.encoder import build_encoder
from bench.models.gather import gather, processes
from bench.models.learner import Learner
from bench.models.optim import build_optimizer
from bench.models.syncnorm import join_
from bench.seeding import generator, seed_of
from methods import registry
from methods.base import TaskContext


@dataclass
class Training:
    """What trains in a stage, with its views and the classifier beside it, if there is one."""

    learner: Learner
    optimizer: torch.optim.Optimizer
    views: Views
    online: Online | None

    @classmethod
    def of(cls, stage: Stage, learner: Learner, scenario: Scenario) -> "Training":
        """Before its first step; learner: of the stage's run and task."""
        run = stage.run
        images = TaskImages(scenario.dataset.train.images, stage.rows(scenario.tasks), run.settings.numerics.device)
        size, stats = input_size(run, scenario), input_statistics(run, scenario)
        views = Views(images, run.settings, run.seeds, stage.task, size, stats)
        online = Online(learner, views, scenario) if run.settings.online.run else None
        return cls(learner, build_optimizer(learner, run.settings.optim, learner.constant_lr), views, online)

    def state(self) -> dict[str, Tensor]:
        """Everything that a step changes."""
        state = training_state(self.learner, self.optimizer)
        return state | ({} if self.online is None else self.online.training_state())

    def restore(self, state: dict[str, Tensor]) -> None:
        """Puts a `state` back, strictly."""
        restore_training_state(self.learner, self.optimizer, state)
        if self.online is not None:
            self.online.restore(state)


class Order(NamedTuple):
    """What the first of several processes has the others train: a stage, from which step on, and `Training.state`
    there, as safetensors. digest: of the dataset that it trains on."""

    stage: Stage
    start: int
    state: bytes
    digest: str


def build_learner(run: RunConfig, scenario: Scenario, task: int, plain: bool = False) -> Learner:
    """The learner of a run at a task as its seeds make it, on the device; before task 1 it has no strategy.

    plain: as released code would run it, in float32 (to compare the speed with). Each part has a seed of its own name,
    so a part changes nothing in another.
    """
    settings, data = run.settings, scenario.dataset
    channels = data.train.images.shape[3]
    size = input_size(run, scenario)
    encoder, width = build_encoder(settings.encoder, channels, size, seed_of(run.seeds.init, "encoder"))
    several = processes() > 1
    if several:
        join_(encoder, settings.numerics.device)
    objective = _seeded(run, "objective", run.objective, run.objective_hparams, width)
    strategy = None
    if task > 0:
        image = (channels, *data.train.images.shape[1:3])
        strategy = _seeded(run, "strategy", run.strategy, run.strategy_hparams, objective, image)
    learner = Learner(
        encoder,
        objective,
        strategy,
        precision="fp32" if plain else settings.numerics.precision,
        teacher_bn=settings.train.teacher_bn,
        device_groups=settings.train.device_groups,
        gather=gather if several else None,
        plain=plain,
    ).to(settings.numerics.device)
    if plain:
        return learner.to(memory_format=torch.contiguous_format)
    if settings.numerics.compile:
        learner.compile_encoders()
    return learner


def _seeded(run: RunConfig, kind: str, name: str, hparams: dict[str, Any], *args: Any) -> Any:
    cls = registry.get(kind, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(run.seeds.init, kind, name))
        return cls(*args, cls.Hparams(**hparams))


def start_task(learner: Learner, run: RunConfig, scenario: Scenario, task: int) -> None:
    """The learner as task `task` begins: what it is becomes the teacher, and the strategy sees the images before."""
    learner.start_task()
    if learner.strategy is not None:
        # A strategy gets a task's images when the next one begins: so task 0 can be shared by all strategies.
        rows, device = scenario.tasks[task - 1].train, run.settings.numerics.device
        previous = TaskImages(scenario.dataset.train.images, rows, device)
        rng = generator(run.seeds.data, "task start", task)
        learner.strategy.on_task_start(TaskContext(task, previous, rng))
