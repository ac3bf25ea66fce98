"""Writes the records of runs: one sealed JSON object per line, equal for equal runs byte by byte.

A record only ever grows by rows; the file is replaced as a whole under a lease, so that no kill and no second process
leaves a part of a row behind.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench.engine.environment import environment
from bench.engine.plan import PlannedRun
from bench.engine.probing import Probe
from bench.engine.store import Store, keep_aside, read_whole
from bench.errors import UserError
from bench.lease import Lease, hold_briefly
from bench.report.records import Line, contradiction, whole_lines
from bench.seal import sealed

Row = dict[str, Any]


class Contradiction(UserError):
    """A row says something else than the record does; the message shows both."""


class _Synced(NamedTuple):
    """What this process knows of a record: it holds the rows of the run's first `stages` stages, while the file is the
    one with this `mark`."""

    stages: int
    mark: tuple[int, int] | None


_SYNCED: dict[tuple[Path, tuple[Probe, ...]], _Synced] = {}
"""Spares a run from reading its first stages again after each later one."""


class _Record:
    """The lines of a file that this process holds."""

    def __init__(self, path: Path, lease: Lease, content: bytes) -> None:
        self.path, self.lease = path, lease
        self.lines, self.faults = whole_lines(content)
        self.mended = self._text() != content

    def add(self, rows: Sequence[Row], first: Sequence[Row] = (), reorder: bool = False) -> None:
        """Adds the rows that are not there yet: those of `first` before all others, the rest behind them.

        reorder: puts `rows` right behind the configuration, in their order, also where they are there already. Raises
        Contradiction, and then writes nothing.
        """
        known = {line.text for line in self.lines}
        wanted = [Line(sealed(row), row) for row in rows]
        ahead = [line for line in (Line(sealed(row), row) for row in first) if line.text not in known]
        fresh = [line for line in {line.text: line for line in wanted}.values() if line.text not in known]
        lines = [*ahead, *self.lines, *fresh]
        if reorder:
            place = {line.text: number for number, line in enumerate(wanted)}
            lines.sort(key=lambda line: _rank(line, place))
        if ahead or fresh:
            found = contradiction(line.row for line in lines)
            if found is not None:
                raise Contradiction(f"{self.path}: a result says otherwise than the record: {found}")
        if self.mended or lines != self.lines:
            self.lines, self.mended = lines, False
            self.lease.write(self.path, self._text())

    def _text(self) -> bytes:
        return b"".join(line.text + b"\n" for line in self.lines)


def _rank(line: Line, place: dict[bytes, int]) -> tuple[int, int]:
    if line.row.get("kind") == "config":
        return (0, 0)
    return (1, place[line.text]) if line.text in place else (2, 0)


@contextmanager
def _held(store: Store, path: Path) -> Iterator[_Record]:
    """A file of rows while no other process writes it; of one with lines that are not whole a copy is set aside."""
    with hold_briefly(store.out / "locks" / f"{path.parent.name}-{path.stem}") as lease:
        record = _Record(path, lease, path.read_bytes() if path.exists() else b"")
        if record.faults:
            keep_aside(store.out, path, "; ".join(record.faults))
        yield record


def append_rows(store: Store, path: Path, rows: list[Row]) -> None:
    """Appends the rows that are not there yet, in order; a torn last line is cut off. Raises Contradiction."""
    with _held(store, path) as record:
        record.add(rows)


def config_row(run: PlannedRun) -> Row:
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
    """Makes sure that the run has a whole record, so that a report counts it even if it never finishes.

    A record of the same run from another environment or code is left as it is: its rows say which code made each stage.
    """
    with _held(store, store.record(run.run_id)) as record:
        has_config = any(line.row.get("kind") == "config" for line in record.lines)
        rows = _rows_from(run, store, 0)[0] if record.faults else []
        record.add(rows, first=[] if has_config else [config_row(run)], reorder=True)


def sync_record(run: PlannedRun, store: Store) -> int:
    """Appends the rows of every finished stage up to the first unfinished one; returns how many stages those are.

    Over all stages of a run this reads each stage once, unless others write into the record meanwhile. Raises
    Contradiction where a stage says otherwise than the record.
    """
    path = store.record(run.run_id)
    with _held(store, path) as record:
        known = _SYNCED.get((path, run.probes))
        if known is not None and (record.mended or known.mark != _mark(path)):
            known = None
        rows, stages = _rows_from(run, store, 0 if known is None else known.stages)
        record.add(rows, reorder=bool(record.faults))
        _SYNCED[path, run.probes] = _Synced(stages, _mark(path))
    return stages


def _mark(path: Path) -> tuple[int, int] | None:
    """Tells a file from the one that replaces it."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_ino, facts.st_mtime_ns


def _rows_from(run: PlannedRun, store: Store, stages: int) -> tuple[list[Row], int]:
    """The rows of the run's stages from a number on up to the first unfinished one, and its number."""
    rows: list[Row] = []
    for key in run.stages[stages:]:
        stage_rows = _stage_rows(run, store, key, run.after[stages])
        if stage_rows is None:
            break
        rows += stage_rows
        stages += 1
    return rows, stages


def _stage_rows(run: PlannedRun, store: Store, key: str, task: int) -> list[Row] | None:
    facts = store.facts(key)
    if facts is None:
        return None
    results = [probe_rows(store, key, probe) for probe in run.probes if probe.fits(facts["kind"])]
    if any(found is None for found in results):
        return None
    rows: list[Row] = []
    for found in results:
        for row in found or []:
            rows.append(accuracy_row(row, task))
    if facts["watch"] is not None:
        rows.append({"kind": "watch", "after_task": task, **facts["watch"]})
    if facts["kind"] in ("task", "joint"):
        rows.append({"kind": "stage", "after_task": task, "stage": key, "code": facts["code"]})
    return rows


def accuracy_row(row: Row, task: int) -> Row:
    """A probe's row as a record; task: -2 raw pixels, -1 random network, else the task last trained."""
    if "dataset" in row:
        return {"kind": "transfer", "after_task": task, **row}
    return {"kind": "pixels", **row} if task == -2 else {"kind": "accuracy", "after_task": task, **row}


def probe_rows(store: Store, key: str, probe: Probe) -> list[Row] | None:
    """Cached rows of a probe on a stage, or None where it has not run."""
    content = read_whole(store.probe(key, probe.key))
    return None if content is None else content["rows"]


def record_failure(run: PlannedRun, store: Store, task: int, reason: str) -> None:
    """Appends why a run stopped."""
    append_rows(store, store.record(run.run_id), [{"kind": "failure", "after_task": task, "reason": reason}])


def record_timing(run: PlannedRun, store: Store, key: str, task: int) -> None:
    """Appends the wall time of a stage that has just been made."""
    facts = store.facts(key)
    if facts is not None:
        seconds = {
            **facts["seconds"],
            "total": round(sum(facts["seconds"].values()) - facts["seconds"].get("augment", 0), 3),
        }
        row = {"after_task": task, "stage": key, "seconds": seconds, "samples": facts["samples"]}
        append_rows(
            store, store.timing(run.run_id), [{**row, "finished": datetime.now(UTC).isoformat(timespec="seconds")}]
        )
