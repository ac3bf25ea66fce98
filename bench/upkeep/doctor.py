"""Examines a results folder: what of it is whole, unfinished, stale, orphaned, damaged. Changes nothing."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.data.build import growing, sha256_of_images
from bench.data.folders import SPLITS, read_manifest
from bench.engine.store import Store
from bench.lease import is_held, leftovers
from bench.upkeep.findings import DAMAGED, FOREIGN, LEFTOVER, OF_OLDER, Finding, inside
from bench.upkeep.needs import Needs, check_results, present_codes
from bench.upkeep.rows import in_record, in_rows
from bench.upkeep.stages import in_stage


@dataclass
class Examination:
    """What there is. counts: of stages, records and timings, by what they are; findings: in order."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def in_order(self) -> bool:
        """Whether nothing is damaged."""
        return not any(finding.kind in DAMAGED for finding in self.findings)


Track = Callable[[list[Path], str], Iterable[Path]]
"""Goes through paths, and shows how far it is."""


def examine(out: Path, track: Track = lambda paths, what: paths) -> Examination:
    """Looks at every stage and at every file of rows; raises UserError where there are none."""
    check_results(out)
    store, found = Store(out), Examination()
    codes = present_codes(Needs(out).runs)
    for path in track(inside(out / "stages"), "stages"):
        _book(found, "stages", path, list(in_stage(path, store, codes)))
    for path in track(inside(out / "records"), "records"):
        _book(found, "records", path, list(in_record(path, store)))
    for folder in ("timings", "merged"):
        for path in inside(out / folder):
            _book(found, folder, path, list(in_rows(path)))
    for path in track(inside(out / "datasets"), "datasets"):
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            _book(found, "datasets", path, list(_in_dataset(path)))
    found.findings += _elsewhere(out)
    return found


def _book(found: Examination, what: str, path: Path, findings: list[Finding]) -> None:
    """Takes the findings in, and counts what they are about by the worst of them."""
    found.findings += findings
    kinds = {finding.kind for finding in findings}
    if any(finding.kind in (FOREIGN, LEFTOVER) and finding.path == path for finding in findings):
        return
    counts = found.counts.setdefault(what, Counter())
    counts["number"] += 1
    counts.update(kinds & {"stale", "orphaned", "held"})
    state = next((kind for kind in ("damaged", "contradicting", "unsealed", "unfinished") if kind in kinds), "whole")
    counts["damaged" if state == "contradicting" else state] += 1


def _in_dataset(folder: Path) -> Iterator[Finding]:
    """What there is to say of decoded images."""
    for path in leftovers(folder):
        yield Finding(LEFTOVER, path, "was left by a killed process")
    manifest = read_manifest(folder, folder.name)
    if manifest is None or is_held(folder):
        return
    for path in (folder / "journal", *(growing(folder / f"{split}.npy") for split in SPLITS)):
        if path.exists():
            yield Finding(LEFTOVER, path, "was left by a killed process")
    for split in SPLITS:
        with (folder / f"{split}.npy").open("rb") as file:
            if sha256_of_images(file) != manifest["sha256"][split]:
                yield Finding("damaged", folder / f"{split}.npy", "is not what was decoded")


def _elsewhere(out: Path) -> Iterator[Finding]:
    for folder in (*inside(out / "locks"), *out.glob("datasets/.*"), out / "report" / ".writing"):
        for path in leftovers(folder):
            yield Finding(LEFTOVER, path, "was left by a killed process")
    for name in ("logs", "speed", "report", "paper", "set-aside"):
        for path in inside(out / name):
            if OF_OLDER.fullmatch(path.name):
                yield Finding(LEFTOVER, path, "was left by a killed process")
