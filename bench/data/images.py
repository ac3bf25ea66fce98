"""Images of one task, by index, on the device of the training."""

import mmap
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import zip_longest
from threading import Thread

import numpy as np
import torch
from torch import Tensor

from bench.data.arrays import CHUNK

RESIDENT_BYTES = 1 << 30


class TaskImages:
    """uint8 images (n, C, H, W) of chosen rows of an array: on the device at once if they fit, else read batch by
    batch, from a memory map one batch ahead."""

    def __init__(self, array: np.ndarray, rows: np.ndarray, device: str, *, once: bool = False) -> None:
        """array: (N, H, W, C) uint8, may be a memory map; rows: which of them, in this order; once: whether each image
        is asked for only once, so that nothing is gained by holding them all."""
        self.array, self.rows, self.device = array, rows, device
        self.height, self.width, self.channels = array.shape[1:]
        self._pinned = torch.device(device).type == "cuda"
        self._mapped = isinstance(array, np.memmap)
        self._pages = _pages(array)
        self._ahead: tuple[Tensor, Future[Tensor]] | None = None
        fits = len(rows) * array[:1].nbytes <= RESIDENT_BYTES
        in_place = device == "cpu" and not self._mapped
        self.resident = self._hold() if fits and not once and not in_place else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        """index: (m,) int64 positions within the task, on the CPU -> uint8 (m, C, H, W)."""
        if self.resident is not None:
            return self.resident.index_select(0, index.to(self.device))
        if self._ahead is None or not torch.equal(self._ahead[0], index):
            return self._send(self._read(index, self._buffer(index)))
        (_, reading), self._ahead = self._ahead, None
        return self._send(reading.result())

    def read_ahead(self, index: Tensor) -> None:
        """Starts to read what `self[index]` is about to ask for; an error is raised there. Nothing for images in
        memory."""
        if self.resident is not None or not self._mapped:
            return
        if self._ahead is not None:
            if torch.equal(self._ahead[0], index):
                return
            self._ahead[1].exception()  # waits: there is never more than one batch ahead
        # Taken here, since the end of the process must not find a thread inside CUDA.
        buffer = self._buffer(index)
        self._ahead = index, _in_background(lambda: self._read(index, buffer))

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """`self[index]` for each index in turn, the following one being read ahead."""
        parts = list(indices)
        for index, following in zip_longest(parts, parts[1:]):
            images = self[index]
            if following is not None:
                self.read_ahead(following)
            yield images

    def _hold(self) -> Tensor:
        held = torch.empty(len(self), self.channels, self.height, self.width, dtype=torch.uint8, device=self.device)
        for part, index in zip(held.split(CHUNK), torch.arange(len(self)).split(CHUNK), strict=True):
            part.copy_(self._send(self._read(index, self._buffer(index))))
        return held

    def _buffer(self, index: Tensor) -> Tensor:
        """Memory for (m, C, H, W); before CUDA in the order of the array, which leaves the transposition to the
        device."""
        layout = torch.channels_last if self._pinned else torch.contiguous_format
        size = (len(index), self.channels, self.height, self.width)
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned, memory_format=layout)

    def _read(self, index: Tensor, buffer: Tensor) -> Tensor:
        """The images, read into the buffer: in numpy alone, which lets the other threads run meanwhile."""
        rows = self.rows[index.numpy()]
        if self._pages is not None:
            self._pages.announce(rows)
        np.copyto(buffer.numpy(), self.array[rows].transpose(0, 3, 1, 2))
        if self._pages is not None:
            self._pages.release()
        return buffer

    def _send(self, images: Tensor) -> Tensor:
        return images.to(self.device, non_blocking=self._pinned).contiguous()


class _Pages:
    """Hints to the system about the pages of a file that is mapped whole and read-only."""

    def __init__(self, mapping: mmap.mmap, offset: int, row_bytes: int) -> None:
        """offset: where the rows start in the file."""
        self.mapping, self.row_bytes = mapping, row_bytes
        self.start = offset % mmap.ALLOCATIONGRANULARITY

    def announce(self, rows: np.ndarray) -> None:
        """Asks for all rows at once; page faults would ask for them one by one, and wait for each."""
        for first in (self.start + rows * self.row_bytes).tolist():
            page = first - first % mmap.PAGESIZE
            self.mapping.madvise(mmap.MADV_WILLNEED, page, first + self.row_bytes - page)

    def release(self) -> None:
        """Leaves the pages to the system's cache, lest the process grow by all that it has read."""
        self.mapping.madvise(mmap.MADV_DONTNEED)


def _pages(array: np.ndarray) -> _Pages | None:
    # Of a part of a map the offset is not known, and pages that can be written to would lose what was written.
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.mode == "r":
        return _Pages(array.base, array.offset, array[:1].nbytes)
    return None


def _in_background(work: Callable[[], Tensor]) -> Future[Tensor]:
    """The result of a thread that ends with its work; a daemon, so that the end of the process waits for no disk."""
    future: Future[Tensor] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
