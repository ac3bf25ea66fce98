"""The images of a folder one by one: for folders too large to hold as a list, and for broken ones."""

from collections.abc import Iterator
from pathlib import Path

from bench.data.listing import Entry, _children, _existing, _images, _labelled
from bench.errors import UserError


def stream(layout: str, root: Path) -> Iterator[Entry]:
    """The images of `class_folders` ("folder") or `domain_folders` ("domains"), without their checks on the whole.

    Raises UserError for a folder that is not there, has train/ and nothing held out, or holds a link that may not be
    followed.
    """
    root = _existing(root)
    if layout == "domains":
        for domain in _children(root):
            if domain.is_dir():
                yield from _labelled(root, Path(domain.name), "", domain.name)
    elif not _is_split(root):
        yield from _labelled(root, Path(), "", "")
    else:
        yield from _labelled(root, Path("train"), "train", "")
        yield from _labelled(root, Path(_held_out(root)), "test", "")


def empty_folders(layout: str, root: Path) -> list[str]:
    """The class folders (relative to `root`, sorted) without an image in or below them."""
    root = _existing(root)
    above = [root]
    if layout == "domains":
        above = [Path(domain.path) for domain in _children(root) if domain.is_dir()]
    elif _is_split(root):
        above = [root / "train", root / _held_out(root)]
    folders = (Path(child.path) for folder in above for child in _children(folder) if child.is_dir())
    return [path.relative_to(root).as_posix() for path in folders if next(_images(root, path, ()), None) is None]


def _is_split(root: Path) -> bool:
    return any(child.is_dir() for child in _children(root / "train"))


def _held_out(root: Path) -> str:
    """The folder beside train/ that holds the test images: test, else val, as in `class_folders`."""
    for name in ("test", "val"):
        if (root / name).is_dir():
            return name
    raise UserError(f"{root}: holds train/ but neither test/ nor val/")
