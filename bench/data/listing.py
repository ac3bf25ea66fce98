"""Which image files a folder holds, and what split, class and domain each belongs to."""

import hashlib
import os
import stat
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.data.decode import SUFFIXES
from bench.errors import UserError, nearest

TEST_SHARE = 0.2


class Entry(NamedTuple):
    """An image file: its path relative to the folder, where it belongs, bytes and modification time in ns."""

    path: str
    split: str
    domain: str
    label: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """The files of a dataset; classes: their names in the order of the labels (empty: sorted); note: what a reader of
    results must know of them."""

    entries: Sequence[Entry]
    classes: tuple[str, ...] = ()
    note: str = ""
    domains: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.classes:
            object.__setattr__(self, "classes", tuple(sorted({entry.label for entry in self.entries})))
        domains = {entry.domain for entry in self.entries if entry.domain}
        object.__setattr__(self, "domains", tuple(sorted(domains)))

    def columns(self, entries: Sequence[Entry]) -> tuple[np.ndarray, np.ndarray]:
        """Labels and domains of some of the files, both (n,) int64."""
        label_of = {name: label for label, name in enumerate(self.classes)}
        domain_of = {name: place for place, name in enumerate(self.domains)} | {"": 0}
        labels = np.fromiter((label_of[entry.label] for entry in entries), np.int64, len(entries))
        return labels, np.fromiter((domain_of[entry.domain] for entry in entries), np.int64, len(entries))


def class_folders(root: Path) -> list[Entry]:
    """The images of `root/<class>/..` with a split by hash, or of `root/train/<class>/..` and test (or val).

    Where both test and val are there, test is taken. Raises UserError for an empty or missing folder, a split
    without images, fewer than two classes, or a class in test that is not in train.
    """
    root = existing(root)
    if not any(child.is_dir() for child in children(root / "train")):
        entries = list(labelled(root, Path(), "", ""))
        _require(root, entries, "<class>/image")
        return entries
    held_out = next((name for name in ("test", "val") if (root / name).is_dir()), None)
    if held_out is None:
        raise UserError(f"{root}: holds train/ but neither test/ nor val/")
    train = list(labelled(root, Path("train"), "train", ""))
    test = list(labelled(root, Path(held_out), "test", ""))
    _require(root / "train", train, "<class>/image")
    if not test:
        raise UserError(f"{root / held_out}: no images in class folders")
    for label in sorted({entry.label for entry in test}):
        known = {entry.label for entry in train}
        if label not in known:
            raise UserError(f"{root / held_out}: class {label} is not in train/{nearest(label, known)}")
    return train + test


def domain_folders(root: Path) -> list[Entry]:
    """The images of `root/<domain>/<class>/..`, with a split by hash.

    Raises UserError for an empty or missing folder, fewer than two domains or fewer than two classes.
    """
    root = existing(root)
    entries = []
    for domain in children(root):
        if domain.is_dir():
            entries += list(labelled(root, Path(domain.name), "", domain.name))
    _require(root, entries, "<domain>/<class>/image")
    found = sorted({entry.domain for entry in entries})
    if len(found) < 2:
        raise UserError(f"{root}: one domain only ({found[0]}); for one, give folder:{root / found[0]}")
    return entries


def split_of(path: str) -> str:
    """The split of a path, one in five "test": by its SHA-256 alone, so that no added file moves another."""
    value = int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8], "big")
    return "test" if value < TEST_SHARE * 2**64 else "train"


def expanded(path: Path) -> Path:
    """The path with its `~` followed; raises UserError for the home of nobody."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"{path}: no such home folder") from None


def existing(root: Path) -> Path:
    """The folder, links followed; raises UserError where there is none."""
    try:
        found = root.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that no file can have
        raise UserError(f"{root}: no such folder") from None
    if not found.is_dir():
        raise UserError(f"{root}: is not a folder")
    return found


def _require(root: Path, entries: list[Entry], layout: str) -> None:
    labels = sorted({entry.label for entry in entries})
    if not labels:
        raise UserError(f"{root}: no images; expected {root}/{layout}")
    if len(labels) < 2:
        raise UserError(f"{root}: one class only ({labels[0]}); expected two or more as {root}/{layout}")


def labelled(root: Path, folder: Path, split: str, domain: str, only: Container[str] | None = None) -> Iterator[Entry]:
    """The images below the class folders of root/folder; `split` "" means by hash; only: names of the classes to take,
    None for all."""
    for child in children(root / folder):
        if (only is None or child.name in only) and child.is_dir():
            for path, status in _images(root, Path(child.path), (root / folder,)):
                yield Entry(path, split or split_of(path), domain, child.name, status.st_size, status.st_mtime_ns)


def _images(root: Path, folder: Path, above: tuple[Path, ...]) -> Iterator[tuple[str, os.stat_result]]:
    """Relative path and status of every image below the folder, in sorted order.

    above: the real folders passed on the way. Raises UserError for a link that leaves `root`, is broken or
    loops.
    """
    real = folder.resolve()
    _stay(folder, real, root)
    if real in above:
        raise UserError(f"{folder}: a symbolic link to a folder that holds it")
    for child in children(folder):
        path = Path(child.path)
        if child.is_dir():
            yield from _images(root, path, (*above, real))
        elif path.suffix.lower() in SUFFIXES:
            if child.is_symlink():
                _stay(path, path.resolve(), root)
            yield path.relative_to(root).as_posix(), regular(child)


def regular(file: Path | os.DirEntry[str]) -> os.stat_result:
    """The status of a file; raises UserError for what is none, as a pipe or a device that would be read without an
    end."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{os.fspath(file)}: is not a file")
    return status


def _stay(path: Path, real: Path, root: Path) -> None:
    if not real.is_relative_to(root):
        raise UserError(f"{path}: a symbolic link that leaves {root}; copy the images into it")
    if not real.exists():
        raise UserError(f"{path}: a broken symbolic link")


def children(folder: Path) -> list[os.DirEntry[str]]:
    """The folder's entries by name, without hidden ones (.cache, ._x.jpg); none if it is no folder."""
    if not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda each: each.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error
