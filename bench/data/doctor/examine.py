"""All images of a dataset, looked at once: counts, marks and digests by position, in flat memory."""

import os
import warnings
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from bench.data.arrays import CHUNK, Split
from bench.data.doctor.digests import Digests
from bench.data.doctor.files import Seen, digest, look
from bench.data.listing import Entry
from bench.errors import UserError

_CHUNK = 64  # files per call of a thread: fewer, and the calls cost more than small files do


@dataclass
class Record:
    """What was seen, by position in the listing: about 40 bytes a file.

    counts: images by (split, domain, class). marks: positions by key of DEFECTS or COLOURS. labels: class of each
    position, as an index into `classes`. tests: 1 where it is a test image.
    """

    classes: list[str] = field(default_factory=list)
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    marks: dict[str, "array[int]"] = field(default_factory=dict)
    labels: "array[int]" = field(default_factory=lambda: array("I"))
    tests: bytearray = field(default_factory=bytearray)
    content: Digests = field(default_factory=Digests)
    pixels: Digests = field(default_factory=Digests)

    def add(self, split: str, domain: str, label: int, seen: Seen) -> None:
        """The next image; label: an index into `classes`."""
        for mark in (seen.defect, seen.colour):
            if mark:
                self.marks.setdefault(mark, array("I")).append(len(self.labels))
        self.counts[split, domain, self.classes[label]] += 1
        self.labels.append(label)
        self.tests.append(split == "test")
        self.content.add(seen.content)
        self.pixels.add(seen.pixels)


def examine_files(
    root: Path,
    entries: Iterable[Entry],
    *,
    image_size: int | None = None,
    quick: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> Record:
    """The record of files below `root`; `image_size` and `quick` as in `look`, advance: called with files done."""
    record = Record()
    known: dict[str, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL on metadata, of which nothing is used
        for chunk, seen in _looked(root, entries, image_size, quick):
            for entry, sight in zip(chunk, seen, strict=True):
                if entry.label not in known:
                    known[entry.label] = len(known)
                    record.classes.append(entry.label)
                record.add(entry.split, entry.domain, known[entry.label], sight)
            advance(len(chunk))
    return record


def examine_arrays(train: Split, test: Split, classes: Iterable[str]) -> Record:
    """The record of a dataset in memory: digests of pixels, training images first."""
    record = Record(classes=list(classes))
    for name, split in (("train", train), ("test", test)):
        for start in range(0, len(split.images), CHUNK):
            images = np.ascontiguousarray(split.images[start : start + CHUNK])
            for image, label in zip(images, split.labels[start : start + CHUNK].tolist(), strict=True):
                record.add(name, "", label, Seen(pixels=digest(image.data)))
    return record


def file_names(entries: Iterable[Entry], wanted: set[int], total: int) -> dict[int, str]:
    """The paths at the wanted positions of a listing that had `total` files when it was examined.

    Walks the listing again instead of keeping it. Raises UserError where the number of files has changed.
    """
    names, count = {}, 0
    for position, entry in enumerate(entries):
        count += 1
        if position in wanted:
            names[position] = entry.path
    if count != total:
        raise UserError(f"the folder changed during the check: {total:,} images before, {count:,} now")
    return names


def _looked(
    root: Path, entries: Iterable[Entry], image_size: int | None, quick: bool
) -> Iterator[tuple[list[Entry], list[Seen]]]:
    """Chunks of the listing with what was seen, in order, a few ahead in threads (PIL and hashes let go of the GIL)."""

    def work(chunk: list[Entry]) -> list[Seen]:
        return [look(root / entry.path, image_size, quick) for entry in chunk]

    workers = min(16, os.cpu_count() or 1)
    listing = iter(entries)
    waiting: deque[tuple[list[Entry], Future[list[Seen]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        while True:
            while len(waiting) < 2 * workers and (chunk := list(islice(listing, _CHUNK))):
                waiting.append((chunk, pool.submit(work, chunk)))
            if not waiting:
                return
            done, future = waiting.popleft()
            yield done, future.result()
