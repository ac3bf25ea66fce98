"""`data check`: the data doctor, on one dataset."""

import argparse
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench.data.arrays import Dataset
from bench.data.class_lists import fingerprint
from bench.data.datasets import catalogue, load
from bench.data.doctor.counts import Row, count_findings, count_rows
from bench.data.doctor.examine import Record, examine_arrays, examine_files, file_names
from bench.data.doctor.findings import (
    ATTENTION,
    NOTE,
    Finding,
    all_names,
    class_findings,
    duplicate_findings,
    file_findings,
    slip_findings,
)
from bench.data.doctor.lists import classes_of, slips
from bench.data.doctor.releases import Release, other_version, release_of
from bench.data.doctor.source import Source, folder_source, named_source
from bench.data.doctor.walk import empty_folders
from bench.data.folders import LAYOUTS
from bench.data.listing import expanded
from bench.data.named import NAMED
from bench.errors import UserError, nearest, printable
from bench.files import write_atomic
from bench.layers import check_range

SHOWN = 5  # names under a finding on the terminal; the JSON has all ...
LONGEST = 150  # characters of a file's name that come from the dataset's
WIDTH = 110  # ... and whole
STYLES = {"ok": "green", "note": "yellow", "attention": "bold red"}


def check(args: argparse.Namespace) -> int:
    """Prints what is right and wrong with a dataset and writes it as JSON; 0: all well, 1: something is not.

    Raises UserError for an unknown dataset or a folder that is not there.
    """
    layout, colon, path = args.name.partition(":")
    if not (colon and layout in LAYOUTS) and args.name not in _checkable():
        raise UserError(f"nothing to check for '{args.name}'{nearest(args.name, _checkable())}")
    if args.image_size is not None:
        check_range(args.image_size, "--image-size: data.image_size")
    if colon:
        return _check_files(args, folder_source(layout, path), args.image_size)
    data_dir = expanded(Path(args.data_dir)) if args.data_dir else None
    try:
        found = (
            named_source(args.name, data_dir)
            if args.name in NAMED
            else load(args.name, out=args.out, data_dir=data_dir, download=False)
        )
    except UserError as error:
        Console(emoji=False, soft_wrap=True).print(f"[bold red]missing[/] {escape(str(error))}", highlight=False)
        return 1
    if isinstance(found, Dataset):
        return _check_arrays(args, found)
    return _check_files(args, found, NAMED[args.name].stored_side(args.image_size) if args.image_size else None)


def _told(args: argparse.Namespace, release: Release | None, record: Record, findings: list[Finding]) -> int:
    """Writes and prints the findings; returns the exit status."""
    rows = count_rows(record, release)
    stem = re.sub("[^A-Za-z0-9_.]+", "-", args.name).strip("-.")
    if len(stem) > LONGEST:
        stem = f"{stem[-LONGEST:]}-{hashlib.sha256(os.fsencode(args.name)).hexdigest()[:8]}"
    target = args.out / f"data-check-{stem}.json"
    _write(target, _content(args, record, rows, findings))
    _print(args, record, rows, findings, target)
    return int(any(each.level == ATTENTION for each in findings))


def _checkable() -> list[str]:
    return [name for name in catalogue() if ":" not in name] + [f"{layout}:PATH" for layout in LAYOUTS]


def _check_files(args: argparse.Namespace, source: Source, side: int | None) -> int:
    total = sum(1 for _ in source.entries())
    if not total:
        raise UserError(f"{source.root}: no images in it")
    with _progress(args.name, total, args.quiet) as advance:
        record = examine_files(source.root, source.entries(), image_size=side, quick=args.quick, advance=advance)
    empty = empty_folders(source.layout, source.root, record.counts.keys()) if source.layout else []
    release = other_version(args.name, _by_domain(record)) or source.release
    findings = count_findings(record, release, empty)
    if source.lists:
        findings += slip_findings(slips(source.lists))
    classes = classes_of(source.lists) if source.lists else sorted(record.classes)
    findings += class_findings(classes, source.expected) + _released_order(args.name, classes)
    findings += file_findings(record, args.quick)
    findings += duplicate_findings(record, args.quick)
    all_names(findings, lambda wanted: file_names(source.entries(), wanted, len(record.labels)))
    return _told(args, release, record, findings)


def _by_domain(record: Record) -> Counter[str]:
    images: Counter[str] = Counter()
    for (_, domain, _), count in record.counts.items():
        images[domain] += count
    return images


