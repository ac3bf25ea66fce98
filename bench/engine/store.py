"""The results folder: where everything lies, the lease that keeps two processes off one stage, and what is damaged."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from bench.engine.artefacts import read_artefact
from bench.errors import UserError, printable
from bench.files import FULL, no_space
from bench.lease import Lease, hold, hold_briefly
from bench.links import refuse_links
from bench.seal import Damaged, check_tensors, read_sealed, seal_file

FOLDERS = ("records", "stages", "timings", "logs", "speed", "locks")
LATER = ("datasets", "report", "paper", "merged", "launcher", "set-aside/log.jsonl")
"""Made where there is something to put into them."""


@dataclass(frozen=True)
class Store:
    """Paths below `--out`; a stage is done when its `stage.json`, written last, is there.

    lease: of the stage that this process holds, without which nothing is written into a stage.
    """

    out: Path
    lease: Lease | None = None

    def prepare(self) -> None:
        """Creates the folders; raises UserError where that is not possible."""
        self.check_links()
        try:
            for folder in FOLDERS:
                (self.out / folder).mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.out / "records"):  # it has no name that a kill could leave behind
                pass
        except OSError as error:
            if error.errno in FULL:
                raise
            raise UserError(f"cannot write to the results folder {self.out}: {error.strerror}") from None

    def check_links(self) -> None:
        """Raises UserError where a folder of results, or what lies in it, is a symbolic link that leads out."""
        refuse_links(self.out, *FOLDERS, *LATER)

    def now(self) -> float:
        """The time by the clock of the file system, which may be another machine's."""
        with TemporaryFile(dir=self.out / "logs") as file:
            return os.fstat(file.fileno()).st_mtime

    def stage(self, key: str) -> Path:
        """Folder of a stage."""
        return self.out / "stages" / key

    def stages(self) -> frozenset[str]:
        """Keys of all stages that have been begun; of none where there is no results folder yet."""
        try:
            return frozenset(os.listdir(self.out / "stages"))
        except FileNotFoundError:
            return frozenset()

    def model(self, key: str) -> Path:
        """Carried state at the end of a stage."""
        return self.stage(key) / "model.safetensors"

    def partial(self, key: str) -> Path:
        """Training state inside a stage."""
        return self.stage(key) / "partial.safetensors"

    def online(self, key: str) -> Path:
        """The classifier trained beside the encoder, at the end of a stage."""
        return self.stage(key) / "online.safetensors"

    def features(self, key: str) -> Path:
        """Cached features of a stage."""
        return self.stage(key) / "features.safetensors"

    def end(self, key: str) -> Path:
        """What a finished stage says of itself."""
        return self.stage(key) / "stage.json"

    def probe(self, key: str, probe_key: str) -> Path:
        """Results of one probe on a stage's features."""
        return self.stage(key) / f"probe-{probe_key}.json"

    def has_probe(self, key: str, probe_key: str) -> bool:
        """Whether a probe has run on a stage; asked of every stage of a grid, so without a path of many parts."""
        return os.path.exists(f"{self.out}/stages/{key}/probe-{probe_key}.json")

    def transfer(self, key: str, dataset: str) -> Path:
        """Cached features of another dataset, named by its digest, in the network of a stage."""
        return self.stage(key) / f"transfer-{dataset[:16]}.safetensors"

    def log(self, key: str) -> Path:
        """Traceback of a stage that failed."""
        return self.out / "logs" / f"{key}.txt"

    def record(self, run_id: str) -> Path:
        """Append-only records of a run."""
        return self.out / "records" / f"{run_id}.jsonl"

    def timing(self, run_id: str) -> Path:
        """Wall times of a run; apart from the records, which two equal runs share byte by byte."""
        return self.out / "timings" / f"{run_id}.jsonl"

    def merged(self, run_id: str) -> Path:
        """Where rows of a run came from that another machine has made; absent where there are none."""
        return self.out / "merged" / f"{run_id}.jsonl"

    def speed(self, name: str) -> Path:
        """Measured speeds of methods in one setting."""
        return self.out / "speed" / f"{name}.json"

    def facts(self, key: str) -> dict[str, Any] | None:
        """What a finished stage says of itself, or None where it is not finished, or says it no more."""
        return whole_artefact(self.end(key))

    def write(self, path: Path, data: bytes | bytearray) -> None:
        """Writes a file of the stage that is held, whole or not at all; raises LostLease and NoSpace."""
        assert self.lease is not None, f"{path} is of a stage that is not held"
        assert self.lease.place == path.parent, f"{path} is of another stage than the one that is held"
        self.lease.write(path, data)

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        """Writes a sealed JSON object of the stage that is held."""
        self.write(path, seal_file(path, content))

    def finish(self, key: str, facts: dict[str, Any]) -> None:
        """Marks a stage as done; its partial state, which the model makes superfluous, goes first."""
        assert self.lease is not None
        self.lease.remove(self.partial(key))
        self.write_json(self.end(key), facts)

    @contextmanager
    def lock(self, key: str) -> Iterator["Store"]:
        """Holds a stage for this process: yields the store that may write it. Raises Busy where it is taken."""
        folder = self.stage(key)
        if folder.is_symlink():
            raise UserError(f"{folder} is a symbolic link: remove it")
        with hold(folder) as lease:
            yield replace(self, lease=lease)

    def lock_rows(self, path: Path) -> AbstractContextManager[Lease]:
        """Holds a file of rows for this process; waits while others write it."""
        return hold_briefly(self.out / "locks" / f"{path.parent.name}-{path.stem}")

    def set_aside(self, path: Path, reason: str, quietly: bool = False) -> None:
        """Moves a file of the stage that is held out of the way, if it is there, and says so."""
        assert self.lease is not None
        set_aside(self.out, path, reason, self.lease, quietly)

    def set_old_aside(self, key: str, last: Path) -> None:
        """Sets aside all of a stage that is held but its partial state; last the file by which it is known for old."""
        folder = self.stage(key)
        files = {self.end(key), *folder.glob("*.json"), *folder.glob("*.safetensors")} - {self.partial(key)}
        for path in sorted(files, key=lambda path: (path == last, path != self.end(key), path.name)):
            self.set_aside(path, "is of other code, or of a stage that has been trained again since", quietly=True)

    def examine(self, key: str, needed: Sequence[Path] = ()) -> None:
        """Sets aside whatever of a stage that is held does not match its seal, and what hangs on it.

        needed: files that others want of it, so that it is not finished without them.
        """
        folder = self.stage(key)
        lacking = {path for path in (*needed, self.features(key)) if self.end(key).exists() and not path.exists()}
        for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
            try:
                check(path)
            except Damaged as error:
                self.set_aside(path, error.reason)
                lacking.add(path)
        if lacking & {self.model(key), self.online(key)}:
            # What was computed from it would not be known to fit what is trained in its place. The end goes first:
            # without it the stage is not taken for finished, whatever is left when this is cut short.
            for path in (self.end(key), *folder.glob("*.safetensors"), *folder.glob("*.json")):
                self.set_aside(path, "was made from a model that is damaged or gone")
        elif self.features(key) in lacking:
            self.set_aside(self.end(key), "lacks its features")


