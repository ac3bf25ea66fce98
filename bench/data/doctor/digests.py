"""Which of a million things are equal, from 16 bytes of each."""

from collections.abc import Iterator

import numpy as np

from bench.data.doctor.files import DIGEST

_NOTHING = bytes(DIGEST)


class Digests:
    """Digests in the order of their files, 16 bytes each."""

    def __init__(self) -> None:
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data) // DIGEST

    def add(self, value: bytes | None) -> None:
        """The digest of the next file; None for one that has nothing to compare."""
        self._data += value or _NOTHING

    def groups(self) -> Iterator[np.ndarray]:
        """The positions (2 or more, ascending) of each set of equal digests."""
        halves = np.frombuffer(self._data, dtype="<u8").reshape(-1, 2)
        order = np.lexsort((halves[:, 1], halves[:, 0]))
        ordered = halves[order]
        new = np.ones(len(order) + 1, dtype=bool)
        if len(order):
            new[1:-1] = (ordered[1:] != ordered[:-1]).any(axis=1)
        starts = np.flatnonzero(new)
        for index in np.flatnonzero(np.diff(starts) > 1):
            members = order[starts[index] : starts[index + 1]]
            if halves[members[0]].any():
                yield np.sort(members)
