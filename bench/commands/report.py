"""`report`: tables and figures from records alone."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.report.formats import FORMATS, NO_REPORT

MOST_WARNINGS = 3


def report(args: argparse.Namespace) -> int:
    """Renders the report and prints the main table."""
    render(args.out, args.format, args.quiet)
    return 0


def render(out: Path, formats: Sequence[str] | None, quiet: bool) -> None:
    """Writes the report; prints the main table, warnings, and where the files are. Nothing for `NO_REPORT`."""
    if formats == NO_REPORT:
        return
    from bench.report.write import terminal_table, write_report  # a second of imports, behind all other work

    result = write_report(out, formats or FORMATS)
    console = Console(emoji=False)
    console.print(terminal_table(result))
    for warning in result.warnings[:MOST_WARNINGS]:
        print(f"warning: {warning}", file=sys.stderr)
    if len(result.warnings) > MOST_WARNINGS:
        print(f"{len(result.warnings) - MOST_WARNINGS} more warnings (all are in table.md)", file=sys.stderr)
    if not quiet:
        count = f"{len(result.files)} file{'' if len(result.files) == 1 else 's'}"
        console.print(f"{count} in {out / 'report'}", markup=False, highlight=False, soft_wrap=True)
