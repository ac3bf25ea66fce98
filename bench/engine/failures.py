"""Marks of failed stages: of several processes at one grid only the first fails at a stage, and all know why."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.engine.plan import Stage
from bench.engine.progress import is_done
from bench.engine.store import Store, read_whole
from bench.files import write_atomic
from bench.launch.worker import BEGAN, LOG
from bench.lease import is_held
from bench.seal import seal_file


def mark_failure(store: Store, key: str, reason: str) -> None:
    """Leaves word of a failed stage, and of where more stands about it if this process is a worker of a launch."""
    path = _mark(store, key)
    write_atomic(path, seal_file(path, {"reason": reason, "log": os.environ.get(LOG, "")}))


def failure_of(store: Store, key: str, since: float = 0.0) -> dict[str, Any] | None:
    """`reason` and `log` of a stage that has failed after `since`, and that nobody tries again; else None."""
    path = _mark(store, key)
    try:
        if path.stat().st_mtime <= since or is_held(store.stage(key)):
            return None
    except FileNotFoundError:
        return None
    return read_whole(path)


def told_of_failures(stages: Iterable[Stage], store: Store) -> list[str]:
    """A line for each stage that failed when it was last tried, with the log that says more."""
    lines, marked = [], frozenset(os.listdir(store.out / "logs"))
    for stage in stages:
        failure = failure_of(store, stage.key) if f"{stage.key}.json" in marked else None
        if failure is not None and not is_done(stage, store):
            run, log = stage.run, failure["log"]
            name = f"{run.scenario}, {run.strategy}-{run.objective}, seed {run.seed}, task {stage.task + 1}"
            lines.append(f"failed: {name}: {failure['reason']}" + (f"; log of its worker: {log}" if log else ""))
    return lines


def began(store: Store) -> float:
    """When this process began, by the clock of the file system; of a worker: when all of them were launched.

    Stages that failed before are tried again.
    """
    return float(os.environ[BEGAN]) if BEGAN in os.environ else store.now()


def _mark(store: Store, key: str) -> Path:
    return store.out / "logs" / f"{key}.json"
