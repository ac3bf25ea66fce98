"""How many images the public releases hold, as far as that can be said with a source."""

from collections.abc import Mapping
from typing import NamedTuple

from bench.data.named import NAMED
from bench.data.named.lists import ORIGINAL


class Release(NamedTuple):
    """The numbers of a public release.

    totals: images by (domain, split); "" means all of them. per_class: least and most images of a class, by split.
    """

    classes: int
    totals: dict[tuple[str, str], int]
    per_class: dict[str, tuple[int, int]]
    source: str


def _flat(classes: int, train: tuple[int, int], test: tuple[int, int], source: str) -> Release:
    totals = {("", "train"): classes * train[1], ("", "test"): classes * test[1]}
    return Release(classes, totals, {"train": train, "test": test}, source)


_ARRAYS = {
    "cifar10": _flat(10, (5_000, 5_000), (1_000, 1_000), "Krizhevsky 2009"),
    "cifar100": _flat(100, (500, 500), (100, 100), "Krizhevsky 2009"),
    "fashion_mnist": _flat(10, (6_000, 6_000), (1_000, 1_000), "arXiv:1708.07747"),
    "fashion_mini": _flat(10, (1_200, 1_200), (200, 200), "bench.data.fashion_mini"),
}
# arXiv:1409.0575, table 2: 732 to 1,300 training images of a class of ImageNet-1k, 50 validation images of each.
_IMAGENET = {"train": (732, 1_300), "test": (50, 50)}
_PER_CLASS = {
    "tiny_imagenet": {"train": (500, 500), "test": (50, 50)},
    "imagenet100": _IMAGENET,
    "imagenet1k": _IMAGENET,
}
_SOURCES = {
    "tiny_imagenet": "Le and Yang 2015",
    "imagenet100": "CMC's classes of ImageNet-1k",
    "imagenet1k": "arXiv:1409.0575",
    "domainnet": "cleaned lists, as in TensorFlow Datasets",
    "pacs": "arXiv:1710.03077",
}
_ORIGINAL = "original lists, which name some images twice; ai.bu.edu/M3SDA"


def other_version(name: str, images: Mapping[str, int]) -> Release | None:
    """The version of the dataset, other than the usual one, that has exactly these images of each domain."""
    if name != "domainnet" or images != ORIGINAL:
        return None
    totals = {(domain, ""): count for domain, count in ORIGINAL.items()}
    return Release(NAMED[name].counts.classes, totals, {}, _ORIGINAL)


def release_of(name: str) -> Release:
    """The numbers of the public dataset of this name."""
    if name in _ARRAYS:
        return _ARRAYS[name]
    counts = NAMED[name].counts
    totals = {("", "train"): counts.train, ("", "test"): counts.test}
    if counts.domains and counts.split_known:
        totals = {
            (domain, split): images
            for domain, *pair in counts.domains
            for split, images in zip(("train", "test"), pair, strict=True)
        }
    elif counts.domains:
        totals = {(domain, ""): train + test for domain, train, test in counts.domains}
    return Release(counts.classes, totals, _PER_CLASS.get(name, {}), _SOURCES[name])
