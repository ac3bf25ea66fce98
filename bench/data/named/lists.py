"""DomainNet and PACS: a folder per domain and class, with released lists of the files of each split."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from bench.data.listing import Entry, Listing, labelled, regular
from bench.errors import UserError

# Train and test images of the cleaned lists: TensorFlow Datasets, docs/catalog/domainnet.md, version 1.0.0.
CLEANED = {
    "real": (120_906, 52_041),
    "quickdraw": (120_750, 51_750),
    "painting": (50_416, 21_850),
    "sketch": (48_212, 20_916),
    "infograph": (36_023, 15_582),
    "clipart": (33_525, 14_604),
}
# Images of the original lists, train and test together: ai.bu.edu/M3SDA, row "#Original".
ORIGINAL = {
    "real": 175_327,
    "quickdraw": 172_500,
    "painting": 75_759,
    "sketch": 70_386,
    "infograph": 53_201,
    "clipart": 48_837,
}
DOMAINNET_LISTS = ("", "txt", "splits")
# arXiv:1710.03077
PACS = {"art_painting": 2_048, "cartoon": 2_344, "photo": 1_670, "sketch": 3_929}
PACS_LISTS = ("", "pacs_label", "splits", "..", "../pacs_label", "../Train val splits and h5py files pre-read")
PACS_SPLITS = {"train": "train", "crossval": "test"}
# Listed as .png where the file is .jpg: readers of the lists (Dassl among them) leave it out.
PACS_SLIP = "sketch/dog/n02103406_4068-1.png"


def domainnet(root: Path) -> Listing:
    """The files of {domain}_train.txt and {domain}_test.txt; labels are the lists', the note says whose lists.

    Raises UserError for a list or a listed file that is not there, and for a number that names two classes.
    """
    names = [f"{domain}_{split}.txt" for domain in CLEANED for split in ("train", "test")]
    folder = _lists(root, DOMAINNET_LISTS, names)
    if folder is None:
        raise UserError(f"{root}: {names[0]} is missing, and the other lists of images (not even in {root / 'txt'})")
    entries: list[Entry] = []
    class_of: dict[int, str] = {}
    content = hashlib.sha256()
    for name in names:
        domain, _, split = name.removesuffix(".txt").rpartition("_")
        for line, path, number in _lines(folder / name):
            content.update(os.fsencode(f"{split} {path} {number}\n"))
            label = PurePosixPath(path).parent.name
            entries.append(entry_of(root, path, split, domain, label, line))
            if class_of.setdefault(number, label) != label:
                raise UserError(f"{line}: {number} is the label of {label} here and of {class_of[number]} elsewhere")
    if len(set(class_of.values())) < len(class_of):
        twice = Counter(class_of.values()).most_common(1)[0][0]
        raise UserError(f"{folder}: the lists give {twice} several labels")
    classes = tuple(class_of[number] for number in sorted(class_of))
    return Listing(entries, classes, _whose(entries, content.hexdigest()[:12]))


def _whose(entries: list[Entry], fingerprint: str) -> str:
    counts = Counter((entry.domain, entry.split) for entry in entries)
    if all((counts[domain, "train"], counts[domain, "test"]) == pair for domain, pair in CLEANED.items()):
        return f"DomainNet by its cleaned lists (fingerprint {fingerprint})"
    if all(counts[domain, "train"] + counts[domain, "test"] == images for domain, images in ORIGINAL.items()):
        return f"DomainNet by its original lists (fingerprint {fingerprint})"
    train, test = (sum(counts[domain, split] for domain in CLEANED) for split in ("train", "test"))
    return (
        f"DomainNet by lists of {train:,} + {test:,} images that are neither the original nor the cleaned ones, of "
        f"{sum(pair[0] for pair in CLEANED.values()):,} + {sum(pair[1] for pair in CLEANED.values()):,} "
        f"(fingerprint {fingerprint})"
    )


def pacs(root: Path) -> Listing:
    """The four domains, split by the released lists (train and crossval) where they are there, else by hash.

    The released test lists are train and crossval together, for domains that training does not see. Raises UserError
    where some lists are missing, and for a listed file that is not there.
    """
    names = {f"{domain}_{part}_kfold.txt": (domain, split) for domain in PACS for part, split in PACS_SPLITS.items()}
    folder = _lists(root, PACS_LISTS, list(names))
    if folder is None:
        entries = [entry for domain in PACS for entry in labelled(root, Path(domain), "", domain)]
        return Listing(entries, note="a fifth of PACS held out by hash, without its released lists")
    entries = [
        entry_of(root, path, split, domain, PurePosixPath(path).parent.name, line)
        for name, (domain, split) in names.items()
        for line, path, _ in _lines(folder / name)
        if path != PACS_SLIP
    ]
    return Listing(entries, note="PACS split by its released lists, train and crossval")


def entry_of(root: Path, path: str, split: str, domain: str, label: str, where: object) -> Entry:
    """The entry of a listed file; raises UserError naming the list (`where`) for one that is not below `root`."""
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise UserError(f"{where}: {path} leads out of {root}")
    try:
        status = regular(root / path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{where}: {root / path} is not there ({why})") from error
    return Entry(path, split, domain, label, status.st_size, status.st_mtime_ns)


def _lists(root: Path, places: tuple[str, ...], names: list[str]) -> Path | None:
    """The first folder that holds the lists; raises UserError where some of them are missing."""
    for place in places:
        folder = root / place
        missing = [name for name in names if not (folder / name).is_file()]
        if not missing:
            return folder
        if len(missing) < len(names):
            raise UserError(f"{folder}: {len(missing)} of {len(names)} lists are missing, the first {missing[0]}")
    return None


def _lines(file: Path) -> Iterator[tuple[str, str, int]]:
    """Place, path and label of every line that is not blank; raises UserError for one that is not path and label."""
    with file.open(encoding="utf-8", errors="surrogateescape") as lines:
        for count, line in enumerate(lines, 1):
            path, _, label = line.strip().rpartition(" ")
            if not line.strip():
                continue
            if not (path and label.isascii() and label.isdigit() and len(label) < 10):
                raise UserError(f"{file}:{count}: takes a path and a label, not '{line.strip()[:80]}'")
            yield f"{file}:{count}", path.strip(), int(label)
