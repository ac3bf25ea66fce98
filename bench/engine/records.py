"""Writes the records of runs: one sealed JSON object per line, equal for equal runs byte by byte.

A record only ever grows by rows; the file is replaced as a whole under a lease, so that no kill and no second process
leaves a part of a row behind.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench.engine.environment import environment
from bench.engine.plan import PlannedRun
from bench.engine.probing import Probe
from bench.engine.progress import follows
from bench.engine.store import Store, keep_aside, set_aside, was_set_aside, whole_artefact
from bench.errors import UserError
from bench.lease import Lease, until_kept
from bench.report.records import Line, codes_of, contradiction, key_of, whole_lines
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
        try:
            found = contradiction(line.row for line in lines)
        except UserError as error:
            raise Contradiction(f"{self.path}: {error}") from None
        if found is not None:
            what = "a result says otherwise than the record" if ahead or fresh else "two rows contradict each other"
            raise Contradiction(f"{self.path}: {what}: {found}")
        if self.mended or lines != self.lines:
            self.lines, self.mended = lines, False
            self.lease.write(self.path, self._text())

    def says_otherwise(self, rows: Sequence[Row]) -> bool:
        """Whether other code made a stage of these rows than made it for the record."""
        return _of_other_code((line.row for line in self.lines), rows)

    def _text(self) -> bytes:
        return b"".join(line.text + b"\n" for line in self.lines)


def _rank(line: Line, place: dict[bytes, int]) -> tuple[int, int]:
    if line.row.get("kind") == "config":
        return (0, 0)
    return (1, place[line.text]) if line.text in place else (2, 0)


@contextmanager
def _held(store: Store, path: Path) -> Iterator[_Record]:
    """A file of rows while no other process writes it; of one with lines that are not whole a copy is set aside."""
    with store.lock_rows(path) as lease:
        record = _Record(path, lease, path.read_bytes() if path.exists() else b"")
        if record.faults:
            keep_aside(store.out, path, "; ".join(record.faults))
        yield record


@until_kept
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


@until_kept
def start_record(run: PlannedRun, store: Store) -> None:
    """Makes sure that the run has a whole record, so that a report counts it even if it never finishes.

    A record of the same run from another environment or code is left as it is: its rows say which code made each stage.
    That of another run is set aside.
    """
    with _held(store, store.record(run.run_id)) as record:
        configs = [line.row for line in record.lines if line.row.get("kind") == "config"]
        has_config = any(row.get("run_id") == run.run_id for row in configs)
        if configs and not has_config:
            keep_aside(store.out, record.path, f"is the record of another run, {configs[0].get('run_id')}")
            record.lines, record.mended = [], True
        rows = _rows_from(run, store, 0)[0] if record.faults else []
        rows = [] if record.says_otherwise(rows) else rows
        record.add(rows, first=[] if has_config else [config_row(run)], reorder=True)


@until_kept
def sync_record(run: PlannedRun, store: Store, since: int | None = None) -> int:
    """Appends the rows of every finished stage up to the first unfinished one; returns how many stages those are.

    A record of stages that have been made again since stays as it is until all stages of the run are done; then it is
    set aside for a new one. since: number of the first stage that may not be what it was. Over all stages of a run this
    reads each stage once, unless others write into the record meanwhile. Raises Contradiction where a stage of the
    same code says otherwise than the record.
    """
    path = store.record(run.run_id)
    with _held(store, path) as record:
        known = _SYNCED.get((path, run.probes))
        if known is not None and (record.mended or known.mark != _mark(path)):
            known = None
        first = 0 if known is None else min(known.stages, len(run.stages) if since is None else since)
        rows, stages = _rows_from(run, store, first)
        if record.says_otherwise(rows):
            first = 0
            rows, stages = _rows_from(run, store, first)
            if stages < len(run.stages):
                _SYNCED.pop((path, run.probes), None)
                return stages
            why = "is of stages that have been made again since"
            keep_aside(store.out, path, why, quietly=True)
            set_aside(store.out, store.merged(run.run_id), why, record.lease, quietly=True)
            record.lines = []
            rows.insert(0, config_row(run))
        # Rows that were damaged have come back one by one: with the last stage there, in their order.
        mended = stages == len(run.stages) and was_set_aside(store.out, path)
        if mended and first:
            rows, _ = _rows_from(run, store, 0)
        record.add(rows, reorder=mended or bool(record.faults))
        _SYNCED[path, run.probes] = _Synced(stages, _mark(path))
    return stages


@until_kept
def mend_record(run: PlannedRun, store: Store) -> None:
    """Takes out of a record what is not whole, or says otherwise than the run's finished stages, and puts in what they
    say. A copy is set aside first where anything is taken out."""
    with _held(store, store.record(run.run_id)) as record:
        rows = rows_here(run, store, [line.row for line in record.lines])
        wrong = contradicted([line.row for line in record.lines], rows)
        if wrong:
            keep_aside(store.out, record.path, "says otherwise than the stages")
            record.lines, record.mended = [line for line in record.lines if line.row not in wrong], True
        record.add(rows, reorder=bool(record.faults or wrong))


def rows_here(run: PlannedRun, store: Store, recorded: Sequence[Row]) -> list[Row]:
    """What a run's finished stages say, up to the first unfinished one; nothing where other code has made one of them
    again since it was recorded."""
    rows, _ = _rows_from(run, store, 0)
    return [] if _of_other_code(recorded, rows) else rows


def _of_other_code(recorded: Iterable[Row], rows: Iterable[Row]) -> bool:
    known = codes_of(recorded)
    return any(task in known and known[task].isdisjoint(made) for task, made in codes_of(rows).items())


def contradicted(recorded: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """The rows of a record in whose place one of `rows` says otherwise."""
    right = {key: row for row in rows if (key := key_of(row)) is not None}
    return [row for row in recorded if (key := key_of(row)) in right and row != right[key]]


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
    if facts is None or not follows(facts, store.facts):
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
    several = {"sessions": facts["sessions"]} if len(facts["sessions"]) > 1 else {}
    rows.append({"kind": "stage", "after_task": task, "stage": key, "code": facts["code"], **several})
    return rows


def accuracy_row(row: Row, task: int) -> Row:
    """A probe's row as a record; task: -2 raw pixels, -1 random network, else the task last trained."""
    if "dataset" in row:
        return {"kind": "transfer", "after_task": task, **row}
    return {"kind": "pixels", **row} if task == -2 else {"kind": "accuracy", "after_task": task, **row}


def probe_rows(store: Store, key: str, probe: Probe) -> list[Row] | None:
    """Cached rows of a probe on a stage, or None where it has not run."""
    content = whole_artefact(store.probe(key, probe.key))
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
