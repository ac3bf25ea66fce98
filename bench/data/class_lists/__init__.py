"""The ImageNet-100s that go by one name, a file each with its sources, and fingerprints of lists of classes."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path


@cache
def class_list(key: str) -> tuple[str, ...]:
    """The classes of an ImageNet-100 in the order of their source."""
    lines = (Path(__file__).parent / f"imagenet100_{key}.txt").read_text().splitlines()
    return tuple(word for line in lines if not line.startswith("#") for word in line.split())


def fingerprint(names: Iterable[str]) -> str:
    """12 hexadecimal digits of the SHA-256 of the names, in this order, one a line."""
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()[:12]
