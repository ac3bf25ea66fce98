"""Which stages the records of a results folder name."""

import re
from pathlib import Path
from typing import NamedTuple

from bench.errors import UserError
from bench.links import refuse_linked_folders
from bench.report.records import Row, whole_lines
from bench.source import base_code, trained_codes

FOLDERS = (
    *("records", "stages", "timings", "merged", "logs", "speed", "locks"),
    *("datasets", "report", "paper", "set-aside", "launcher"),
)
NAME = re.compile("[0-9a-f]{16}")
"""Names of stages and of runs."""


def check_results(out: Path) -> None:
    """Raises UserError for what is no results folder, or has a link to another place in it."""
    refuse_linked_folders(out, *FOLDERS)
    if not any((out / folder).is_dir() for folder in ("records", "stages")):
        raise UserError(f"no results in {out}: name a results folder with --out")


class Named(NamedTuple):
    """A run as its record names it: its method, its stages, and after which task each of them stands."""

    objective: str
    strategy: str
    stages: tuple[str, ...]
    after: tuple[int, ...]


class Needs:
    """What the records under `out` need, and those that were set aside. runs: what they name; silent: records that do
    not say."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.runs: list[Named] = []
        self.stages: set[str] = set()
        self.silent: list[Path] = []
        self._read: set[Path] = set()
        self.look_again()

    def look_again(self) -> None:
        """Takes in the records that have come since; what a record needs never changes."""
        records = {*(self.out / "records").glob("*.jsonl")}
        aside = {*(self.out / "set-aside").glob("records-*.jsonl.*")}
        for path in sorted((records | aside) - self._read):
            self._read.add(path)
            run = _named(_config(path) or {})
            if run is not None:
                self.runs.append(run)
                self.stages.update(run.stages)
            elif path in records:
                self.silent.append(path)


def present_codes(runs: list[Named]) -> dict[str, str]:
    """The present code of every stage that is named."""
    codes: dict[str, str] = {}
    for run in runs:
        trained = iter(trained_codes(run.objective, run.strategy, len(run.stages)))
        places = zip(run.stages, run.after, strict=False)
        codes |= {key: base_code() if task < 0 else next(trained) for key, task in places}
    return codes


def stages_of(config: Row) -> list[str]:
    """Keys of the stages that the config row of a record names; none where it does not say."""
    stages = config.get("stages")
    return stages if isinstance(stages, list) and all(NAME.fullmatch(str(key)) for key in stages) else []


def _named(config: Row) -> Named | None:
    stages, after = stages_of(config), config.get("after")
    tasks = after if isinstance(after, list) else range(-2, len(stages) - 2)
    if not stages or not all(type(task) is int for task in tasks):
        return None
    return Named(str(config.get("objective")), str(config.get("strategy")), tuple(stages), tuple(tasks))


def _config(path: Path) -> Row | None:
    """The config row of a record, as a rule its first; None where there is none, or it is a link."""
    if path.is_symlink() or not path.is_file():
        return None
    for text in path.read_bytes().split(b"\n"):
        for line in whole_lines(text)[0]:
            if line.row.get("kind") == "config":
                return line.row
    return None
