"""Leases: a folder belongs to one process at a time, on any machine that shares it, without file locks.

An owner has a folder `owner/TOKEN` in what it holds. `owner` is put in place by a rename that only one can win, as it
fails where there is one that is not empty; the token is never used again. The owner writes temporary files there and
renames them from there to their places: who takes over renames that folder away, so that an owner that has lost its
lease, and may not know, cannot write any more. The heartbeat file `beat` says that the owner lives, and how far it is.
"""

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from threading import Event, Thread
from typing import Any, BinaryIO, ParamSpec, TypeVar

from bench.errors import UserError
from bench.files import FULL, no_space, write_atomic
from bench.processes import identity, is_here, lives

OWNER = "owner"
MOVING = "moving-"
"""Prefix of a file on its way from one name to another, by way of its owner's folder."""
BEAT_SECONDS = 5.0
EXPIRY_SECONDS = 120.0
"""Without a heartbeat, after which an owner counts as dead wherever it is: more than a network file system keeps the
times of files in memory. One that was a process of this machine counts as dead at once."""
WAIT_SECONDS = (0.02, 0.5)
"""Between looks at what another one holds: at first, and at most."""
TRIES = 100
"""At making a folder that others remove meanwhile."""
P = ParamSpec("P")
R = TypeVar("R")
_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)
"""A folder that was renamed away or removed; the second on network file systems."""


class Busy(Exception):
    """Another process, which lives, holds this."""


class LostLease(Exception):
    """Another process has taken over what this one held, as it gave no sign of life."""


class Lease:
    """What this process holds: `place`. folder: of the owner in it, on the same file system."""

    def __init__(self, place: Path, token: str) -> None:
        self.place, self.folder = place, place / OWNER / token
        self.progress: dict[str, Any] = {}
        self._ended = Event()

    def check(self) -> None:
        """Raises LostLease where another process has taken over."""
        try:
            self.folder.stat()
        except OSError as error:
            if error.errno in _GONE:
                raise LostLease(f"{self.place.name} was taken over by another process") from None
            raise

    def write(self, path: Path, data: bytes | bytearray) -> None:
        """Writes a file, whole or not at all; raises LostLease, and what `write_atomic` raises."""
        with self._noticing_loss():
            write_atomic(path, data, self.folder)

    @contextmanager
    def writing(self, path: Path) -> Iterator[BinaryIO]:
        """A file to write part by part, which takes its place at the end of the block; raises LostLease."""
        temporary = self.folder / path.name
        with self._noticing_loss():
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)

    def remove(self, path: Path) -> None:
        """Removes a file, if it is there; raises LostLease."""
        self.move(path, self.folder / f"removed-{secrets.token_hex(4)}")

    def move(self, path: Path, target: Path) -> bool:
        """Moves a file, by way of this lease; False where there is none. Raises LostLease."""
        passing = self.folder / f"{MOVING if path.parent == self.place else 'passing-'}{path.name}"
        try:
            with self._noticing_loss():
                path.replace(passing)
        except FileNotFoundError:
            return False
        try:
            with self._noticing_loss():
                passing.replace(target)
        except BaseException:  # no room there, or asked to end
            with suppress(OSError):
                passing.replace(path)
            raise
        return True

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _GONE:
                self.check()
            raise

    def tell(self, progress: dict[str, Any]) -> None:
        """How far the work is: goes out with the next heartbeat."""
        self.progress = progress

    def beat(self) -> None:
        """A sign of life; raises OSError where the lease is lost, or the file system is away for a while."""
        os.utime(self.folder / "beat")
        with suppress(OSError), (self.folder / "beat").open("w", encoding="utf-8") as file:
            file.write(json.dumps(self.progress))  # on a full disk the time of the file has changed all the same

    def keep(self) -> None:
        """Beats from now on, on a thread."""
        Thread(target=self._beat_on, daemon=True).start()

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(OSError):
                self.beat()

    def release(self) -> None:
        """Gives it back; nothing where it is lost."""
        self._ended.set()
        _clear(self.folder)
        if self.folder.exists():  # no room to rename it
            shutil.rmtree(self.folder.parent, ignore_errors=True)


@contextmanager
def hold(folder: Path, wait: bool = False) -> Iterator[Lease]:
    """Holds a folder, which is made if need be, while the block runs; where another process has it, raises Busy or
    waits."""
    lease = _take_in_turn(folder) if wait else take(folder)
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
    lease = _take_in_turn(folder)
    try:
        yield lease
    finally:
        lease.release()
        with suppress(OSError):  # another one waits for it
            folder.rmdir()


def until_kept(work: Callable[P, R]) -> Callable[P, R]:
    """Work that is begun again where it has lost what it holds: after so long a pause that another process took it for
    dead. It must begin with what it finds, and leave nothing half done."""

    @wraps(work)
    def again(*args: P.args, **options: P.kwargs) -> R:
        while True:
            with suppress(LostLease):
                return work(*args, **options)

    return again


def _take_in_turn(folder: Path) -> Lease:
    pause, longest = WAIT_SECONDS
    while True:
        try:
            return take(folder)
        except Busy:
            time.sleep(pause)
            pause = min(longest, 1.2 * pause)


