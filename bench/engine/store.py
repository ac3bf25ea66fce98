"""The results folder: where everything lies, and the lock that keeps two processes off one stage."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from bench.errors import UserError
from bench.files import write_atomic


class Busy(Exception):
    """Another process holds the lock of this stage."""


@dataclass(frozen=True)
class Store:
    """Paths below `--out`; a stage is done when its `stage.json`, written last, is there."""

    out: Path

    def prepare(self) -> None:
        """Creates the folders; raises UserError where that is not possible."""
        try:
            for folder in ("records", "stages", "timings", "logs", "speed"):
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

    def probe(self, key: str, probe_key: str) -> Path:
        """Results of one probe on a stage's features."""
        return self.stage(key) / f"probe-{probe_key}.json"

    def transfer(self, key: str, dataset: str) -> Path:
        """Cached features of another dataset, named by its digest, in the network of a stage."""
        return self.stage(key) / f"transfer-{dataset[:16]}.safetensors"

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
        """What a finished stage says of itself, or None where it is not finished."""
        return read_json(self.stage(key) / "stage.json")

    def finish(self, key: str, facts: dict[str, Any]) -> None:
        """Marks a stage as done; its partial state, which the model makes superfluous, goes first."""
        self.partial(key).unlink(missing_ok=True)
        write_json(self.stage(key) / "stage.json", facts)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Holds a stage for this process; the kernel frees it when the process dies. Raises Busy where it is taken."""
        self.stage(key).mkdir(parents=True, exist_ok=True)
        handle = os.open(self.stage(key) / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(key) from None
            # Who holds the lock writes alone: temporary files here are those of a killed process.
            for left in self.stage(key).glob(".*.tmp"):
                left.unlink(missing_ok=True)
            yield
        finally:
            os.close(handle)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no such file."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON object, whole or not at all."""
    write_atomic(path, (json.dumps(content, sort_keys=True) + "\n").encode())
