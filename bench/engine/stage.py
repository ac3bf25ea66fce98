"""Does one stage: train, cache features, run probes. Started again after a kill, it goes on where it was."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from bench.config import RunConfig
from bench.data.scenarios import Scenario
from bench.engine.checkpoint import load_tensors, on_cpu, save_tensors
from bench.engine.company import agree, call, first_alone, part, together
from bench.engine.environment import environment
from bench.engine.keys import input_size, input_statistics
from bench.engine.origin import GO_ON, Origin, Terms, begun, origin_in
from bench.engine.plan import Stage, scenario_of
from bench.engine.probing import Subject, run_on
from bench.engine.progress import is_done
from bench.engine.stopping import Stopped, asked, in_steps
from bench.engine.store import Store
from bench.engine.task import Order, Training, build_learner, start_task
from bench.engine.train import Diverged, Progress, train_task
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
from bench.models.learner import Learner

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


def do_stage(
    stage: Stage, out: Path, save_every: float, emit: Emit, wanted: bool = False, terms: Terms = GO_ON
) -> bool:
    """Makes a stage done: whatever of it is missing or damaged; False where nothing was, as another process has done
    it.

    save_every: seconds between saves inside a task; no result depends on it. wanted: whether something lacks what this
    one hands on. terms: what is allowed beside going on. Raises Busy where another process is at it, LostLease where
    another has taken it over meanwhile, Damaged where what it starts from is not whole, Diverged where the loss is no
    longer a number, UserError where it was begun elsewhere, and Stopped.
    """
    with Store(out).lock(stage.key) as store:
        store.examine(stage.key, _handed_on(stage, store) if wanted else [])
        facts = store.facts(stage.key)
        holds = facts is not None and origin_in(facts).holds(stage, _code_before(stage, store), terms)
        if holds and is_done(stage, store):
            return False
        numerics = stage.run.settings.numerics
        torch.set_num_threads(numerics.threads)
        clock = Clock({})
        emit = _both(emit, store)
        if holds:
            probe_stage(stage, store, clock, emit)
            return True
        facts = _make(stage, store, clock, save_every, emit, terms)
        probe_stage(stage, store, clock, emit)
        facts["seconds"] = {part: round(s, 3) for part, s in clock.seconds.items()}
        store.finish(stage.key, facts)
    return True


def _code_before(stage: Stage, store: Store) -> str | None:
    """The code of the stage that this one begins from; None where there is none, or it is not finished."""
    facts = None if stage.parent is None else store.facts(stage.parent)
    return None if facts is None else str(facts["code"])


def _handed_on(stage: Stage, store: Store) -> list[Path]:
    """What later stages and probes begin from."""
    names = [store.model(stage.key)] if stage.trains else []
    return [*names, store.online(stage.key)] if names and stage.run.settings.online.run else names


def _both(emit: Emit, store: Store) -> Emit:
    """Progress goes to whoever runs the stage, and out with the heartbeat of its lease."""

    def tell(event: dict[str, Any]) -> None:
        assert store.lease is not None
        store.lease.tell(event)
        emit(event)

    return tell


def _make(stage: Stage, store: Store, clock: Clock, save_every: float, emit: Emit, terms: Terms) -> dict[str, Any]:
    run = stage.run
    scenario = scenario_of(run, store.out)
    device = run.settings.numerics.device
    trained = _Trained(0, None, begun(stage, None))
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
            trained = _train(stage, store, learner, scenario, clock, save_every, emit, terms)
        emit({"stage": stage.key, "phase": "features"})
        features = clock.run("features", lambda: _features(learner, run, scenario))
        if not (torch.isfinite(features.train_x).all() and torch.isfinite(features.test_x).all()):
            raise Diverged("features are NaN or beyond float16 (try a lower optim.lr)")
        z = None if stage.kind == "init" else project(learner.objective.projector, features.test_x.float().to(device))
        facts = {"watch": watch(features.test_x, z)}
        if facts["watch"]["collapsed"] and trained.collapsed_at is not None:
            facts["watch"]["reason"] += f", since step {trained.collapsed_at} of the task"
    left = store.features(stage.key)
    if not stage.trains and left.exists() and not origin_in(load_tensors(left)[1]).holds(stage, None, terms):
        store.set_old_aside(stage.key, left)
    save_tensors(left, features.tensors(), trained.origin.note(), store.write)
    return {
        **facts,
        **trained.origin.note(),
        "kind": stage.kind,
        "task": stage.task,
        "parent": stage.parent,
        "samples": trained.samples,
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
    features = Features.of(load_tensors(store.features(stage.key))[0], store.features(stage.key))
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


class _Trained(NamedTuple):
    """Of a stage: the number of images it is trained on, the step since which its embeddings are collapsed, if they
    are, and what has made it."""

    samples: int
    collapsed_at: int | None
    origin: Origin


def _train(
    stage: Stage,
    store: Store,
    learner: Learner,
    scenario: Scenario,
    clock: Clock,
    save_every: float,
    emit: Emit,
    terms: Terms,
) -> _Trained:
    """Trains the stage's task from wherever it was left, with the other processes of this run, if there are any."""
    run, rows = stage.run, stage.rows(scenario.tasks)
    samples = len(rows) // run.settings.train.batch * run.settings.train.batch * run.settings.train.epochs
    if store.model(stage.key).exists() and (not run.settings.online.run or store.online(stage.key).exists()):
        carried, note = load_tensors(store.model(stage.key))
        origin = origin_in(note["origin"])
        if origin.holds(stage, _code_before(stage, store), terms):
            learner.load_carried_state(carried)
            return _Trained(samples, note["collapsed_at"], origin)
    training = Training.of(stage, learner, scenario)
    online, before = training.online, None
    if stage.parent is not None:
        carried, note = load_tensors(store.model(stage.parent))
        before = note["origin"]["code"]
        learner.load_carried_state(carried)
    origin, start, collapsed_at = begun(stage, before), 0, None
    left = _left(stage, store, before, terms)
    if left is not None:
        saved, note = left
        start, collapsed_at = int(note["step"]), note["collapsed_at"]
        origin = origin_in(note["origin"]).continued(stage, start, terms)
        training.restore(saved)
        clock.seconds.update(note["seconds"])
    elif stage.parent is not None:
        start_task(learner, run, scenario, stage.task)
        if online is not None:
            online.carry_on(load_tensors(store.online(stage.parent))[0])
    saver = _Saver(stage, store, training, clock, save_every, emit, origin, collapsed_at)
    with in_steps():
        call(lambda: Order(stage, start, save(on_cpu(training.state())), scenario.dataset.digest))
        with together():
            agree(0)  # all are ready: from here on nobody waits for long
            train_task(learner, training.optimizer, training.views, run.settings, start, saver, online)
        if store.end(stage.key).exists() or store.model(stage.key).exists():
            store.set_old_aside(stage.key, store.model(stage.key))
        if online is not None:
            # first, as the model's presence ends the task
            save_tensors(store.online(stage.key), online.carried_state(), write=store.write)
        note = {"collapsed_at": saver.collapsed_at, "origin": origin.note()}
        save_tensors(store.model(stage.key), learner.carried_state(), note, store.write)
    return _Trained(samples, saver.collapsed_at, origin)


