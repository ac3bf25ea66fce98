"""The records of a results folder, one file per run, checked and made into `Run`s."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.errors import UserError
from bench.links import refuse_links
from bench.report.rows import BadRow, Row, brief, checked
from bench.seal import all_unsealed, has_seal, sealed, unsealed
from bench.source import base_code, trained_codes

# what makes two rows of a kind the same row; kinds that are not named here are not read
KEYS: dict[str, tuple[str, ...]] = {
    "config": (),
    "accuracy": ("probe", "after_task", "on_task"),
    "pixels": ("probe", "on_task"),
    "watch": ("after_task",),
    "transfer": ("dataset", "probe", "after_task"),
}
# the machine may differ between the sessions that continue a run; its results may not
FREE_OF_CONFIG = ("environment",)

# trained beside the encoder: it has no accuracy on the network before any training
ONLINE = "linear_online"

# what the report calls the statuses of a run
STATES = {"complete": "complete", "marked": "collapsed", "failed": "failed", "incomplete": "incomplete"}

Key = tuple[str, int, int]
"""Probe, after_task, on_task."""
_KEYS: dict[tuple[Any, ...], Any] = {}
"""Every key met, so that runs share one copy of it: there are thousands of runs, and a hundred keys."""


@dataclass(eq=False)
class Run:
    """One run: its configuration, and its rows by key; accuracies are fractions in [0, 1]."""

    path: Path
    config: Row
    accuracy: dict[Key, float] = field(default_factory=dict)
    pixels: dict[tuple[str, int], float] = field(default_factory=dict)  # (probe, on_task)
    collapsed: dict[int, str] = field(default_factory=dict)  # after_task -> reason
    transfer: dict[tuple[str, str, int], float] = field(default_factory=dict)  # (dataset, probe, after_task)
    failures: list[str] = field(default_factory=list)
    codes: dict[int, set[str]] = field(default_factory=dict)  # after_task -> code that made the stage

    def __post_init__(self) -> None:
        text = self.config.__getitem__
        self.run_id: str = text("run_id")
        self.scenario: str = text("scenario")
        self.dataset: str = text("dataset")
        self.tasks: int = text("tasks")
        self.task_names: tuple[str, ...] = tuple(text("task_names"))
        self.objective: str = text("objective")
        self.strategy: str = text("strategy")
        self.seed: int = text("seed")
        self.setting: str = text("setting")
        self.method_setting: str = text("method_setting")
        self.probes: tuple[str, ...] = tuple(text("probes"))
        # the stages it has rows of: -1 the random network, then tasks; bounds have fewer
        stages = self.config.get("after", range(-2, self.tasks))
        self.after: tuple[int, ...] = tuple(task for task in stages if task >= -1)
        self.headline: str = text("headline")
        self.vary: str = self.config.get("vary", "all")
        self.preset: str = self.config.get("preset") or ""
        self.recipe: str = self.config.get("recipe") or ""
        self.overrides: dict[str, Any] = self.config.get("overrides") or {}
        self.synthetic_domains: bool = self.config.get("synthetic_domains", False)
        self.note: str = self.config.get("note", "")

    @property
    def bound(self) -> bool:
        """Whether it is a reference without a sequence (joint training, the random network), not a contender."""
        return len(self.after) <= self.tasks

    @property
    def status(self) -> str:
        """`complete`, `marked` (complete, but collapsed), `failed` or `incomplete`."""
        if self._missing() == 0:
            return "marked" if self.collapsed else "complete"
        return "failed" if self.failures else "incomplete"

    @property
    def reason(self) -> str:
        """Why the run is not plainly complete, in a few words; empty if it is."""
        collapse = "; ".join(f"collapsed after task {t}: {why}" for t, why in sorted(self.collapsed.items()))
        if self.status in ("complete", "marked"):
            return collapse
        total = len(self._expected())
        counted = f"{total - self._missing()} of {total} accuracy rows"
        return "; ".join(part for part in (*self.failures[-1:], counted, collapse) if part)

    @property
    def stale(self) -> bool:
        """Whether other code than the present made any of its stages; a record that does not say is not stale."""
        return any(map(self.stale_after, self.codes))

    def stale_after(self, task: int) -> bool:
        """Whether other code made the stage after a task: -2 raw pixels, -1 the random network."""
        made = self.codes.get(task)
        return made is not None and self._present_codes.get(task) not in made

    @cached_property
    def _present_codes(self) -> dict[int, str]:
        trained = [task for task in self.after if task >= 0]
        return dict.fromkeys((-2, -1), base_code()) | dict(
            zip(trained, trained_codes(self.objective, self.strategy, len(trained)), strict=True)
        )

    @cached_property
    def measured(self) -> set[str]:
        """The probes that it has accuracies of."""
        return {probe for probe, _, _ in self.accuracy}

    def table(self, probe: str) -> npt.NDArray[np.float64]:
        """(T + 1, T): the row of `random`, then those of `matrix`."""
        return self._table(probe, range(-1, self.tasks))

    def matrix(self, probe: str) -> npt.NDArray[np.float64]:
        """R, (T, T): accuracy on task i (column) after task t (row); nan where no row exists yet."""
        return self._table(probe, range(self.tasks))

    def random(self, probe: str) -> npt.NDArray[np.float64]:
        """(T,): accuracy of the network before any training; nan where no row exists yet."""
        return self._table(probe, range(-1, 0))[0]

    def raw_pixels(self, probe: str) -> npt.NDArray[np.float64]:
        """(T,): accuracy of the probe on raw pixels; nan where no row exists."""
        return np.array([self.pixels.get((probe, i), np.nan) for i in range(self.tasks)])

    def _table(self, probe: str, after: range) -> npt.NDArray[np.float64]:
        columns = range(self.tasks)
        return np.array([[self.accuracy.get((probe, t, i), np.nan) for i in columns] for t in after])

    def _missing(self) -> int:
        return len(self._expected() - self.accuracy.keys())

    def _expected(self) -> frozenset[Key]:
        return _expected(self.probes, self.after, self.tasks)


@lru_cache(maxsize=64)
def _expected(probes: tuple[str, ...], after: tuple[int, ...], tasks: int) -> frozenset[Key]:
    trained = tuple(task for task in after if task >= 0)
    return frozenset((p, t, i) for p in probes for t in (trained if p == ONLINE else after) for i in range(tasks))


def read_records(folder: Path) -> tuple[list[Run], list[str]]:
    """All runs under `folder` (the `records/` of a results folder) in order of run id, and warnings.

    Raises UserError where there is no records file, or where two rows of a run contradict each other.
    """
    refuse_links(folder.parent, folder.name)
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise UserError(f"no records in {folder}: run something first, or name another results folder")
    runs: list[Run] = []
    warnings: list[str] = []
    for path in files:
        run = read_run(path, warnings)
        if run is not None:
            runs.append(run)
    if not runs:
        raise UserError(f"no run in {folder}: none of its {len(files)} files has a config line")
    return sorted(runs, key=lambda run: (run.run_id, run.path.name)), warnings


def read_run(path: Path, warnings: list[str]) -> Run | None:
    """The run of one records file, or None and a warning if the file has no config line.

    A line that is not whole, or not what was written, is left out with a warning; equal rows count once. Raises
    UserError naming the file and both rows where two rows of one key differ, and for a row that no run writes.
    """
    if not path.is_file():
        raise UserError(f"{path}: is not a file")
    lines, faults = whole_lines(path.read_bytes())
    warnings += [f"{path}: {fault}" for fault in faults]
    return run_of([line.row for line in lines], path, warnings)


def run_of(rows: list[Row], path: Path, warnings: list[str]) -> Run | None:
    """The same of the rows of a records file that is named `path`, and need not be there."""
    try:
        rows = _checked(rows)
        seen, clash = _by_key(rows)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if clash is not None:
        raise UserError(f"{path}: two rows contradict each other: {clash} (remove one of them, or the file)")
    config = seen.get(("config",))
    if config is None:
        warnings.append(f"{path}: skipped, it has no config line")
        return None
    failed = [row for row in rows if row["kind"] == "failure"]
    failures = [f"after task {row['after_task']}: {row.get('reason') or ''}" for row in failed]
    run = Run(path, config, failures=failures, codes=codes_of(rows))
    for key, row in seen.items():
        _file_row(run, key[1:], row)
    return run


def codes_of(rows: Iterable[Row]) -> dict[int, set[str]]:
    """The code that made the stage after each task, as far as rows say; more than one where they agree in results."""
    codes: dict[int, set[str]] = {}
    for row in rows:
        if row.get("kind") == "stage" and isinstance(row.get("after_task"), int) and "code" in row:
            codes.setdefault(row["after_task"], set()).add(str(row["code"]))
    return codes


class Line(NamedTuple):
    """A line of a record: its sealed text, and what it says."""

    text: bytes
    row: Row


def whole_lines(content: bytes) -> tuple[list[Line], list[str]]:
    """The lines of a record, and what is wrong with those that are left out.

    A record without any seal is of an older version: it is taken as it is, and its lines are sealed here.
    """
    lines = content.split(b"\n")
    rows = all_unsealed(lines[:-1])
    if rows is not None and not lines[-1]:
        return list(map(Line, lines, rows)), []
    older = not any(map(has_seal, lines))
    whole: list[Line] = []
    faults: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = dict.copy(json.loads(line)) if older else unsealed(line)
            whole.append(Line(sealed(row) if older else line, row))
        except (ValueError, TypeError, RecursionError) as error:
            why = "it is torn" if number == len(lines) else "it is no JSON object" if older else f"it {error}"
            faults.append(f"line {number} is left out: {why}")
    return whole, faults


def contradiction(rows: Iterable[Row]) -> str | None:
    """Two rows that have one key and differ, in words; None where there are none. Raises UserError for a row that no
    run writes."""
    return _by_key(_checked(rows))[1]


def _checked(rows: Iterable[Row]) -> list[Row]:
    """The rows that are read, checked; raises UserError for one that no run writes."""
    found = []
    for row in rows:
        try:
            clean = checked(row)
        except BadRow as error:
            what = "the config line" if row.get("kind") == "config" else "a row"
            raise UserError(f"{what} lacks a valid {error}: {brief(row)}") from None
        if clean is not None:
            found.append(clean)
    return found


def key_of(row: Row) -> tuple[Any, ...] | None:
    """What makes two rows the same row; None for a kind that is not read."""
    kind = row.get("kind")
    return (kind, *map(row.get, KEYS[kind])) if isinstance(kind, str) and kind in KEYS else None


def _by_key(rows: Iterable[Row]) -> tuple[dict[tuple[Any, ...], Row], str | None]:
    """The rows that are read by what makes them the same row, and the first two that contradict each other."""
    seen: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = key_of(row)
        if key is None:
            continue
        first = seen.setdefault(key, row)
        if first is not row and _canonical(first) != _canonical(row):
            if row["kind"] == "config":
                first, row = _differing(first, row), _differing(row, first)
            return seen, f"{brief(first)} and {brief(row)}"
    return seen, None


def _file_row(run: Run, key: tuple[Any, ...], row: Row) -> None:
    """key: the row's values of its `KEYS`."""
    kind = row["kind"]
    try:
        if kind == "accuracy":
            _, after, on = key
            _check(-1 <= after < run.tasks and 0 <= on < run.tasks)
            run.accuracy[_KEYS.setdefault(key, key)] = float(row["value"])
        elif kind == "pixels":
            _check(0 <= key[1] < run.tasks)
            run.pixels[_KEYS.setdefault(key, key)] = float(row["value"])
        elif kind == "transfer":
            _check(-2 <= key[2] < run.tasks)
            run.transfer[_KEYS.setdefault(key, key)] = float(row["value"])
        # the untrained network may well look collapsed; that says nothing about the method
        elif kind == "watch":
            _check(-1 <= key[0] < run.tasks)
            if row["collapsed"] and key[0] >= 0:
                run.collapsed[key[0]] = row.get("reason") or ""
    except ValueError:
        raise UserError(f"{run.path}: a row is out of range: {brief(row)}") from None


def _check(in_range: bool) -> None:
    if not in_range:
        raise ValueError


def _canonical(row: Row) -> str:
    kept = {k: v for k, v in row.items() if row["kind"] != "config" or k not in FREE_OF_CONFIG}
    return json.dumps(kept, sort_keys=True)


def _differing(row: Row, other: Row) -> Row:
    return {k: v for k, v in row.items() if k == "kind" or (k not in FREE_OF_CONFIG and other.get(k) != v)}
