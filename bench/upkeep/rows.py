"""Examines files of rows: records, beside their stages, and others; changes nothing."""

from collections.abc import Iterator
from pathlib import Path

from bench.config import restored
from bench.engine.plan import PlannedRun
from bench.engine.probing import probes_of
from bench.engine.records import contradicted, rows_here
from bench.engine.store import Store
from bench.errors import UserError
from bench.report.records import Line, Row, brief, key_of, run_of, whole_lines
from bench.seal import has_seal, sealed
from bench.upkeep.findings import FOREIGN, LEFTOVER, OF_OLDER, Finding
from bench.upkeep.needs import NAME, stages_of


def in_rows(path: Path) -> Iterator[Finding]:
    """What is wrong with a file of rows as such."""
    misplaced = _misplaced(path)
    yield from [misplaced] if misplaced else _lines(path, path.read_bytes())[1]


def _misplaced(path: Path) -> Finding | None:
    """What is wrong with something that is no file of rows."""
    if path.is_symlink():
        return Finding("damaged", path, "is a symbolic link")
    if OF_OLDER.fullmatch(path.name):
        return Finding(LEFTOVER, path, "was left by a killed process")
    if not path.is_file() or path.suffix != ".jsonl" or not NAME.fullmatch(path.stem):
        return Finding(FOREIGN, path, "is no file of rows")
    return None


def _lines(path: Path, content: bytes) -> tuple[list[Line], list[Finding]]:
    lines, faults = whole_lines(content)
    found = [Finding("damaged", path, fault) for fault in faults]
    if lines and not any(map(has_seal, content.split(b"\n"))):
        found.append(Finding("unsealed", path, "carries no seals"))
    return lines, found


def in_record(path: Path, store: Store) -> Iterator[Finding]:
    misplaced = _misplaced(path)
    if misplaced:
        yield misplaced
        return
    lines, found = _lines(path, path.read_bytes())
    yield from found
    rows = [line.row for line in lines]
    try:
        run = run_of(rows, path, [])
    except UserError as error:
        kind = "contradicting" if "contradict each other" in str(error) else "damaged"
        yield Finding(kind, path, str(error).removeprefix(f"{path}: "))
        return
    if run is None:
        yield Finding("damaged", path, "has no config line: only its run's command line, or its bundle, makes it whole")
        return
    if run.run_id != path.stem:
        yield Finding("damaged", path, f"is of run {run.run_id}")
        return
    if run.status not in ("complete", "marked"):
        yield Finding("unfinished", path, f"{run.strategy}-{run.objective}, seed {run.seed}: {run.reason}")
    yield from _beside_stages(path, lines, run.config, store)


def _beside_stages(path: Path, lines: list[Line], config: Row, store: Store) -> Iterator[Finding]:
    """What a record says beside what the stages say that it names."""
    stages = stages_of(config)
    absent = [key for key in stages if not store.stage(key).exists()]
    if absent:
        yield Finding("gone", path, f"{len(absent)} of its {len(stages)} stages are not here")
    if len(absent) == len(stages):
        return
    try:
        run = recorded_run(config)
    except UserError as error:
        yield Finding("behind", path, f"cannot be compared with its stages: {error}")
        return
    recorded = [line.row for line in lines]
    rows = rows_here(run, store, recorded)
    by_key = {key_of(row): row for row in rows}
    wrong = contradicted(recorded, rows)
    for row in wrong:
        yield Finding("contradicting", path, f"{brief(row)}, but its stage says {brief(by_key[key_of(row)])}")
    known = {line.text for line in lines}
    missing = sum(sealed(row) not in known for row in rows) - len(wrong)
    if missing > 0:
        yield Finding("behind", path, f"lacks {missing} rows that its stages have")


def recorded_run(config: Row) -> PlannedRun:
    """The run of a record's config row, without its probes on other datasets, which only these datasets could name.

    Raises UserError where the row is of a version that this one does not understand.
    """
    try:
        run = restored(config["config"])
        return PlannedRun(
            run_id=config["run_id"],
            config=run,
            stages=tuple(config["stages"]),
            after=tuple(config.get("after", range(-2, config["tasks"]))),
            task_names=tuple(config["task_names"]),
            images=(),
            dataset=config["dataset"],
            synthetic_domains=config["synthetic_domains"],
            note=config["note"],
            setting=config["setting"],
            method_setting=config["method_setting"],
            probes=probes_of(run),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"its config line is of another version ({type(error).__name__}: {error})") from None
