"""One image file: whether it can be read, how it stores colour, and what it is recognised by."""

import hashlib
import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from bench.data.decode import Shape, open_image, plain, square

# What a file is marked with, and what that means.
DEFECTS = {
    "absent": "listed, but not there",
    "empty": "zero bytes",
    "truncated": "ends too early",
    "unreadable": "not an image that can be decoded",
}
COLOURS = {
    "grey": "one channel",
    "alpha": "with transparency, which is dropped",
    "palette": "indexed colours",
    "cmyk": "print colours",
    "deep": "16 bits, of which the upper 8 are kept",
    "other": "another colour space",
}
_MODES = {"RGB": "", "L": "grey", "1": "grey", "P": "palette", "CMYK": "cmyk"}
_MODES |= dict.fromkeys(("LA", "La", "RGBA", "RGBa", "PA"), "alpha")
_MODES |= dict.fromkeys(("I", "I;16", "I;16L", "I;16B", "I;16N"), "deep")
_TAIL = 4096  # bytes: some cameras and web servers append a little to a whole file
DIGEST = 16  # bytes; at 10^9 files a chance of 10^-21 that two different ones agree


class Seen(NamedTuple):
    """What looking at a file gave; `content` and `pixels` are digests, None where there is nothing to compare.

    defect: a key of DEFECTS, or "". colour: a key of COLOURS, or "" for 8-bit RGB.
    """

    defect: str = ""
    colour: str = ""
    content: bytes | None = None
    pixels: bytes | None = None


def look(path: Path, image_size: int | None, quick: bool) -> Seen:
    """The file as it is; never raises for what is in it.

    quick: header and last bytes only. image_size: compare pixels as stored at this side, else at the file's own
    size.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return Seen("unreadable")  # a pipe would be waited for, a device may never end
        return _glance(path) if quick else _read(path.read_bytes(), image_size)
    except FileNotFoundError:
        return Seen("absent")
    except (OSError, ValueError):
        return Seen("unreadable")


def digest(data: bytes | memoryview) -> bytes:
    """16 bytes that name the data: BLAKE2b."""
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


def _read(data: bytes, image_size: int | None) -> Seen:
    if not data:
        return Seen("empty")
    try:
        with open_image(io.BytesIO(data)) as image:
            colour = _MODES.get(image.mode, "other")
            return Seen("", colour, digest(data), _pixels(image, image_size))
    except MemoryError:
        raise
    except Exception as error:  # PIL's readers raise whatever the bytes lead them to
        cut = "truncated" in str(error) or cut_short(data[:4], data[-_TAIL:])
        return Seen("truncated" if cut else "unreadable")


def _pixels(image: Image.Image, image_size: int | None) -> bytes:
    # always as RGB: a grey file and the same picture saved in colour are one image
    if image_size is not None:
        return digest(square(image, Shape(image_size, 3)).tobytes())
    shown = plain(image, 3)
    return digest(b"%d %d " % shown.size + shown.tobytes())


def _glance(path: Path) -> Seen:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return Seen("empty")
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        file.seek(0)
        short = cut_short(file.read(4), tail)
        file.seek(0)
        try:
            with open_image(file) as image:
                colour = _MODES.get(image.mode, "other")
        except Exception:  # PIL's readers raise whatever the bytes lead them to
            return Seen("truncated" if short else "unreadable")
    return Seen("truncated" if short else "", colour)


def cut_short(head: bytes, tail: bytes) -> bool:
    """Whether a JPEG or PNG lacks the mark of its end (ITU T.81 EOI, PNG IEND) in its last bytes."""
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    return head.startswith(b"\x89PNG") and b"IEND" not in tail