def take(folder: Path) -> Lease:
    """Takes a folder that nobody alive holds; raises Busy, and NoSpace."""
    if any(map(_plainly_lives, owners_of(folder))):
        raise Busy(folder.name)  # seen without writing anything, as many may ask often
    claim, token = folder / f".claim-{secrets.token_hex(4)}", secrets.token_hex(8)
    for tries_left in reversed(range(TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            claim.mkdir()
            (claim / token).mkdir()
            (claim / token / "who.json").write_text(json.dumps(_myself()), encoding="utf-8")
            (claim / token / "beat").write_text("{}", encoding="utf-8")
            _claim(folder, claim, token)
            return Lease(folder, token)
        except (FileNotFoundError, FileExistsError):
            if not tries_left:
                raise  # no folder can be made there; else whoever held it briefly has removed it
        except OSError as error:
            if error.errno in FULL:
                raise no_space(claim / token / "who.json", 1024, error) from None
            raise
        finally:
            shutil.rmtree(claim, ignore_errors=True)
    raise AssertionError("unreachable")


def _claim(folder: Path, claim: Path, token: str) -> None:
    now = (claim / token / "beat").stat().st_mtime  # by the clock of the file system, which may be another machine's
    owners = owners_of(folder)
    if not all(_is_dead(owner, now) for owner in owners):
        raise Busy(folder.name)
    for owner in owners:
        _put_back(owner, folder)
        _clear(owner)  # from here on it can no longer write, even if it lives
    with suppress(OSError):
        (folder / OWNER).rmdir()  # where it is empty: not all file systems would put the claim in its place
    try:
        claim.rename(folder / OWNER)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise Busy(folder.name) from None
        if not (folder / OWNER / token).exists():  # a network file system may do what it reports as failed
            raise
    _sweep(folder, now)


def _put_back(owner: Path, folder: Path) -> None:
    """What an owner was killed over while it moved it away, out of the folder itself: nobody else has it."""
    for passing in owner.glob(f"{MOVING}*"):
        place = folder / passing.name.removeprefix(MOVING)
        if not place.exists():
            with suppress(OSError):
                passing.rename(place)


def owners_of(folder: Path) -> list[Path]:
    """Folders of owners, dead or alive: one at most. Raises UserError where a link would lead elsewhere."""
    if (folder / OWNER).is_symlink():
        raise UserError(f"{folder / OWNER} is a symbolic link: remove it")
    try:
        return list((folder / OWNER).iterdir())
    except OSError as error:
        if error.errno in _GONE:
            return []
        raise


def holder_of(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Who holds a folder, and its progress, as far as they can be read; None where nobody does."""
    for owner in owners_of(folder):
        return _read(owner / "who.json"), _read(owner / "beat")
    return None


def is_held(folder: Path) -> bool:
    """Whether somebody alive holds a folder, as it seems from here; changes nothing."""
    now = time.time()
    return not all(_is_dead(owner, now) for owner in owners_of(folder))


def leftovers(folder: Path) -> list[Path]:
    """What killed processes have left in a folder, as it seems from here; `take` removes it."""
    now = time.time()
    dead = [owner for owner in owners_of(folder) if _is_dead(owner, now)]
    claims = [claim for claim in sorted(folder.glob(".claim-*")) if _is_left(claim, now)]
    return [*dead, *claims, *sorted(folder.glob(".gone-*"))]


def _has_died(owner: Path) -> bool:
    """Whether an owner was a process of this machine that is no more."""
    who = _read(owner / "who.json")
    return is_here(who) and not lives(who)


def _is_dead(owner: Path, now: float) -> bool:
    beat = _beat_of(owner)
    return beat is None or now - beat > EXPIRY_SECONDS or _has_died(owner)  # None: it has just been given back


def _plainly_lives(owner: Path) -> bool:
    """Whether an owner lives without any doubt, however the clock of the file system may go."""
    beat = _beat_of(owner)
    return beat is not None and abs(time.time() - beat) < EXPIRY_SECONDS / 2 and not _has_died(owner)


def _beat_of(owner: Path) -> float | None:
    """When an owner gave its last sign of life; None where it is gone."""
    try:
        return (owner / "beat").stat().st_mtime
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _clear(owner: Path) -> None:
    """Removes the folder of an owner at one stroke, if it is there, and nobody else's."""
    gone = owner.parent.with_name(f".gone-{secrets.token_hex(4)}")
    with suppress(OSError):
        owner.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(OSError):
        owner.parent.rmdir()  # not where another one has come


def _sweep(folder: Path, now: float) -> None:
    """Removes what killed processes have left."""
    for left in folder.glob(".gone-*"):
        shutil.rmtree(left, ignore_errors=True)
    for left in folder.glob(".claim-*"):
        if _is_left(left, now):
            shutil.rmtree(left, ignore_errors=True)


def _is_left(claim: Path, now: float) -> bool:
    """Whether whoever made a claim has died over it."""
    try:
        owners = list(claim.iterdir())
        return now - claim.stat().st_mtime > EXPIRY_SECONDS or (bool(owners) and all(map(_has_died, owners)))
    except OSError:  # it has just gone
        return False


def _myself() -> dict[str, Any]:
    job = {name: os.environ[name] for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT") if name in os.environ}
    return {**identity(os.getpid()), **job}
