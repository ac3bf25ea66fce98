"""Files that appear whole or not at all, and sizes of files in words."""

import errno
import os
import secrets
import shutil
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a used-up quota, a limit on the size of files."""


class NoSpace(OSError):
    """A file did not fit: the message is one line with its name, the space it needs and what is free."""


def write_atomic(path: Path, data: bytes | bytearray, place: Path | None = None) -> None:
    """Write `data` to `path` so that a reader, or a crash, finds the old content or the new, never a part.

    The temporary file lies in `place`, a folder on the same file system, or else in the folder of `path`; both must
    exist: a rename is atomic on one file system only. Raises NoSpace where it does not fit, and OSError as `open` and
    `os.replace` do; the temporary file is then removed.
    """
    name = f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    temporary = path.with_name(name) if place is None else place / name
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in FULL:
            raise no_space(path, len(data), error) from None
        raise


def no_space(path: Path, needed: int, error: OSError) -> NoSpace:
    """What to raise for a file of `needed` bytes, 0 for an unknown number, that `error` says does not fit."""
    if error.errno == errno.EFBIG:
        why = "files may not be so large here (see `ulimit -f`)"
    else:
        why = f"{size_text(shutil.disk_usage(next(p for p in path.absolute().parents if p.exists())).free)} are free"
        why += " but the quota is used up" if error.errno == errno.EDQUOT else ""
    return NoSpace(f"no space for {path}: it needs {size_text(needed) if needed else 'more'}, and {why}")


def _sync_folder(folder: Path) -> None:
    # the rename itself is lost in a power cut until the folder's entry is on disk
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def size_text(nbytes: float) -> str:
    """`9 kB`, `12 MB`, `3.4 GB` or `252 GB`."""
    if nbytes < 1e6:
        return f"{nbytes / 1e3:.0f} kB"
    if nbytes < 1e9:
        return f"{nbytes / 1e6:.0f} MB"
    return f"{nbytes / 1e9:.1f} GB" if nbytes < 1e11 else f"{nbytes / 1e9:,.0f} GB"
