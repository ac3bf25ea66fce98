"""What a plan would cost: time from finished stages, from `speed`'s figures or from a few measured steps; disk from
sizes."""

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.config import RunConfig, canonical
from bench.engine.environment import environment
from bench.engine.origin import what_counts
from bench.engine.plan import Plan, PlannedRun, Stage, scenario_of
from bench.engine.progress import done_and_stale
from bench.engine.store import Store
from bench.engine.task import build_learner
from bench.errors import UserError
from bench.evaluate.features import pixel_bytes, pixel_side
from bench.speed.evaluation import evaluation_seconds
from bench.speed.step import Trial, mean_seconds

MOST_SECONDS = 1e9
"""Of one step or evaluation: a larger figure is none."""
MEASURING = 3.0
"""Seconds of a plan: later on, what is not known takes the mean of what is like it."""
TOLD = 32
"""So many finished stages are enough to tell the time of others like them."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of one job, bytes on disk, and how many kinds of stages had to be measured; core_seconds, gpu_seconds:
    processor time of stages on the CPU, time of stages on a GPU. guessed: kinds for which there was no time."""

    seconds: float
    bytes: int
    measured: int
    core_seconds: float = 0.0
    gpu_seconds: float = 0.0
    guessed: int = 0


Kind = tuple[str, ...]
"""What stages of the same cost share; see `_kind`."""


class _Cost(NamedTuple):
    """Of a stage of some kind: seconds per trained image, seconds beside training, bytes on disk."""

    rate: float
    extra: float
    nbytes: float


def estimate(plan: Plan, store: Store, done: Collection[str] | None = None) -> Estimate:
    """Cost of what is to do in a plan; stages of one kind that are done tell the time of the others. done: keys of
    those, where they are known."""
    done = done_and_stale(plan, store)[0] if done is None else done
    runs, there = {key: run for run in plan.runs for key in run.stages}, store.stages()
    begun: dict[Kind, list[Stage]] = {}
    todo: dict[Kind, list[Stage]] = {}
    for key, stage in plan.stages.items():
        kind = _kind(stage, runs[key])
        if key in there:
            begun.setdefault(kind, []).append(stage)
        if key not in done:
            todo.setdefault(kind, []).append(stage)
    work = {kind: sum(_samples(stage, runs[stage.key]) for stage in stages) for kind, stages in todo.items()}
    pricing = _Pricing(store)
    nbytes, cores, spent = sum(pending.nbytes for pending in plan.pending), 0.0, {"cpu": 0.0, "cuda": 0.0}
    for kind in sorted(todo, key=lambda kind: -work[kind]):
        stages = todo[kind]
        cost = pricing.price(kind, stages[0], runs[stages[0].key], begun.get(kind, ()))
        seconds = cost.rate * work[kind] + cost.extra * len(stages)
        numerics = stages[0].run.settings.numerics
        spent[numerics.device] += seconds
        cores += seconds * numerics.threads if numerics.device == "cpu" else 0.0
        nbytes += round(cost.nbytes * len(stages))
    return Estimate(sum(spent.values()), nbytes, pricing.measured, cores, spent["cuda"], pricing.guessed)


class _Pricing:
    """What stages cost, asked kind by kind, those with the most work first; measures while there is time."""

    def __init__(self, store: Store) -> None:
        self.store, self.figures = store, _figures(store)
        self.costs: dict[Kind, _Cost] = {}
        self.evaluations: dict[tuple[str, ...], float] = {}
        self.measured = self.guessed = 0
        self.began = time.perf_counter()

    def price(self, kind: Kind, stage: Stage, run: PlannedRun, begun: Sequence[Stage]) -> _Cost:
        """The cost of a stage of a kind, of which some may be finished; raises UserError where it cannot be trained."""
        known = _mean(list(islice(_known_rates(begun, self.store), TOLD))) or self.figures.get(_figure_key(stage, run))
        like = _like(kind, self.costs) if time.perf_counter() - self.began > MEASURING else []
        try:
            if like:
                cost = _Cost(*(sum(values) / len(like) for values in zip(*like, strict=True)))
                self.guessed += known is None
            else:
                nbytes = _bytes(stage, self.store.out)
                cost = _Cost(*(known or self._measure(stage, run)), nbytes)
                self.measured += known is None
        except (RuntimeError, MemoryError) as error:  # a network that does not fit, or not these images
            name, text = f"{stage.run.strategy}-{stage.run.objective}", " ".join(str(error).split())[:200]
            raise UserError(f"{name} cannot take a step: {text}") from error
        self.costs[kind] = cost if known is None else cost._replace(rate=known[0], extra=known[1])
        return self.costs[kind]

    def _measure(self, stage: Stage, run: PlannedRun) -> tuple[float, float]:
        """Seconds per trained image and beside training, from a few real steps and the evaluation of some images, which
        all methods of a setting share."""
        scenario = scenario_of(stage.run, self.store.out, foresee=True)
        torch.set_num_threads(stage.run.settings.numerics.threads)
        trial = None if stage.kind == "pixels" else Trial(stage.run, scenario, task=max(0, stage.task))
        evaluation = (run.setting, "pixels" if trial is None else "network")
        if evaluation not in self.evaluations:
            self.evaluations[evaluation] = evaluation_seconds(scenario, trial, stage.probes)
        if trial is None or not stage.trains:
            return 0.0, self.evaluations[evaluation]
        (per_step,) = mean_seconds([trial.whole], trial.device)
        return per_step / trial.views.batch, self.evaluations[evaluation]


