"""Image files to uint8 arrays: the shape that a set of files needs, and decoding in flat memory."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.data.arrays import Tally
from bench.errors import UserError

# By name, not by content: listing a folder must not open every file of it.
SUFFIXES = frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".bmp",
        ".webp",
        ".gif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".tif",
        ".tiff",
        ".tga",
    )
)
DEFAULT_SIZE = 64
NPY_HEADER = 128  # bytes of the header of the .npy files written here
_BATCH = 256  # images decoded before the next are handed out: bounds memory
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # 16-bit grey, which PIL would clip at 255


class Shape(NamedTuple):
    """The side of the square images in pixels and their channels: 1 grey, 3 RGB."""

    size: int
    channels: int


class Decoded(NamedTuple):
    """What a decoded set of files came to; `skipped`: positions of the files that could not be read."""

    tally: Tally
    skipped: list[int]


def plain(image: Image.Image, channels: int) -> Image.Image:
    """The image in 8-bit grey (1 channel) or RGB (3); 16-bit grey keeps its upper 8 bits."""
    if image.mode in _DEEP:
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("L" if channels == 1 else "RGB")


def square(image: Image.Image, shape: Shape) -> np.ndarray:
    """The image resized (bicubic) to `size` at its shorter side, its centre: (size, size, channels) uint8."""
    image = plain(image, shape.channels)
    side = min(image.size)
    if image.size != (shape.size, shape.size):
        # One step instead of resize and crop: the same pixels, and a strip of 1 x 50,000 pixels stays small.
        left, top = (image.width - side) / 2, (image.height - side) / 2
        target = (shape.size, shape.size)
        image = image.resize(target, Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return np.asarray(image).reshape(shape.size, shape.size, shape.channels)


def fitting_shape(paths: Sequence[Path], image_size: int | None) -> Shape:
    """The shape for all files, by their headers: grey if all are; without `image_size` their size or 64.

    Their own size holds where all are square and of one size. Files that cannot be read are passed over.
    """
    channels, sizes = 1, set[tuple[int, int]]()
    for path in paths:
        try:
            with Image.open(path) as image:
                if image.mode not in ("1", "L", "LA", *_DEEP):
                    channels = 3
                sizes.add(image.size)
        except Exception:
            continue  # decoding names it
        if channels == 3 and (image_size is not None or len(sizes) > 1):
            break
    if image_size is not None:
        return Shape(image_size, channels)
    width, height = next(iter(sizes)) if len(sizes) == 1 else (0, DEFAULT_SIZE)
    return Shape(width if width == height else DEFAULT_SIZE, channels)


def write_images(
    target: Path,
    paths: Sequence[Path],
    shape: Shape,
    *,
    skip_corrupt: bool,
    advance: Callable[[int], None],
) -> Decoded:
    """Decode the files, in order, into a .npy file (N, size, size, channels) uint8, whole or not there.

    advance: called with the number of files done. Raises UserError for a file that cannot be read, unless
    `skip_corrupt`.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    decoded = Decoded(Tally(shape.channels), [])
    with temporary.open("wb") as file, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        _write_header(file, 0, shape)
        for start, batch in _batches(paths):
            good = []
            for position, result in enumerate(pool.map(lambda path: _decoded(path, shape), batch), start):
                if isinstance(result, np.ndarray):
                    good.append(result)
                elif skip_corrupt:
                    decoded.skipped.append(position)
                else:
                    raise UserError(f"{paths[position]}: {result} (--skip-corrupt leaves such files out)")
            if good:
                images = np.stack(good)
                decoded.tally.add(images)
                file.write(images.data)
            advance(len(batch))
        file.seek(0)
        _write_header(file, decoded.tally.images, shape)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    return decoded


def _batches(paths: Sequence[Path]) -> Iterator[tuple[int, Sequence[Path]]]:
    for start in range(0, len(paths), _BATCH):
        yield start, paths[start : start + _BATCH]


def _write_header(file: BinaryIO, count: int, shape: Shape) -> None:
    # Version 1.0 of the .npy format (numpy.lib.format), of fixed length: the count is filled in at the end.
    axes = (count, shape.size, shape.size, shape.channels)
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {axes}, }}"
    file.write(b"\x93NUMPY\x01\x00" + (NPY_HEADER - 10).to_bytes(2, "little"))
    file.write(text.ljust(NPY_HEADER - 11).encode() + b"\n")


def _decoded(path: Path, shape: Shape) -> np.ndarray | str:
    """The decoded image, or why there is none."""
    try:
        with Image.open(path) as image:
            return square(image, shape)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        return "is empty" if path.stat().st_size == 0 else "is not an image"
    except Exception as error:  # PIL's readers raise whatever the bytes lead them to
        return f"cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
