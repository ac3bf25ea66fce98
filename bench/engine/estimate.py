"""What a plan would cost: time from finished stages, from `speed`'s figures or from a few measured steps; disk from
sizes."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.config import RunConfig, canonical
from bench.engine.environment import environment
from bench.engine.plan import Plan, PlannedRun, Stage, is_done, scenario_of
from bench.engine.stage import build_learner
from bench.engine.store import Store
from bench.errors import UserError
from bench.evaluate.features import pixel_bytes, pixel_side
from bench.speed.evaluation import evaluation_seconds
from bench.speed.step import Trial, mean_seconds

SAME = ("torch", "processor", "accelerator", "cuda")
"""What of the environment figures must share with the plan to count."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of one job, bytes on disk, and how many kinds of stages had to be measured; core_seconds, gpu_seconds:
    processor time of stages on the CPU, time of stages on a GPU."""

    seconds: float
    bytes: int
    measured: int
    core_seconds: float = 0.0
    gpu_seconds: float = 0.0


def estimate(plan: Plan, store: Store) -> Estimate:
    """Cost of what is to do in a plan; stages of one kind that are done tell the time of the others."""
    kinds: dict[tuple[object, ...], list[Stage]] = {}
    runs = {key: run for run in plan.runs for key in run.stages}
    for stage in plan.stages.values():
        kinds.setdefault(_kind(stage, runs[stage.key]), []).append(stage)
    figures = _figures(store)
    nbytes, measured = sum(pending.nbytes for pending in plan.pending), 0
    cores, spent = 0.0, {"cpu": 0.0, "cuda": 0.0}
    for stages in kinds.values():
        todo = [stage for stage in stages if not is_done(stage, store)]
        if not todo:
            continue
        known = list(_known_rates(stages, store))
        figure = figures.get(_figure_key(todo[0], runs[todo[0].key]))
        try:
            nbytes += len(todo) * _bytes(todo[0], store.out)
            if known:
                rate, extra = (sum(values) / len(values) for values in zip(*known, strict=True))
            elif figure is not None:
                rate, extra = figure
            else:
                rate, extra = _measure(todo[0], store.out)
                measured += 1
        except (RuntimeError, MemoryError) as error:  # a network that does not fit, or not these images
            run, text = todo[0].run, " ".join(str(error).split())[:200]
            raise UserError(f"{run.strategy}-{run.objective} cannot take a step: {text}") from error
        seconds = sum(rate * _samples(stage, runs[stage.key]) + extra for stage in todo)
        numerics = todo[0].run.settings.numerics
        spent[numerics.device] += seconds
        cores += seconds * numerics.threads if numerics.device == "cpu" else 0.0
    return Estimate(sum(spent.values()), nbytes, measured, cores, spent["cuda"])


def _kind(stage: Stage, run: PlannedRun) -> tuple[object, ...]:
    method = (stage.run.objective, run.method_setting) if stage.trains else ()
    kind = "task" if stage.trains else stage.kind  # joint training is a first task with more images
    return (kind, run.setting, *method, stage.run.strategy if stage.task > 0 else "")


def _samples(stage: Stage, run: PlannedRun) -> int:
    if not stage.trains:
        return 0
    train = stage.run.settings.train
    images = sum(run.images) if stage.kind == "joint" else run.images[stage.task]
    return images // train.batch * train.batch * train.epochs


def _known_rates(stages: Iterable[Stage], store: Store) -> Iterable[tuple[float, float]]:
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
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not what this version's `speed` writes: delete it or measure again") from error
    return figures


def _figures_in(content: dict[str, Any]) -> dict[tuple[str, ...], tuple[float, float]]:
    here = environment(content["device"])
    if any(content["environment"].get(name) != here.get(name) for name in SAME):
        return {}
    figures: dict[tuple[str, ...], tuple[float, float]] = {}
    for row in content["methods"]:
        evaluation, per_image = row["evaluation"], row["step"] / row["batch"]
        figures[row["setting"], row["method_setting"], row["method"]] = (per_image, evaluation)
        figures[row["setting"], row["objective"]] = (row["first_task_step"] / row["batch"], evaluation)
        figures[row["setting"], "init"] = (0.0, evaluation)
    return figures


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


def _measure(stage: Stage, out: Path) -> tuple[float, float]:
    """The same pair from a few real steps and the evaluation of some images."""
    scenario = scenario_of(stage.run, out, foresee=True)
    torch.set_num_threads(stage.run.settings.numerics.threads)
    trial = None if stage.kind == "pixels" else Trial(stage.run, scenario, task=max(0, stage.task))
    extra = evaluation_seconds(scenario, trial, stage.probes)
    if trial is None or not stage.trains:
        return 0.0, extra
    (per_step,) = mean_seconds([trial.whole], trial.device)
    return per_step / trial.views.batch, extra


def _bytes(stage: Stage, out: Path) -> int:
    scenario = scenario_of(stage.run, out, foresee=True)
    splits = (scenario.dataset.train, scenario.dataset.test)
    count = sum(len(split.labels) for split in splits)
    if stage.kind == "pixels":
        return sum(pixel_bytes(split, pixel_side(splits)) + 16 * len(split.labels) for split in splits)
    learner = build_learner(stage.run, scenario, stage.task)
    state = sum(value.numel() * value.element_size() for value in learner.carried_state().values())
    return count * (2 * learner.objective.features + 16) + (state if stage.trains else 0)
