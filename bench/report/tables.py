"""The report's tables as text: Markdown, LaTeX, CSV, and the terminal's."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bench.report.comparisons import differences_to_best
from bench.report.maintable import COLUMNS, Entry, Section, TableRow, definitions, troubles
from bench.report.merged import origins
from bench.report.probetables import probes_side_by_side, transfer_latex, transfer_markdown
from bench.report.records import Run
from bench.report.statistics import Summary, counted
from bench.report.text import STALE, STALE_NOTE, csv_text, latex_table
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
    *("mean", "std", "ci_low", "ci_high", "n", "stale"),
)
MATRIX_COLUMNS = (
    *("run_id", "scenario", "dataset", "objective", "strategy", "seed"),
    *("probe", "after_task", "on_task", "accuracy", "stale"),
)


def markdown(summary: Summary, sections: Sequence[Section], warnings: Sequence[str]) -> str:
    """`table.md`: how to read it, the main table by section, paired differences, runs left out, warnings."""
    lines = ["# Results", "", *(f"- {line}" for line in _notes(summary))]
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
    merged = origins(summary.runs)
    if merged:
        lines += ["", "## Merged runs", "", *(f"- {_md(line)}" for line in merged)]
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
        about = _tex(f"{section.scenario}, {section.dataset}, {counted(section.tasks)}, {section.probe} probe")
        titles = (section.title, section.description, *section.notes)
        cells = (_cells(row, _tex_number, _tex) for row in section.rows)
        lines += [f"% {about}", *latex_table(titles, header, cells, len(COLUMNS) + 1)]
    notes = " ".join(_notes(summary))
    lines += [rf"{{\footnotesize {_tex(notes)}\par}}", *transfer_latex(transfers(summary))]
    return "\n".join(lines) + "\n"


def _notes(summary: Summary) -> list[str]:
    """How to read the numbers, and the marks."""
    return [*definitions(), MARK_NOTE, *([STALE_NOTE] if summary.cells.stale.any() else [])]


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
    if any(row.stale for s in sections for row in s.rows):
        whole.add_row(Text(STALE_NOTE, "yellow"))
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
    cells = summary.cells[list(TABLE_COLUMNS)].itertuples(index=False, name=None)
    return _csv(TABLE_COLUMNS, (map(_field, row) for row in cells))


def matrix_csv(summary: Summary) -> str:
    """`matrix.csv`: every accuracy of every run, finished or not; after_task -1 is the network before
    training.
    """
    lines = (line for run in summary.runs for line in _matrix_lines(run, summary.names[run]))
    return _csv(MATRIX_COLUMNS, ()) + "".join(lines)


def _matrix_lines(run: Run, name: str) -> Iterator[str]:
    """There may be millions of them: what they share is written once."""
    method = _csv((run.run_id, run.scenario, run.dataset, run.objective, name, run.seed), ())[:-1]
    probes = {probe: _csv((probe,), ())[:-1] for probe in run.measured}
    stale = {after: _field(run.stale_after(after)) for after in range(-1, run.tasks)}
    for (probe, after, on), value in sorted(run.accuracy.items()):
        yield f"{method},{probes[probe]},{after},{on},{_field(value)},{stale[after]}\n"


def _csv(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    return csv_text([header, *rows])


def _field(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        # + 0.0 turns a rounded -0 into 0
        return "" if math.isnan(value) else f"{round(value, 6) + 0.0:.6f}"
    return value


def _cells(row: TableRow, number: Callable[[Entry], str], text: Callable[[str], str] = str) -> list[str]:
    """A row as strings; a method whose every finished run collapsed shows the mark instead of numbers."""
    nothing = MARK if row.marked and not row.averaged else "–"
    count = f"{row.averaged}/{row.planned}" + MARK * bool(row.marked) + STALE * row.stale
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
