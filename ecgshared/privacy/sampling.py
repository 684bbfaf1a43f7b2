"""Who is in a private step: patients by Poisson sampling, one ECG of each, from a source nobody can replay.

The accountant's amplification by sampling holds only while the choice is secret. It therefore comes from the
operating system's generator, never from a seed of the study or the site.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ecgshared.errors import PrivacyError

WORD = 2**64


def secure_words(count: int) -> NDArray[np.uint64]:
    """Return ``count`` uniform 64-bit words from the operating system."""
    return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)


def secure_bernoulli(count: int, probability: float) -> NDArray[np.bool_]:
    """Return ``count`` independent draws that are True with ``probability``, rounded DOWN to a multiple of 2^-64.

    Rounding down keeps the true rate at or below what the accountant was told.
    """
    if not 0 <= probability <= 1:
        raise PrivacyError("a sampling rate lies in [0, 1]", value=probability)
    if probability == 1:
        return np.ones(count, dtype=bool)
    return secure_words(count) < np.uint64(int(probability * WORD))


def secure_below(limits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one uniform integer in [0, limit) for each limit >= 1, without modulo bias.

    Words in the last, incomplete run of a limit's multiples are drawn again.
    """
    limit = limits.astype(np.uint64)
    last = np.array([WORD // int(n) * int(n) - 1 for n in np.unique(limit)], dtype=np.uint64)
    last = last[np.searchsorted(np.unique(limit), limit)]
    words = secure_words(len(limit)).copy()
    while (again := words > last).any():
        words[again] = secure_words(int(again.sum()))
    return (words % limit).astype(np.int64)


class PatientSampler:
    """Draw patients, then one ECG of each.

    Parameters
    ----------
    patient : the patient of each row, shape (n,).
    sample_rate : q, with which each patient enters a step, independently of the others.
    """

    def __init__(self, patient: NDArray[np.int64], sample_rate: float) -> None:
        self._rows = np.argsort(patient, kind="stable")
        _, self._start, self._count = np.unique(patient[self._rows], return_index=True, return_counts=True)
        self._rate = sample_rate

    @property
    def patients(self) -> int:
        """Distinct patients."""
        return len(self._count)

    def draw(self) -> NDArray[np.int64]:
        """Return the rows of one step: at most one for each patient, none at all now and then."""
        chosen = np.flatnonzero(secure_bernoulli(self.patients, self._rate))
        offset = secure_below(self._count[chosen])
        rows: NDArray[np.int64] = self._rows[self._start[chosen] + offset]
        return rows

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        while True:
            yield self.draw()
