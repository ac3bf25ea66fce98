"""One function per law: `check_<sentence>(strategy, objective)` returns nothing, or raises Broken with what it saw."""

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch._dynamo.testing import CompileCounter

from bench.contract.trial import STEPS, TASKS, Trial, as_bytes, differing, equal, small
from bench.engine.keys import first_key
from bench.evaluate.catalogue import ON_FEATURES
from bench.evaluate.features import all_features, encode_split, project
from bench.evaluate.offline import run_offline
from bench.evaluate.probes import run_probe
from bench.evaluate.transfer import transfer_features
from bench.grid import ignored
from methods import registry

_resume_faults: dict[tuple[Any, ...], str] = {}


class Broken(AssertionError):
    """A law does not hold; the message says where."""


def require(holds: bool, seen: str) -> None:
    """Raises Broken unless it holds."""
    if not holds:
        raise Broken(seen)


def check_resume_anywhere(strategy: str, objective: str) -> None:
    """Killed after any step of any task and continued from its checkpoint, the final state is equal bit for bit."""
    trial = Trial.of(strategy, objective)
    for task in range(2):
        fault = _resume_fault(trial, task)
        require(not fault, fault)


def _resume_fault(trial: Trial, task: int) -> str:
    """The first step of a task behind which resuming leads elsewhere; found once for all pairs that share the task."""
    key = trial.key(task)
    if key not in _resume_faults:
        _resume_faults[key] = next(_resume_faults_of(trial, task), "")
    return _resume_faults[key]


def _resume_faults_of(trial: Trial, task: int) -> Iterator[str]:
    parent = trial.after(task) if task > 0 else None
    states = trial.train(trial.learner(task, parent), task)
    for steps in range(1, STEPS):
        # Another process: a learner that knows nothing but the checkpoint.
        resumed = trial.train(trial.learner(task, parent), task, states[steps - 1], steps)
        if not equal(states[-1], resumed[-1]):
            yield f"task {task}, step {steps}: {differing(states[-1], resumed[-1])}"


def check_first_task_is_shared(strategy: str, objective: str) -> None:
    """Task 0 has one key for all strategies and one result, which does not know the strategy."""
    trial, other = Trial.of(strategy, objective), Trial.of("finetune", objective)
    require(first_key(trial.run, trial.scenario) == first_key(other.run, other.scenario), "keys differ")
    mine, theirs = (t.trained(0) for t in (trial, other))
    require(equal(mine, theirs), f"states differ: {differing(mine, theirs)}")
    require(not any(name.startswith("strategy.") for name in mine), "task 0 holds the strategy's state")


def check_loss_is_pure(strategy: str, objective: str) -> None:
    """Two calls of the strategy's loss give one value and move no state."""
    learner, views = Trial.of(strategy, objective).second_task()
    output = learner(views)
    before = as_bytes(learner.state_dict())
    assert learner.strategy is not None
    with torch.no_grad():
        values = [learner.strategy.loss(learner.objective, output.embeddings, output.frozen) for _ in range(2)]
    require(bool(values[0] == values[1]), f"{float(values[0])} then {float(values[1])}")
    require(as_bytes(learner.state_dict()) == before, "the state moved")


def check_every_hparam_matters(strategy: str, objective: str) -> None:
    """Changing a hyperparameter changes what a task ends in, unless the strategy ignores it, and then it does not."""
    trial = Trial.of(strategy, objective)
    unread = ignored(strategy, objective)
    for kind, name in (("strategy", strategy), ("objective", objective)):
        for field, value in small(registry.get(kind, name)).items():
            changed = (Trial.of(strategy, objective, {f"{kind}.{field}": other}) for other in _others(value))
            same = all(equal(trial.after(tasks), other.after(tasks)) for other in changed for tasks in (1, 2))
            if same != (field in unread):
                verb = "is ignored but matters" if field in unread else "changes nothing"
                raise Broken(f"{name}.{field} {verb}")


