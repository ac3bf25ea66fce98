"""Files that appear whole or not at all, and sizes of files in words."""

import os
import secrets
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or a crash, finds the old content or the new, never a part.

    The temporary file lies in the folder of `path`, which must exist: a rename is atomic on one file system
    only. Raises OSError as `open` and `os.replace` do; the temporary file is then removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


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
