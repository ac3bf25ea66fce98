"""Frees what no record needs: stages that none names, files that were set aside, partial states of finished stages."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.engine.progress import follows
from bench.engine.store import Store
from bench.errors import UserError
from bench.lease import Busy, LostLease, is_held
from bench.upkeep.needs import NAME, Needs, check_results, present_codes

KINDS = {
    "stages": "stages that no record names",
    "partial": "training states inside stages that are finished",
    "aside": "files that were set aside",
}


@dataclass(frozen=True)
class Piece:
    """Something that can go, of a kind of `KINDS`."""

    kind: str
    path: Path
    nbytes: int


def find(out: Path) -> list[Piece]:
    """What can go; nothing of a stage that somebody alive holds.

    Raises UserError where a record does not say what it needs: its stages would look as if nobody did.
    """
    check_results(out)
    store, needs, pieces = Store(out), _heard(Needs(out)), []
    codes = present_codes(needs.runs)
    for folder in _stages(out):
        if is_held(folder):
            continue
        if folder.name not in needs.stages:
            pieces.append(Piece("stages", folder, _size(folder)))
        elif _is_superfluous(folder.name, store, codes):
            pieces.append(Piece("partial", path := store.partial(folder.name), _size(path)))
    return pieces + [Piece("aside", path, _size(path)) for path in _aside(out)]


def free(out: Path, pieces: list[Piece]) -> list[Piece]:
    """Lets them go; gives those that are gone: not what has been taken meanwhile, or is named by a newer record."""
    store, needs = Store(out), _heard(Needs(out))
    codes = present_codes(needs.runs)
    return [piece for piece in pieces if _free(piece, store, needs, codes)]


def _is_superfluous(key: str, store: Store, codes: dict[str, str]) -> bool:
    """Whether a stage holds a training state that nobody will go on from: not where it is being trained again, as other
    code has made it or the stage that it began from. codes: the present ones."""
    if not store.partial(key).exists():
        return False
    facts = store.facts(key)
    return facts is not None and facts["code"] == codes.get(key) and follows(facts, store.facts)


def _free(piece: Piece, store: Store, needs: Needs, codes: dict[str, str]) -> bool:
    if piece.kind == "aside":
        _remove(piece.path)
        return True
    key = piece.path.name if piece.kind == "stages" else piece.path.parent.name
    try:
        with store.lock(key) as held:
            assert held.lease is not None
            if piece.kind == "partial":
                if not _is_superfluous(key, store, codes):
                    return False
                held.lease.remove(piece.path)
                return True
            needs.look_again()
            if key in _heard(needs).stages:
                return False
            _vanish(piece.path, store.out)
            return True
    except (Busy, LostLease):
        return False


def _vanish(folder: Path, out: Path) -> None:
    """Takes a stage away at one stroke, as half of one could be taken for whole; then lets it go."""
    aside = out / "set-aside"
    aside.mkdir(exist_ok=True)
    gone = aside / f"{folder.name}.{secrets.token_hex(4)}"
    folder.rename(gone)
    _remove(gone)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _heard(needs: Needs) -> Needs:
    if needs.silent:
        raise UserError(
            f"{needs.silent[0]} has no whole config line, so nobody knows what it needs: run its command line again, "
            "merge it again, or remove it"
        )
    return needs


def _stages(out: Path) -> Iterator[Path]:
    if (out / "stages").is_dir():
        for path in sorted((out / "stages").iterdir()):
            if NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                yield path


def _aside(out: Path) -> Iterator[Path]:
    """What was set aside, but for the log of it."""
    if (out / "set-aside").is_dir():
        yield from (path for path in sorted((out / "set-aside").iterdir()) if path.name != "log.jsonl")


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):  # whoever works here has just finished with it
        inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
        return sum(each.lstat().st_size for each in inside)
    return 0
