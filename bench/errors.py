"""What a user did wrong, in one line."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 2000  # characters of a message


class UserError(Exception):
    """Bad input: the message is one line naming the offender; the command line prints it and exits with status 2.

    Whatever stands in the message, a file's name or a value, becomes one line that moves no terminal's cursor.
    """

    def __init__(self, message: str) -> None:
        text = printable(" ".join(message.splitlines()))
        super().__init__(text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}")


def printable(text: str) -> str:
    """The text with whatever is no printable character (line ends, escape sequences, bytes that are no UTF-8) written
    as in a Python literal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of an error message: the valid choice nearest to `name`, or all of them when none is near."""
    known = sorted(choices)
    match = get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean '{match[0]}'?)" if match else f" (choose from {', '.join(known)})"
