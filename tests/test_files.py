"""Files that appear whole or not at all."""

import errno
import os

import pytest

from bench.files import NoSpace, write_atomic


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, call, number):
    path = tmp_path / "table.csv"
    write_atomic(path, b"before")

    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        write_atomic(path, bytes(12_000))
    assert isinstance(caught.value, NoSpace) == (number != errno.EIO)
    if number != errno.EIO:
        assert str(caught.value).startswith(f"no space for {path}: it needs 12 kB, and ")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
