"""Symbolic links in a results folder: none may lead out of it, whatever is read or written there."""

import os
from pathlib import Path, PurePath

from bench.errors import UserError


def refuse_links(out: Path, *places: str) -> None:
    """Raises UserError where one of the places below `out`, or what lies in it, is a link to somewhere else, and where
    a pipe or a device lies in it, which would be waited for.

    `out` itself may be a link. What lies deeper than in these places is not looked at.
    """
    refuse_linked_folders(out, *places)
    for name in places:
        place = out / name
        if place.is_dir():
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        _stay(Path(entry.path), out)
                    elif not (entry.is_file() or entry.is_dir()):
                        raise UserError(f"{entry.path}: is neither a file nor a folder: remove it")


def refuse_linked_folders(out: Path, *places: str) -> None:
    """Raises UserError where one of the places below `out`, or a folder on the way to it, is a link to somewhere else;
    what lies in them is not looked at."""
    for name in places:
        place = out
        for part in PurePath(name).parts:
            place /= part
            if place.is_symlink():
                _stay(place, out)


def _stay(link: Path, out: Path) -> None:
    if not Path(os.path.realpath(link)).is_relative_to(os.path.realpath(out)):
        raise UserError(f"{link}: a symbolic link that leads out of the results folder: remove it")
