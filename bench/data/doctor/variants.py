"""Which list of classes a dataset has: fingerprints, and the ImageNet-100s that go by one name."""

from collections.abc import Collection
from typing import NamedTuple

from bench.data.class_lists import class_list, fingerprint

# file imagenet100_<key>.txt -> who uses it; the sources are the first lines of each file
IMAGENET100 = {
    "cmc": "CMC, solo-learn, CaSSLe",
    "kaggle": "Kaggle ambityga/imagenet100",
    "first100": "PODNet, DER, DyTox: the first 100 of the sorted 1,000",
    "seed1993": "PyCIL, FOSTER: 100 of the 1,000 drawn with seed 1993",
    "scan": "SCAN (Van Gansbeke et al.)",
    "gcd": "GCD (Vaze et al.): drawn with seed 0",
    "mcm": "MCM (Ming et al.)",
    "npos": "NPOS (Tao et al.)",
}
# Fingerprints of sorted class names that need no list here.
_OTHERS = {
    "385e02404994": "ImageNet-1k (ILSVRC 2012)",
    "bb3914949cec": "CIFAR-10",
    "89c745edd036": "PACS",
}


class Variant(NamedTuple):
    """What a list of class names is: a known one, or how near it comes to the nearest.

    key: of IMAGENET100, or "" for any other. title: "" for a list not known. common: classes it shares with CMC's
    list, of 100; None where the names are not ImageNet's.
    """

    key: str
    title: str
    common: int | None


def identify(classes: Collection[str]) -> Variant:
    """The variant with exactly these class names."""
    names = frozenset(classes)
    synsets = all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in names)
    common = len(names & set(class_list("cmc"))) if synsets and len(names) == 100 else None
    for key, title in IMAGENET100.items():
        if names == frozenset(class_list(key)):
            return Variant(key, f"ImageNet-100 of {title}", common)
    return Variant("", _OTHERS.get(fingerprint(sorted(names)), ""), common)


def near(classes: Collection[str]) -> list[tuple[str, int]]:
    """The ImageNet-100 lists by classes in common with these, most first."""
    names = frozenset(classes)
    return sorted(((key, len(names & set(class_list(key)))) for key in IMAGENET100), key=lambda pair: -pair[1])
