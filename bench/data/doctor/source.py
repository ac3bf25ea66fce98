"""Where the images of a dataset are, listed anew each time, however torn its lists or incomplete its folders."""

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.data.class_lists import class_list
from bench.data.doctor.lists import ListFile, list_files, listed
from bench.data.doctor.releases import Release, release_of
from bench.data.doctor.walk import stream
from bench.data.listing import Entry, children, expanded, labelled
from bench.data.named import NAMED
from bench.data.named.lists import CLEANED, DOMAINNET_LISTS
from bench.errors import UserError


@dataclass
class Source:
    """The files of a dataset below `root`.

    entries: lists them anew at each call. layout: of `stream`, where the folders alone say what there is. expected:
    see `class_findings`.
    """

    root: Path
    entries: Callable[[], Iterable[Entry]]
    release: Release | None = None
    lists: list[ListFile] = field(default_factory=list)
    layout: str = ""
    expected: str = ""


def folder_source(layout: str, path: str) -> Source:
    """The source of folder:PATH and domains:PATH; raises UserError for no path."""
    if not path:
        raise UserError(f"dataset {layout}: a path is missing, as in {layout}:PATH")
    root = expanded(Path(path))
    return Source(root, lambda: stream(layout, root), layout=layout)


def named_source(name: str, data_dir: Path | None) -> Source:
    """The source of a public dataset; raises UserError where it, or what says which files it has, is not there."""
    root, release = NAMED[name].find(data_dir).resolve(), release_of(name)
    if name == "domainnet":
        for place in DOMAINNET_LISTS:
            if files := list_files(root / place, CLEANED):
                return Source(root, lambda: listed(files), release, files)
    if name in ("imagenet100", "imagenet1k") and any(child.is_dir() for child in children(root / "val")):
        expected = "cmc" if name == "imagenet100" else ""
        only = _only(root, expected)
        return Source(root, lambda: _split_folders(root, only), release, expected=expected)
    listing = NAMED[name].listing(root)
    return Source(root, lambda: listing.entries, release, expected="cmc" if name == "imagenet100" else "")


def _only(root: Path, expected: str) -> Container[str] | None:
    """The classes of the expected list, where the folder has those and others; else None, for all there are."""
    wanted = set(class_list(expected)) if expected else set()
    return wanted if expected and wanted < {child.name for child in children(root / "train")} else None


def _split_folders(root: Path, only: Container[str] | None) -> Iterator[Entry]:
    yield from labelled(root, Path("train"), "train", "", only)
    yield from labelled(root, Path("val"), "test", "", only)
