"""What the rows of a record must hold, whoever has written them: every field of its type, and names that are one
printable line, of a length that tables and figures have room for."""

import json
import re
from collections.abc import Iterable
from typing import Any

from bench.errors import printable
from bench.layers import MOST_TASKS

Row = dict[str, Any]
NAME, TEXT = 500, 10_000  # characters, of names and of all else
ROW_FIELDS: dict[str, dict[str, type]] = {
    "accuracy": {"probe": str, "after_task": int, "on_task": int, "value": float},
    "pixels": {"probe": str, "on_task": int, "value": float},
    "watch": {"after_task": int, "collapsed": bool},
    "transfer": {"dataset": str, "probe": str, "after_task": int, "value": float},
    "failure": {"after_task": int},
    "stage": {"after_task": int, "stage": str},
}
CONFIG_FIELDS: dict[str, type] = {
    **dict.fromkeys(("run_id", "scenario", "dataset", "objective", "strategy"), str),
    **dict.fromkeys(("setting", "method_setting", "headline"), str),
    **dict.fromkeys(("tasks", "seed"), int),
    **dict.fromkeys(("task_names", "probes"), list),
}
OPTIONAL: dict[str, type] = {
    **dict.fromkeys(("vary", "preset", "recipe", "note"), str),
    **{"overrides": dict, "synthetic_domains": bool, "after": list, "config": dict, "stages": list},
}


class BadRow(ValueError):
    """A row, or in the message the field of one, that no run writes."""


def checked(row: Row) -> Row | None:
    """The row with its texts printable, or None for a kind that nothing reads; raises BadRow."""
    kind = row.get("kind")
    if kind == "config":
        return _config(row)
    wanted = ROW_FIELDS.get(kind) if isinstance(kind, str) else None
    if wanted is None:
        return None
    for name, type_ in wanted.items():
        _check(row, name, type_)
    for name in ("reason", "code"):
        _check(row, name, str, optional=True)
    if "value" in wanted and not 0 <= row["value"] <= 1:
        raise BadRow("value")
    return _printable(row)


def _check(row: Row, name: str, wanted: type, optional: bool = False) -> None:
    """Whether a field is there and of its type; whole numbers are numbers, but no other type stands for another."""
    value = row.get(name)
    found = type(value)
    if not (found is wanted or (wanted is float and found is int) or (optional and value is None)):
        raise BadRow(name)
    if isinstance(value, str) and len(value) > (TEXT if name in ("note", "reason") else NAME):
        raise BadRow(f"{name}, which is longer than names are")


def _printable(row: Row) -> Row:
    odd = {name: printable(text) for name, text in row.items() if isinstance(text, str) and not text.isprintable()}
    return {**row, **odd} if odd else row


def _config(row: Row) -> Row:
    for name, wanted in CONFIG_FIELDS.items():
        _check(row, name, wanted)
    for name, wanted in OPTIONAL.items():
        _check(row, name, wanted, optional=True)
    row = {name: value for name, value in row.items() if value is not None}
    tasks, names, probes = row["tasks"], _names(row, "task_names"), _names(row, "probes")
    if not is_key(row["run_id"]):
        raise BadRow("run_id")
    if not 1 <= tasks <= MOST_TASKS:
        raise BadRow("tasks")
    if len(names) != tasks:
        raise BadRow("task_names")
    if not probes or len(set(probes)) < len(probes):
        raise BadRow("probes")
    if "after" in row and not (row["after"] and _rising(row["after"], -2, tasks)):
        raise BadRow("after")
    if not all(map(is_key, row.get("stages", ()))):
        raise BadRow("stages")
    return {**_printable(row), "task_names": names, "probes": probes, "overrides": _overrides(row)}


def _names(row: Row, field: str) -> list[str]:
    if not all(isinstance(name, str) and len(name) <= NAME for name in row[field]):
        raise BadRow(field)
    return [printable(name) for name in row[field]]


def _rising(numbers: Iterable[Any], least: int, end: int) -> bool:
    """Whether all are whole, at least `least`, below `end`, and each larger than the one before."""
    for number in numbers:
        if type(number) is not int or not least <= number < end:
            return False
        least = number + 1
    return True


def is_key(text: Any) -> bool:
    """Whether it can be the name of a run or of a stage: what is none must not become part of a path."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{16}", text) is not None


def _overrides(row: Row) -> dict[str, Any]:
    found = row.get("overrides", {})
    if len(json.dumps(found)) > TEXT:
        raise BadRow("overrides")
    return {printable(key): printable(value) if isinstance(value, str) else value for key, value in found.items()}


def brief(row: Row) -> str:
    """A row in a message."""
    text = json.dumps(row)
    return text if len(text) <= 300 else text[:297] + "..."
