"""The report's tables as text: Markdown, LaTeX, CSV, and the terminal's."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bench.report.comparisons import differences_to_best
from bench.report.maintable import COLUMNS, Entry, Section, TableRow, definitions, troubles
from bench.report.probetables import probes_side_by_side, transfer_latex, transfer_markdown
from bench.report.statistics import Summary, counted
from bench.report.text import latex_table
from bench.report.text import markdown as _md
from bench.report.text import markdown_table as _md_table
from bench.report.text import tex as _tex
from bench.report.transfers import transfers
from bench.report.variants import method_name

if TYPE_CHECKING:
    from rich.table import Table

MARK = "†"
MARK_NOTE = f"{MARK} runs that collapsed are left out of the mean and lower n; they are listed with the reason."
TABLE_COLUMNS = (
    *("scenario", "dataset", "tasks", "objective", "strategy", "probe", "metric"),
    *("mean", "std", "ci_low", "ci_high", "n"),
)
MATRIX_COLUMNS = (
    *("run_id", "scenario", "dataset", "objective", "strategy", "seed"),
    *("probe", "after_task", "on_task", "accuracy"),
)


def markdown(summary: Summary, sections: Sequence[Section], warnings: Sequence[str]) -> str:
    """`table.md`: how to read it, the main table by section, paired differences, runs left out, warnings."""
    lines = ["# Results", "", *(f"- {line}" for line in [*definitions(), MARK_NOTE])]
    header = ["objective", "strategy", *(column.title for column in COLUMNS), "n"]
    for section in sections:
        lines += ["", f"## {_md(section.title)}", "", *(f"**{_md(note)}**\n" for note in section.notes)]
        lines += [f"{_md(section.description)}\n"]
        lines += _md_table(header, [_cells(row, _md_number, _md) for row in section.rows], numbers=7)
    lines += [*_md_differences(summary), *probes_side_by_side(summary), *transfer_markdown(transfers(summary))]
    left_out = troubles(summary)
    if left_out:
        lines += ["", "## Runs left out", ""]
        lines += _md_table(["method", "run", "status", "reason"], [[_md(cell) for cell in row] for row in left_out])
    if warnings:
        lines += ["", "## Warnings", "", *(f"- {_md(warning)}" for warning in warnings)]
    return "\n".join(lines) + "\n"


def latex(summary: Summary, sections: Sequence[Section]) -> str:
    r"""`table.tex`: one booktabs tabular per section, made to be `\input` in a table environment; then transfer."""
    lines = [r"% \usepackage{booktabs} and UTF-8 input; made to be \input in a table or as it stands."]
    header = [
        "objective",
        "strategy",
        *(column.short.replace("-\n", "").replace("\n", " ") for column in COLUMNS),
        "$n$",
    ]
    for section in sections:
        about = f"% {section.scenario}, {section.dataset}, {counted(section.tasks)}, {section.probe} probe"
        titles = (section.title, section.description, *section.notes)
        cells = (_cells(row, _tex_number, _tex) for row in section.rows)
        lines += [about.replace("\n", " "), *latex_table(titles, header, cells, len(COLUMNS) + 1)]
    notes = " ".join([*definitions(), MARK_NOTE])
    lines += [rf"{{\footnotesize {_tex(notes)}\par}}", *transfer_latex(transfers(summary))]
    return "\n".join(lines) + "\n"


def terminal(sections: Sequence[Section]) -> "Table":
    """The main table for a rich console; it fits a width of 80."""
    from rich.table import Table
    from rich.text import Text

    whole = Table.grid()
    for section in sections:
        whole.add_row(Text(section.title, "bold"))
        whole.add_row(Text(section.description, "dim"))
        whole.add_row(_terminal_section(section))
        for note in section.notes:
            whole.add_row(Text(note, "italic"))
        whole.add_row("")
    counts = "n: seeds averaged/planned"
    marks = f"; {MARK} without collapsed runs" if any(row.marked for s in sections for row in s.rows) else ""
    whole.add_row(Text(f"percent, mean±standard deviation over seeds; {counts}{marks}", "dim"))
    return whole


def _terminal_section(section: Section) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("\nmethod", overflow="fold")
    for column in COLUMNS:
        table.add_column(column.short, justify="right", no_wrap=True)
    table.add_column("\nn", justify="right", no_wrap=True)
    for row in section.rows:
        _, _, *numbers = _cells(row, lambda entry: _plain(entry).replace(" ± ", "±"))
        styles = [*("bold" if entry.clear else "" for entry in row.entries), ""]
        # Text, since names such as `sycon [pilot]` would be read as markup
        name = Text(method_name(row.strategy, row.objective))
        table.add_row(name, *(Text(cell, style) for cell, style in zip(numbers, styles, strict=True)))
    return table


def cells_csv(summary: Summary) -> str:
    """`table.csv`: every cell, probe and metric; fractions with six decimals, empty where undefined."""
    return _csv(TABLE_COLUMNS, summary.cells[list(TABLE_COLUMNS)].itertuples(index=False, name=None))


def matrix_csv(summary: Summary) -> str:
    """`matrix.csv`: every accuracy of every run, finished or not; after_task -1 is the network before
    training.
    """
    rows = (
        (
            *(run.run_id, run.scenario, run.dataset, run.objective, summary.names[run], run.seed),
            *(probe, after, on, value),
        )
        for run in summary.runs
        for (probe, after, on), value in sorted(run.accuracy.items())
    )
    return _csv(MATRIX_COLUMNS, rows)


def _csv(header: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([_fraction(value) if isinstance(value, float) else value for value in row])
    return buffer.getvalue()


def _fraction(value: float) -> str:
    # + 0.0 turns a rounded -0 into 0
    return "" if math.isnan(value) else f"{round(value, 6) + 0.0:.6f}"


def _cells(row: TableRow, number: Callable[[Entry], str], text: Callable[[str], str] = str) -> list[str]:
    """A row as strings; a method whose every finished run collapsed shows the mark instead of numbers."""
    nothing = MARK if row.marked and not row.averaged else "–"
    count = f"{row.averaged}/{row.planned}" + MARK * bool(row.marked)
    numbers = [text(nothing) if math.isnan(entry.mean) else number(entry) for entry in row.entries]
    return [text(row.objective), text(row.strategy), *numbers, text(count)]


def _plain(entry: Entry) -> str:
    spread = "" if math.isnan(entry.std) else f" ± {entry.std:.1f}"
    return f"{round(entry.mean, 1) + 0.0:.1f}{spread}"


def _md_number(entry: Entry) -> str:
    return f"**{_plain(entry)}**" if entry.clear else _plain(entry)


def _tex_number(entry: Entry) -> str:
    text = _plain(entry).replace("-", "$-$").replace(" ± ", r"\,$\pm$\,")
    return rf"\textbf{{{text}}}" if entry.clear else text


def _md_differences(summary: Summary) -> list[str]:
    """The best strategy of each group against the others in average accuracy, as far as seeds can say."""
    rows = []
    for difference in differences_to_best(summary, "average_accuracy"):
        s = difference.spread
        limits = "–" if math.isnan(s.low) else f"{100 * s.low:.1f} to {100 * s.high:.1f}"
        names = (difference.group, difference.strategy, difference.other)
        rows.append([*map(_md, names), f"{100 * s.mean:.1f}" if s.n else "–", limits, str(s.n)])
    if not rows:
        return []
    header = ["group", "best", "against", "difference", "95 % interval", "common seeds"]
    note = "The best strategy of each objective and setting against the others, by seed, in points."
    return [
        "",
        "## Paired differences in average accuracy",
        "",
        note,
        "",
        *_md_table(header, rows, numbers=3),
    ]
