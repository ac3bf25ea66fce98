"""The images of a folder one by one: for folders too large to hold as a list, and for broken ones."""

from collections.abc import Collection, Iterator
from pathlib import Path

from bench.data.listing import Entry, children, existing, labelled
from bench.errors import UserError


def stream(layout: str, root: Path) -> Iterator[Entry]:
    """The images of `class_folders` ("folder") or `domain_folders` ("domains"), without their checks on the whole.

    Raises UserError for a folder that is not there, has train/ and nothing held out, or holds a link that may not be
    followed.
    """
    root = existing(root)
    if layout == "domains":
        for domain in children(root):
            if domain.is_dir():
                yield from labelled(root, Path(domain.name), "", domain.name)
    elif not _is_split(root):
        yield from labelled(root, Path(), "", "")
    else:
        yield from labelled(root, Path("train"), "train", "")
        yield from labelled(root, Path(_held_out(root)), "test", "")


def empty_folders(layout: str, root: Path, seen: Collection[tuple[str, str, str]]) -> list[str]:
    """The class folders (relative to `root`) that gave no image; seen: (split, domain, class) of those that came."""
    root = existing(root)
    above = [(root, "", "")]
    if layout == "domains":
        above = [(Path(domain.path), "", domain.name) for domain in children(root) if domain.is_dir()]
    elif _is_split(root):
        above = [(root / "train", "train", ""), (root / _held_out(root), "test", "")]
    both = {("", domain, label) for _, domain, label in seen}
    return [
        Path(child.path).relative_to(root).as_posix()
        for folder, split, domain in above
        for child in children(folder)
        if child.is_dir() and (split, domain, child.name) not in (seen if split else both)
    ]


def _is_split(root: Path) -> bool:
    return any(child.is_dir() for child in children(root / "train"))


def _held_out(root: Path) -> str:
    """The folder beside train/ that holds the test images: test, else val, as in `class_folders`."""
    for name in ("test", "val"):
        if (root / name).is_dir():
            return name
    raise UserError(f"{root}: holds train/ but neither test/ nor val/")
