"""What models say of a cohort's rows, kept for the phases of one step that ask for the same again and again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable

import numpy as np

from ecgshared.arrays import Floats


class Remembered:
    """The last few results of each kind, by all that determines them.

    It belongs to one opened cohort and goes with it: what was computed of another generation is nobody's answer.
    """

    def __init__(self) -> None:
        self._kept: dict[str, OrderedDict[bytes, Floats]] = {}

    def get(
        self,
        kind: str,
        names: Iterable[str],
        arrays: Iterable[np.ndarray],
        compute: Callable[[], Floats],
        *,
        most: int,
    ) -> Floats:
        """Return the kept result, or compute and keep it.

        Parameters
        ----------
        kind : of result; ``most`` of each kind are kept.
        names, arrays : what the result hangs on, beside the cohort.
        """
        key = hashlib.sha256()
        for name in names:
            key.update(name.encode() + b"\0")
        for array in arrays:
            key.update(f"{array.shape}{array.dtype}".encode() + b"\0" + np.ascontiguousarray(array).tobytes())
        kept, digest = self._kept.setdefault(kind, OrderedDict()), key.digest()
        if digest not in kept:
            kept[digest] = compute()
            while len(kept) > most:
                kept.popitem(last=False)
        kept.move_to_end(digest)
        return kept[digest]