def _others(value: Any) -> tuple[Any, ...]:
    """Other values to try. Two of a number: a half that is a threshold may fall between the same two steps."""
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return (value // 2 if value > 1 else value + 1,)
    if isinstance(value, float):
        return (value / 2 or 0.5, (value + 1) / 2)
    if value is None:
        return (0.37,)
    raise Broken(f"a hyperparameter may be a bool, an int, a float or None, not {value!r}")


def check_no_global_rng(strategy: str, objective: str) -> None:
    """Training leaves the global generators of torch, numpy and Python untouched."""

    def states() -> list[bytes]:
        numpy_state: Any = np.random.get_state()
        return [torch.get_rng_state().numpy().tobytes(), numpy_state[1].tobytes(), repr(random.getstate()).encode()]

    before = states()
    Trial.of(strategy, objective).trained(1)
    for name, old, new in zip(("torch", "numpy", "random"), before, states(), strict=True):
        require(old == new, f"{name}'s generator moved")


def check_gradients_reach(strategy: str, objective: str) -> None:
    """Every trainable parameter gets a finite gradient; teacher and momentum network get none."""
    learner, views = Trial.of(strategy, objective).second_task()
    learner(views).loss.backward()
    for name, parameter in learner.named_parameters():
        frozen = name.startswith(("teacher.", "target.", "objective.target_"))
        if frozen:
            require(parameter.grad is None and not parameter.requires_grad, f"{name} would train")
        else:
            if parameter.grad is None:
                raise Broken(f"{name} gets no gradient")
            require(bool(torch.isfinite(parameter.grad).all()), f"the gradient of {name} is not finite")


def check_sample_order(strategy: str, objective: str) -> None:
    """Permuting the images of a batch leaves the loss as it is."""
    learner, views = Trial.of(strategy, objective).second_task()
    _close(learner(views).loss, learner(views[:, torch.arange(views.shape[1]).flip(0)]).loss)


def check_view_order(strategy: str, objective: str) -> None:
    """Swapping the two views leaves the loss as it is."""
    learner, views = Trial.of(strategy, objective).second_task()
    _close(learner(views).loss, learner(views.flip(0)).loss)


def _close(a: torch.Tensor, b: torch.Tensor) -> None:
    require(bool(torch.isclose(a, b, rtol=1e-4, atol=1e-5)), f"{a.item()} and {b.item()}")


def check_evaluation_changes_nothing(strategy: str, objective: str) -> None:
    """Features, projections and probes leave parameters, buffers and modes as they were."""
    trial = Trial.of(strategy, objective)
    learner, _ = trial.second_task()
    before, modes = as_bytes(learner.state_dict()), [m.training for m in learner.modules()]
    data, probes = trial.scenario.dataset, trial.run.settings.probe
    stats = (data.mean, data.std)
    x = encode_split(learner, learner.encoder, data.test, 8, stats)
    project(learner.objective.projector, x)
    features = all_features(trial.scenario, x, x)
    for name in ON_FEATURES:
        run_probe(name, getattr(probes, name), features, "data_il", TASKS, 0)
    run_offline(probes.linear_offline, 0.1, features, trial.scenario, learner, 8, stats, 0)
    transfer_features(data, learner, 8, 1)
    require(as_bytes(learner.state_dict()) == before, "the state moved")
    require([m.training for m in learner.modules()] == modes, "a module changed its mode")


def check_labels_and_future_unreachable(strategy: str, objective: str) -> None:
    """Other labels everywhere and other images in a later task change nothing about earlier tasks."""
    mine, theirs = (Trial.of(strategy, objective, data_seed=seed).after(TASKS - 1) for seed in (0, 1))
    require(equal(mine, theirs), differing(mine, theirs))


def check_state_shapes_are_fixed(strategy: str, objective: str) -> None:
    """The state has the same names and shapes after every task that has a strategy."""
    trial = Trial.of(strategy, objective)
    shapes = [{n: (v.shape, v.dtype) for n, v in trial.after(tasks).items()} for tasks in (2, 3)]
    require(shapes[0] == shapes[1], "names or shapes differ between tasks 1 and 2")


def check_compiles(strategy: str, objective: str) -> None:
    """Every encoder compiles to at least one graph without breaks, and the loss stays close."""
    torch._dynamo.reset()
    learner, views = Trial.of(strategy, objective).second_task()
    eager = learner(views).loss
    counter = CompileCounter()
    learner.compile_encoders(backend=counter, fullgraph=True)
    compiled = learner(views).loss
    encoders = 1 + (learner.target is not None) + (learner.teacher is not None)
    require(counter.frame_count >= encoders, f"{counter.frame_count} graphs for {encoders} encoders")
    _close(eager, compiled)


def check_source_is_cited(strategy: str, objective: str) -> None:
    """The docstrings of both methods name a paper."""
    for kind, name in (("strategy", strategy), ("objective", objective)):
        doc = registry.get(kind, name).__doc__ or ""
        cited = re.search(r"arXiv:\d{4}\.\d{4,5}|doi\.org/|10\.\d{4,}/|PMLR|ICML|NeurIPS|ICLR|CVPR|ICCV|ECCV", doc)
        require(cited is not None and "0000.00000" not in doc, f"{name} cites no paper")


def laws() -> dict[str, Callable[[str, str], None]]:
    """Name -> check of every law that one process can decide."""
    return {name.removeprefix("check_"): f for name, f in globals().items() if name.startswith("check_")}
