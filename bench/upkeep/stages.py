"""Examines a stage of a results folder; changes nothing."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.engine.store import Store, check
from bench.lease import OWNER, holder_of, is_held, leftovers
from bench.seal import Damaged, check_tensors
from bench.upkeep.findings import FOREIGN, LEFTOVER, OF_OLDER, Finding
from bench.upkeep.needs import NAME
from bench.upkeep.older import is_older

_FILE = re.compile(
    r"(model|online|features|partial|transfer-[0-9a-f]{16})\.safetensors|stage\.json|probe-[\w.-]+\.json"
)
_OF_OWNERS = re.compile(rf"{OWNER}|\.(claim|gone)-[0-9a-f]{{8}}")


def in_stage(folder: Path, store: Store, codes: dict[str, str]) -> Iterator[Finding]:
    """What there is to say of a stage. codes: the present code of the stages that records name."""
    if folder.is_symlink():
        yield Finding("damaged", folder, "is a symbolic link")
        return
    if not folder.is_dir() or not NAME.fullmatch(folder.name):
        yield Finding(FOREIGN, folder, "is no stage")
        return
    if (folder / OWNER).is_symlink():
        yield Finding("damaged", folder / OWNER, "is a symbolic link")
        return
    key = folder.name
    yield from _files(folder)
    if is_held(folder):
        yield Finding("held", folder, _holder(folder))
    if key not in codes:
        yield Finding("orphaned", folder, "is named by no record")
    facts = store.facts(key)
    if facts is not None:
        yield from _finished(key, facts, codes.get(key), store)
    elif not is_older(store.end(key)):
        yield Finding("unfinished", folder, _how_far(key, store))


def _files(folder: Path) -> Iterator[Finding]:
    for path in leftovers(folder):
        yield Finding(LEFTOVER, path, "was left by a killed process")
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or _FILE.fullmatch(path.name):
            yield from _file(path)
        elif OF_OLDER.fullmatch(path.name):
            yield Finding(LEFTOVER, path, "is of an older version")
        elif not _OF_OWNERS.fullmatch(path.name):
            yield Finding(FOREIGN, path, "is no file of a stage")


def _file(path: Path) -> Iterator[Finding]:
    try:
        check(path)
    except Damaged as error:
        older = not path.is_symlink() and is_older(path)
        yield Finding("unsealed" if older else "damaged", path, error.reason)
    except FileNotFoundError:  # its owner has just finished with it
        return
    except OSError as error:
        yield Finding("damaged", path, f"cannot be read: {error.strerror}")


def _holder(folder: Path) -> str:
    who, progress = holder_of(folder) or ({}, {})
    far = " ".join(f"{name} {progress[name]}" for name in ("phase", "step", "steps") if name in progress)
    return f"is held by process {who.get('pid', '?')} on {who.get('host', '?')}{f': {far}' if far else ''}"


def _finished(key: str, facts: dict[str, Any], code: str | None, store: Store) -> Iterator[Finding]:
    """code: the present one of this stage, where a record names it."""
    if code is not None and facts.get("code") != code:
        yield Finding("stale", store.stage(key), f"was made by code {facts.get('code')}, and the present is {code}")
    if facts.get("kind") in ("task", "joint") and not store.model(key).exists():
        yield Finding("gone", store.model(key), "is gone: what begins from it needs it made again")
    if not store.features(key).exists():
        yield Finding("gone", store.features(key), "is gone: no other probe can run on it")
    if facts.get("parent") is None:
        return
    parent = store.facts(str(facts["parent"]))
    if parent is None:
        yield Finding("gone", store.stage(str(facts["parent"])), f"is not finished, but {key}, which began from it, is")
    elif parent.get("code") != facts.get("from"):
        yield Finding("stale", store.stage(key), "began from a stage that has been made again since")


def _how_far(key: str, store: Store) -> str:
    if store.model(key).exists():
        return "is trained, but not evaluated"
    try:
        return f"is half-trained, saved at step {check_tensors(store.partial(key)).get('step')}"
    except (Damaged, FileNotFoundError):
        return "is begun, and nothing of its training is saved"
