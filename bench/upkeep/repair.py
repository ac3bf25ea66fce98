"""Puts a results folder in order again: what is damaged is set aside, and the next run makes it again.

Nothing is deleted but what killed processes have left, and a stage that somebody alive holds is not touched.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from bench.engine.probing import transfers_of
from bench.engine.records import Contradiction, append_rows, mend_record
from bench.engine.store import Store, set_aside
from bench.errors import UserError
from bench.lease import OWNER, Busy, Lease, LostLease, hold, take
from bench.report.records import whole_lines
from bench.upkeep.findings import FOREIGN, LEFTOVER, Finding
from bench.upkeep.needs import NAME
from bench.upkeep.older import adopt
from bench.upkeep.rows import recorded_run


def put_in_order(
    out: Path, findings: Iterable[Finding], adopting: bool, repairing: bool, say: Callable[[str], None]
) -> None:
    """Deals with what an examination found. adopting: seals what is of an older version; repairing: all the rest.

    say: takes a line for each thing that is left as it is.
    """
    with _alone(out) as lease:
        work = _Repair(Store(out), lease, adopting, repairing, say)
        for place, found in _by_place(out, findings).items():
            if place.parent.name == "stages":
                work.stage(place, found)
            elif place.is_dir() and (place.parent.name == "locks" or place.name.startswith(".")):
                work.lock(place)
            elif place.parent.name == "datasets":
                work.dataset(place, found)
            else:
                work.file(place, {finding.kind for finding in found})


def _by_place(out: Path, findings: Iterable[Finding]) -> dict[Path, list[Finding]]:
    """Findings by the file or, of stages, datasets and locks, the folder that they are about; stages first, as records
    follow them."""
    by_place: dict[Path, list[Finding]] = {}
    for finding in findings:
        folder, *inside = finding.path.relative_to(out).parts
        is_whole = folder in ("stages", "locks", "datasets") or inside[0].startswith(".")
        place = out / folder / inside[0] if is_whole else finding.path
        by_place.setdefault(place, []).append(finding)
    return by_place


@contextmanager
def _alone(out: Path) -> Iterator[Lease]:
    """Holds what lies outside of stages; raises UserError where another process puts this folder in order."""
    folder = out / "locks" / "doctor"
    try:
        with hold(folder) as lease:
            yield lease
    except (Busy, LostLease):
        raise UserError(f"another doctor is at {out}") from None
    finally:
        with suppress(OSError):
            folder.rmdir()


@dataclass(frozen=True)
class _Repair:
    """Deals with one place after the other. lease: of what lies outside of stages; for the rest see `put_in_order`."""

    store: Store
    lease: Lease
    adopting: bool
    repairing: bool
    say: Callable[[str], None]

    def stage(self, folder: Path, found: Sequence[Finding]) -> None:
        """A stage, or what is no stage but lies among them."""
        older = [finding.path for finding in found if finding.kind == "unsealed"]
        wrong = [finding for finding in found if finding.kind in ("damaged", FOREIGN, LEFTOVER) and self.repairing]
        if older and wrong and not self.adopting:
            self.say(f"left: {folder}, where files of an older version carry no seal: add --adopt, or remove them")
            return
        for finding in wrong:
            if finding.path in (folder, folder / OWNER):  # nobody can hold it
                self._set_aside(finding.path, finding.text)
        if folder.is_dir() and (wrong or (older and self.adopting)):
            self._held_stage(folder, older, wrong)

    def _held_stage(self, folder: Path, older: list[Path], wrong: Sequence[Finding]) -> None:
        try:
            with self.store.lock(folder.name) as held:
                if older:
                    adopt(folder.name, older, held)
                if wrong:
                    _mend(folder.name, wrong, held)
        except (Busy, LostLease):
            self.say(f"left: {folder}, which somebody holds")
        with suppress(OSError):  # there is something in it
            folder.rmdir()

    def lock(self, folder: Path) -> None:
        """Something that a killed process held for a moment."""
        if self.repairing:
            with suppress(Busy, OSError):  # somebody waits for it
                take(folder).release()
                folder.rmdir()

    def dataset(self, folder: Path, found: Sequence[Finding]) -> None:
        """Decoded images: without their manifest they are decoded again."""
        if not self.repairing:
            return
        try:
            with hold(folder) as lease:  # what owners have left has gone with that
                for finding in found:
                    if finding.kind == LEFTOVER and finding.path.is_file():
                        lease.remove(finding.path)
                    elif finding.kind == "damaged":
                        set_aside(self.store.out, finding.path, finding.text, lease)
        except (Busy, LostLease):
            self.say(f"left: {folder}, which somebody holds")

    def file(self, path: Path, kinds: set[str]) -> None:
        """A file of rows, or what is none but lies among them; or half a file that a killed process has left."""
        try:
            if "unsealed" in kinds and self.adopting:
                append_rows(self.store, path, [])
            if self.repairing:
                self._mend_file(path, kinds)
        except Contradiction as error:
            self.say(f"left: {error}")

    def _mend_file(self, path: Path, kinds: set[str]) -> None:
        if LEFTOVER in kinds:
            path.unlink(missing_ok=True)
        elif path.is_symlink() or FOREIGN in kinds:
            self._set_aside(path, "is a symbolic link" if path.is_symlink() else "is no file of rows")
        elif path.parent.name == "records" and kinds & {"damaged", "contradicting", "behind"}:
            self._record(path)
        elif "damaged" in kinds:
            append_rows(self.store, path, [])

    def _record(self, path: Path) -> None:
        rows = [line.row for line in whole_lines(path.read_bytes())[0]]
        config = next((row for row in rows if row.get("kind") == "config"), None)
        if config is None:
            self.say(f"left: {path}, as it has no config line: its run's command line, or its bundle, makes it whole")
            return
        if config.get("run_id") != path.stem:
            self._rename(path, str(config.get("run_id")))
            return
        try:
            run = recorded_run(config)
            others = transfers_of(run.config, run.config.settings.probe, self.store.out, True)
        except UserError as error:
            self.say(f"left: {path}, as its run's command line alone can mend it: {error}")
            return
        mend_record(replace(run, probes=run.probes + others), self.store)

    def _rename(self, path: Path, run_id: str) -> None:
        """Gives a record the name of its run, or sets it aside where that run has one."""
        target = self.store.record(run_id) if NAME.fullmatch(run_id) else path
        if target.exists():
            self._set_aside(path, f"is of run {run_id}")
        else:
            self.lease.move(path, target)

    def _set_aside(self, path: Path, reason: str) -> None:
        set_aside(self.store.out, path, reason, self.lease)


def _mend(key: str, wrong: Sequence[Finding], held: Store) -> None:
    assert held.lease is not None
    held.examine(key)
    for finding in wrong:
        if finding.kind == LEFTOVER:  # what owners have left went as the stage was taken
            held.lease.remove(finding.path)
        elif finding.kind == FOREIGN or finding.path.is_symlink():
            held.set_aside(finding.path, finding.text)
