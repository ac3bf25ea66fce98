"""What is known of a public dataset that lies on disk as image files: where it is looked for and what it holds."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from bench.data.listing import Entry, Listing
from bench.errors import UserError


class NotHere(UserError):
    """Nothing of a dataset was found where it was looked for."""


class Counts(NamedTuple):
    """Images and classes of a public release; domains: (name, train, test) of each.

    split_known: whether the release says which images are for training; else one in five counts as held out.
    """

    train: int
    test: int
    classes: int
    domains: tuple[tuple[str, int, int], ...] = ()
    split_known: bool = True


@dataclass(frozen=True)
class Named:
    """A public dataset in the layout of its release.

    places: folders below --data-dir where it may lie; needs: what is in such a folder; how_to_get: a command or a page;
    lister: its files, of the folder that was found; side: of the network's input in pixels, None for that of the files;
    margin: whether images are stored larger than the network's input (`stored_side`); domain_order: that of published
    results.
    """

    name: str
    description: str
    how_to_get: str
    counts: Counts
    places: tuple[str, ...]
    needs: tuple[str, ...]
    lister: Callable[[Path], Listing]
    side: int | None = None
    margin: bool = False
    domain_order: tuple[str, ...] = ()

    def find(self, data_dir: Path | None) -> Path:
        """The folder that holds it.

        Raises NotHere where nothing of it is in `data_dir`, UserError where a part is missing.
        """
        if data_dir is None:
            raise NotHere(
                f"{self.name}: --data-dir DIR is missing, where DIR holds {self.places[0]}/; {self.how_to_get}"
            )
        nearest, missing = data_dir, list(self.needs)
        for place in self.places:
            folder = data_dir / place
            lacks = [need for need in self.needs if not (folder / need).exists()]
            if not lacks:
                return folder
            if len(lacks) < len(missing):
                nearest, missing = folder, lacks
        if len(missing) < len(self.needs):
            raise UserError(f"{self.name}: {nearest} lacks {', '.join(missing)}; {self.how_to_get}")
        what = ", ".join(self.needs)
        raise NotHere(
            f"{self.name}: neither {data_dir} nor {data_dir / self.places[0]} holds {what}; {self.how_to_get}"
        )

    def listing(self, root: Path) -> Listing:
        """Its files; the note says where the number of classes is not that of the release.

        Raises UserError for a layout that is not that of the release, and for listed files that are not there.
        """
        listing = self.lister(root.resolve())
        found = len(listing.classes)
        if found == self.counts.classes:
            return listing
        note = f"{found} classes where the public release has {self.counts.classes}"
        return replace(listing, note="; ".join(filter(None, (listing.note, note))))

    def entries(self, root: Path) -> list[Entry]:
        """The files of `listing`."""
        return list(self.listing(root).entries)

    def stored_side(self, image_size: int | None) -> int | None:
        """Side of the stored squares for a network's input of `image_size` pixels, in pixels.

        With a margin 8/7 of it, as 256 for 224: random crops then keep more of the detail of the file.
        """
        side = image_size or self.side
        return side * 8 // 7 if side is not None and self.margin else side
