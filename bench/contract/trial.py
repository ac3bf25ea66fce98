"""A pair at toy size: three tasks of random images, the real learner, loop and checkpoints."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from safetensors.torch import load, save
from torch import Tensor

from bench.config import (
    EncoderConfig,
    LinearOfflineProbe,
    LinearProbe,
    NumericsConfig,
    OptimConfig,
    ProbeConfig,
    RunConfig,
    Seeds,
    Settings,
    TrainConfig,
)
from bench.data.datasets import Dataset, Split
from bench.data.images import TaskImages
from bench.data.scenarios import Scenario, build
from bench.engine.checkpoint import restore_training_state, training_state
from bench.engine.task import build_learner, start_task
from bench.engine.train import Progress, Views, train_task
from bench.models.learner import Learner
from bench.models.optim import build_optimizer
from methods import registry

BATCH, STEPS, SIDE, TASKS = 8, 4, 8, 3
State = dict[str, Tensor]
_trained: dict[tuple[Any, ...], State] = {}


def toy_scenario(seed: int = 0) -> Scenario:
    """Random 8x8 grey images in three i.i.d. shards; the seed draws labels and the images of the last shard."""
    fixed, free = np.random.default_rng(0), np.random.default_rng(seed)
    count = TASKS * BATCH * STEPS // 2
    images = fixed.integers(0, 256, (count, SIDE, SIDE, 1), dtype=np.uint8)
    split = Split(images, free.integers(0, 4, count), np.zeros(count, dtype=np.int64))
    data = Dataset("toy", split, split, tuple("abcd"), (), (0.5,), (0.25,), f"toy{seed}")
    scenario = build("data_il", data, tasks=TASKS, order_seed=0, split_seed=0)
    images[scenario.tasks[-1].train] = free.integers(0, 256, (count // TASKS, SIDE, SIDE, 1), dtype=np.uint8)
    return scenario


def small(cls: Any) -> dict[str, Any]:
    """Hyperparameters of a method with its sizes cut to 16."""
    defaults = cls.Hparams()
    values = {f.name: getattr(defaults, f.name) for f in fields(defaults)}
    return {n: min(v, 16) if isinstance(v, int) and not isinstance(v, bool) else v for n, v in values.items()}


@dataclass
class Trial:
    """A pair on the toy scenario; everything is a function of its fields."""

    run: RunConfig
    scenario: Scenario

    @classmethod
    def of(cls, strategy: str, objective: str, changed: dict[str, Any] | None = None, data_seed: int = 0) -> "Trial":
        """changed: hyperparameters as 'strategy.NAME' or 'objective.NAME'."""
        hparams = {
            kind: small(registry.get(kind, name)) for kind, name in (("strategy", strategy), ("objective", objective))
        }
        for key, value in (changed or {}).items():
            kind, _, name = key.partition(".")
            hparams[kind][name] = value
        few = LinearProbe(iterations=3)
        settings = Settings(
            encoder=EncoderConfig(name="resnet4", width=16, stem="stride2"),
            train=TrainConfig(epochs=2, batch=BATCH),
            optim=OptimConfig(lr=0.3, warmup_epochs=0),
            numerics=NumericsConfig(device="cpu", precision="fp32", threads=1),
            probe=ProbeConfig(
                linear=few, linear_1pct=few, linear_10pct=few, linear_offline=LinearOfflineProbe(epochs=1)
            ),
        )
        run = RunConfig(
            scenario="data_il",
            objective=objective,
            strategy=strategy,
            objective_hparams=hparams["objective"],
            strategy_hparams=hparams["strategy"],
            seed=0,
            vary="all",
            seeds=Seeds(),
            preset="toy",
            settings=settings,
        )
        return cls(run, toy_scenario(data_seed))

    def learner(self, task: int, parent: State | None = None) -> Learner:
        """The learner as a task begins, from the carried state of the task before."""
        learner = build_learner(self.run, self.scenario, task)
        if parent is not None:
            learner.load_carried_state(parent)
        if task > 0:
            start_task(learner, self.run, self.scenario, task)
        return learner

    def train(self, learner: Learner, task: int, saved: State | None = None, start: int = 0) -> list[State]:
        """Trains a task, from a saved state behind `start` steps if given; the training state behind each of its
        steps."""
        optimizer = build_optimizer(learner, self.run.settings.optim, learner.constant_lr)
        if saved is not None:
            restore_training_state(learner, optimizer, load(save(packed(saved))))
        states: list[State] = []

        def after_step(progress: Progress) -> None:
            states.append(packed(training_state(learner, optimizer)))

        train_task(learner, optimizer, self.views(task), self.run.settings, start, after_step)
        return states

    def views(self, task: int) -> Views:
        """The augmented views of a task."""
        data = self.scenario.dataset
        images = TaskImages(data.train.images, self.scenario.tasks[task].train, "cpu")
        return Views(images, self.run.settings, self.run.seeds, task, SIDE, (data.mean, data.std))

    def after(self, tasks: int) -> State:
        """The carried state after so many tasks, of which each is trained once in a process."""
        key = self.key(tasks - 1)
        if key not in _trained:
            _trained[key] = self.trained(tasks - 1)
        return _trained[key]

    def trained(self, task: int) -> State:
        """The carried state after a task that is trained anew."""
        learner = self.learner(task, self.after(task) if task > 0 else None)
        optimizer = build_optimizer(learner, self.run.settings.optim, learner.constant_lr)
        train_task(learner, optimizer, self.views(task), self.run.settings, 0, lambda _: None)
        return packed(learner.carried_state())

    def key(self, task: int) -> tuple[Any, ...]:
        """What the state after a task is a function of; task 0 knows no strategy, which is a law of its own."""
        run = self.run
        objective = (registry.get("objective", run.objective), *run.objective_hparams.items())
        strategy = (registry.get("strategy", run.strategy), *run.strategy_hparams.items()) if task > 0 else ()
        return (task, *objective, *strategy, self.scenario.dataset.digest)

    def second_task(self) -> tuple[Learner, Tensor]:
        """The learner as task 1 begins, and its first two views."""
        return self.learner(1, self.after(1)), self.views(1)(0, 0)


def packed(state: State) -> State:
    """A copy that later steps do not reach."""
    return {name: value.detach().clone().contiguous() for name, value in state.items()}


def equal(a: State, b: State) -> bool:
    """Same names, shapes and bits."""
    return a.keys() == b.keys() and all(a[n].shape == b[n].shape and bool((a[n] == b[n]).all()) for n in a)


def differing(a: State, b: State) -> str:
    """Names of what two states do not share bit by bit."""
    names = [n for n in sorted(a.keys() | b.keys()) if n not in a or n not in b or not equal({n: a[n]}, {n: b[n]})]
    return ", ".join(names[:3])


def as_bytes(state: State) -> bytes:
    """A state as one string of bytes, to compare before and after."""
    return b"".join(name.encode() + state[name].detach().contiguous().numpy().tobytes() for name in sorted(state))
