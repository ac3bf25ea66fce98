"""Text and tables as Markdown and LaTeX take them."""

from collections.abc import Iterable, Sequence

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
    "–": "--",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def markdown(text: str) -> str:
    """`text` in one line, in which Markdown sees no markup."""
    for character in "\\|*<`":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", " ")


def tex(text: str) -> str:
    """`text` with LaTeX's special characters escaped; `?` for what a plain pdflatex stops at."""
    known = (character if ord(character) < 0x180 or character in LATEX_SPECIAL else "?" for character in text)
    return "".join(LATEX_SPECIAL.get(character, character) for character in known)


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
