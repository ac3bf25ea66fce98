"""ImageNet and its offspring: a folder per class, named by its synset (n01440764), and validation images."""

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from bench.data.class_lists import class_list, fingerprint
from bench.data.listing import Entry, Listing, children, labelled
from bench.data.named.lists import entry_of
from bench.errors import UserError

SYNSETS_OF_VAL = "imagenet_2012_validation_synset_labels.txt"
KAGGLE_OF_VAL = "LOC_val_solution.csv"
_SYNSET = re.compile("n[0-9]{8}")


def imagenet(root: Path) -> Listing:
    """ImageNet-1k: `train/<synset>/*.JPEG` and `val`, in class folders or flat with one of two files of its labels."""
    return _listing(root, _class_folders(root / "train"))


def imagenet100(root: Path) -> Listing:
    """The 100 class folders there are, else those of CMC's list out of all of ImageNet-1k.

    The note tells of 100 that are not CMC's. Raises UserError for another number that does not hold CMC's.
    """
    found, wanted = _class_folders(root / "train"), sorted(class_list("cmc"))
    if len(found) == len(wanted):
        if set(found) == set(wanted):
            return _listing(root, found)
        common = len(set(found) & set(wanted))
        mark = fingerprint(sorted(found))
        note = f"another ImageNet-100 class list (fingerprint {mark}, {common} classes in common with CMC's)"
        return _listing(root, found, note)
    missing = [name for name in wanted if name not in set(found)]
    if missing:
        raise UserError(
            f"{root / 'train'}: holds {len(found)} class folders, neither 100 nor all of CMC's list: "
            f"{missing[0]} is the first of {len(missing)} that are missing"
        )
    return _listing(root, wanted)


def tiny_imagenet(root: Path) -> Listing:
    """`train/<synset>/images/*.JPEG` of wnids.txt; `val/images` by val_annotations.txt, or sorted into folders."""
    classes = sorted(_text(root / "wnids.txt").split())
    present = set(_class_folders(root / "train"))
    absent = [name for name in classes if name not in present]
    if absent:
        raise UserError(f"{root / 'train'}: no folder {absent[0]}, which wnids.txt names")
    annotations = root / "val" / "val_annotations.txt"
    if not annotations.exists():
        return _listing(root, classes)
    pairs = (line.split("\t")[:2] for line in _text(annotations).splitlines() if line.strip())
    held_out = ((f"val/images/{name}", *label) for name, *label in pairs)
    return _joined(root, classes, _held_out(root, held_out, classes, annotations))


def _class_folders(folder: Path) -> list[str]:
    found = [child.name for child in children(folder) if _SYNSET.fullmatch(child.name) and child.is_dir()]
    if not found:
        raise UserError(f"{folder}: holds no class folders such as n01440764 (unpack each nXXXXXXXX.tar into its own)")
    return found


def _listing(root: Path, classes: Collection[str], note: str = "") -> Listing:
    if any(_SYNSET.fullmatch(child.name) and child.is_dir() for child in children(root / "val")):
        return _joined(root, classes, labelled(root, Path("val"), "test", "", frozenset(classes)), note)
    where, pairs = _labels_of_flat(root)
    return _joined(root, classes, _held_out(root, pairs, classes, where), note)


def _labels_of_flat(root: Path) -> tuple[Path, Iterator[tuple[str, ...]]]:
    """The file that labels images lying flat in val/, and what it says: path and synset of each."""
    for folder in (
        root,
        root / "val",
        *list(root.parents)[:3],
    ):  # Kaggle's root/ILSVRC/Data/CLS-LOC holds its file above
        synsets, kaggle = folder / SYNSETS_OF_VAL, folder / KAGGLE_OF_VAL
        if synsets.exists():
            names = enumerate(_text(synsets).split(), 1)
            return synsets, ((f"val/ILSVRC2012_val_{number:08}.JPEG", name) for number, name in names)
        if kaggle.exists():
            rows = (line.replace(",", " ").split()[:2] for line in _text(kaggle).splitlines()[1:] if line.strip())
            return kaggle, ((f"val/{image}.JPEG", *name) for image, *name in rows)
    raise UserError(
        f"{root / 'val'}: holds no class folders; put {SYNSETS_OF_VAL} (github.com/tensorflow/models, "
        f"research/slim/datasets) or Kaggle's {KAGGLE_OF_VAL} into {root}, or sort the images into folders with "
        "valprep.sh (github.com/soumith/imagenetloader.torch)"
    )


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="surrogateescape")


def _held_out(root: Path, pairs: Iterable[tuple[str, ...]], classes: Collection[str], where: Path) -> Iterator[Entry]:
    wanted = frozenset(classes)
    for pair in pairs:
        if len(pair) != 2:
            raise UserError(f"{where}: names {pair[0]} without its class")
        path, label = pair
        if label in wanted:
            yield entry_of(root, path, "test", "", label, where)


def _joined(root: Path, classes: Collection[str], held_out: Iterator[Entry], note: str = "") -> Listing:
    train = list(labelled(root, Path("train"), "train", "", frozenset(classes)))
    test = list(held_out)
    for folder, part in (("train", train), ("val", test)):
        empty = sorted(set(classes) - {entry.label for entry in part})
        if empty:
            raise UserError(f"{root / folder}: {len(empty)} classes have no images there, the first {empty[0]}")
    return Listing(train + test, tuple(sorted(classes)), note)
