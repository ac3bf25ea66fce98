"""A disk that is full from some write on: for files below one folder, and as long as it is told to be."""

import errno
import io
import os
import re
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """Sees every write below a folder; `refuses(kind)` says whether the disk is full from this one on.

    kind: the operation and the name of the file less what is drawn by lot, e.g. `write stages/*/owner/*/beat`.
    """

    def __init__(self, out, refuses):
        self.out, self.refuses, self.full, self.kinds = str(out), refuses, False, []

    def sees(self, operation, path, named=True):
        if not str(path).startswith(self.out):
            return
        kind = f"{operation} {plain(os.path.relpath(path, self.out))}"
        self.kinds.append(kind)
        self.full = self.full or self.refuses(kind)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device", *([str(path)] if named else []))


def plain(name):
    """A name without keys, tokens and process ids."""
    return re.sub(r"[0-9a-f]{8,16}|\.\d+(?=\.)", "*", name)


class _File:
    """An open file whose writes the disk sees."""

    def __init__(self, file, path, disk):
        self._file, self._path, self._disk = file, path, disk

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def write(self, data):
        self._disk.sees("write", self._path, named=False)
        return self._file.write(data)


@contextmanager
def disk(out, refuses=lambda kind: False):
    """The disk under a folder while the block runs."""
    seen = Disk(out, refuses)
    calls = {name: getattr(os, name) for name in ("open", "mkdir", "rename", "replace", "fsync")}
    opened = io.open

    def open_file(path, mode="r", *args, **options):
        if not set(mode) & set("wxa+") or isinstance(path, int):
            return opened(path, mode, *args, **options)
        seen.sees("open", path)
        return _File(opened(path, mode, *args, **options), path, seen)

    def open_handle(path, flags, *args, **options):
        if flags & (os.O_WRONLY | os.O_RDWR):
            seen.sees("open", path)
        return calls["open"](path, flags, *args, **options)

    def mkdir(path, *args, **options):
        if not Path(path).exists():
            seen.sees("mkdir", path)
        return calls["mkdir"](path, *args, **options)

    def fsync(handle):
        seen.sees("fsync", os.readlink(f"/proc/self/fd/{handle}"), named=False)
        return calls["fsync"](handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", open_file)
        for name, call in (("open", open_handle), ("mkdir", mkdir), ("fsync", fsync)):
            patch.setattr(os, name, call)
        yield seen
