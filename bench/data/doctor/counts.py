"""How many images of each class there are, against the public release and one another."""

from collections import Counter
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from bench.data.doctor.examine import Record
from bench.data.doctor.findings import ATTENTION, NOTE, OK, Finding, several
from bench.data.doctor.releases import Release


class Row(NamedTuple):
    """Images of a domain and split: how many, in how many classes, and least, median and most of a class."""

    domain: str
    split: str
    images: int
    classes: int
    least: int
    middle: float
    most: int
    release: int | None


def count_rows(record: Record, release: Release | None) -> list[Row]:
    """One row per domain and split, training first."""
    groups: dict[tuple[str, str], list[int]] = {}
    for (split, domain, _), count in record.counts.items():
        groups.setdefault((domain, split), []).append(count)
    rows = []
    for domain, split in sorted(groups, key=lambda key: (key[0], key[1] == "test", key[1])):
        counts = groups[domain, split]
        expected = release.totals.get((domain, split)) if release else None
        spread = min(counts), median(counts), max(counts)
        rows.append(Row(domain, split, sum(counts), len(counts), *spread, expected))
    return rows


def count_findings(record: Record, release: Release | None, empty_folders: Iterable[str] = ()) -> list[Finding]:
    """Totals and classes against the release, missing classes, and classes far from the others."""
    by_split: dict[str, Counter[str]] = {"train": Counter(), "test": Counter()}
    for (split, _, label), count in record.counts.items():
        by_split[split][label] += count
    found = list(_totals(record, release)) if release else []
    for split, counts in by_split.items():
        missing = sorted({name for each in by_split.values() for name in each} - set(counts))
        if missing:
            text = f"{several(len(missing), 'class', 'classes')} without {split} images"
            found.append(Finding(ATTENTION, "counts", text, names=missing))
        if release and split in release.per_class:
            found += _beyond(split, counts, *release.per_class[split])
        elif counts and not (release and release.totals):
            found += _uneven(split, counts)
    empty = sorted(empty_folders)
    if empty:
        found.append(
            Finding(
                ATTENTION,
                "counts",
                f"{several(len(empty), 'class folder', 'class folders')} without an image",
                names=empty,
            )
        )
    if not any(each.level == ATTENTION for each in found):
        text = f"those of the public release ({release.source})" if release else "every class in both splits"
        found.insert(0, Finding(OK, "counts", text))
    return found


def _totals(record: Record, release: Release) -> Iterable[Finding]:
    classes = len({label for _, _, label in record.counts})
    if classes != release.classes:
        yield Finding(ATTENTION, "counts", f"{classes:,} classes; the public release has {release.classes:,}")
    for (domain, split), expected in release.totals.items():
        images = sum(n for (s, d, _), n in record.counts.items() if domain in ("", d) and split in ("", s))
        if images != expected:
            what = " ".join(filter(None, (domain, split)))
            text = f"{what}: {images:,} images; the public release has {expected:,} ({release.source})"
            yield Finding(ATTENTION, "counts", text)


def _beyond(split: str, counts: Counter[str], least: int, most: int) -> Iterable[Finding]:
    beyond = [f"{name} ({count:,})" for name, count in sorted(counts.items()) if not least <= count <= most]
    if beyond:
        usual = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        yield Finding(
            ATTENTION,
            "counts",
            f"{split}: {several(len(beyond), 'class does', 'classes do')} not have {usual} images",
            names=beyond,
        )


def _uneven(split: str, counts: Counter[str]) -> Iterable[Finding]:
    middle = median(counts.values())
    far = [f"{name} ({n:,})" for name, n in sorted(counts.items()) if not middle / 2 <= n <= 2 * middle]
    if far:
        some = several(len(far), "class has", "classes have")
        text = f"{split}: {some} less than half or more than twice the median of {middle:g}"
        yield Finding(NOTE, "counts", text, names=far)
