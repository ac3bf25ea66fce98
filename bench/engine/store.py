"""The results folder: where everything lies, the lease that keeps two processes off one stage, and what is damaged."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from bench.errors import UserError
from bench.files import write_atomic
from bench.lease import Lease, hold
from bench.seal import Damaged, check_tensors, read_sealed, seal_file

FOLDERS = ("records", "stages", "timings", "logs", "speed", "locks")


@dataclass(frozen=True)
class Store:
    """Paths below `--out`; a stage is done when its `stage.json`, written last, is there.

    lease: of the stage that this process holds, without which nothing is written into a stage.
    """

    out: Path
    lease: Lease | None = None

    def prepare(self) -> None:
        """Creates the folders; raises UserError where that is not possible."""
        try:
            for folder in FOLDERS:
                (self.out / folder).mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.out / "records"):  # it has no name that a kill could leave behind
                pass
        except OSError as error:
            raise UserError(f"cannot write to the results folder {self.out}: {error.strerror}") from None

    def stage(self, key: str) -> Path:
        """Folder of a stage."""
        return self.out / "stages" / key

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

    def speed(self, name: str) -> Path:
        """Measured speeds of methods in one setting."""
        return self.out / "speed" / f"{name}.json"

    def facts(self, key: str) -> dict[str, Any] | None:
        """What a finished stage says of itself, or None where it is not finished, or says it no more."""
        return read_whole(self.end(key))

    def write(self, path: Path, data: bytes | bytearray) -> None:
        """Writes a file of the stage that is held, whole or not at all; raises LostLease and NoSpace."""
        assert self.lease is not None, f"{path} is of a stage that is not held"
        assert self.lease.folder.parent == path.parent, f"{path} is of another stage than the one that is held"
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

    def set_aside(self, path: Path, reason: str) -> None:
        """Moves a file of the stage that is held out of the way, if it is there, and says so."""
        assert self.lease is not None
        set_aside(self.out, path, reason, self.lease)

    def examine(self, key: str, trained: bool) -> None:
        """Sets aside whatever of a stage that is held does not match its seal, and what hangs on it.

        trained: whether the model of a finished stage is needed, so that one which lacks it is no longer finished.
        """
        folder = self.stage(key)
        damaged: list[Path] = []
        for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
            try:
                check(path)
            except Damaged as error:
                self.set_aside(path, error.reason)
                damaged.append(path)
        names = {path.name for path in damaged}
        if trained and self.end(key).exists() and not self.model(key).exists():
            names.add(self.model(key).name)
        if names & {"model.safetensors", "online.safetensors"}:
            # What was computed from it would not be known to fit what is trained in its place.
            for path in (*folder.glob("*.safetensors"), *folder.glob("*.json")):
                self.set_aside(path, "was made from a model that is damaged or gone")
        elif "features.safetensors" in names:
            self.set_aside(self.end(key), "lacks its features")


def set_aside(out: Path, path: Path, reason: str, lease: Lease) -> None:
    """Moves a file of a results folder into its `set-aside`, if it is there, and says so on stderr and in a log."""
    target = _aside(out, path)
    if lease.move(path, target):
        _say_aside(out, path, reason, target)


def keep_aside(out: Path, path: Path, reason: str) -> None:
    """The same with a copy: the file itself stays until it is replaced."""
    target = _aside(out, path)
    write_atomic(target, path.read_bytes())
    _say_aside(out, path, reason, target)


def _aside(out: Path, path: Path) -> Path:
    folder = out / "set-aside"
    folder.mkdir(exist_ok=True)
    stem, number = f"{path.parent.name}-{path.name}", 1
    while (target := folder / f"{stem}.{number}").exists():
        number += 1
    return target


def _say_aside(out: Path, path: Path, reason: str, target: Path) -> None:
    row = {"file": path.relative_to(out).as_posix(), "reason": reason, "now": target.name}
    with (target.parent / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**row, "when": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")
    print(f"set aside: {path} {reason}; now {target}", file=sys.stderr)


def check(path: Path) -> None:
    """Raises Damaged where a sealed file of a stage is not what was written there."""
    if path.is_symlink():
        raise Damaged(path, "is a symbolic link")
    if path.suffix == ".json":
        read_sealed(path)
        return
    check_tensors(path)


def read_whole(path: Path) -> dict[str, Any] | None:
    """A sealed JSON object, or None where there is no whole one: whoever takes the stage sets a damaged one aside."""
    try:
        return read_sealed(path)
    except Damaged:
        return None
