"""Finished grids that were never trained: real configurations, stage folders and records, accuracies from a formula."""

import math
from typing import Any

from bench.engine.environment import environment
from bench.engine.origin import begun
from bench.engine.plan import Plan, PlannedRun, Stage
from bench.engine.probing import Probe
from bench.engine.records import Row, accuracy_row, config_row
from bench.engine.store import Store
from bench.seal import seal_file, sealed

SECONDS = {"train": 30.0, "augment": 1.0, "features": 2.0, "probes": 1.0}


def finish_grid(plan: Plan, store: Store) -> None:
    """Makes every stage and every run of a plan complete, as far as anything but training and other probes can tell."""
    store.prepare()
    runs = {key: run for run in plan.runs for key in run.stages}
    for stage in plan.stages.values():
        finish_stage(plan, stage, len(runs[stage.key].task_names), store)
    for run in plan.runs:
        finish_record(plan, run, store)


def finish_stage(plan: Plan, stage: Stage, tasks: int, store: Store) -> None:
    """Writes what a trained and probed stage leaves, but tensors."""
    store.stage(stage.key).mkdir(parents=True, exist_ok=True)
    for probe in stage.probes:
        path = store.probe(stage.key, probe.key)
        path.write_bytes(seal_file(path, {"rows": _rows(stage, probe, tasks)}))
    end = store.end(stage.key)
    end.write_bytes(seal_file(end, _facts(plan, stage)))


def finish_record(plan: Plan, run: PlannedRun, store: Store) -> None:
    """Writes the record of a run whose stages are finished: the rows that its stages give."""
    rows = [config_row(run)]
    for key, after in zip(run.stages, run.after, strict=True):
        stage = plan.stages[key]
        fitting = [probe for probe in run.probes if probe in stage.probes]
        rows += [accuracy_row(row, after) for probe in fitting for row in _rows(stage, probe, len(run.task_names))]
        facts = _facts(plan, stage)
        rows += [{"kind": "watch", "after_task": after, **facts["watch"]}] if facts["watch"] else []
        rows.append({"kind": "stage", "after_task": after, "stage": key, "code": facts["code"]})
    store.record(run.run_id).write_bytes(b"".join(sealed(row) + b"\n" for row in rows))


def _facts(plan: Plan, stage: Stage) -> dict[str, Any]:
    parent = None if stage.parent is None else plan.stages[stage.parent].code
    trained = {"effective_rank": 3.0, "collapsed": False, "reason": ""}
    return {
        "kind": stage.kind,
        "task": stage.task,
        "parent": stage.parent,
        "samples": 2400 if stage.trains else 0,
        "watch": None if stage.kind == "pixels" else trained,
        **begun(stage, parent).note(),
        "environment": environment("cpu"),
        "seconds": SECONDS,
    }


def _rows(stage: Stage, probe: Probe, tasks: int) -> list[Row]:
    """Accuracies between 0.4 and 0.9 that differ between strategies, seeds and tasks, and fall with their age."""
    run = stage.run
    strength = (sum(map(ord, run.strategy + run.objective)) % 17) / 100
    return [
        {"probe": name, "on_task": task, "value": round(level, 4), "n": 400}
        for name in probe.record_names(run.scenario)
        for task in range(tasks)
        for level in (0.65 + strength + 0.05 * math.sin(7 * run.seed + 3 * task) - 0.01 * abs(stage.task - task),)
    ]
