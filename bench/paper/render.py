"""A paper's table as text: Markdown, LaTeX, CSV, and the terminal's."""

import math
from itertools import groupby
from typing import TYPE_CHECKING

from bench.paper.table import NOT_COMPARABLE, QUOTED, Block, Entry, PaperTable
from bench.report.text import STALE, STALE_NOTE, markdown_table, tex
from bench.report.text import csv_text as _csv
from bench.report.text import markdown as _md

if TYPE_CHECKING:
    from rich.table import Table

ABSENT = "not in the ledger"
MARKS = {
    NOT_COMPARABLE: "not comparable with what stands above it: another dataset, scale, or measure; the notes say which",
    QUOTED: "quoted in a summary, its protocol unknown: printed, never subtracted",
    "†": "collapsed runs are left out of the mean and lower n",
}
CSV_COLUMNS = (
    *("table", "tier", "block", "objective", "strategy", "variant", "metric", "probe"),
    *("mean", "std", "n", "planned", "state", "stale"),
    *("published", "published_std", "source", "protocol", "confidence", "comparable", "difference", "notes", "url"),
)


def markdown(table: PaperTable) -> str:
    """The table with its caption above and its notes below."""
    suite = table.sheet.suite
    lines = [f"# {_md(suite.title)}", "", *(f"- {_md(line)}" for line in [*table.caption, *_legend(table)])]
    for block in table.blocks:
        lines += ["", f"## {_md(block.title)}", ""]
        rows = [[_md(cell) for cell in row] for row in _rows(block)]
        lines += markdown_table([suite.rows, "", *map(_md, table.columns)], rows, numbers=len(table.columns))
    for title, texts in _sections(table):
        lines += ["", f"## {title}", "", *(f"- {_md(text)}" for text in texts)]
    return "\n".join(lines) + "\n"


def latex(table: PaperTable) -> str:
    r"""A booktabs tabular with all blocks, made to be `\input`; caption and notes stand below it."""
    width = len(table.columns) + 2
    lines = [
        r"% \usepackage{booktabs} and UTF-8 input; made to be \input in a table or as it stands.",
        r"{\small\setlength{\tabcolsep}{4pt}",
        r"\begin{tabular}{ll" + "r" * len(table.columns) + "}",
        r"\toprule",
        " & ".join([table.sheet.suite.rows, "", *map(tex, table.columns)]) + r" \\",
    ]
    for block in table.blocks:
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{{tex(block.title)}}} \\", r"\midrule"]
        lines += [" & ".join(map(_tex_cell, row)) + r" \\" for row in _rows(block)]
    lines += [r"\bottomrule", r"\end{tabular}\par}", r"\medskip"]
    texts = [f"{table.sheet.suite.title}.", *table.caption, *_legend(table)]
    texts += [f"{title}: {'; '.join(items)}." for title, items in _sections(table)]
    return "\n".join([*lines, *(rf"{{\footnotesize\sloppy {_breakable(tex(text))}\par}}" for text in texts)]) + "\n"


def csv_text(table: PaperTable) -> str:
    """One line per cell; percent with four decimals, empty where there is no number."""
    entries = ((block, entry) for block in table.blocks for _, row in block.rows for entry in row)
    return _csv([CSV_COLUMNS, *(_csv_row(table, block, entry) for block, entry in entries)])


