"""Takes records from elsewhere into a results folder: what is new joins, what contradicts is refused.

A merged record keeps the configuration row, with the environment, of whoever made it; `merged/RUN.jsonl` says which
rows came from where.
"""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench.engine.store import Store, keep_aside
from bench.errors import UserError
from bench.lease import until_kept
from bench.report.records import Line, Row, brief, contradiction, run_of, whole_lines
from bench.seal import has_seal, sealed
from bench.upkeep.bundle import Source

FREE = (("environment",), *(("config", "settings", *where) for where in (("data", "dataset"), ("data", "data_dir"))))
"""What of a configuration may differ between machines: versions, and where the data lies."""


class Merged(NamedTuple):
    """What became of a run: `new`, `same`, `extended` or `refused`, and why or by how much."""

    run_id: str
    outcome: str
    text: str


class _Refused(Exception):
    """A record cannot be taken in; the message says why."""


def merge(source: Source, out: Path) -> Iterator[Merged]:
    """Takes in every record of a source, one after the other; nothing of those that are refused is written."""
    store = Store(out)
    store.prepare()
    (out / "merged").mkdir(exist_ok=True)
    for run_id in source.runs:
        try:
            yield _merge(run_id, source, store)
        except (_Refused, UserError) as error:
            yield Merged(run_id, "refused", str(error))


@until_kept
def _merge(run_id: str, source: Source, store: Store) -> Merged:
    path, data = store.record(run_id), source.read(f"records/{run_id}.jsonl")
    foreign = _checked(data, path)
    beside = {
        target: _whole(source.read(name))
        for target in (store.timing(run_id), store.merged(run_id))
        if (name := f"{target.parent.name}/{target.name}") in source.members
    }
    with store.lock_rows(path) as lease:
        content = path.read_bytes() if path.exists() else b""
        own, faults = whole_lines(content)
        joined = _joined(own, foreign)
        added = len({line.text for line in joined} - {line.text for line in own})
        if added:
            # Before the rows themselves: with them there, the same bundle would add nothing, and not be noted.
            sha256 = source.sha256 or hashlib.sha256(data).hexdigest()
            _note(store, run_id, {"bundle": source.name, "sha256": sha256, "rows": added, **_maker(source, foreign)})
        for target, lines in beside.items():
            _add(store, target, lines)
        if faults:
            keep_aside(store.out, path, "; ".join(faults))
        text = _text(joined)
        if text != content:
            lease.write(path, text)
    return Merged(run_id, "new" if not own else "extended" if added else "same", f"{added} rows" if added else "")


def _checked(data: bytes, path: Path) -> list[Line]:
    """The lines of a record from elsewhere that is whole, and of the run that its name says."""
    lines = _whole(data)
    run = run_of([line.row for line in lines], path, [])
    if run is None:
        raise _Refused("it has no config line")
    if run.run_id != path.stem:
        raise _Refused(f"it is of run {str(run.run_id)[:40]!r}")
    return lines


def _whole(data: bytes) -> list[Line]:
    lines, faults = whole_lines(data)
    if faults:
        raise _Refused("; ".join(faults[:3]))
    if lines and not any(map(has_seal, data.split(b"\n"))):
        raise _Refused("it carries no seals, as it is of an older version: `doctor --adopt` seals it where it was made")
    return list({line.text: line for line in lines}.values())


def _joined(own: list[Line], foreign: list[Line]) -> list[Line]:
    """The rows of both: in the foreign order where all are there, else the further ones behind the own."""
    mine, theirs = _configs(own), _configs(foreign)
    if mine:
        _check_same_run(mine[0].row, theirs[0].row)
    rows = {line.text: line for line in foreign if line not in theirs}
    rest = {line.text: line for line in own if line not in mine}
    fresh = [line for text, line in rows.items() if text not in rest]
    try:
        clash = contradiction(line.row for line in (*rest.values(), *fresh))
    except UserError as error:
        raise _Refused(str(error)) from None
    if clash is not None:
        raise _Refused(f"it contradicts the record that is here: {clash}")
    ordered = rows.values() if rest.keys() <= rows.keys() else [*rest.values(), *fresh]
    return [*(mine or theirs), *ordered] if fresh or not mine else own


def _configs(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.row.get("kind") == "config"]


def _check_same_run(mine: Row, theirs: Row) -> None:
    one, other = _flat(mine), _flat(theirs)
    differing = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    if differing:
        key = differing[0]
        values = f"{brief({'here': one.get(key), 'there': other.get(key)})}"
        raise _Refused(f"its configuration is another: {'.'.join(key)} is {values}")


def _flat(value: Any, key: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """The values of a configuration that may not differ, by where they stand."""
    if key in FREE:
        return {}
    if not isinstance(value, dict):
        return {key: value}
    return {place: each for name, inner in value.items() for place, each in _flat(inner, (*key, name)).items()}


def _maker(source: Source, foreign: list[Line]) -> Row:
    return {"exporter": source.exporter, "environment": _configs(foreign)[0].row.get("environment")}


def _note(store: Store, run_id: str, row: Row) -> None:
    """Says where rows came from, once for each bundle."""
    path = store.merged(run_id)
    known = whole_lines(path.read_bytes())[0] if path.exists() else []
    if not any(line.row.get("sha256") == row["sha256"] for line in known):
        row = {**row, "when": datetime.now(UTC).isoformat(timespec="seconds")}
        _add(store, path, [Line(sealed(row), row)])


def _add(store: Store, path: Path, lines: list[Line]) -> None:
    """Adds lines that are not there yet to a file of rows."""
    with store.lock_rows(path) as lease:
        content = path.read_bytes() if path.exists() else b""
        own, faults = whole_lines(content)
        if faults:
            keep_aside(store.out, path, "; ".join(faults))
        text = _text({line.text: line for line in (*own, *lines)}.values())
        if text != content:
            lease.write(path, text)


def _text(lines: Iterable[Line]) -> bytes:
    return b"".join(line.text + b"\n" for line in lines)
