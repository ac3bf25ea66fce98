"""From what was seen to what is said of it: files, duplicates, lists, classes."""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from bench.data.class_lists import class_list, fingerprint
from bench.data.doctor.digests import Digests
from bench.data.doctor.examine import Record
from bench.data.doctor.files import COLOURS, DEFECTS
from bench.data.doctor.lists import Slip
from bench.data.doctor.variants import IMAGENET100, identify, near

OK, NOTE, ATTENTION = "ok", "note", "attention"
_SLIPS = {
    "broken": ("line is not a path below the folder and a label", "lines are not a path below the folder and a label"),
    "label": ("label disagrees with the class folder of its path", "labels disagree with the class folder of the path"),
    "twice": ("line names a path that another one names", "lines name a path that another one names"),
}


@dataclass
class Finding:
    """One thing said about a dataset. level: ok, note (nothing to do) or attention.

    positions: of the images it is about, in groups (one each, or those that are equal). names: of anything else.
    """

    level: str
    check: str
    text: str
    positions: "list[list[int]] | array[int]" = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def several(count: int, one: str, many: str) -> str:
    """The number with the words for one or for many."""
    return f"{count:,} {one if count == 1 else many}"


def file_findings(record: Record, quick: bool) -> list[Finding]:
    """Files that cannot be used, and files that do not hold 8-bit RGB; `quick` says how closely it was looked."""
    found = []
    for mark, meaning in DEFECTS.items():
        if mark in record.marks:
            positions = record.marks[mark]
            found.append(Finding(ATTENTION, "files", f"{len(positions):,} {mark}: {meaning}", positions))
    if not found:
        text = "headers and ends are whole; none decoded (--quick)" if quick else f"all {len(record.labels):,} decode"
        found.append(Finding(OK, "files", text))
    for mark, meaning in COLOURS.items():
        positions = record.marks.get(mark, array("I"))
        if len(positions) == len(record.labels) > 0:
            found.append(Finding(OK, "colour", f"all {mark} ({meaning})"))
        elif positions:
            text = f"{len(positions):,} {mark} ({meaning}); converted when decoded"
            found.append(Finding(NOTE, "colour", text, positions))
    return found


def duplicate_findings(record: Record, quick: bool) -> list[Finding]:
    """Equal images between the splits, within each, and under different classes."""
    if quick:
        return [Finding(NOTE, "duplicates", "not looked for (--quick)")]
    tests = np.frombuffer(record.tests, dtype=np.uint8).astype(bool)
    labels = np.frombuffer(record.labels, dtype=np.uint32)
    conflicts: list[list[int]] = []
    within: dict[str, list[list[int]]] = {"train": [], "test": []}
    for group in record.pixels.groups():
        for split, part in (("train", group[~tests[group]]), ("test", group[tests[group]])):
            if len(part) > 1:
                within[split].append(part.tolist())
        if len(np.unique(labels[group])) > 1:
            conflicts.append(group.tolist())
    found = [_leak(record, tests)]
    for split, groups in within.items():
        if groups:
            surplus = sum(len(group) - 1 for group in groups)
            copies = several(surplus, "copy", "copies")
            found.append(Finding(NOTE, "duplicates", f"within {split}: {copies} of another image", groups))
    if conflicts:
        text = f"{sum(map(len, conflicts)):,} images are equal to another one under another class"
        found.append(Finding(NOTE, "duplicates", text, conflicts))
    return found


def _leak(record: Record, tests: np.ndarray) -> Finding:
    groups = _crossing(record.pixels, tests)
    if not groups:
        return Finding(OK, "duplicates", "no test image has the pixels of a training image")
    leaked, same = (
        sum(int(tests[group].sum()) for group in each) for each in (groups, _crossing(record.content, tests))
    )
    text = several(leaked, "test image has", "test images have") + " the pixels of a training image"
    text += f" ({same:,} the same file, byte by byte)" if same else ""
    return Finding(ATTENTION, "duplicates", text, [group.tolist() for group in groups])


def _crossing(digests: Digests, tests: np.ndarray) -> list[np.ndarray]:
    """The groups of equal digests with both a training and a test image."""
    return [group for group in digests.groups() if tests[group].any() and not tests[group].all()]


def slip_findings(slips: list[Slip]) -> list[Finding]:
    """What is wrong in the list files."""
    found = []
    for what, words in _SLIPS.items():
        names = [slip.where for slip in slips if slip.what == what]
        if names:
            found.append(Finding(ATTENTION, "lists", several(len(names), *words), names=names))
    return found or [Finding(OK, "lists", "every line names a path once, with the label of its class folder")]


def class_findings(classes: list[str], expected: str = "") -> list[Finding]:
    """The fingerprint of the classes in label order, the variant they are, and what that means.

    expected: the key of IMAGENET100 that the dataset should have, or "".
    """
    ordered, unordered = fingerprint(classes), fingerprint(sorted(classes))
    order = "labels follow the sorted names" if ordered == unordered else f"in label order {ordered}"
    found = [Finding(OK, "class list", f"{len(classes):,} classes, fingerprint {unordered}; {order}")]
    variant = identify(classes)
    if variant.common is None or variant.key == "cmc":
        if variant.title:
            found.append(Finding(OK, "class list", f"these are the classes of {variant.title}"))
        return found + _lacking(classes, expected)
    what = variant.title or f"another class list{_nearest(classes)}"
    text = (
        f"{what}: {variant.common} of 100 classes in common with CMC's; its numbers are not comparable with those "
        f"on CMC's list ({IMAGENET100['cmc']})"
    )
    found.append(Finding(ATTENTION if expected else NOTE, "class list", text))
    return found + _lacking(classes, expected)


def _nearest(classes: list[str]) -> str:
    key, common = near(classes)[0]
    return f", nearest to that of {IMAGENET100[key]} ({common} in common)" if key != "cmc" and common > 50 else ""


def _lacking(classes: list[str], expected: str) -> list[Finding]:
    wanted = set(class_list(expected)) if expected else set()
    found = []
    for text, names in (
        ("of the classes of CMC's list not here", wanted - set(classes)),
        ("of the classes here not in CMC's list", set(classes) - wanted if expected else set()),
    ):
        if names:
            found.append(Finding(ATTENTION, "class list", f"{len(names)} {text}", names=sorted(names)))
    return found


def all_names(findings: Iterable[Finding], named: Callable[[set[int]], dict[int, str]]) -> None:
    """Fill in the names of all positions that the findings are about; named: looks up a set of positions."""
    about = [each for each in findings if len(each.positions)]
    wanted = {p for each in about for group in each.positions for p in ([group] if isinstance(group, int) else group)}
    names = named(wanted) if wanted else {}
    for each in about:
        for group in each.positions:
            each.names.append(names[group] if isinstance(group, int) else " = ".join(names[p] for p in group))
