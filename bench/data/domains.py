"""Five synthetic visual domains, so that Domain-IL runs on a dataset that has none.

Each image goes through one of five fixed functions of its pixels; the classes stay recognisable and no random
number enters a pixel. `side` below is the shorter side of the image. They stand in for real domains (PACS,
DomainNet) and are marked as synthetic wherever they are reported.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bench.data.arrays import CHUNK, Dataset, Split, assemble
from bench.seeding import permutation

SMALLEST_TEST = 100  # test images per domain below which every domain gets all of them

# Bayer's ordered-dither matrix, recursive of order 2, as thresholds in 8..248 (Bayer, IEEE ICC 1973)
_BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) * 16 + 8


def original(images: np.ndarray) -> np.ndarray:
    """The images as they are."""
    return images


def negative(images: np.ndarray) -> np.ndarray:
    """Every value v becomes 255 - v."""
    return 255 - images


def outline(images: np.ndarray) -> np.ndarray:
    """White on black: the gradient's length (central differences), the largest of the channels in all."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge").astype(np.float32)
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    right = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    length = np.sqrt(down * down + right * right).max(axis=-1, keepdims=True)
    return np.broadcast_to(np.minimum(length, 255).astype(np.uint8), images.shape)


def mosaic(images: np.ndarray) -> np.ndarray:
    """Square blocks of side/14 pixels, at least 3, each filled with its mean colour; the last may be cut."""
    height, width = images.shape[1:3]
    block = max(3, min(height, width) // 14)
    rows, columns = np.arange(0, height, block), np.arange(0, width, block)
    sums = np.add.reduceat(np.add.reduceat(images, rows, axis=1, dtype=np.int64), columns, axis=2)
    tall, wide = np.diff(rows, append=height), np.diff(columns, append=width)
    means = (sums // (tall[:, None] * wide)[None, :, :, None]).astype(np.uint8)
    return means.repeat(tall, axis=1).repeat(wide, axis=2)


def halftone(images: np.ndarray) -> np.ndarray:
    """Each channel black or white by a 4x4 ordered dither; a dot is side/64 pixels wide, at least 1."""
    height, width = images.shape[1:3]
    dot = max(1, min(height, width) // 64)
    thresholds = _BAYER[np.ix_(np.arange(height) // dot % 4, np.arange(width) // dot % 4)]
    return np.where(images > thresholds[None, :, :, None], 255, 0).astype(np.uint8)


DOMAINS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "original": original,
    "negative": negative,
    "outline": outline,
    "mosaic": mosaic,
    "halftone": halftone,
}


def synthetic(dataset: Dataset, split_seed: int) -> Dataset:
    """A single-domain dataset as five domains, every image of a split in one domain drawn from `split_seed`.

    Where that would leave fewer than 100 test images per domain, the whole test set is in every domain. The
    images are made in memory, as large as the dataset; mean, std and digest are those of the new images.
    Raises ValueError for a dataset that has domains.
    """
    if dataset.domains:
        raise ValueError(f"{dataset.name} has domains of its own: {', '.join(dataset.domains)}")
    if dataset.pending is not None:  # there are no images to change, only numbers of them to deal out
        return replace(dataset, train=_in_turn(dataset.train), test=_in_turn(dataset.test), domains=tuple(DOMAINS))
    everywhere = len(dataset.test.images) < SMALLEST_TEST * len(DOMAINS)
    train = _dealt(dataset.train, split_seed, "train")
    test = _repeated(dataset.test) if everywhere else _dealt(dataset.test, split_seed, "test")
    note = f"synthetic domains: {', '.join(DOMAINS)}"
    if everywhere:
        note += "; the whole test set in each"
    notes = "; ".join(filter(None, (dataset.note, note)))
    return assemble(dataset.name, train, test, dataset.classes, tuple(DOMAINS), notes)


def _in_turn(split: Split) -> Split:
    return replace(split, domains=np.arange(len(split.labels)) % len(DOMAINS))


def _dealt(split: Split, split_seed: int, name: str) -> Split:
    order = permutation(len(split.images), split_seed, "synthetic_domains", name)
    domains = np.empty(len(split.images), dtype=np.int64)
    domains[order] = np.arange(len(order)) % len(DOMAINS)
    images = np.empty(split.images.shape, dtype=np.uint8)
    for index, change in enumerate(DOMAINS.values()):
        _fill(images, split.images, np.flatnonzero(domains == index), change)
    return Split(images, split.labels, domains)


def _repeated(split: Split) -> Split:
    images = np.concatenate([change(split.images) for change in DOMAINS.values()])
    domains = np.repeat(np.arange(len(DOMAINS), dtype=np.int64), len(split.images))
    return Split(images, np.tile(split.labels, len(DOMAINS)), domains)


def _fill(to: np.ndarray, images: np.ndarray, chosen: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> None:
    # in chunks: float copies of a whole split need many times its memory
    for start in range(0, len(chosen), CHUNK):
        indices = chosen[start : start + CHUNK]
        to[indices] = change(images[indices])
