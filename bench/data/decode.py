"""Image files to uint8 arrays: the shape that a set of files needs, and decoding in flat memory."""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

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
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TGA", "TIFF", "WEBP")
MOST_PIXELS = 90_000_000  # of one file: a few kilobytes can stand for any number
DEFAULT_SIZE = 64
BATCH = 256  # images of a chunk, which is decoded and written at once ...
_CHUNK_BYTES = 32 << 20  # ... and their bytes: bounds memory
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # 16-bit grey, which PIL would clip at 255


warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `open_image` refuses such files


def open_image(file: Path | BinaryIO) -> Image.Image:
    """The image of a file whose content is of one of `FORMATS`; of others that PIL knows some start programs.

    Raises whatever PIL's readers do, and ValueError for more than `MOST_PIXELS`.
    """
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}")
    return image


class Shape(NamedTuple):
    """The side of the square images in pixels and their channels: 1 grey, 3 RGB."""

    size: int
    channels: int


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


def fitting_shape(paths: Iterable[Path], image_size: int | None) -> Shape:
    """The shape for all files, by their headers: grey if all are; without `image_size` their size or 64.

    Their own size holds where all are square and of one size. Files that cannot be read are passed over.
    """
    channels, sizes = 1, set[tuple[int, int]]()
    for path in paths:
        try:
            with open_image(path) as image:
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


def decoded_chunks(
    paths: Sequence[Path], shape: Shape, threads: int
) -> Iterator[tuple[list[np.ndarray], list[tuple[int, str]], int]]:
    """The files' images in order, chunk by chunk: those that could be read, (position in `paths`, why) of the others,
    and how many files these are. One chunk is decoded ahead, in `threads` threads."""
    # Threads: PIL lets go of Python's lock inside its decoders and filters, and pixels need not be sent.
    pool = ThreadPoolExecutor(threads)
    ahead: deque[tuple[int, Iterator[np.ndarray | str]]] = deque()
    length = max(1, min(BATCH, _CHUNK_BYTES // (shape.size * shape.size * shape.channels)))
    try:
        for start in range(0, len(paths), length):
            ahead.append((start, pool.map(lambda path: _decoded(path, shape), paths[start : start + length])))
            if len(ahead) > 1:
                yield _sorted_out(*ahead.popleft())
        if ahead:
            yield _sorted_out(*ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _sorted_out(start: int, results: Iterator[np.ndarray | str]) -> tuple[list[np.ndarray], list[tuple[int, str]], int]:
    images, failed, count = [], [], 0
    for result in results:
        if isinstance(result, np.ndarray):
            images.append(result)
        else:
            failed.append((start + count, result))
        count += 1
    return images, failed, count


def _decoded(path: Path, shape: Shape) -> np.ndarray | str:
    """The decoded image, or why there is none."""
    try:
        with open_image(path) as image:
            return square(image, shape)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        return "is empty" if path.stat().st_size == 0 else "is not an image"
    except Exception as error:  # PIL's readers raise whatever the bytes lead them to
        return f"cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
