"""What the sealed JSON files of a stage hold: anything else is damage, whoever has sealed it."""

from pathlib import Path
from typing import Any

from bench.report.rows import is_key
from bench.seal import Damaged, read_sealed


def read_artefact(path: Path) -> dict[str, Any] | None:
    """The object in `stage.json` or `probe-*.json`, or None where there is none; raises Damaged."""
    content = read_sealed(path)
    if content is not None and not (_is_end(content) if path.name == "stage.json" else _is_probe(content)):
        raise Damaged(path, "holds what no stage writes")
    return content


def _is_end(facts: dict[str, Any]) -> bool:
    parent, watch, seconds = facts.get("parent"), facts.get("watch"), facts.get("seconds")
    return (
        facts.get("kind") in ("pixels", "init", "task", "joint")
        and all(type(facts.get(name)) is int for name in ("task", "samples"))
        and all(type(facts.get(name)) is kind for name, kind in (("code", str), ("environment", dict)))
        and isinstance(facts.get("sessions"), list)
        and all(map(_is_session, facts["sessions"]))
        and {"from", "parent", "watch"} <= facts.keys()
        and isinstance(facts["from"], str | None)
        and (parent is None or is_key(parent))
        and (watch is None or (isinstance(watch, dict) and type(watch.get("collapsed")) is bool and _is_row(watch)))
        and isinstance(seconds, dict)
        and all(type(value) in (int, float) and 0 <= value < 1e12 for value in seconds.values())
    )


def _is_session(session: Any) -> bool:
    """Whether it says who went on with a stage, as `Origin` does."""
    kinds = (("step", int), ("code", str), ("environment", dict), ("processes", int))
    return isinstance(session, dict) and all(type(session.get(name)) is kind for name, kind in kinds)


def _is_probe(content: dict[str, Any]) -> bool:
    rows = content.get("rows")
    return isinstance(rows, list) and all(isinstance(row, dict) and _is_row(row) for row in rows)


def _is_row(row: dict[str, Any]) -> bool:
    """Whether it leaves to the record what the record adds."""
    return not {"kind", "after_task"} & row.keys()
