"""Files beside the signals of a cache folder, with a place for each slot: median beats, R peaks, measurements.

Whoever writes a place and whoever wipes one holds the same lock, and a place is written only of a recording that the
index knows at that moment: what is forgotten while beats are being made leaves none behind.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cache.entries import UNITS_PER_MV
from client.cache.generation import connect, generation_of
from client.cache.lock import alone
from ecgshared.errors import RunError

FILE = "median-beats.i16"
PEAKS_FILE = "r-peaks.i32"
MEASURED_FILE = "measured.f64"
FILES = (FILE, PEAKS_FILE, MEASURED_FILE)
"""All of them: who is forgotten is wiped from each."""
MOST_PEAKS = 48
"""Beats kept of one recording; a faster or longer one keeps as many, evenly over its length."""
_LOCK = "beats-lock.sqlite"
_AT_ONCE = 256


_MAGIC = b"ecgfed beats 1\0\0"


_HEADER = np.dtype([("magic", "S16"), ("place", "<u4"), ("samples", "<u4")])


_NONE, _KNOWN, _ABSENT = 0, 1, 2


Compute = Callable[[int], NDArray[Any] | None]
"""From a slot to what its place holds, or None where the recording has none."""


class SlotFile:
    """One file of one cache folder.

    Parameters
    ----------
    file : one of :data:`FILES`.
    content : of a place. version : another makes all places anew: that of the code behind them, or a length.
    made : of the cache that the slots are of (:class:`~client.cache.generation.CacheGeneration`).
    """

    def __init__(self, folder: Path, file: str, content: np.dtype[Any], version: int, made: int | None) -> None:
        self._folder, self._path, self._version, self._made = folder, folder / file, version, made
        self._place = np.dtype([("signal", "<u4"), ("check", "<u4"), ("state", "<u4"), ("beat", content)])
        self._sound: dict[int, bool] = {}

    def stored(self, value: NDArray[Any]) -> NDArray[Any]:
        """Return a computed value as its place holds it."""
        return value

    def fill(self, slots: NDArray[np.int64], compute: Compute) -> None:
        """Make the beats of ``slots`` that are not here, or not of the signal that is there now.

        Raises
        ------
        RunError : a slot holds no recording any more, or the cache was made anew.
        """
        unseen = [slot for slot in dict.fromkeys(slots.tolist()) if slot not in self._sound]
        for start in range(0, len(unseen), _AT_ONCE):
            with alone(self._folder / _LOCK, every_s=0.05):
                self._fill(unseen[start : start + _AT_ONCE], compute)

    def _fill(self, slots: list[int], compute: Compute) -> None:
        signal = self._signals(slots)
        self._grow(max(slots) + 1)
        places = self._map("r+")
        for slot in slots:
            place = places[slot]
            if place["signal"] != signal[slot] or place["check"] != _check(place):
                beat = compute(slot)
                place["state"] = _ABSENT if beat is None else _KNOWN
                place["beat"] = 0 if beat is None else self.stored(beat)
                place["signal"] = signal[slot]
                place["check"] = _check(place)
            self._sound[slot] = bool(place["state"] == _KNOWN)
        places.flush()

    def _signals(self, slots: list[int]) -> dict[int, int]:
        """Return the checksum of the signal in each slot, by the cache's own index as it is now."""
        with closing(connect(self._folder)) as index:
            now = generation_of(self._folder, index)
            marks = ", ".join("?" * len(slots))
            found = dict(index.execute(f"SELECT slot, crc FROM entry WHERE slot IN ({marks})", slots).fetchall())
        if len(found) < len(slots) or (self._made is not None and (now is None or now.made != self._made)):
            raise RunError("recordings were taken out of the cache meanwhile", where=self._folder)
        return found

    def known(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark the slots with a beat, of those filled."""
        return np.array([self._sound[int(slot)] for slot in slots], dtype=bool)

    def places(self, slots: NDArray[np.int64]) -> NDArray[Any]:
        """Return what the places of filled slots hold, shape = (len(slots), ...)."""
        if not len(slots):
            base, shape = self._place["beat"].base, self._place["beat"].shape
            return np.empty((0, *shape), dtype=base)
        return np.asarray(self._map("r")["beat"][slots])

    def _grow(self, places: int) -> None:
        if not _fits(self._path, self._place, self._version):
            self._path.unlink(missing_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                file.write(np.array([(_MAGIC, self._place.itemsize, self._version)], dtype=_HEADER).tobytes())
        size = _HEADER.itemsize + places * self._place.itemsize
        if self._path.stat().st_size < size:
            os.truncate(self._path, size)

    def _map(self, mode: Any) -> np.memmap[Any, Any]:
        places = (self._path.stat().st_size - _HEADER.itemsize) // self._place.itemsize
        return np.memmap(self._path, dtype=self._place, mode=mode, offset=_HEADER.itemsize, shape=(places,))


class BeatStore(SlotFile):
    """Median beats of ``samples`` samples a lead."""

    def __init__(self, folder: Path, samples: int, made: int | None) -> None:
        super().__init__(folder, FILE, np.dtype(("<i2", (12, samples))), samples, made)

    def stored(self, value: NDArray[Any]) -> NDArray[Any]:
        """See :meth:`SlotFile.stored`: microvolts."""
        return np.asarray(np.clip(np.rint(value * UNITS_PER_MV), -32767, 32767))

    def read(self, slots: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the beats of filled slots, shape = (len(slots), 12, W), mV."""
        return self.places(slots).astype(np.float32) / np.float32(UNITS_PER_MV)


class PeakStore(SlotFile):
    """R peaks of a recording's single beats, up to :data:`MOST_PEAKS`; -1 after the last."""

    def __init__(self, folder: Path, version: int, made: int | None) -> None:
        super().__init__(folder, PEAKS_FILE, np.dtype(("<i4", (MOST_PEAKS,))), version, made)

    def stored(self, value: NDArray[Any]) -> NDArray[Any]:
        """See :meth:`SlotFile.stored`."""
        out = np.full(MOST_PEAKS, -1, dtype=np.int32)
        out[: len(value)] = value
        return out


class MeasuredStore(SlotFile):
    """What is measured on a recording's median beat: ``numbers`` of them, NaN where a wave is absent."""

    def __init__(self, folder: Path, numbers: int, version: int, made: int | None) -> None:
        super().__init__(folder, MEASURED_FILE, np.dtype(("<f8", (numbers,))), version, made)


def wipe(folder: Path, slots: list[int]) -> None:
    """Overwrite the places of ``slots`` of a cache whose recordings are forgotten; nothing where there are none."""
    if slots:
        with alone(folder / _LOCK, every_s=0.05):
            for file in FILES:
                _wipe(folder / file, slots)


def _wipe(path: Path, slots: list[int]) -> None:
    if not path.is_file():
        return
    header = _header(path)
    if header is None:
        path.unlink()
        return
    size, total = int(header["place"]), path.stat().st_size
    with path.open("r+b") as file:
        for slot in slots:
            start = _HEADER.itemsize + slot * size
            if start + size <= total:
                file.seek(start)
                file.write(bytes(size))
        file.flush()
        os.fsync(file.fileno())


def _check(place: Any) -> int:
    """Checksum of a place; never that of one that was never written or was wiped."""
    start = zlib.crc32(np.array([place["signal"], place["state"]], dtype="<u4").tobytes(), 1)
    return zlib.crc32(np.ascontiguousarray(place["beat"]).tobytes(), start) if place["state"] != _NONE else -1


def _header(path: Path) -> Any:
    with path.open("rb") as file:
        data = file.read(_HEADER.itemsize)
    if len(data) < _HEADER.itemsize:
        return None
    header = np.frombuffer(data, dtype=_HEADER)[0]
    return header if header["magic"] == _MAGIC.rstrip(b"\0") else None


def _fits(path: Path, place: np.dtype[Any], version: int) -> bool:
    if not path.is_file():
        return False
    header = _header(path)
    return header is not None and header["place"] == place.itemsize and header["samples"] == version
