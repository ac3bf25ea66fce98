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


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> list[str]:
    """Lines of a Markdown table; the last `numbers` columns are aligned to the right."""
    rules = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    return ["| " + " | ".join(cells) + " |" for cells in (header, rules, *rows)]
