"""The datasets by name: `load("fashion_mini")`, `load("pacs")`, `load("folder:PATH")`; all become uint8 arrays."""

import http.client
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import fashion_mini
from bench.data.arrays import Dataset, Split, assemble, single_domain
from bench.data.decode import Shape
from bench.data.fashion_mini.rebuild import find_idx
from bench.data.folders import LAYOUTS, How, Source, folder_source, load_source
from bench.data.idx import read_idx
from bench.data.listing import expanded
from bench.data.named import NAMED, Counts, NotHere
from bench.data.noise import load_noise
from bench.errors import UserError, nearest
from bench.layers import check_range
from bench.links import refuse_links

__all__ = ["Dataset", "Split", "catalogue", "load"]

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
IDX_NAMES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]

_CATALOGUE = {
    "fashion_mini": "12,000 + 2,000 images of Fashion-MNIST, 28x28 grey, 10 classes; part of the package",
    "fashion_mnist": "Fashion-MNIST, 60,000 + 10,000, 28x28 grey, 10 classes (arXiv:1708.07747)",
    "cifar10": "CIFAR-10, 50,000 + 10,000, 32x32 RGB, 10 classes (Krizhevsky 2009)",
    "cifar100": "CIFAR-100, 50,000 + 10,000, 32x32 RGB, 100 classes (Krizhevsky 2009)",
    **{name: named.description for name, named in NAMED.items()},
    "folder:PATH": "PATH/<class>/image, a fifth held out by hash; or PATH/train/.. and PATH/test/.. (val/)",
    "domains:PATH": "PATH/<domain>/<class>/image, a fifth held out by hash",
    "noise:SIDE": "random pixels, for timing only; noise:224x3x100000 also says channels and number (3, 10000)",
}


def catalogue() -> dict[str, str]:
    """The names that `load` takes, each with one line about it."""
    return dict(_CATALOGUE)


def load(
    spec: str,
    *,
    out: Path,
    data_dir: Path | None = None,
    image_size: int | None = None,
    skip_corrupt: bool = False,
    quiet: bool = False,
    download: bool = True,
) -> Dataset:
    """The dataset of a name, of a folder, or of random pixels.

    out: where decoded folders, downloads and random pixels go (out/datasets). data_dir: where to look for files first.
    image_size: side in pixels to decode folders at (see `load_folder`), or from which `Named.stored_side` follows;
    arrays keep theirs. skip_corrupt: leave out image files that cannot be read. download: fetch what is
    not there, where that is possible. Raises UserError for an unknown name and for missing or broken data.
    """
    source = source_of(spec, data_dir, image_size)
    if source is not None:
        return load_source(source, out, How(skip_corrupt, quiet))
    if spec.startswith("noise:"):
        return load_noise(spec, out=out)
    refuse_links(out, "datasets/FashionMNIST/raw")  # and what lies in any of these
    train, test, classes = _READERS[spec](data_dir and expanded(data_dir), out / "datasets", download)
    return assemble(spec, train, test, classes)


def source_of(spec: str, data_dir: Path | None, image_size: int | None) -> Source | None:
    """The image files of a dataset that is made of such, listed, else None.

    image_size: of the network's input, from which that of the stored images follows. Raises UserError for an unknown
    name and for files that are not there or lie in another way.
    """
    if image_size is not None:
        check_range(image_size, "image_size")
    layout, colon, path = spec.partition(":")
    if colon and layout in LAYOUTS:
        if not path:
            raise UserError(f"dataset {spec}: a path is missing, as in {layout}:PATH")
        return folder_source(layout, expanded(Path(path)), image_size)
    if spec in NAMED:
        named = NAMED[spec]
        root = named.find(None if data_dir is None else expanded(data_dir))
        return Source(spec, spec, root, named.listing(root), named.stored_side(image_size))
    if spec not in _READERS and not (colon and layout == "noise"):
        known = f"{layout}:PATH" if colon else spec
        raise UserError(f"unknown dataset '{spec}'{nearest(known, _CATALOGUE)}")
    return None


_Read = tuple[Split, Split, tuple[str, ...]]


