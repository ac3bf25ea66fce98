"""Datasets given by list files, as DomainNet: lines "path label" in <domain>_train.txt and <domain>_test.txt."""

import os
from collections import Counter
from collections.abc import Container, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bench.data.doctor.digests import Digests
from bench.data.doctor.files import digest
from bench.data.listing import Entry
from bench.errors import UserError

_SPLITS = ("train", "test")


class ListFile(NamedTuple):
    """A list file, and the domain and split that its name says."""

    path: Path
    domain: str
    split: str


class Slip(NamedTuple):
    """Lines of lists that cannot be right. what: "broken", "label" or "twice". where: file:line, with the reason."""

    what: str
    where: str


def list_files(folder: Path, domains: Container[str]) -> list[ListFile]:
    """The list files of these domains in a folder, in sorted order; empty if there are none.

    Raises UserError where one of a pair is missing.
    """
    found = []
    for path in sorted(folder.glob("*.txt")):
        domain, _, split = path.stem.rpartition("_")
        if domain in domains and split in _SPLITS:
            found.append(ListFile(path, domain, split))
    present = {(each.domain, each.split) for each in found}
    for domain in sorted({each.domain for each in found}):
        for split in _SPLITS:
            if (domain, split) not in present:
                raise UserError(f"{folder}: {domain}_{split}.txt is missing")
    return found


def classes_of(files: list[ListFile]) -> list[str]:
    """The class folders in the order of their labels."""
    label_of = {folder: label for (label, folder), _ in reversed(_pairs(files).most_common())}
    return sorted(label_of, key=lambda folder: (label_of[folder], folder))


def listed(files: list[ListFile]) -> Iterator[Entry]:
    """The images that the lists name, there or not, in order; the class is the folder of the path.

    size and mtime_ns are 0: whoever opens the file finds out. Lines that are not "path label" are left out.
    """
    for file, _, path, _ in _lines(files):
        if path:
            yield Entry(path, file.split, file.domain, Path(path).parent.name, 0, 0)


def slips(files: list[ListFile]) -> list[Slip]:
    """Broken lines, labels that disagree with the class folder of most such lines, and paths listed twice."""
    of_class, of_label = {}, {}
    for (label, folder), _ in reversed(_pairs(files).most_common()):
        of_class[folder], of_label[label] = label, folder
    found, paths = [], Digests()
    for file, number, path, label in _lines(files):
        folder = Path(path).parent.name
        where = f"{file.path.name}:{number}"
        if not path:
            found.append(Slip("broken", f"{where}: not a path below the folder and a label"))
            continue
        if of_class[folder] != label:
            found.append(Slip("label", f"{where}: {path} has label {label}, other {folder} {of_class[folder]}"))
        elif of_label[label] != folder:
            found.append(Slip("label", f"{where}: {path} has label {label}, which is that of {of_label[label]}"))
        paths.add(digest(os.fsencode(path)))
    twice = {int(position) for group in paths.groups() for position in group}
    good = (line for line in _lines(files) if line[2])
    for position, (file, number, path, _) in enumerate(good):
        if position in twice:
            found.append(Slip("twice", f"{file.path.name}:{number}: {path}"))
    return found


def _pairs(files: list[ListFile]) -> Counter[tuple[int, str]]:
    """How often each label goes with each class folder."""
    return Counter((label, Path(path).parent.name) for _, _, path, label in _lines(files) if path)


def _lines(files: list[ListFile]) -> Iterator[tuple[ListFile, int, str, int]]:
    """File, line number, path and label of every line that is not blank; path "" where the line is broken."""
    for file in files:
        with file.path.open(encoding="utf-8", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, 1):
                path, _, label = line.strip().rpartition(" ")
                if line.strip():
                    inside = not path.startswith("/") and ".." not in PurePosixPath(path).parts
                    good = path and inside and label.isascii() and label.isdigit() and len(label) < 10
                    yield (file, number, path.strip(), int(label)) if good else (file, number, "", -1)
