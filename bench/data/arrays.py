"""Image datasets as arrays: the two splits, their statistics and the hash that names their content."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from bench.errors import UserError

CHUNK = 1024  # images per pass over an array that may be a memory map larger than memory
_COUNTED = 32  # images counted at once, from a copy of them


@dataclass(frozen=True, eq=False)
class Split:
    """One split: images (N, H, W, C) uint8, maybe a read-only memory map; labels and domains (N,) int64."""

    images: np.ndarray
    labels: np.ndarray
    domains: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.labels) == len(self.domains):
            sizes = len(self.images), len(self.labels), len(self.domains)
            raise ValueError("images, labels and domains differ in number: {}, {}, {}".format(*sizes))


class Pending(NamedTuple):
    """Why the images of a dataset are not there, and the bytes that they will take on disk."""

    why: str
    nbytes: int


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named pair of splits; `domains` is empty for a single-domain dataset.

    mean, std: per channel, of train images / 255. digest: SHA-256 over class and domain names, shapes and
    content, so that the same images give the same digest wherever they lie. note: what a reader of results
    must know. pending: set where only the numbers are real, for planning (`bench.data.pending`).
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    note: str = ""
    pending: Pending | None = None


Stats = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel."""
Normalisation = Literal["dataset", "cifar", "imagenet", "imagenet_228", "released"]
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_PUBLISHED = {
    "cifar": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    "imagenet": (_IMAGENET_MEAN, (0.229, 0.224, 0.225)),
    "imagenet_228": (_IMAGENET_MEAN, (0.228, 0.224, 0.225)),
}


def normalisation_of(name: Normalisation, dataset: Dataset) -> Normalisation:
    """`released` as what the released code has for such images: `cifar` for 32-pixel colour images, `imagenet_228` for
    other colour images, `dataset` for grey ones, of which it has none."""
    if name != "released":
        return name
    height, width, channels = dataset.train.images.shape[1:]
    if channels != 3:
        return "dataset"
    return "cifar" if height == width == 32 else "imagenet_228"


def statistics(name: Normalisation, dataset: Dataset) -> Stats:
    """Mean and standard deviation per channel, of values in [0, 1], that inputs are normalised by.

    `dataset`: those of its training images; `cifar`, `imagenet`: published constants, as CaSSLe and PNR have them;
    `imagenet_228`: the latter with their .228 in place of .229. Raises UserError where images have not the three
    channels that constants are for.
    """
    name = normalisation_of(name, dataset)
    if name == "dataset":
        return dataset.mean, dataset.std
    channels = dataset.train.images.shape[3]
    if channels != 3:
        raise UserError(
            f"data.normalisation {name} is for images of 3 channels, {dataset.name} has {channels}: use dataset"
        )
    return _PUBLISHED[name]


class Tally:
    """Histogram and SHA-256 of a stream of images, for statistics that do not need them all at once."""

    def __init__(self, channels: int) -> None:
        self.counts = np.zeros((channels, 256), dtype=np.int64)
        self.images = 0
        self._hash = hashlib.sha256()

    def add(self, images: np.ndarray) -> None:
        """Count and hash the next images: (N, H, W, C) uint8, C 1 or 3."""
        for start in range(0, len(images), _COUNTED):
            rows = images[start : start + _COUNTED].reshape(-1, *images.shape[2:])
            picture = Image.fromarray(np.ascontiguousarray(rows if rows.shape[-1] == 3 else rows[..., 0]))
            self.counts += np.array(picture.histogram()).reshape(self.counts.shape)  # five times as fast as bincount
        self.images += len(images)
        self._hash.update(np.ascontiguousarray(images).data)

    def sha256(self) -> str:
        """The hash of all bytes so far, hexadecimal."""
        return self._hash.hexdigest()

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel in [0, 1]; a constant channel gets 1, to be divided by."""
        mean, std = [], []
        for counts in self.counts.tolist():
            n = sum(counts)
            total = sum(value * count for value, count in enumerate(counts))
            squares = sum(value * value * count for value, count in enumerate(counts))
            mean.append(total / (255 * n))
            # Python integers: no cancellation, however many images there are.
            std.append(math.sqrt((n * squares - total * total) / (255 * n) ** 2) or 1.0)
        return tuple(mean), tuple(std)


def tally(images: np.ndarray) -> Tally:
    """The tally of a whole array (N, H, W, C), read in chunks."""
    result = Tally(images.shape[-1])
    for start in range(0, len(images), CHUNK):
        result.add(images[start : start + CHUNK])
    return result


def content_digest(
    train: Split, test: Split, hashes: Sequence[str], classes: Sequence[str], domains: Sequence[str]
) -> str:
    """SHA-256 over names, shapes and content; `hashes`: those of the train and the test images."""
    content: dict[str, object] = {"classes": list(classes), "domains": list(domains)}
    for key, split, images in (("train", train, hashes[0]), ("test", test, hashes[1])):
        columns = [np.asarray(column, dtype="<i8").tobytes() for column in (split.labels, split.domains)]
        content[key] = [
            *split.images.shape,
            images,
            *(hashlib.sha256(column).hexdigest() for column in columns),
        ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def assemble(
    name: str, train: Split, test: Split, classes: Sequence[str], domains: Sequence[str] = (), note: str = ""
) -> Dataset:
    """The dataset of two splits, with the statistics and the digest computed from their content."""
    tallies = tally(train.images), tally(test.images)
    mean, std = tallies[0].moments()
    digest = content_digest(train, test, [each.sha256() for each in tallies], classes, domains)
    return Dataset(name, train, test, tuple(classes), tuple(domains), mean, std, digest, note)


def single_domain(images: np.ndarray, labels: np.ndarray) -> Split:
    """A split whose images all belong to domain 0."""
    return Split(images, np.asarray(labels, dtype=np.int64), np.zeros(len(images), dtype=np.int64))