def _check_arrays(args: argparse.Namespace, dataset: Dataset) -> int:
    release = release_of(args.name)
    record = examine_arrays(dataset.train, dataset.test, dataset.classes)
    findings = count_findings(record, release) + class_findings(list(dataset.classes))
    findings += _released_order(args.name, list(dataset.classes))
    findings += duplicate_findings(record, quick=False)
    first = len(dataset.train.images)
    all_names(findings, lambda wanted: {position: _position(position, first) for position in wanted})
    return _told(args, release, record, findings)


def _released_order(name: str, classes: list[str]) -> list[Finding]:
    """What order CaSSLe's and PNR's code gives these classes, which is part of what its numbers are measured on."""
    if name not in ("cifar100", "imagenet100") or len(classes) != 100:
        return []
    from bench.data.scenarios import RELEASED_ORDER_SEED, class_order

    order = class_order(100, RELEASED_ORDER_SEED, "pnr").tolist()
    text = (
        f"released code takes {', '.join(map(str, order[:6]))} .. (torch.randperm(100), seed {RELEASED_ORDER_SEED}), "
        f"fingerprint {fingerprint(classes[label] for label in order)}; so does data.order=pnr or a recipe, where "
        "else the seed `order` draws it"
    )
    return [Finding(NOTE, "class order", text)]


def _position(position: int, first_test: int) -> str:
    return f"train[{position}]" if position < first_test else f"test[{position - first_test}]"


def _content(args: argparse.Namespace, record: Record, rows: list[Row], findings: list[Finding]) -> dict[str, Any]:
    classes: dict[str, dict[str, int]] = {}
    for (split, domain, label), count in sorted(record.counts.items()):
        classes.setdefault(label, {})[" ".join(filter(None, (domain, split)))] = count
    return {
        "dataset": args.name,
        "quick": args.quick,
        "images": len(record.labels),
        "fingerprint": fingerprint(sorted(record.classes)),
        "splits": [row._asdict() for row in rows],
        "findings": [
            {"level": each.level, "check": each.check, "text": each.text, "names": each.names} for each in findings
        ],
        "classes": classes,
    }


def _write(target: Path, content: dict[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, (json.dumps(content, indent=1) + "\n").encode(errors="surrogateescape"))


def _print(args: argparse.Namespace, record: Record, rows: list[Row], findings: list[Finding], target: Path) -> None:
    console = Console(emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 140
    console.print(_count_table(args.name, record, rows))
    if args.all:
        console.print(_class_table(record))
    for each in sorted(findings, key=lambda each: each.level != ATTENTION):
        style = STYLES[each.level]
        console.print(f"[{style}]{each.level:9}[/] {each.check:11} {escape(printable(each.text))}", highlight=False)
        for name in each.names[:SHOWN]:
            console.print(f"{'':22} {escape(_shown(name))}", highlight=False)
        if len(each.names) > SHOWN:
            console.print(f"{'':22} and {len(each.names) - SHOWN:,} more", highlight=False)
    wrong = sum(each.level == ATTENTION for each in findings)
    verdict = f"{wrong} thing{'s' * (wrong > 1)} to look at" if wrong else "all is well"
    console.print(f"{verdict}; everything by name in {target}", markup=False, highlight=False)


def _shown(name: str) -> str:
    """A name for the terminal: cut, and in one line of printable characters."""
    text = printable(name)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


def _count_table(name: str, record: Record, rows: list[Row]) -> Table:
    table = Table(title=escape(printable(f"{name}: {len(record.labels):,} images")), title_justify="left")
    domains = any(row.domain for row in rows)
    known = any(row.release is not None for row in rows)
    for head in (*(["domain"] * domains), "split"):
        table.add_column(head)
    for head in ("images", *(["in the release"] * known), "classes", "per class: min", "median", "max"):
        table.add_column(head, justify="right")
    for row in rows:
        release = [f"{row.release:,}" if row.release is not None else ""] * known
        cells = (f"{row.images:,}", *release, f"{row.classes:,}", f"{row.least:,}", f"{row.middle:,g}", f"{row.most:,}")
        table.add_row(*([escape(_shown(row.domain))] * domains), row.split, *cells)
    return table


def _class_table(record: Record) -> Table:
    places = sorted({(domain, split) for split, domain, _ in record.counts}, key=lambda key: (key[0], key[1] == "test"))
    table = Table("class", *(escape(_shown(" ".join(filter(None, place)))) for place in places))
    for label in sorted(record.classes):
        counts = (record.counts[split, domain, label] for domain, split in places)
        table.add_row(escape(_shown(label)), *(f"{count:,}" for count in counts))
    return table


@contextmanager
def _progress(name: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr if that is a terminal and `quiet` is off; yields what moves it on by some images."""
    console = Console(emoji=False, stderr=True)
    columns = (TextColumn("checking {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bars:
        bar = bars.add_task(escape(name), total=total)
        yield lambda count: bars.advance(bar, count)
