"""Leases: a folder belongs to one process at a time, on any machine that shares it, without file locks.

An owner has a folder `owner-N` in what it holds, made by a rename that only one can win. It writes temporary files
there and renames them from there to their places: who takes over renames that folder away, so that an owner that has
lost its lease, and may not know, cannot write any more. The heartbeat file `beat` says that the owner lives, and how
far it is.
"""

import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Any

from bench.files import FULL, no_space, write_atomic

BEAT_SECONDS = 5.0
EXPIRY_SECONDS = 120.0
"""Without a heartbeat, after which an owner counts as dead that cannot be asked: more than a network file system keeps
the times of files in memory."""
WAIT_SECONDS = 0.02


class Busy(Exception):
    """Another process, which lives, holds this."""


class LostLease(Exception):
    """Another process has taken over what this one held, as it gave no sign of life."""


class Lease:
    """What this process holds. folder: of the owner, on the same file system as what it writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.progress: dict[str, Any] = {}
        self._ended = Event()

    def write(self, path: Path, data: bytes | bytearray) -> None:
        """Writes a file, whole or not at all; raises LostLease, and what `write_atomic` raises."""
        try:
            write_atomic(path, data, self.folder)
        except FileNotFoundError:
            raise LostLease(f"{self.folder.parent.name} was taken over by another process") from None

    def remove(self, path: Path) -> None:
        """Removes a file, if it is there; raises LostLease."""
        self.move(path, self.folder / f"removed-{secrets.token_hex(4)}")

    def move(self, path: Path, target: Path) -> bool:
        """Moves a file, by way of this lease; False where there is none. Raises LostLease."""
        passing = self.folder / f"moving-{secrets.token_hex(4)}"
        try:
            path.replace(passing)
        except FileNotFoundError:
            if self.folder.exists():
                return False
            raise LostLease(f"{self.folder.parent.name} was taken over by another process") from None
        passing.replace(target)
        return True

    def tell(self, progress: dict[str, Any]) -> None:
        """How far the work is: goes out with the next heartbeat."""
        self.progress = progress

    def beat(self) -> None:
        """A sign of life; raises FileNotFoundError where the lease is lost."""
        with (self.folder / "beat").open("w", encoding="utf-8") as file:
            with suppress(OSError):  # a full disk; the time of the file has changed all the same
                file.write(json.dumps(self.progress))
            os.utime(file.fileno())

    def keep(self) -> None:
        """Beats from now on, on a thread."""
        Thread(target=self._beat_on, daemon=True).start()

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                self.beat()
            except FileNotFoundError:
                return
            except OSError:
                continue  # a file system that is away for a while

    def release(self) -> None:
        """Gives it back; nothing where it is lost."""
        self._ended.set()
        _clear(self.folder)


@contextmanager
def hold(folder: Path) -> Iterator[Lease]:
    """Holds a folder, which is made if need be, while the block runs; raises Busy where another process has it."""
    lease = take(folder)
    try:
        lease.keep()
        yield lease
    finally:
        lease.release()


@contextmanager
def hold_briefly(folder: Path) -> Iterator[Lease]:
    """Holds a folder that is there for this alone and gone afterwards; waits while others have it.

    For work that takes less than `EXPIRY_SECONDS`: there is no heartbeat.
    """
    while True:
        try:
            lease = take(folder)
            break
        except Busy:
            time.sleep(WAIT_SECONDS)
    try:
        yield lease
    finally:
        lease.release()
        with suppress(OSError):  # another one waits for it
            folder.rmdir()


def take(folder: Path) -> Lease:
    """Takes a folder that nobody alive holds; raises Busy."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        claim = folder / f".claim-{secrets.token_hex(4)}"
        try:
            claim.mkdir()
            (claim / "who.json").write_text(json.dumps(_myself()), encoding="utf-8")
            (claim / "beat").write_text("{}", encoding="utf-8")
            return _claim(folder, claim)
        except FileNotFoundError:
            continue  # whoever held it briefly has removed the folder
        except OSError as error:
            if error.errno in FULL:
                raise no_space(claim / "who.json", 1024, error) from None
            raise
        finally:
            shutil.rmtree(claim, ignore_errors=True)


def _claim(folder: Path, claim: Path) -> Lease:
    now = (claim / "beat").stat().st_mtime  # by the clock of the file system, which may be another machine's
    owners = owners_of(folder)
    if not all(_is_dead(owner, now) for owner in owners):
        raise Busy(folder.name)
    mine = folder / f"owner-{max(map(_number, owners), default=0) + 1}"
    try:
        claim.rename(mine)  # fails where there is one, as that is not empty
    except FileNotFoundError:
        raise
    except OSError:
        raise Busy(folder.name) from None
    # From here on the dead ones can no longer write, even if they live. One that is gone has given back what it held,
    # and another may have taken it since: then, or where others stand beside, this claim is void.
    stolen = [_clear(owner) for owner in owners]
    if not all(stolen) or owners_of(folder) != [mine]:
        _clear(mine)
        raise Busy(folder.name)
    _sweep(folder, now)
    return Lease(mine)


def owners_of(folder: Path) -> list[Path]:
    """Folders of owners, dead or alive; more than one only for moments."""
    return sorted(folder.glob("owner-*"), key=_number)


def holder_of(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Who holds a folder, and its progress, as far as they can be read; None where nobody does."""
    for owner in reversed(owners_of(folder)):
        return _read(owner / "who.json"), _read(owner / "beat")
    return None


def is_held(folder: Path) -> bool:
    """Whether somebody alive holds a folder, as it seems from here; asks nothing and changes nothing but a time."""
    owners = owners_of(folder)
    if not owners:
        return False
    now = time.time()
    return not all(_is_dead(owner, now) for owner in owners)


def _number(owner: Path) -> int:
    digits = owner.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0


def _is_dead(owner: Path, now: float) -> bool:
    who = _read(owner / "who.json")
    if who.get("machine") == _machine() and not _lives(who):
        return True
    try:
        return now - (owner / "beat").stat().st_mtime > EXPIRY_SECONDS
    except FileNotFoundError:
        return True  # it has just been given back, which the claim finds out


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _clear(owner: Path) -> bool:
    """Removes the folder of an owner at one stroke; False where there is none."""
    gone = owner.with_name(f".gone-{secrets.token_hex(4)}")
    try:
        owner.rename(gone)
    except FileNotFoundError:
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _sweep(folder: Path, now: float) -> None:
    """Removes what killed processes have left."""
    for left in folder.glob(".gone-*"):
        shutil.rmtree(left, ignore_errors=True)
    for left in folder.glob(".claim-*"):
        if _is_dead(left, now):
            shutil.rmtree(left, ignore_errors=True)


@cache
def _machine() -> str:
    """What process numbers belong to: one boot of one machine, and in it one space of them."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _started(pid: int) -> str:
    """When a process started, in a form that only tells it from others of its number; empty where unknown or dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _lives(who: dict[str, Any]) -> bool:
    pid = who.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _started(pid) == who.get("started")


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    job = {name: os.environ[name] for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT") if name in os.environ}
    return {"machine": _machine(), "host": platform.node(), "pid": pid, "started": _started(pid), **job}
