"""The records of a results folder, one file per run, checked and made into `Run`s."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.errors import UserError
from bench.seal import has_seal, sealed, unsealed

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

Row = dict[str, Any]


@dataclass(eq=False)
class Run:
    """One run: its configuration, and its rows by key; accuracies are fractions in [0, 1]."""

    path: Path
    config: Row
    accuracy: dict[tuple[str, int, int], float] = field(default_factory=dict)  # (probe, after_task, on_task)
    pixels: dict[tuple[str, int], float] = field(default_factory=dict)  # (probe, on_task)
    collapsed: dict[int, str] = field(default_factory=dict)  # after_task -> reason
    transfer: dict[tuple[str, str, int], float] = field(default_factory=dict)  # (dataset, probe, after_task)
    failures: list[str] = field(default_factory=list)

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
        return sum(key not in self.accuracy for key in self._expected())

    def _expected(self) -> list[tuple[str, int, int]]:
        trained = [task for task in self.after if task >= 0]
        return [
            (p, t, i) for p in self.probes for t in (trained if p == ONLINE else self.after) for i in range(self.tasks)
        ]


def read_records(folder: Path) -> tuple[list[Run], list[str]]:
    """All runs under `folder` (the `records/` of a results folder) in order of run id, and warnings.

    Raises UserError where there is no records file, or where two rows of a run contradict each other.
    """
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
    UserError naming the file and both rows where two rows of one key differ.
    """
    lines, faults = whole_lines(path.read_bytes())
    warnings += [f"{path}: {fault}" for fault in faults]
    rows = [line.row for line in lines]
    seen, clash = _by_key(rows)
    if clash is not None:
        raise UserError(f"{path}: two rows contradict each other: {clash} (remove one of them, or the file)")
    config = seen.get(("config",))
    if config is None:
        warnings.append(f"{path}: skipped, it has no config line")
        return None
    failed = [row for row in rows if row.get("kind") == "failure"]
    failures = [f"after task {row.get('after_task')}: {row.get('reason', '')}" for row in failed]
    try:
        run = Run(path, config, failures=failures)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: the config line lacks a valid {error}") from None
    for row in seen.values():
        _file_row(run, row)
    return run


class Line(NamedTuple):
    """A line of a record: its sealed text, and what it says."""

    text: bytes
    row: Row


def whole_lines(content: bytes) -> tuple[list[Line], list[str]]:
    """The lines of a record, and what is wrong with those that are left out.

    A record without any seal is of an older version: it is taken as it is, and its lines are sealed here.
    """
    lines = content.split(b"\n")
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
    """Two rows that have one key and differ, in words; None where there are none."""
    return _by_key(rows)[1]


def _by_key(rows: Iterable[Row]) -> tuple[dict[tuple[Any, ...], Row], str | None]:
    """The rows that are read by what makes them the same row, and the first two that contradict each other."""
    seen: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        kind = row.get("kind")
        if kind not in KEYS:
            continue
        key = (kind, *(row.get(name) for name in KEYS[kind]))
        first = seen.setdefault(key, row)
        if first is not row and _canonical(first) != _canonical(row):
            if kind == "config":
                first, row = _differing(first, row), _differing(row, first)
            return seen, f"{_brief(first)} and {_brief(row)}"
    return seen, None


def _file_row(run: Run, row: Row) -> None:
    try:
        if row["kind"] == "accuracy":
            key = (row["probe"], row["after_task"], row["on_task"])
            _check(-1 <= key[1] < run.tasks and 0 <= key[2] < run.tasks and 0 <= row["value"] <= 1)
            run.accuracy[key] = float(row["value"])
        elif row["kind"] == "pixels":
            _check(0 <= row["on_task"] < run.tasks and 0 <= row["value"] <= 1)
            run.pixels[row["probe"], row["on_task"]] = float(row["value"])
        elif row["kind"] == "transfer":
            _check(-2 <= row["after_task"] < run.tasks and 0 <= row["value"] <= 1)
            run.transfer[row["dataset"], row["probe"], row["after_task"]] = float(row["value"])
        # the untrained network may well look collapsed; that says nothing about the method
        elif row["kind"] == "watch" and row["collapsed"] and row["after_task"] >= 0:
            run.collapsed[row["after_task"]] = row.get("reason", "")
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{run.path}: a row lacks a field or is out of range: {_brief(row)}") from None


def _check(in_range: bool) -> None:
    if not in_range:
        raise ValueError


def _canonical(row: Row) -> str:
    kept = {k: v for k, v in row.items() if row["kind"] != "config" or k not in FREE_OF_CONFIG}
    return json.dumps(kept, sort_keys=True)


def _differing(row: Row, other: Row) -> Row:
    return {k: v for k, v in row.items() if k == "kind" or (k not in FREE_OF_CONFIG and other.get(k) != v)}


def _brief(row: Row) -> str:
    text = json.dumps(row)
    return text if len(text) <= 300 else text[:297] + "..."
