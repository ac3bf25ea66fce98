"""Decoding image files into .npy files chunk by chunk: what a killed process has decoded is not decoded again."""

import errno
import hashlib
import json
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

import numpy as np

from bench.data.arrays import Tally
from bench.data.decode import Shape, decoded_chunks
from bench.errors import UserError
from bench.files import FULL, no_space
from bench.lease import Lease

NPY_HEADER = 128  # bytes of the header of the .npy files written here
READ_BYTES = 1 << 22  # at once, of a file that is checked


class Chunk(NamedTuple):
    """Some files of a split, in order: how many; positions in the split of those left out; SHA-256 of the images."""

    split: str
    files: int
    skipped: list[int]
    sha256: str


class Decoded(NamedTuple):
    """What a decoded split came to; `skipped`: positions of the files that could not be read."""

    tally: Tally
    skipped: list[int]


@dataclass(frozen=True)
class Below(Sequence[Path]):
    """Files of a folder by their relative paths: a Path is made of one when it is asked for, since a million of them
    take gigabytes."""

    root: Path
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> "Below": ...

    def __getitem__(self, index: int | slice) -> "Path | Below":
        if isinstance(index, slice):
            return Below(self.root, self.names[index])
        return self.root / self.names[index]


class Journal:
    """The shape of the images that are being decoded, and the chunks that have been written, a line of JSON each.

    A line says that bytes were written, not that they are on disk: a chunk counts while its checksum holds.
    """

    def __init__(self, path: Path, lease: Lease) -> None:
        self.path, self.lease = path, lease
        self.shape: Shape | None = None
        self.chunks: list[Chunk] = []
        text = path.read_text(errors="replace") if path.exists() else ""
        try:
            first, *lines = text.splitlines()
            self.shape = checked_shape(*json.loads(first))
            for line in lines:
                self.chunks.append(_checked(Chunk(*json.loads(line))))
        except (ValueError, TypeError, RecursionError):
            pass  # empty, or torn by a crash: what stands before the tear holds
        if self.shape is not None and text != self._text():
            self._write()

    def begin(self, shape: Shape) -> None:
        """Starts anew with this shape."""
        self.shape, self.chunks = shape, []
        self._write()

    def add(self, chunk: Chunk) -> None:
        """Appends a chunk whose bytes have been written."""
        self.chunks.append(chunk)
        with self.path.open("a") as file:
            file.write(json.dumps(chunk) + "\n")

    def cut(self, count: int) -> None:
        """Keeps the first chunks only, and no torn line behind them."""
        self.chunks = self.chunks[:count]
        self._write()

    def _text(self) -> str:
        return "".join(json.dumps(each) + "\n" for each in (self.shape, *self.chunks))

    def _write(self) -> None:
        self.lease.write(self.path, self._text().encode())


def checked_shape(size: Any, channels: Any) -> Shape:
    """A shape that was read from a file; raises ValueError or TypeError for one that no images have here."""
    if not 0 < operator.index(size) <= 10_000 or operator.index(channels) not in (1, 3):
        raise ValueError(f"no shape of images: {size}, {channels}")
    return Shape(size, channels)


def _checked(chunk: Chunk) -> Chunk:
    if not all(operator.index(position) >= 0 for position in [chunk.files, *chunk.skipped]):
        raise ValueError(f"no chunk: {chunk}")
    return chunk


def growing(target: Path) -> Path:
    """Where a .npy file lies until it is whole."""
    return target.with_name(f".{target.name}.tmp")


def image_bytes(shape: Shape) -> int:
    """Bytes of one image."""
    return shape.size * shape.size * shape.channels


