"""Write the report of a results folder: records in, tables and figures out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import printable
from bench.lease import hold_briefly, until_kept
from bench.links import refuse_links
from bench.report import tables
from bench.report.comparisons import flips
from bench.report.formats import FIGURE_FORMATS, FORMATS, check_formats
from bench.report.maintable import Section, main_table
from bench.report.probetables import transfer_csv
from bench.report.statistics import Summary, summarise
from bench.report.transfers import transfers

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class ReportResult:
    """What `write_report` made: its files in order, one line per warning, and the numbers behind them."""

    files: tuple[Path, ...]
    warnings: tuple[str, ...]
    summary: Summary
    sections: tuple[Section, ...]


def write_report(out: Path, formats: Sequence[str] = FORMATS) -> ReportResult:
    """Write `out/report/` from `out/records/`; the same records give the same bytes.

    formats: which of `FORMATS`; csv stands for `table.csv` and `matrix.csv` (and `transfer.csv` where other datasets
    were probed), png and pdf for the figures.
    Raises UserError for an unknown format, no records, or records that contradict each other.
    """
    check_formats(formats)
    summary = summarise(out)
    sections = main_table(summary)
    warnings = tuple(map(printable, (*summary.warnings, *flips(summary))))
    texts = {
        "md": lambda: {"table.md": tables.markdown(summary, sections, warnings)},
        "tex": lambda: {"table.tex": tables.latex(summary, sections)},
        "csv": lambda: {
            "table.csv": tables.cells_csv(summary),
            "matrix.csv": tables.matrix_csv(summary),
            **_transfer(summary),
        },
    }
    contents = {
        name: text.encode() for kind, render in texts.items() if kind in formats for name, text in render().items()
    }
    asked = [name for name in FIGURE_FORMATS if name in formats]
    if asked:
        # matplotlib takes a second to import: only who asks for figures waits for it
        from bench.report.figures import draw_all

        contents |= draw_all(summary, asked)
    refuse_links(out, "report")
    folder = out / "report"
    put(folder, contents)
    return ReportResult(tuple(folder / name for name in contents), warnings, summary, tuple(sections))


@until_kept
def put(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes the files of a report, each whole or not at all, while no other process does."""
    with hold_briefly(folder / ".writing") as lease:
        for name, data in contents.items():
            lease.write(folder / name, data)


def _transfer(summary: Summary) -> dict[str, str]:
    """`transfer.csv`, where there is anything to put in it."""
    sections = transfers(summary)
    return {"transfer.csv": transfer_csv(sections)} if sections else {}


def terminal_table(result: ReportResult) -> "Table":
    """The main table of a report, for a rich console."""
    return tables.terminal(result.sections)
