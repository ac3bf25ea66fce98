"""Random pixels of any size and number, to time what real images of that size would cost: `noise:SIDE`."""

import hashlib
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.data.arrays import Dataset, content_digest, single_domain
from bench.errors import UserError
from bench.files import FULL, NoSpace, no_space
from bench.lease import Lease, hold, until_kept
from bench.links import refuse_links

FORM = "noise:SIDE, noise:SIDExCHANNELS or noise:SIDExCHANNELSxCOUNT, as in noise:224x3x100000"
SPLITS = ("train", "test")
CLASSES = tuple(f"class {label}" for label in range(10))
COUNT = 10_000
MOST = 10_000_000
FEWEST = 10 * len(CLASSES)  # train images with which a tenth for testing still holds every class
MEMORY_BYTES = 64 << 20  # larger splits become a memory map
_SPEC = re.compile(r"noise:([1-9][0-9]{0,3})(?:x([13])(?:x([1-9][0-9]{0,8}))?)?")
_CHUNK_BYTES = 8 << 20
_Shape = tuple[int, int, int, int]


def load_noise(spec: str, *, out: Path) -> Dataset:
    """The dataset of `noise:SIDE[xCHANNELS[xCOUNT]]`: COUNT train images and a tenth as many for testing.

    SIDE: 1 to 9999 pixels; CHANNELS: 3 (default) or 1; COUNT: 10,000 (default), at least 100. Splits of 64 MB and more
    are made once, below out/datasets, and memory-mapped. Raises UserError for another spec, and where there is no room.
    """
    side, channels, count = parse(spec)
    folder = out / "datasets" / f"noise-{side}x{channels}x{count}"
    refuse_links(out, f"datasets/{folder.name}")
    splits, hashes = [], []
    for split, images in zip(SPLITS, (count, count // 10), strict=True):
        shape = (images, side, side, channels)
        splits.append(single_domain(_images(folder, split, shape), np.arange(images) % len(CLASSES)))
        # With the shape, it stands for the content, which is a function of both: gigabytes need not be hashed.
        hashes.append(hashlib.sha256(f"noise {split}".encode()).hexdigest())
    # Of the distribution, 0 to 255 with equal chances, so that they need not be read either.
    mean, std = 0.5, math.sqrt((256**2 - 1) / 12) / 255
    return Dataset(
        name=spec,
        train=splits[0],
        test=splits[1],
        classes=CLASSES,
        domains=(),
        mean=(mean,) * channels,
        std=(std,) * channels,
        digest=content_digest(splits[0], splits[1], hashes, CLASSES, ()),
        note="random pixels: for timing only",
    )


def parse(spec: str) -> tuple[int, int, int]:
    """Side, channels and number of train images of a spec; raises UserError for one that is not of the form."""
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise UserError(f"dataset '{spec}' does not parse: write {FORM} (SIDE up to 9999, CHANNELS 1 or 3)")
    count = int(found[3] or COUNT)
    if not FEWEST <= count <= MOST:
        raise UserError(f"dataset '{spec}': {count} images; COUNT is {FEWEST} to {MOST} in {FORM}")
    return int(found[1]), int(found[2] or 3), count


def _images(folder: Path, split: str, shape: _Shape) -> np.ndarray:
    if math.prod(shape) < MEMORY_BYTES:
        return np.concatenate(list(_chunks(split, shape)))
    path = folder / f"{split}.npy"
    found = _mapped(path, shape)
    if found is not None:
        return found
    try:
        return _made(path, split, shape)
    except OSError as error:
        if error.errno in FULL:
            raise no_space(path, math.prod(shape), error) from None
        if isinstance(error, NoSpace):
            raise
        raise UserError(f"{path}: random pixels cannot be written there ({error})") from error


@until_kept
def _made(path: Path, split: str, shape: _Shape) -> np.ndarray:
    """The images of a file that this process writes, or another one while this one waits."""
    with hold(path.parent, wait=True) as lease:
        if _mapped(path, shape) is None:
            _write(path, split, shape, lease)
        images: np.ndarray = np.load(path, mmap_mode="r")
        return images


def _mapped(path: Path, shape: _Shape) -> np.ndarray | None:
    """The images of a whole file of that shape, else None."""
    try:
        images: np.ndarray = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def _write(target: Path, split: str, shape: _Shape, lease: Lease) -> None:
    """Writes the file, whole or not at all; raises UserError where there is no room for it."""
    needed, free = math.prod(shape), shutil.disk_usage(target.parent).free
    if needed > free:
        raise UserError(f"{target}: random pixels need {needed / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are free")
    with lease.writing(target) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for chunk in _chunks(split, shape):
            file.write(chunk.data)


def _chunks(split: str, shape: _Shape) -> Iterator[np.ndarray]:
    """The images in parts of a few megabytes; a part depends on its place and not on how many follow."""
    count, *image = shape
    nbytes = math.prod(image)
    length = max(1, _CHUNK_BYTES // nbytes)
    for start in range(0, count, length):
        # The raw words of a bit generator are the same in every version of numpy; what is drawn from them may not be.
        words = np.random.PCG64([SPLITS.index(split), start]).random_raw(-(-length * nbytes // 8))
        pixels = words.astype("<u8", copy=False).view(np.uint8)[: length * nbytes]
        yield pixels.reshape(length, *image)[: count - start]