def _fashion_mini(data_dir: Path | None, downloads: Path, download: bool) -> _Read:
    train, test = (single_domain(*fashion_mini.read(split, downloads)) for split in ("train", "t10k"))
    return train, test, fashion_mini.CLASSES


def _fashion_mnist(data_dir: Path | None, downloads: Path, download: bool) -> _Read:
    folder = next(filter(_has_idx, _fashion_folders(data_dir, downloads)), None)
    if folder is None:
        from torchvision.datasets import FashionMNIST

        root = data_dir or downloads
        given = data_dir or "--data-dir (not given)"
        where = f"fashion_mnist: not in {given}, not in {DEBIAN_FASHION_MNIST} (Debian package dataset-fashion-mnist)"
        if not download:
            raise NotHere(f"{where}; that package or the four files of {FashionMNIST.mirrors[0]} in it")
        try:
            FashionMNIST(str(root), download=True)
        except _DOWNLOAD_ERRORS as error:
            raise UserError(f"{where}, and torchvision's download failed ({_reason(error)})") from error
        folder = root / "FashionMNIST" / "raw"
    splits = []
    for split in ("train", "t10k"):
        images = read_idx(find_idx(folder, f"{split}-images-idx3-ubyte"))
        labels = read_idx(find_idx(folder, f"{split}-labels-idx1-ubyte"))
        if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) > 9:
            raise UserError(f"{folder}: the {split} files are not images with labels 0-9")
        splits.append(single_domain(images[..., None], labels))
    return splits[0], splits[1], fashion_mini.CLASSES


def _fashion_folders(data_dir: Path | None, downloads: Path) -> Iterator[Path]:
    if data_dir is not None:
        yield from (data_dir, data_dir / "fashion_mnist", data_dir / "FashionMNIST" / "raw")
    yield from (DEBIAN_FASHION_MNIST, downloads / "FashionMNIST" / "raw")


def _has_idx(folder: Path) -> bool:
    return all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in IDX_NAMES)


def _cifar(name: str) -> Callable[[Path | None, Path, bool], _Read]:
    def read(data_dir: Path | None, downloads: Path, download: bool) -> _Read:
        from torchvision.datasets import CIFAR10, CIFAR100

        source: Any = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
        roots = [*([data_dir, data_dir / name] if data_dir is not None else []), downloads]
        held = [root for root in roots if any((root / part).exists() for part in (source.base_folder, source.filename))]
        root = (held or roots)[0]
        how_to_get = f"put {source.filename} from {source.url} there, or {source.base_folder}/ out of it"
        if not held and not download:
            raise NotHere(f"{name}: not in {root}; {how_to_get}")
        try:
            # The second call finds what the first has found or downloaded.
            parts = [source(str(root), train=train, download=train and download) for train in (True, False)]
        except _DOWNLOAD_ERRORS as error:
            failed = f" and its download failed ({_reason(error)})" if download else ""
            raise UserError(f"{name}: not whole in {root}{failed}; {how_to_get}") from error
        train, test = (single_domain(part.data, np.array(part.targets)) for part in parts)
        return train, test, tuple(parts[0].classes)

    return read


_READERS: dict[str, Callable[[Path | None, Path, bool], _Read]] = {
    "fashion_mini": _fashion_mini,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar("cifar10"),
    "cifar100": _cifar("cifar100"),
}
ARRAYS = {
    "fashion_mnist": (Counts(60_000, 10_000, 10), Shape(28, 1)),
    "cifar10": (Counts(50_000, 10_000, 10), Shape(32, 3)),
    "cifar100": (Counts(50_000, 10_000, 100), Shape(32, 3)),
}
"""What the public releases hold that come as arrays."""
# No network, no space, a server's error page in place of the archive, a checksum that differs.
_DOWNLOAD_ERRORS = (OSError, RuntimeError, EOFError, http.client.HTTPException)


def _reason(error: BaseException) -> str:
    """The last line of an error's message, which holds the cause where torchvision tried several mirrors."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return re.sub(r"[<>]", "", lines[-1]) if lines else type(error).__name__
