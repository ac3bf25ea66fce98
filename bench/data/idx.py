"""The idx format of the MNIST family: a big-endian header, then the bytes of an array.

Two zero bytes, the type (8: unsigned byte), the number of axes, one 32-bit size per axis, then the data in C
order.
Source: http://yann.lecun.com/exdb/mnist/, "the idx file format".
"""

import bz2
import gzip
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UserError

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
MOST_BYTES = 1 << 28  # five times Fashion-MNIST: a few kilobytes of a compressed file can stand for any number
MOST_AXES = 4


def encode_idx(array: np.ndarray) -> bytes:
    """The idx bytes of an uint8 array."""
    if array.dtype != np.uint8:
        raise TypeError(f"idx of unsigned bytes, got {array.dtype}")
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an idx file, plain or compressed as its suffix says (.gz, .bz2).

    Raises UserError where the file cannot be read, holds another type, or is too short or too long.
    """
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if len(data) > MOST_BYTES:
        raise UserError(f"{path}: more than {MOST_BYTES >> 20} MiB of data")
    if len(data) < 4 or data[:3] != b"\0\0\x08" or data[3] > MOST_AXES or len(data) < 4 + 4 * data[3]:
        raise UserError(f"{path}: not an idx file of unsigned bytes")
    start = 4 + 4 * data[3]
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    expected = math.prod(shape)
    if len(data) - start != expected:
        raise UserError(f"{path}: {len(data) - start} bytes of data where its header {shape} means {expected}")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
