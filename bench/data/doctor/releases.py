"""How many images the public releases hold, as far as that can be said with a source."""

from typing import NamedTuple


class Release(NamedTuple):
    """The numbers of a public release.

    totals: images by (domain, split); "" means all of them. per_class: least and most images of a class, by split.
    """

    classes: int
    totals: dict[tuple[str, str], int]
    per_class: dict[str, tuple[int, int]]
    source: str


def _flat(classes: int, train: tuple[int, int], test: tuple[int, int], source: str, total: int = 0) -> Release:
    totals = {("", "train"): total or classes * train[1], ("", "test"): classes * test[1]}
    return Release(classes, totals, {"train": train, "test": test}, source)


# tensorflow/datasets, docs/catalog/domainnet.md: train and test images of the cleaned version, by domain.
_DOMAINNET = {
    "clipart": (33_525, 14_604),
    "infograph": (36_023, 15_582),
    "painting": (50_416, 21_850),
    "quickdraw": (120_750, 51_750),
    "real": (120_906, 52_041),
    "sketch": (48_212, 20_916),
}
_PACS = {"art_painting": 2_048, "cartoon": 2_344, "photo": 1_670, "sketch": 3_929}

RELEASES = {
    "cifar10": _flat(10, (5_000, 5_000), (1_000, 1_000), "Krizhevsky 2009"),
    "cifar100": _flat(100, (500, 500), (100, 100), "Krizhevsky 2009"),
    "fashion_mnist": _flat(10, (6_000, 6_000), (1_000, 1_000), "arXiv:1708.07747"),
    "fashion_mini": _flat(10, (1_200, 1_200), (200, 200), "bench.data.fashion_mini"),
    "tiny_imagenet": _flat(200, (500, 500), (50, 50), "Le and Yang 2015, Stanford CS231N"),
    "imagenet1k": _flat(1_000, (732, 1_300), (50, 50), "arXiv:1409.0575, table 2", total=1_281_167),
    "imagenet100": _flat(100, (732, 1_300), (50, 50), "CMC's classes of ILSVRC 2012", total=126_689),
    "pacs": Release(7, {(name, ""): count for name, count in _PACS.items()}, {}, "arXiv:1710.03077"),
    "domainnet": Release(
        345,
        {(name, split): pair[i] for name, pair in _DOMAINNET.items() for i, split in enumerate(("train", "test"))},
        {},
        "cleaned version, as in TensorFlow Datasets",
    ),
}
