"""Does one stage: train, cache features, run probes. Started again after a kill, it goes on where it was."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.config import RunConfig
from bench.data.images import TaskImages
from bench.data.scenarios import Scenario
from bench.engine.checkpoint import load_tensors, restore_training_state, save_tensors, training_state
from bench.engine.environment import code_hash, environment
from bench.engine.keys import input_size, input_statistics
from bench.engine.online import Online
from bench.engine.plan import Stage, is_done, scenario_of
from bench.engine.probing import Subject, run_on
from bench.engine.stopping import asked, check, in_steps
from bench.engine.store import Store
from bench.engine.train import Diverged, Progress, Views, train_task
from bench.evaluate.features import (
    COLLAPSE_STD,
    Features,
    all_features,
    encode_split,
    pixel_side,
    pixels,
    project,
    watch,
)
from bench.models.encoder import build_encoder
from bench.models.learner import Learner
from bench.models.optim import build_optimizer
from bench.seeding import generator, seed_of
from methods import registry
from methods.base import TaskContext

Emit = Callable[[dict[str, Any]], None]
"""Receives progress: {stage, step, steps, epoch, epochs, loss, rate} or {stage, phase}."""


@dataclass
class Clock:
    """Seconds per part of a stage."""

    seconds: dict[str, float]

    def run(self, part: str, work: Callable[[], Any]) -> Any:
        """Calls `work` and books its wall time."""
        began = time.perf_counter()
        result = work()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began
        return result


def do_stage(stage: Stage, out: Path, save_every: float, emit: Emit, wanted: bool = False) -> bool:
    """Makes a stage done: whatever of it is missing or damaged; False where nothing was, as another process has done
    it.

    save_every: seconds between saves inside a task; no result depends on it. wanted: whether a stage lacks this one's
    model. Raises Busy where another process is at it, LostLease where another has taken it over meanwhile, Damaged
    where the model that it starts from is not whole, Diverged where the loss is no longer a number, and Stopped.
    """
    with Store(out).lock(stage.key) as store:
        store.examine(stage.key, trained=wanted)
        if is_done(stage, store):
            return False
        numerics = stage.run.settings.numerics
        torch.set_num_threads(numerics.threads)
        clock = Clock({})
        emit = _both(emit, store)
        if store.facts(stage.key) is None:
            facts = _make(stage, store, clock, save_every, emit)
            probe_stage(stage, store, clock, emit)
            facts["seconds"] = {part: round(s, 3) for part, s in clock.seconds.items()}
            store.finish(stage.key, facts)
        else:
            probe_stage(stage, store, clock, emit)
    return True


def _both(emit: Emit, store: Store) -> Emit:
    """Progress goes to whoever runs the stage, and out with the heartbeat of its lease."""

    def tell(event: dict[str, Any]) -> None:
        assert store.lease is not None
        store.lease.tell(event)
        emit(event)

    return tell


def _make(stage: Stage, store: Store, clock: Clock, save_every: float, emit: Emit) -> dict[str, Any]:
    run = stage.run
    scenario = scenario_of(run, store.out)
    device = run.settings.numerics.device
    samples, collapsed_at = 0, None
    if stage.kind == "pixels":
        emit({"stage": stage.key, "phase": "pixels"})
        data = scenario.dataset
        splits = (data.train, data.test)
        x = [clock.run("features", partial(pixels, split, pixel_side(splits))) for split in splits]
        features = all_features(scenario, *x)
        facts: dict[str, Any] = {"watch": None}
    else:
        learner = build_learner(run, scenario, stage.task)
        if stage.trains:
            samples, collapsed_at = _train(stage, store, learner, scenario, clock, save_every, emit)
        emit({"stage": stage.key, "phase": "features"})
        features = clock.run("features", lambda: _features(learner, run, scenario))
        if not (torch.isfinite(features.train_x).all() and torch.isfinite(features.test_x).all()):
            raise Diverged("features are NaN or beyond float16 (try a lower optim.lr)")
        z = None if stage.kind == "init" else project(learner.objective.projector, features.test_x.float().to(device))
        facts = {"watch": watch(features.test_x, z)}
        if facts["watch"]["collapsed"] and collapsed_at is not None:
            facts["watch"]["reason"] += f", since step {collapsed_at} of the task"
    save_tensors(store.features(stage.key), features.tensors(), write=store.write)
    return {
        **facts,
        "kind": stage.kind,
        "task": stage.task,
        "parent": stage.parent,
        "samples": samples,
        "code": code_hash(),
        "environment": environment(device),
    }


def probe_stage(stage: Stage, store: Store, clock: Clock, emit: Emit) -> None:
    """Runs the probes of a stage that have no results yet; its features, and its model where it has one, are there.

    Those that run during training have left theirs by now.
    """
    missing = [probe for probe in stage.probes if not store.probe(stage.key, probe.key).exists()]
    if not missing:
        return
    scenario = scenario_of(stage.run, store.out)
    size, stats = input_size(stage.run, scenario), input_statistics(stage.run, scenario)
    features = Features(**load_tensors(store.features(stage.key))[0])
    subject = Subject(stage.key, stage.kind, features, scenario, size, stats, partial(_trained, stage, scenario, store))
    for probe in sorted(missing, key=lambda p: p.key):
        emit({"stage": stage.key, "phase": f"probe {probe.name}"})
        rows = clock.run("probes", partial(run_on, subject, probe, store))
        store.write_json(store.probe(stage.key, probe.key), {"rows": rows})


def _trained(stage: Stage, scenario: Scenario, store: Store) -> Learner:
    """A learner whose encoder is that of a stage as it ended; its heads are fresh."""
    learner = build_learner(stage.run, scenario, 0)
    if stage.trains:
        state, _ = load_tensors(store.model(stage.key))
        own = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
        learner.encoder.load_state_dict(own, strict=True)
    return learner


def build_learner(run: RunConfig, scenario: Scenario, task: int, plain: bool = False) -> Learner:
    """The learner of a run at a task as its seeds make it, on the device; before task 1 it has no strategy.

    plain: as released code would run it, in float32 (to compare the speed with). Each part has a seed of its own name,
    so a part changes nothing in another.
    """
    settings, data = run.settings, scenario.dataset
    channels = data.train.images.shape[3]
    size = input_size(run, scenario)
    encoder, width = build_encoder(settings.encoder, channels, size, seed_of(run.seeds.init, "encoder"))
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


def _train(
    stage: Stage,
    store: Store,
    learner: Learner,
    scenario: Scenario,
    clock: Clock,
    save_every: float,
    emit: Emit,
) -> tuple[int, int | None]:
    """Trains the stage's task from wherever it was left; returns the number of images it is trained on, and the step
    since which its embeddings are collapsed, if they are."""
    run, data, rows = stage.run, scenario.dataset, stage.rows(scenario.tasks)
    samples = len(rows) // run.settings.train.batch * run.settings.train.batch * run.settings.train.epochs
    if store.model(stage.key).exists():
        carried, note = load_tensors(store.model(stage.key))
        learner.load_carried_state(carried)
        return samples, note["collapsed_at"]
    images = TaskImages(data.train.images, rows, run.settings.numerics.device)
    size, stats = input_size(run, scenario), input_statistics(run, scenario)
    views = Views(images, run.settings, run.seeds, stage.task, size, stats)
    online = Online(learner, views, scenario) if run.settings.online.run else None
    if stage.parent is not None:
        learner.load_carried_state(load_tensors(store.model(stage.parent))[0])
    optimizer = build_optimizer(learner, run.settings.optim, learner.constant_lr)
    start, collapsed_at = 0, None
    if store.partial(stage.key).exists():
        saved, note = load_tensors(store.partial(stage.key))
        restore_training_state(learner, optimizer, saved)
        if online is not None:
            online.restore(saved)
        start, collapsed_at = int(note["step"]), note["collapsed_at"]
        clock.seconds.update(note["seconds"])
    elif stage.parent is not None:
        start_task(learner, run, scenario, stage.task)
        if online is not None:
            online.carry_on(load_tensors(store.online(stage.parent))[0])

    def state() -> dict[str, Tensor]:
        return training_state(learner, optimizer) | ({} if online is None else online.training_state())

    saver = _Saver(stage, store, state, clock, save_every, emit, collapsed_at)
    with in_steps():
        train_task(learner, optimizer, views, run.settings, start, saver, online)
        if online is not None:
            # first, as the model's presence ends the task
            save_tensors(store.online(stage.key), online.carried_state(), write=store.write)
        note = {"collapsed_at": saver.collapsed_at}
        save_tensors(store.model(stage.key), learner.carried_state(), note, store.write)
    return samples, saver.collapsed_at


def start_task(learner: Learner, run: RunConfig, scenario: Scenario, task: int) -> None:
    learner.start_task()
    if learner.strategy is not None:
        # A strategy gets a task's images when the next one begins: so task 0 can be shared by all strategies.
        rows, device = scenario.tasks[task - 1].train, run.settings.numerics.device
        previous = TaskImages(scenario.dataset.train.images, rows, device)
        rng = generator(run.seeds.data, "task start", task)
        learner.strategy.on_task_start(TaskContext(task, previous, rng))


class _Saver:
    """After each step: says how far the training is, and saves it every so many seconds, or when asked to stop."""

    def __init__(
        self,
        stage: Stage,
        store: Store,
        state: Callable[[], dict[str, Tensor]],
        clock: Clock,
        save_every: float,
        emit: Emit,
        collapsed_at: int | None,
    ) -> None:
        """collapsed_at: the step since which the embeddings, whenever looked at, were collapsed."""
        self.stage, self.store, self.state = stage, store, state
        self.clock, self.save_every, self.emit = clock, save_every, emit
        self.last = self.saved = self.said = time.perf_counter()
        self.said_step: int | None = None
        self.collapsed_at = collapsed_at

    def __call__(self, progress: Progress) -> None:
        now = time.perf_counter()
        if progress.spread is not None:
            collapsed = progress.spread < COLLAPSE_STD
            self.collapsed_at = (self.collapsed_at or progress.step) if collapsed else None
        seconds = self.clock.seconds
        seconds["train"] = seconds.get("train", 0.0) + now - self.last
        seconds["augment"] = seconds.get("augment", 0.0) + progress.augment_seconds
        self.last = now
        if now - self.said >= 0.5 or progress.step == progress.steps:
            steps = progress.step - (self.said_step or 0)
            rate = None if self.said_step is None else steps * self.stage.run.settings.train.batch / (now - self.said)
            self.emit({"stage": self.stage.key, "rate": rate, **progress._asdict()})
            self.said, self.said_step = now, progress.step
        if progress.step < progress.steps and (asked() or now - self.saved >= self.save_every):
            note = {"step": progress.step, "seconds": seconds, "collapsed_at": self.collapsed_at}
            save_tensors(self.store.partial(self.stage.key), self.state(), note, self.store.write)
            self.saved = time.perf_counter()
            check()


def _features(learner: Learner, run: RunConfig, scenario: Scenario) -> Features:
    data, size, stats = scenario.dataset, input_size(run, scenario), input_statistics(run, scenario)
    x: list[Tensor] = [encode_split(learner, learner.encoder, split, size, stats) for split in (data.train, data.test)]
    return all_features(scenario, *x)
