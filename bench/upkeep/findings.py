"""What an examination of a results folder may find."""

import re
import time
from pathlib import Path
from typing import NamedTuple

from bench.lease import EXPIRY_SECONDS

DAMAGED = ("damaged", "contradicting", "unsealed")
"""Kinds of findings with which a folder is not in order."""
LEFTOVER, FOREIGN = "leftover", "foreign"
KINDS = {
    "damaged": "not what was written",
    "contradicting": "says two things, or otherwise than the stages",
    "unsealed": "of an older version, without a seal: a run would set it aside, --adopt seals it as it is",
    FOREIGN: "does not belong here",
    LEFTOVER: "left by a killed process",
    "held": "somebody is at it",
    "behind": "a run that goes on will add what is missing",
    "unfinished": "a run that goes on will finish it",
    "gone": "freed, or merged from elsewhere",
    "stale": "made by other code than the present",
    "orphaned": "no record names it: gc frees it",
}
"""What each kind of finding says, the worst first."""
OF_OLDER = re.compile(r"lock|\..+\.tmp")
"""Names of locks of older versions, and of temporary files."""


class Finding(NamedTuple):
    """kind: of `KINDS`."""

    kind: str
    path: Path
    text: str


def inside(folder: Path) -> list[Path]:
    """What is in a folder, but for temporary files that somebody may be writing."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in inside if not OF_OLDER.fullmatch(path.name) or _is_old(path)]


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > EXPIRY_SECONDS
    except FileNotFoundError:
        return False
