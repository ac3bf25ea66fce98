"""Text and tables as Markdown and LaTeX take them."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from bench.errors import printable

STALE = "¶"
"""Marks numbers of other code than the present."""
STALE_NOTE = (
    f"{STALE} stale: averages runs that other code than the present has made. The command line that made them, with "
    "--retrain stale, makes them again."
)
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "¶": r"\P{}",
    "–": "--",
    **{character: "\\" + character for character in "&%$#_{}"},
}


_MARKUP = re.compile(
    r"[\\|*<`~$]"  # also of tables, strikethrough and formulas
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis, which no _ inside a word begins
    r"|\](?=[(\[:])"  # links and images
    r"|&(?=#?\w+;)"  # entities
    r"|^(?:#+(?= |$)|[>+-](?= |$)|>)"  # headings, lists and quotations, where the text begins a line
)


def markdown(text: str) -> str:
    """`text` in one line, in which Markdown sees no markup."""
    return _MARKUP.sub(lambda found: "\\" + found[0], printable(" ".join(text.splitlines())))


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """The rows as CSV; a text that a spreadsheet would take for a formula gets an apostrophe before it."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_no_formula(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def _no_formula(cell: object) -> object:
    if not isinstance(cell, str) or cell[:1] not in ("=", "+", "-", "@") or re.fullmatch(r"[+-]?[\d.]+", cell):
        return cell
    return f"'{cell}"


def tex(text: str) -> str:
    """`text` in one line, with LaTeX's special characters escaped; `?` for what a plain pdflatex stops at."""
    text = printable(" ".join(text.splitlines()))
    known = (character if ord(character) < 0x180 or character in LATEX_SPECIAL else "?" for character in text)
    pieces = "".join(known).split("--")  # two hyphens, as options begin with, would print as one dash
    return "-{}-".join("".join(LATEX_SPECIAL.get(character, character) for character in piece) for piece in pieces)


def latex_table(titles: Sequence[str], header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int) -> list[str]:
    """Lines of a booktabs tabular of escaped cells, its first title large; the last `numbers` columns to the right."""
    across = rf"\multicolumn{{{len(header)}}}{{l}}"
    return [
        r"{\small\setlength{\tabcolsep}{4pt}",
        rf"\begin{{tabular}}{{{'l' * (len(header) - numbers)}{'r' * numbers}}}",
        r"\toprule",
        rf"{across}{{{tex(titles[0])}}} \\",
        *(rf"{across}{{\footnotesize {tex(title)}}} \\" for title in titles[1:]),
        r"\midrule",
        " & ".join(header) + r" \\",
        r"\midrule",
        *(" & ".join(cells) + r" \\" for cells in rows),
        r"\bottomrule",
        r"\end{tabular}\par}",
        r"\medskip",
    ]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> list[str]:
    """Lines of a Markdown table; the last `numbers` columns are aligned to the right."""
    rules = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    return ["| " + " | ".join(cells) + " |" for cells in (header, rules, *rows)]
