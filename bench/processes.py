"""Which process is meant: what tells one from all others, on this machine and on those that share a folder with it."""

import os
import platform
from functools import cache
from pathlib import Path
from typing import Any


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


def is_here(who: dict[str, Any]) -> bool:
    """Whether an `identity` is of a process of this machine."""
    return bool(who.get("machine") == _machine())


def lives(who: dict[str, Any]) -> bool:
    """Whether the process of this machine lives that has this `identity`."""
    pid = who.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's, of whom we may not be told more
        return _started(pid) in ("", who.get("started"))
    return _started(pid) == who.get("started")


def identity(pid: int) -> dict[str, Any]:
    """What tells a process of this machine from all others."""
    return {"machine": _machine(), "host": platform.node(), "pid": pid, "started": _started(pid)}
