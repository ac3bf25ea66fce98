"""Image folders as datasets: decoded once into a memory map, found again by a hash of the listing."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.data.arrays import Dataset, Split, content_digest
from bench.data.build import NPY_HEADER, Below, Journal, checked_shape, growing, image_bytes, npy_header, write_split
from bench.data.decode import Shape, fitting_shape
from bench.data.listing import Entry, Listing, class_folders, domain_folders
from bench.errors import UserError, printable
from bench.files import FULL, NoSpace, size_text
from bench.lease import Lease, hold, until_kept
from bench.links import refuse_links

SCHEMA = 1  # of the cache: raised with any change to what is decoded or to how it is stored
LAYOUTS = {"folder": class_folders, "domains": domain_folders}
SPLITS = ("train", "test")
THREADS = 8  # of decoding, where no number is given and as many cores are there
_TOLD = 1 << 30  # bytes from which decoding says what it needs before it begins


@dataclass(frozen=True)
class Source:
    """Image files to decode: `name` of the dataset they become, `layout` (part of the key), their folder and list;
    side: in pixels of the stored squares, None: that of the files where all are square and equal, else 64."""

    name: str
    layout: str
    root: Path
    listing: Listing
    side: int | None

    @cached_property
    def key(self) -> str:
        """Names the cache of the decoded images."""
        return cache_key(self.layout, self.listing.entries, self.side)

    def shape(self) -> Shape:
        """Of the decoded images, by the headers of the files."""
        return fitting_shape((self.root / entry.path for entry in self.listing.entries), self.side)


class How(NamedTuple):
    """How images are decoded, which changes none of them; announce: say first what it needs, however little that is;
    threads: None for one per core, at most 8."""

    skip_corrupt: bool = False
    quiet: bool = False
    announce: bool = False
    threads: int | None = None


def load_folder(
    layout: str,
    root: Path,
    *,
    out: Path,
    image_size: int | None = None,
    skip_corrupt: bool = False,
    quiet: bool = False,
) -> Dataset:
    """The images of a folder; `layout` "folder" (classes) or "domains" (domains, then classes).

    Decoded at the first call into out/datasets/<key>/ and memory-mapped from there. image_size: pixels of a
    side; None: that of the files where all are square and equal, else 64. Raises UserError for a folder not
    so laid out, a file that cannot be read (unless `skip_corrupt`) and a class without training images.
    """
    return load_source(folder_source(layout, root, image_size), out, How(skip_corrupt, quiet))


def folder_source(layout: str, root: Path, image_size: int | None) -> Source:
    """The images of a folder, listed; see `load_folder`."""
    listing = Listing(LAYOUTS[layout](root))
    return Source(f"{layout}:{printable(root.resolve().name)}", layout, root, listing, image_size)


def load_source(source: Source, out: Path, how: How) -> Dataset:
    """The dataset of listed images, decoded where that has not been done; what a killed process has decoded counts."""
    cache = cache_of(source, out)
    refuse_links(out, f"datasets/{cache.name}")
    manifest = read_manifest(cache, source.key)
    if manifest is None:
        try:
            manifest = _made(cache, source, how)
        except OSError as error:
            if isinstance(error, NoSpace) or error.errno in FULL:
                raise
            raise UserError(f"{cache}: the decoded images cannot be written ({error})") from error
    if manifest["skipped"] and not how.skip_corrupt:
        name = source.root / manifest["skipped"][0]
        raise UserError(f"{name}: cannot be read as an image (--skip-corrupt leaves such files out)")
    return _dataset(source, cache, manifest)


def cache_of(source: Source, out: Path) -> Path:
    """Where the decoded images lie, or will."""
    return out / "datasets" / source.key


def cache_key(layout: str, entries: Sequence[Entry], image_size: int | None) -> str:
    """16 hexadecimal digits over the listing (path, place, size, mtime), the image size and the schema."""
    hashed = hashlib.sha256(json.dumps([SCHEMA, layout, image_size])[:-1].encode())
    hashed.update(b", [")
    for position, entry in enumerate(entries):  # one by one: the text of a million would take as much memory again
        hashed.update((", " * (position > 0) + json.dumps(entry)).encode())
    hashed.update(b"]]")
    return hashed.hexdigest()[:16]


def read_manifest(cache: Path, key: str) -> dict[str, Any] | None:
    """The manifest of a whole cache: of this key, with image files of the shape it says; else None."""
    try:
        manifest: dict[str, Any] = json.loads((cache / "manifest.json").read_text())
        if manifest["key"] != key or manifest["schema"] != SCHEMA:
            return None
        for split in SPLITS:
            count, side, _, channels = manifest["shape"][split]
            shape, path = checked_shape(side, channels), cache / f"{split}.npy"
            if path.stat().st_size != NPY_HEADER + count * image_bytes(shape):
                return None
            with path.open("rb") as file:
                if file.read(NPY_HEADER) != npy_header(count, shape):
                    return None
            if [type(value) for value in (*manifest["mean"], *manifest["std"])] != [float] * 2 * channels:
                return None
        skipped, hashes = manifest["skipped"], [manifest["sha256"][split] for split in SPLITS]
        if not isinstance(skipped, list) or not all(isinstance(text, str) for text in [*skipped, *hashes]):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return manifest


@until_kept
def _made(cache: Path, source: Source, how: How) -> dict[str, Any]:
    """The manifest of a cache that this process fills, or another one while this one waits."""
    with hold(cache, wait=True) as lease:
        return read_manifest(cache, source.key) or _fill(cache, source, how, lease)


def _fill(cache: Path, source: Source, how: How, lease: Lease) -> dict[str, Any]:
    """Decode both splits into the cache; its manifest last, without which nothing is taken for whole."""
    manifest: dict[str, Any] = {"schema": SCHEMA, "key": source.key, "shape": {}, "sha256": {}, "skipped": []}
    entries, journal = source.listing.entries, Journal(cache / "journal", lease)
    if journal.shape is None:
        journal.begin(source.shape())
    assert journal.shape is not None
    _make_sure_of_room(cache, source, journal.shape, how)
    with _progress(source.root.name, len(entries), how.quiet) as advance:
        for split in SPLITS:
            part = [entry.path for entry in entries if entry.split == split]
            decoded = write_split(
                cache / f"{split}.npy",
                Below(source.root, part),
                journal,
                lease=lease,
                skip_corrupt=how.skip_corrupt,
                threads=how.threads or min(THREADS, os.cpu_count() or 1),
                advance=advance,
            )
            if not decoded.tally.images:
                raise UserError(f"{source.root}: no readable {split} images")
            manifest["shape"][split] = [decoded.tally.images, journal.shape.size, *journal.shape]
            manifest["sha256"][split] = decoded.tally.sha256()
            manifest["skipped"] += [part[position] for position in decoded.skipped]
            if split == "train":
                manifest["mean"], manifest["std"] = decoded.tally.moments()
    lease.write(cache / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())
    journal.path.unlink()
    return manifest


def decoded_bytes(source: Source, shape: Shape) -> int:
    """What the decoded images take on disk."""
    return len(source.listing.entries) * image_bytes(shape)


def _make_sure_of_room(cache: Path, source: Source, shape: Shape, how: How) -> None:
    """Says what decoding needs, and what is there; raises UserError where it does not suffice."""
    needed = decoded_bytes(source, shape)
    parts = [path for split in SPLITS for path in (cache / f"{split}.npy", growing(cache / f"{split}.npy"))]
    there = sum(path.stat().st_size for path in parts if path.exists())
    free = shutil.disk_usage(cache).free
    side = f"{shape.size} x {shape.size} x {shape.channels}"
    text = f"{source.name}: {len(source.listing.entries):,} images of {side} need {size_text(needed)} in {cache}"
    if there > NPY_HEADER:
        text += f", of which {size_text(min(there, needed))} may be there already"
    text += f"; {size_text(free)} are free"
    if needed - there > free:
        raise UserError(f"{text}: give --out on a larger disk or a smaller --image-size")
    if not how.quiet and (how.announce or needed >= _TOLD):
        print(text, file=sys.stderr)


def _dataset(source: Source, cache: Path, manifest: dict[str, Any]) -> Dataset:
    skipped = set(manifest["skipped"])
    kept = [entry for entry in source.listing.entries if entry.path not in skipped]
    classes, domains = source.listing.classes, source.listing.domains
    missing = set(classes) - {entry.label for entry in kept if entry.split == "train"}
    if missing:
        raise UserError(f"{source.root}: no training image of class {min(missing)}")
    splits = {}
    for split in SPLITS:
        labels, places = source.listing.columns([entry for entry in kept if entry.split == split])
        if len(labels) != manifest["shape"][split][0]:
            raise UserError(f"{cache}: does not hold the images of {source.root}: remove it")
        splits[split] = Split(np.load(cache / f"{split}.npy", mmap_mode="r"), labels, places)
    notes = [source.listing.note]
    if skipped:
        notes.append(f"{len(skipped)} unreadable images left out")
        print(printable(f"{source.root}: {notes[-1]}, the first {manifest['skipped'][0]}"), file=sys.stderr)
    hashes = [manifest["sha256"][split] for split in SPLITS]
    return Dataset(
        name=source.name,
        train=splits["train"],
        test=splits["test"],
        classes=classes,
        domains=domains,
        mean=tuple(manifest["mean"]),
        std=tuple(manifest["std"]),
        digest=content_digest(splits["train"], splits["test"], hashes, classes, domains),
        note="; ".join(filter(None, notes)),
    )


@contextmanager
def _progress(name: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr if that is a terminal and `quiet` is off; yields what moves it on by some images."""
    console = Console(emoji=False, stderr=True)
    columns = (
        TextColumn("decoding {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bars:
        bar = bars.add_task(escape(name), total=total)
        yield lambda count: bars.advance(bar, count)