def set_aside(out: Path, path: Path, reason: str, lease: Lease, quietly: bool = False) -> None:
    """Moves a file of a results folder into its `set-aside`, if it is there; says so in a log and, unless quietly, on
    stderr."""
    if not (path.exists() or path.is_symlink()):
        return
    target = _aside(out, path)
    _log_aside(out, path, reason, target)  # first: what was moved on a full disk would never be named
    if lease.move(path, target) and not quietly:
        _say_aside(path, reason, target)


def keep_aside(out: Path, path: Path, reason: str, quietly: bool = False) -> None:
    """The same with a copy, one of each content: the file itself stays until it is replaced."""
    data = path.read_bytes()
    with hold_briefly(out / "locks" / "set-aside") as lease:
        target = _aside(out, path)
        before = target.parent.glob(f"{target.stem}.*")
        if any(kept.read_bytes() == data for kept in before):
            return  # by a start that did not come to replace it
        _log_aside(out, path, reason, target)
        lease.write(target, data)
    if not quietly:
        _say_aside(path, reason, target)


def was_set_aside(out: Path, path: Path) -> bool:
    """Whether a file of this place has ever been set aside."""
    return any((out / "set-aside").glob(f"{path.parent.name}-{path.name}.*"))


def _aside(out: Path, path: Path) -> Path:
    folder = out / "set-aside"
    folder.mkdir(exist_ok=True)
    stem, number = f"{path.parent.name}-{path.name}", 1
    while (target := folder / f"{stem}.{number}").exists():
        number += 1
    return target


def _log_aside(out: Path, path: Path, reason: str, target: Path) -> None:
    row = {"file": path.relative_to(out).as_posix(), "reason": reason, "now": target.name}
    log = target.parent / "log.jsonl"
    text = json.dumps({**row, "when": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n"
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise no_space(log, len(text), error) if error.errno in FULL else error from None


def _say_aside(path: Path, reason: str, target: Path) -> None:
    print(printable(f"set aside: {path} {reason}; now {target}"), file=sys.stderr)


def check(path: Path) -> None:
    """Raises Damaged where a sealed file of a stage is not what was written there."""
    if path.is_symlink():
        raise Damaged(path, "is a symbolic link")
    if path.suffix == ".json":
        read_artefact(path)
        return
    check_tensors(path)


def whole_artefact(path: Path) -> dict[str, Any] | None:
    """The same as `read_whole` of `stage.json` or a probe's results."""
    try:
        return read_artefact(path)
    except Damaged:
        return None


def read_whole(path: Path) -> dict[str, Any] | None:
    """A sealed JSON object, or None where there is no whole one: whoever takes the stage sets a damaged one aside."""
    try:
        return read_sealed(path)
    except Damaged:
        return None
