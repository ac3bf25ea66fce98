"""What a report can be written as; imports none of what writing it takes."""

from collections.abc import Sequence

from bench.errors import UserError, nearest

FIGURE_FORMATS = ("png", "pdf")
FORMATS = ("md", "tex", "csv", *FIGURE_FORMATS)
NO_REPORT = ["none"]
"""Formats of a run that leaves the report to others."""


def check_formats(formats: Sequence[str] | None) -> None:
    """Raises UserError for an unknown format: to be known before there is hours of work behind it."""
    for name in () if formats == NO_REPORT else formats or ():
        if name not in FORMATS:
            raise UserError(f"unknown report format '{name}'{nearest(name, FORMATS)}")