def _left(
    stage: Stage, store: Store, before: str | None, terms: Terms
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The training state inside the stage and its note, where one is left that is of use. before: code of the stage
    that this one begins from."""
    path = store.partial(stage.key)
    if not path.exists():
        return None
    saved, note = load_tensors(path)
    if origin_in(note["origin"]).holds(stage, before, terms):
        return saved, note
    store.set_aside(path, "was trained by other code, or from a stage that has been trained again since")
    return None


class _Saver:
    """After each step: says how far the training is, and saves it every so many seconds, or when asked to stop."""

    def __init__(
        self,
        stage: Stage,
        store: Store,
        training: Training,
        clock: Clock,
        save_every: float,
        emit: Emit,
        origin: Origin,
        collapsed_at: int | None,
    ) -> None:
        """collapsed_at: the step since which the embeddings, whenever looked at, were collapsed."""
        self.stage, self.store, self.training = stage, store, training
        self.clock, self.save_every, self.emit = clock, save_every, emit
        self.last = self.saved = self.said = time.perf_counter()
        self.said_step: int | None = None
        self.origin, self.collapsed_at = origin, collapsed_at

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
        if progress.step < progress.steps:
            self._save_or_stop(progress.step, due=now - self.saved >= self.save_every)

    def _save_or_stop(self, step: int, due: bool) -> None:
        """All processes of the run stop at one step, and wait while this one saves."""
        signal, saves = agree(asked() or 0, due)
        if signal or saves:
            note = {"step": step, "seconds": self.clock.seconds, "collapsed_at": self.collapsed_at}
            note["origin"] = self.origin.note()
            with first_alone():
                save_tensors(self.store.partial(self.stage.key), self.training.state(), note, self.store.write)
            self.saved = time.perf_counter()
        if signal:
            part()
            raise Stopped(signal)


def _features(learner: Learner, run: RunConfig, scenario: Scenario) -> Features:
    data, size, stats = scenario.dataset, input_size(run, scenario), input_statistics(run, scenario)
    x: list[Tensor] = [encode_split(learner, learner.encoder, split, size, stats) for split in (data.train, data.test)]
    return all_features(scenario, *x)
