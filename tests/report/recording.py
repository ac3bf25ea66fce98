"""Synthetic records: run files as the engine writes them, with accuracies from a small formula."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from bench.source import base_code, trained_codes

PROBES = ("linear", "linear_aware", "knn", "knn_aware", "ncm", "ncm_aware")


def digest(*names: object, length: int = 8) -> str:
    return hashlib.sha256(repr(names).encode()).hexdigest()[:length]


def config(
    strategy: str = "sycon",
    objective: str = "moco",
    seed: int = 0,
    *,
    scenario: str = "class_il",
    dataset: str = "fashion_mini",
    tasks: int = 3,
    preset: str = "quick",
    overrides: dict[str, Any] | None = None,
    method: dict[str, Any] | None = None,
    probes: tuple[str, ...] = ("linear", "knn"),
    **more: Any,
) -> dict[str, Any]:
    overrides, method = overrides or {}, method or {}
    setting = digest(scenario, dataset, tasks, preset, sorted(overrides.items()))
    method_setting = digest(objective, strategy, sorted(method.items()))
    return {
        "kind": "config",
        "run_id": digest(setting, method_setting, seed, more.get("vary", "all"), length=16),
        "scenario": scenario,
        "dataset": dataset,
        "tasks": tasks,
        "task_names": [f"task {i}" for i in range(tasks)],
        "objective": objective,
        "strategy": strategy,
        "seed": seed,
        "vary": "all",
        "preset": preset,
        "overrides": overrides | method,
        "setting": setting,
        "method_setting": method_setting,
        "synthetic_domains": False,
        "note": "",
        "probes": list(probes),
        "headline": "linear",
        "config": {"seed": seed},
        "environment": {"torch": "2"},
        **more,
    }


def accuracy_rows(probe: str, matrix: Any, random: Any) -> list[dict[str, Any]]:
    """Rows of R (T, T) and of the random network (T,), in the order the engine meets them."""
    return [
        {"kind": "accuracy", "after_task": t, "on_task": i, "probe": probe, "value": float(value), "n": 400}
        for t, row in enumerate([random, *matrix], start=-1)
        for i, value in enumerate(row)
    ]


def plausible(head: dict[str, Any], probe: str, level: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """(R, random) that look like a run: seen tasks are better, older ones fade, everything a little noisy."""
    t = head["tasks"]
    rng = np.random.default_rng(int(digest(head["run_id"], probe), 16))
    strength = int(digest(head["strategy"]), 16) % 97 / 97
    after, on = np.meshgrid(np.arange(t), np.arange(t), indexing="ij")
    if head["scenario"] == "data_il":
        column = level + 0.04 * np.arange(t)[:, None] / t * (0.5 + strength) + rng.normal(0, 0.01, (t, 1))
        matrix = np.repeat(column, t, axis=1)
        random = np.full(t, 0.3)
    else:
        seen = np.where(after >= on, 0.12 - 0.03 * (1 - strength) * (after - on), 0.0)
        matrix = level + 0.05 * strength + seen + 0.06 * np.sin(on) + rng.normal(0, 0.01, (t, t))
        random = 0.3 + 0.05 * np.cos(np.arange(t))
    lift = 0.08 if probe.endswith("_aware") else -0.04 * (probe.startswith("knn")) - 0.06 * probe.startswith("ncm")
    return np.clip(matrix + lift, 0, 1).round(4), np.clip(random + lift, 0, 1).round(4)


def rows_of(head: dict[str, Any], level: float = 0.7) -> list[dict[str, Any]]:
    """All rows of a complete, healthy run with this config, made by the present code."""
    rows: list[dict[str, Any]] = [head]
    for probe in head["probes"]:
        rows += accuracy_rows(probe, *plausible(head, probe, level))
        rows += [{"kind": "pixels", "on_task": i, "probe": probe, "value": 0.5, "n": 400} for i in range(head["tasks"])]
    codes = trained_codes(head["objective"], head["strategy"], head["tasks"])
    rows += [{"kind": "stage", "after_task": t, "stage": digest(t), "code": base_code()} for t in (-2, -1)]
    for t in range(head["tasks"]):
        rows.append({"kind": "watch", "after_task": t, "effective_rank": 30.5, "collapsed": False, "reason": ""})
        rows.append({"kind": "stage", "after_task": t, "stage": digest(t), "code": codes[t]})
    return rows


def marked(rows: list[dict[str, Any]], after_task: int = 1, reason: str = "rank 1.2") -> list[dict[str, Any]]:
    """The same run, collapsed after a task."""
    hit = {"collapsed": True, "reason": reason}
    return [row | hit if row["kind"] == "watch" and row["after_task"] == after_task else row for row in rows]


def made_by(rows: list[dict[str, Any]], code: str, after: int) -> list[dict[str, Any]]:
    """The same run, of which other code made the stage after a task."""
    other = {"code": code}
    return [row | other if row["kind"] == "stage" and row["after_task"] == after else row for row in rows]


def write(out: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a run's rows into results folder `out`; the path of the file."""
    folder = out / "records"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{rows[0].get('run_id', 'nameless')}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
