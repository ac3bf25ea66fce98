"""Datasets for planning whose images are not there yet: the right number and size of them, in a byte of memory each."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.data.arrays import Dataset, Pending, Split
from bench.data.build import image_bytes
from bench.data.datasets import ARRAYS, load, source_of
from bench.data.decode import Shape
from bench.data.folders import SPLITS, Source, cache_of, decoded_bytes, read_manifest
from bench.data.named import NAMED, Counts, Named, NotHere

DECODED_AT_ONCE = 256 << 20  # bytes of pixels up to which planning decodes what is not: a minute or so


def load_or_foresee(
    spec: str, *, out: Path, data_dir: Path | None, image_size: int | None, skip_corrupt: bool, quiet: bool
) -> Dataset:
    """What `load` gives; where a public dataset is not there, or decoding would take long, one of its numbers only.

    Such a dataset says so in `pending`: its pixels are random, and its digest is that of no images. Raises UserError
    as `load` does, but for a public dataset that is not there.
    """
    try:
        source = source_of(spec, data_dir, image_size)
    except NotHere as error:
        return _of_release(NAMED[spec], image_size, data_dir, error)
    if spec in ARRAYS:
        try:
            return load(spec, out=out, data_dir=data_dir, download=False, quiet=quiet)
        except NotHere:
            return _of_counts(spec, *ARRAYS[spec], data_dir)
    if source is not None and read_manifest(cache_of(source, out), source.key) is None:
        shape = source.shape()
        if decoded_bytes(source, shape) > DECODED_AT_ONCE:
            return _of_files(source, shape)
    return load(spec, out=out, data_dir=data_dir, image_size=image_size, skip_corrupt=skip_corrupt, quiet=quiet)


def _of_release(named: Named, image_size: int | None, data_dir: Path | None, error: NotHere) -> Dataset:
    counts, side = named.counts, named.stored_side(image_size)
    if side is None:
        raise error  # of the size of its files, which cannot be known without them
    return _of_counts(named.name, counts, Shape(side, 3), data_dir)


def _of_counts(name: str, counts: Counts, shape: Shape, data_dir: Path | None) -> Dataset:
    domains = counts.domains or (("", counts.train, counts.test),)
    splits = []
    for numbers in ([train for _, train, _ in domains], [test for _, _, test in domains]):
        labels = np.concatenate([np.arange(number) % counts.classes for number in numbers])
        splits.append(Split(_noise(len(labels), shape), labels, np.repeat(np.arange(len(numbers)), numbers)))
    classes = [f"class {label}" for label in range(counts.classes)]
    names = [domain[0] for domain in counts.domains]
    where = "no --data-dir is given" if data_dir is None else f"{name} is not in {data_dir}"
    why = f"{where}: planned with the counts of the public release"
    nbytes = (counts.train + counts.test) * image_bytes(shape)
    return _dataset(name, splits, classes, names, Pending(why, nbytes))


def _of_files(source: Source, shape: Shape) -> Dataset:
    listing, splits = source.listing, []
    for split in SPLITS:
        labels, places = listing.columns([entry for entry in listing.entries if entry.split == split])
        splits.append(Split(_noise(len(labels), shape), labels, places))
    why = f"{source.name} is not decoded yet: planned from the list of its {len(listing.entries):,} files"
    return _dataset(source.name, splits, listing.classes, listing.domains, Pending(why, decoded_bytes(source, shape)))


def _dataset(
    name: str, splits: Sequence[Split], classes: Sequence[str], domains: Sequence[str], pending: Pending
) -> Dataset:
    channels = splits[0].images.shape[-1]
    return Dataset(
        name,
        splits[0],
        splits[1],
        tuple(classes),
        tuple(domains),
        (0.5,) * channels,
        (0.25,) * channels,
        digest=hashlib.sha256(f"{name} {splits[0].images.shape} {pending.why}".encode()).hexdigest(),
        pending=pending,
    )


def _noise(count: int, shape: Shape) -> np.ndarray:
    """Random images that overlap in memory, each a byte further on, so that a probe has something to fit."""
    buffer = np.frombuffer(np.random.default_rng(0).bytes(count + image_bytes(shape)), np.uint8)
    row, pixel = shape.size * shape.channels, shape.channels
    axes = (count, shape.size, shape.size, shape.channels)
    return np.lib.stride_tricks.as_strided(buffer, axes, (1, row, pixel, 1), writeable=False)