def write_split(
    target: Path,
    paths: Below,
    journal: Journal,
    *,
    lease: Lease,
    skip_corrupt: bool,
    threads: int,
    advance: Callable[[int], None],
) -> Decoded:
    """Decode the files, in order, into a .npy file (N, size, size, channels) uint8, whole or not there.

    The name of `target` is that of the split, whose chunks in the journal are taken as they are. advance: called with
    the number of files done. Raises UserError for a file that cannot be read, unless `skip_corrupt`, NoSpace, and
    LostLease, soon after another process has taken over `lease`, that of the folder.
    """
    split, temporary, shape = target.stem, growing(target), journal.shape
    assert shape is not None, "the journal has begun"
    with _saying_what_it_needs(target, NPY_HEADER + len(paths) * image_bytes(shape)):
        lease.move(target, temporary)
        decoded = Decoded(Tally(shape.channels), [])
        with temporary.open("r+b" if temporary.exists() else "w+b") as file:
            done = _taken_up(file, split, journal, len(paths), decoded, advance)
            lease.check()
            file.truncate()
            _refuse(paths, [(position, "cannot be read as an image") for position in decoded.skipped], skip_corrupt)
            for images, failed, count in decoded_chunks(paths[done:], shape, threads):
                failed = [(done + position, why) for position, why in failed]
                _refuse(paths, failed, skip_corrupt)
                pixels = np.stack(images) if images else np.zeros((0, shape.size, shape.size, shape.channels), np.uint8)
                lease.check()
                file.write(pixels.data)
                file.flush()  # to the system before the journal: a killed process leaves no chunk without its bytes
                lease.check()
                skipped = [position for position, _ in failed]
                journal.add(Chunk(split, count, skipped, hashlib.sha256(pixels.data).hexdigest()))
                decoded.tally.add(pixels)
                decoded.skipped.extend(skipped)
                advance(count)
            lease.check()
            file.seek(0)
            file.write(npy_header(decoded.tally.images, shape))
            file.flush()
            os.fsync(file.fileno())
            if sha256_of_images(file) != decoded.tally.sha256():
                # A process that was taken for dead has written here, too, or the disk is broken: not tried for ever.
                raise OSError(errno.EIO, f"{target.name} does not read back as it was written; the same line mends it")
        lease.move(temporary, target)
        return decoded


@contextmanager
def _saying_what_it_needs(target: Path, nbytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise no_space(target, nbytes, error) from None
        raise


def _taken_up(
    file: BinaryIO, split: str, journal: Journal, total: int, decoded: Decoded, advance: Callable[[int], None]
) -> int:
    """Leaves the file at the end of the split's chunks whose bytes have their checksum, and cuts the journal there;
    returns how many of the split's `total` files they hold."""
    shape = journal.shape
    assert shape is not None
    file.seek(NPY_HEADER)
    done, kept = 0, 0
    for kept, chunk in enumerate(journal.chunks):
        if chunk.split != split:
            if done:
                break  # another split's, behind those of this one
            continue
        wanted = (chunk.files - len(chunk.skipped)) * image_bytes(shape)
        data = file.read(max(0, wanted))
        theirs = max([done + chunk.files, *(position + 1 for position in chunk.skipped)]) <= total
        if len(data) != wanted or not theirs or hashlib.sha256(data).hexdigest() != chunk.sha256:
            file.seek(-len(data), os.SEEK_CUR)
            journal.cut(kept)
            break
        decoded.tally.add(np.frombuffer(data, np.uint8).reshape(-1, shape.size, shape.size, shape.channels))
        decoded.skipped.extend(chunk.skipped)
        done += chunk.files
        advance(chunk.files)
    return done


def sha256_of_images(file: BinaryIO) -> str:
    """The hash of the images in an open .npy file, hexadecimal; of what has `npy_header` before them."""
    file.seek(NPY_HEADER)
    hashed = hashlib.sha256()
    while data := file.read(READ_BYTES):
        hashed.update(data)
    return hashed.hexdigest()


def _refuse(paths: Below, failed: Sequence[tuple[int, str]], skip_corrupt: bool) -> None:
    if failed and not skip_corrupt:
        position, why = failed[0]
        raise UserError(f"{paths[position]}: {why} (--skip-corrupt leaves such files out)")


def npy_header(count: int, shape: Shape) -> bytes:
    """What stands before the images of a .npy file: version 1.0 of the format (numpy.lib.format), of fixed length, so
    that the count can be filled in at the end."""
    axes = (count, shape.size, shape.size, shape.channels)
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {axes}, }}"
    return b"\x93NUMPY\x01\x00" + (NPY_HEADER - 10).to_bytes(2, "little") + text.ljust(NPY_HEADER - 11).encode() + b"\n"
