"""The first 1,200 training and 200 test images of each class of Fashion-MNIST (see LICENSE), in file order.

Four idx files compressed by bz2, which has one setting (the block size); `rebuild.py` makes them again.
"""

import bz2
import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from bench.data.idx import read_idx
from bench.lease import LostLease, hold_briefly

FOLDER = Path(__file__).parent
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


UNPACKED = {
    "train": "ded9297f1d7b567047797bb831eb9cfd84010a483a4075cb9fc0465219002cb7",
    "t10k": "15a92dd1e9b16ea361928086e77df4dfa890c255c00b5a8c8162c1040ce8eef1",
}
"""SHA-256 of the images' idx files as they are before compression."""


def read(split: str, cache: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28, 1) uint8 and labels (N,) uint8 of `split`, "train" or "t10k".

    cache: a folder for the images as they are before compression, which takes every process a second to undo.
    """
    packed = FOLDER / f"{split}-images-idx3-ubyte.bz2"
    images = read_idx(packed if cache is None else _unpacked(packed, split, cache))
    return images[..., None], read_idx(FOLDER / f"{split}-labels-idx1-ubyte.bz2")


def _unpacked(packed: Path, split: str, cache: Path) -> Path:
    """The file in the cache, whole; the packed one where the cache cannot be written."""
    path = cache / f"fashion_mini-{packed.stem}"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == UNPACKED[split]:
        return path
    with suppress(OSError, LostLease):  # no space, or read-only: whatever has to be written there will say so
        with hold_briefly(cache / f".{path.name}") as lease:
            lease.write(path, bz2.decompress(packed.read_bytes()))
        return path
    return packed
