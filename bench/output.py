"""What is printed while work goes on: where nobody reads any more, a pager that was closed or a `head` that has enough,
it goes nowhere, and the work and its exit status stay what they are."""

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Any


class _Lasting(TextIOWrapper):
    """A stream of text that outlives its reader. before: what it stands for, which would close the descriptor if it
    went."""

    before: TextIOWrapper

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._let_go()

    def _let_go(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        with suppress(BrokenPipeError):
            super().flush()  # what was left goes there, too


def _lasting(stream: TextIOWrapper) -> _Lasting:
    stream.flush()
    unbuffered = stream.write_through
    file: Any = open(stream.fileno(), "wb", 0 if unbuffered else -1, closefd=False)  # noqa: SIM115
    lasting = _Lasting(file, stream.encoding, "backslashreplace", None, stream.line_buffering, unbuffered)
    lasting.before = stream
    return lasting


def make_output_last() -> None:
    """From here on standard output and error of this process outlive their readers, and take any text: paths may hold
    bytes that are none."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is TextIOWrapper:
            setattr(sys, name, _lasting(stream))
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