def _mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Element by element, None of none."""
    if not pairs:
        return None
    first, second = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return first, second


def _like(kind: Kind, costs: Mapping[Kind, _Cost]) -> list[_Cost]:
    """The costs of the same method in other settings, else of all that is trained or evaluated in the same way."""
    same = [cost for other, cost in costs.items() if (other[0], *other[2:]) == (kind[0], *kind[2:])]
    return same or [cost for other, cost in costs.items() if other[0] == kind[0]]


def _kind(stage: Stage, run: PlannedRun) -> Kind:
    """How it is made, its setting, then what is of its method."""
    method = (stage.run.objective, run.method_setting) if stage.trains else ()
    kind = "task" if stage.trains else stage.kind  # joint training is a first task with more images
    return (kind, run.setting, *method, stage.run.strategy if stage.task > 0 else "")


def _samples(stage: Stage, run: PlannedRun) -> int:
    if not stage.trains:
        return 0
    train = stage.run.settings.train
    images = sum(run.images) if stage.kind == "joint" else run.images[stage.task]
    return images // train.batch * train.batch * train.epochs


def _known_rates(stages: Iterable[Stage], store: Store) -> Iterator[tuple[float, float]]:
    """(seconds per trained image, seconds beside training) of the finished stages."""
    for stage in stages:
        facts = store.facts(stage.key)
        # A stage that was killed after its training has no time of it.
        if facts is not None and (facts["samples"] == 0 or "train" in facts["seconds"]):
            seconds = facts["seconds"]
            extra = seconds.get("features", 0.0) + seconds.get("probes", 0.0)
            yield seconds.get("train", 0.0) / max(1, facts["samples"]), extra


def _figures(store: Store) -> dict[tuple[str, ...], tuple[float, float]]:
    """(seconds per trained image, seconds beside training) by what `speed` measured on such a machine; the newest
    counts."""
    figures: dict[tuple[str, ...], tuple[float, float]] = {}
    files = sorted(store.speed("any").parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in files:
        try:
            figures |= _figures_in(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} is not what this version's `speed` writes: delete it or measure again") from error
    return figures


def _figures_in(content: dict[str, Any]) -> dict[tuple[str, ...], tuple[float, float]]:
    device = content["device"]
    if device == "cuda" and not torch.cuda.is_available():
        return {}  # measured on another machine
    if device not in ("cpu", "cuda"):
        raise ValueError(device)
    here = environment(device)
    if what_counts(content["environment"]) != what_counts(here):
        return {}
    figures: dict[tuple[str, ...], tuple[float, float]] = {}
    for row in content["methods"]:
        evaluation, batch = _number(row["evaluation"]), _number(row["batch"], least=1)
        figures[row["setting"], row["method_setting"], row["method"]] = (_number(row["step"]) / batch, evaluation)
        figures[row["setting"], row["objective"]] = (_number(row["first_task_step"]) / batch, evaluation)
        figures[row["setting"], "init"] = (0.0, evaluation)
    return figures


def _number(value: Any, least: float = 0) -> float:
    if type(value) not in (int, float) or not least <= value < MOST_SECONDS:
        raise ValueError(value)
    return float(value)


def _figure_key(stage: Stage, run: PlannedRun) -> tuple[str, ...]:
    if not stage.trains:
        return (run.setting, stage.kind)
    if stage.task == 0:
        return (run.setting, objective_text(stage.run))
    return (run.setting, run.method_setting, f"{stage.run.strategy}-{stage.run.objective}")


def objective_text(run: RunConfig) -> str:
    """Names an objective with its hyperparameters, which are all that a first task's speed depends on beside the
    setting."""
    return canonical([run.objective, run.objective_hparams])


def _bytes(stage: Stage, out: Path) -> int:
    scenario = scenario_of(stage.run, out, foresee=True)
    splits = (scenario.dataset.train, scenario.dataset.test)
    count = sum(len(split.labels) for split in splits)
    if stage.kind == "pixels":
        return sum(pixel_bytes(split, pixel_side(splits)) + 16 * len(split.labels) for split in splits)
    learner = build_learner(stage.run, scenario, stage.task)
    state = sum(value.numel() * value.element_size() for value in learner.carried_state().values())
    return count * (2 * learner.objective.features + 16) + (state if stage.trains else 0)
