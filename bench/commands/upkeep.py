"""`doctor` and `gc`: what of a results folder is damaged, and what of it can go."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.errors import printable
from bench.files import size_text
from bench.upkeep import garbage

if TYPE_CHECKING:
    from bench.upkeep.doctor import Examination

MOST_LINES = 10
COLUMNS = ("whole", "unfinished", "damaged", "unsealed", "stale", "orphaned", "held")


def doctor(args: argparse.Namespace) -> int:
    """Examines --out, repairs it where asked to, and prints what it finds; status 1 where something is damaged."""
    from bench.upkeep.doctor import examine
    from bench.upkeep.repair import put_in_order

    out, look = args.out, _tracker(args.quiet)
    found = examine(out, look)
    older = sum(finding.kind == "unsealed" for finding in found.findings)
    if args.adopt and older:
        print(f"sealing {older} files of an older version, as they are", file=sys.stderr)
    if (args.adopt and older) or (args.repair and found.findings):
        put_in_order(out, found.findings, args.adopt, args.repair, lambda line: print(line, file=sys.stderr))
        found = examine(out, look)
    _print(found, args)
    return 0 if found.in_order else 1


def _tracker(quiet: bool) -> Callable[[list[Path], str], Iterable[Path]]:
    console = Console(stderr=True)

    def follow(paths: list[Path], what: str) -> Iterable[Path]:
        return track(paths, what, console=console, transient=True, disable=quiet or not console.is_terminal)

    return follow


def _print(found: "Examination", args: argparse.Namespace) -> None:
    """A table of counts, then the findings by kind; quiet: only those that are damage."""
    from bench.upkeep.findings import DAMAGED, KINDS

    console = Console(soft_wrap=True)
    if not args.quiet:
        console.print(_table(found))
    for kind, meaning in KINDS.items():
        lines = [printable(f"  {f.path.relative_to(args.out)} {f.text}") for f in found.findings if f.kind == kind]
        if lines and (not args.quiet or kind in DAMAGED):
            more = [f"  and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
            for line in (f"{kind}: {meaning}", *lines[:MOST_LINES], *more):
                console.print(line, markup=False, highlight=False)
    if not args.quiet:
        console.print("in order" if found.in_order else f"not in order: {_advice(found, args)}", highlight=False)


def _advice(found: "Examination", args: argparse.Namespace) -> str:
    kinds = {finding.kind for finding in found.findings}
    options = {"--adopt": not args.adopt and "unsealed" in kinds, "--repair": not args.repair and kinds != {"unsealed"}}
    wanted = " and ".join(option for option, helps in options.items() if helps)
    return f"see `doctor --help` for {wanted}" if wanted else "what is left needs its run's command line, or you"


def _table(found: "Examination") -> Table:
    """Counts of what there is, in columns that count anything."""
    columns = [name for name in COLUMNS if any(counts[name] for counts in found.counts.values())]
    table = Table()
    table.add_column("")
    for name in ("number", *columns):
        table.add_column(name, justify="right")
    for what, counts in found.counts.items():
        table.add_row(what, str(counts["number"]), *(str(counts[name]) for name in columns))
    return table


def gc(args: argparse.Namespace) -> int:
    """Says what no record needs and how much that is; with --yes lets it go."""
    pieces = garbage.find(args.out)
    if not args.quiet:
        _print_pieces(pieces)
    if not args.yes:
        print("nothing is freed without --yes", file=sys.stderr)
        return 0
    freed = garbage.free(args.out, pieces)
    left = len(pieces) - len(freed)
    kept = f"; {left} that somebody holds, or a newer record names, are left" if left else ""
    print(f"{size_text(sum(piece.nbytes for piece in freed))} freed{kept}")
    return 0


def _print_pieces(pieces: list[garbage.Piece]) -> None:
    table = Table()
    for column in ("what no record needs", "number", "size"):
        table.add_column(column, justify="left" if "what" in column else "right")
    for kind, name in garbage.KINDS.items():
        mine = [piece.nbytes for piece in pieces if piece.kind == kind]
        table.add_row(name, str(len(mine)), size_text(sum(mine)))
    table.add_section()
    table.add_row("in all", str(len(pieces)), size_text(sum(piece.nbytes for piece in pieces)))
    Console(soft_wrap=True).print(table)