def terminal(table: PaperTable) -> "Table":
    """The table for a rich console."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    whole = Table.grid()
    whole.add_row(Text(table.sheet.suite.title, "bold"))
    for block in table.blocks:
        shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        shown.add_column(table.sheet.suite.rows, no_wrap=True)
        shown.add_column("")
        for name in table.columns:
            shown.add_column(Text(name), justify="right")
        for row in _rows(block):
            shown.add_row(*(Text(cell.replace(" ± ", "±")) for cell in row))
        whole.add_row(Text(block.title, "bold"))
        whole.add_row(shown)
        whole.add_row("")
    for line in [*table.caption, *_legend(table)]:
        whole.add_row(Text(line, "dim"))
    for title, texts in _sections(table):
        if title != "Sources":
            whole.add_row(Text(f"{title}:", "dim"))
            for text in texts:
                whole.add_row(Text(f"  {text}", "dim"))
    return whole


def _rows(block: Block) -> list[list[str]]:
    """The lines of a block: of each row what was measured, what was published, their difference, and n."""
    lines = []
    for name, entries in block.rows:
        shown = [entry for entry in entries if entry.published is not None]
        label = "published"
        if shown and not any(entry.comparable for entry in shown):
            label += " (not comparable)"
        lines.append([name, "here", *map(_here, entries)])
        lines.append(["", label, *map(_published, entries)])
        if shown:
            lines.append(["", "difference", *map(_difference, entries)])
        lines.append(["", "n", *map(_count, entries)])
    return lines


def _here(entry: Entry) -> str:
    if entry.runs.state:
        return "†" if entry.runs.state == "collapsed" else entry.runs.state
    return _number(entry.here.mean, entry.here.std) + STALE * entry.runs.stale


def _published(entry: Entry) -> str:
    if entry.published is None:
        return ABSENT
    spread = math.nan if entry.published.std is None else entry.published.std
    marks = NOT_COMPARABLE * (not entry.comparable) + QUOTED * (entry.published.confidence == "quoted")
    notes = f" [{_spans(entry.notes)}]" if entry.notes else ""
    return _number(entry.published.value, spread) + marks + notes


def _difference(entry: Entry) -> str:
    return "–" if math.isnan(entry.difference) else f"{round(entry.difference, 1) + 0.0:+.1f}"


def _count(entry: Entry) -> str:
    if not entry.runs.planned:
        return "–"
    return f"{len(entry.runs.averaged)}/{len(entry.runs.planned)}" + "†" * ("collapsed" in entry.runs.states)


def _number(mean: float, std: float) -> str:
    return f"{round(mean, 1) + 0.0:.1f}" + ("" if math.isnan(std) else f" ± {std:.1f}")


def _spans(numbers: tuple[int, ...]) -> str:
    """`1-4, 7` for 1, 2, 3, 4, 7."""
    runs = [[n for _, n in group] for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _tex_cell(text: str) -> str:
    """A cell, with a sign where a number is negative or positive."""
    sign = text[:1] if text[:1] in "+-" and text[1:2].isdigit() else ""
    return (f"${sign}$" if sign else "") + tex(text[len(sign) :])


def _breakable(text: str) -> str:
    """Escaped text in which an address may break after a slash."""
    return text.replace("/", r"/\hspace{0pt}")


def _legend(table: PaperTable) -> list[str]:
    """The marks that the table shows, and what they say."""
    cells = " ".join(cell for block in table.blocks for row in _rows(block) for cell in row)
    lines = [f"{mark} {text}." for mark, text in MARKS.items() if mark in cells]
    lines += [STALE_NOTE] if STALE in cells else []
    if ABSENT in cells:
        lines.append(f"{ABSENT}: no number of this cell has been checked, see docs/reproducing.md.")
    return lines


def _sections(table: PaperTable) -> list[tuple[str, list[str]]]:
    """What stands below the table, as far as there is any."""
    notes = [f"[{number}] {text}" for number, text in enumerate(table.footnotes, start=1)]
    left_out = [
        f"{name}, {run}: {reason if reason.startswith(state) else f'{state}: {reason}'}"
        for name, run, state, reason in table.troubles
    ]
    found = (
        ("Notes", notes),
        ("Sources", list(table.sources)),
        ("Runs left out", left_out),
        ("Warnings", list(table.warnings)),
    )
    return [(title, texts) for title, texts in found if texts]


def _csv_row(table: PaperTable, block: Block, entry: Entry) -> list[object]:
    suite, published = table.sheet.suite, entry.published
    known = published and [
        *(_decimals(published.value), _decimals(published.std)),
        *(published.source, published.protocol, published.confidence),
    ]
    notes = "; ".join(table.footnotes[number - 1] for number in entry.notes)
    return [
        *(suite.name, table.sheet.tier, block.title),
        *(entry.cell.objective, entry.cell.strategy, entry.cell.variant, suite.metric, entry.runs.probe),
        *(_decimals(entry.here.mean), _decimals(entry.here.std), len(entry.runs.averaged), len(entry.runs.planned)),
        *(entry.runs.state or "complete", "yes" if entry.runs.stale else "no"),
        *(known or [""] * 5),
        "" if published is None else "yes" if entry.comparable else "no",
        _decimals(entry.difference),
        notes,
        published.url if published else "",
    ]


def _decimals(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4f}"
