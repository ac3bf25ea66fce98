"""Writes the records of runs: one JSON object per line, appended, equal for equal runs byte by byte."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bench.engine.environment import environment
from bench.engine.plan import PlannedRun
from bench.engine.probing import Probe
from bench.engine.store import Store, read_json


class _Synced(NamedTuple):
    """What this process knows of a record: it holds the rows of the run's first `stages` stages.

    size: of the file then, in bytes; others: its lines beside those rows.
    """

    stages: int
    size: int
    others: frozenset[bytes]


_SYNCED: dict[tuple[Path, tuple[Probe, ...]], _Synced] = {}
"""Spares a run from reading its first stages again after each later one; only trusted while the size is the same."""


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Appends the rows that are not there yet, in order; a torn last line is cut off first. Safe between processes."""
    with _locked(path) as file:
        _append(file, map(_line, rows), _whole_lines(file))


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _whole_lines(file: BinaryIO) -> frozenset[bytes]:
    """The lines of a file; a torn last one is cut off."""
    file.seek(0)
    content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        file.truncate(len(whole))
    return frozenset(whole.splitlines())


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, sort_keys=True).encode()


def _append(file: BinaryIO, lines: Iterable[bytes], known: frozenset[bytes]) -> None:
    fresh = b"".join(line + b"\n" for line in dict.fromkeys(lines) if line not in known)
    if fresh:
        file.write(fresh)
        file.flush()


def config_row(run: PlannedRun) -> dict[str, Any]:
    """The first row: the resolved configuration and the environment."""
    config, settings = run.config, run.config.settings.probe
    return {
        "kind": "config",
        "run_id": run.run_id,
        "scenario": config.scenario,
        "dataset": run.dataset,
        "tasks": len(run.task_names),
        "task_names": list(run.task_names),
        "objective": config.objective,
        "strategy": config.strategy,
        "seed": config.seed,
        "vary": config.vary,
        "preset": config.preset,
        "recipe": config.recipe,
        "overrides": config.overrides,
        "setting": run.setting,
        "method_setting": run.method_setting,
        "synthetic_domains": run.synthetic_domains,
        "note": run.note,
        "probes": run.expected_probes(),
        "headline": next(p for p in run.probes if p.name == settings.headline).record_names(config.scenario)[0],
        "stages": list(run.stages),
        **({} if run.after == tuple(range(-2, len(run.task_names))) else {"after": list(run.after)}),
        "config": asdict(config),
        "environment": environment(config.settings.numerics.device),
    }


def start_record(run: PlannedRun, store: Store) -> None:
    """Makes sure that the run has a record, so that a report counts it even if it never finishes.

    A record of the same run from another environment or code is left as it is: its rows say which code made each stage.
    """
    path = store.record(run.run_id)
    if not path.exists() or not path.read_bytes().partition(b"\n")[1]:
        append_rows(path, [config_row(run)])


def sync_record(run: PlannedRun, store: Store) -> int:
    """Appends the rows of every finished stage up to the first unfinished one; returns how many stages those are.

    Over all stages of a run this reads each stage once, unless others write into the record meanwhile.
    """
    path = store.record(run.run_id)
    with _locked(path) as file:
        known = _SYNCED.get((path, run.probes))
        if known is None or known.size != file.seek(0, os.SEEK_END):
            known = _Synced(0, 0, _whole_lines(file))
        stages, rows = known.stages, list[dict[str, Any]]()
        for key in run.stages[known.stages :]:
            stage_rows = _stage_rows(run, store, key, run.after[stages])
            if stage_rows is None:
                break
            rows += stage_rows
            stages += 1
        lines = [_line(row) for row in rows]
        _append(file, lines, known.others)
        _SYNCED[path, run.probes] = _Synced(stages, file.seek(0, os.SEEK_END), known.others.difference(lines))
    return stages


def _stage_rows(run: PlannedRun, store: Store, key: str, task: int) -> list[dict[str, Any]] | None:
    facts = store.facts(key)
    if facts is None:
        return None
    results = [probe_rows(store, key, probe) for probe in run.probes if probe.fits(facts["kind"])]
    if any(found is None for found in results):
        return None
    rows: list[dict[str, Any]] = []
    for found in results:
        for row in found or []:
            rows.append(accuracy_row(row, task))
    if facts["watch"] is not None:
        rows.append({"kind": "watch", "after_task": task, **facts["watch"]})
    if facts["kind"] in ("task", "joint"):
        rows.append({"kind": "stage", "after_task": task, "stage": key, "code": facts["code"]})
    return rows


def accuracy_row(row: dict[str, Any], task: int) -> dict[str, Any]:
    """A probe's row as a record; task: -2 raw pixels, -1 random network, else the task last trained."""
    if "dataset" in row:
        return {"kind": "transfer", "after_task": task, **row}
    return {"kind": "pixels", **row} if task == -2 else {"kind": "accuracy", "after_task": task, **row}


def probe_rows(store: Store, key: str, probe: Probe) -> list[dict[str, Any]] | None:
    """Cached rows of a probe on a stage, or None where it has not run."""
    content = read_json(store.probe(key, probe.key))
    return None if content is None else content["rows"]


def record_failure(run: PlannedRun, store: Store, task: int, reason: str) -> None:
    """Appends why a run stopped."""
    append_rows(store.record(run.run_id), [{"kind": "failure", "after_task": task, "reason": reason}])


def record_timing(run: PlannedRun, store: Store, key: str, task: int) -> None:
    """Appends the wall time of a stage that has just been made."""
    facts = store.facts(key)
    if facts is not None:
        seconds = {
            **facts["seconds"],
            "total": round(sum(facts["seconds"].values()) - facts["seconds"].get("augment", 0), 3),
        }
        row = {"after_task": task, "stage": key, "seconds": seconds, "samples": facts["samples"]}
        append_rows(store.timing(run.run_id), [{**row, "finished": datetime.now(UTC).isoformat(timespec="seconds")}])
