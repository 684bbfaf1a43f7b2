"""The file of signals: numbered places of one size. A place is written once and may then only become zeros.

So whoever holds a map of the file, in this process or another, finds in a place the signal that was there when its
index was read, or zeros: never another person's. Places that became zeros give their blocks back to the disk where
the file system can.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = "signals.i16"

_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01


class SlotFile:
    """The file of one cache folder; ``samples`` T a lead, so that a slot holds (12, T) int16."""

    def __init__(self, folder: Path, samples: int) -> None:
        self._path, self._samples = folder / FILE, samples
        self.slot_bytes = 12 * samples * 2

    def create(self) -> None:
        """Make the file, empty and its owner's alone, where there is none."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))

    def stat(self) -> os.stat_result:
        """Return the file's size and times."""
        return self._path.stat()

    def slots(self) -> int:
        """Return how many slots the file reaches into."""
        return -(-self.stat().st_size // self.slot_bytes)

    def write(self, first: int, signals: Iterable[bytes | memoryview]) -> None:
        """Write signals into the slots from ``first`` on, and wait until they are on the disk."""
        with self._path.open("r+b") as file:
            file.seek(first * self.slot_bytes)
            for signal in signals:
                file.write(signal)
            file.flush()
            os.fsync(file.fileno())

    def read(self, slots: Iterable[int]) -> Iterable[bytes]:
        """Give the bytes of each slot; fewer where the file ends."""
        with self._path.open("rb") as file:
            for slot in slots:
                file.seek(slot * self.slot_bytes)
                yield file.read(self.slot_bytes)

    def wipe(self, slots: Sequence[int]) -> None:
        """Overwrite slots with zeros, wait until those are on the disk, and give their blocks back."""
        size = self.stat().st_size
        there = [slot for slot in slots if slot * self.slot_bytes < size]
        with self._path.open("r+b") as file:
            for slot in there:
                file.seek(slot * self.slot_bytes)
                file.write(bytes(min(self.slot_bytes, size - slot * self.slot_bytes)))
            file.flush()
            os.fsync(file.fileno())
            for slot in there:
                _punch(file.fileno(), slot * self.slot_bytes, self.slot_bytes)

    def end_after(self, slots: int) -> None:
        """Overwrite and cut off what lies behind ``slots``: written before a crash, and no index speaks of it."""
        end, size = slots * self.slot_bytes, self.stat().st_size
        if size <= end:
            return
        self.wipe(range(slots, self.slots()))
        os.truncate(self._path, end)

    def mapped(self, slots: int) -> NDArray[np.int16]:
        """Return the first ``slots`` as a read-only memory map, shape = (slots, 12, T)."""
        if slots == 0:
            return np.zeros((0, 12, self._samples), dtype=np.int16)
        return np.memmap(self._path, dtype="<i2", mode="r", shape=(slots, 12, self._samples))


def _punch(handle: int, start: int, length: int) -> None:
    """Give the blocks of a range of zeros back to the disk; where that cannot be done, the zeros stay."""
    if sys.platform == "linux" and sys.maxsize > 2**32:
        size = ctypes.c_int64
        ctypes.CDLL(None).fallocate(handle, _PUNCH_HOLE_KEEP_SIZE, size(start), size(length))
