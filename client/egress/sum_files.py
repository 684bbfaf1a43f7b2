"""What a site keeps of its secure sums on its disk: written whole, owner-only, and gone when a newer set is made.

What a power failure takes is refused afterwards, and asked for anew; a claim alone, which says what a sum's keys were
used for, must outlive it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.errors import RefusalCode, Refused
from ecgshared.service.files import private_folder, write_atomically
from ecgshared.wire.bytes import pack, unpack
from ecgshared.wire.secure_rounds import sum_of

Bytes = NDArray[np.uint8]
Kept = tuple[dict[str, Any], dict[str, NDArray[Any]]]


class SumFiles:
    """The files of the sums of one step of one run.

    Parameters
    ----------
    folder : of their own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of_set(self, number: int, what: str) -> Path:
        """Return the file of a set of keys: ``secrets``, ``members`` or ``held``."""
        return self._folder / f"setup-{number}.{what}"

    def of_sum(self, round_number: int, what: str) -> Path:
        """Return the file of one sum: ``claim``, ``asked``, ``own``, ``dealt`` or ``weighed``."""
        return self._folder / f"{round_number}.{what}"

    def forget_older(self, number: int) -> None:
        """Wipe the secrets of older sets: their sums are over, or will be refused."""
        for path in self._folder.glob("setup-*.*"):
            if int(path.stem.rpartition("-")[2]) < number:
                path.unlink()
        for path in self._folder.glob("[0-9]*.*"):
            if sum_of(int(path.stem))[0] < number:
                path.unlink()


def write(path: Path, header: dict[str, Any], arrays: Mapping[str, NDArray[Any]], *, sync: bool = False) -> None:
    """Keep something; with ``sync``, wait until it is on the disk."""
    private_folder(path.parent)
    write_atomically(path, pack(header, arrays), private=True, sync=sync)


def read(path: Path) -> Kept:
    """Return what :func:`write` kept.

    Raises
    ------
    Refused : there is no such file.
    """
    try:
        return unpack(path.read_bytes())
    except FileNotFoundError:
        raise refused("what this site kept of this sum is gone, or it took no part in it") from None


def as_bytes(data: bytes) -> Bytes:
    """Return bytes as an array."""
    return np.frombuffer(data, dtype=np.uint8)


def as_rows(rows: list[bytes]) -> Bytes:
    """Return texts of one length as an array, a row each."""
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), -1)


def refused(what: str) -> Refused:
    """Return the refusal of anything but an honest next part."""
    return Refused(RefusalCode.SECURE_SUM_REFUSED, what)
