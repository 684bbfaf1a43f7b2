"""Numbers as unsigned 64-bit words whose sum, taken modulo 2^64, is the sum of the numbers.

Masks of a secure sum cancel exactly only among integers, so what is summed is fixed-point numbers: the sum of the
words is bit for bit that of the same words without masks. Two forms:

* ``EXACT``, for statistics: two words a number, its floor and what is over in units of 2^-50. Sums of squares of a
  hundred thousand ages and gradients of 1e-9 both keep what a double holds of them.
* ``SHORT``, for weights: one word in units of 2^-40, half the bytes.

A number whose sum over the sites could leave the range is refused, never wrapped round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import PrivacyError

Words = NDArray[np.uint64]

MOST_SITES = 4096
"""Of one sum: the second words of so many sites stay below 2^63."""

_RANGE_BITS = 62


@dataclass(frozen=True)
class FixedPoint:
    """One form of fixed-point numbers.

    Attributes
    ----------
    words : a number takes, one or two.
    fraction_bits : the unit is 2^-fraction_bits.
    """

    words: int
    fraction_bits: int

    @property
    def unit(self) -> float:
        """The smallest step between two numbers; one number is off by at most half of it."""
        return float(2.0**-self.fraction_bits)

    def largest(self, sites: int) -> float:
        """Return the largest magnitude that each of ``sites`` may add."""
        whole = 2.0**_RANGE_BITS if self.words == 2 else 2.0 ** (_RANGE_BITS - self.fraction_bits)
        return float(whole / sites)

    def encode(self, values: NDArray[Any], sites: int, *, what: str = "a number") -> Words:
        """Return numbers as words, shape = (words * size,): all first words, then all second ones.

        Parameters
        ----------
        values : float array of any shape. sites : how many add theirs, 1 to MOST_SITES.

        Raises
        ------
        PrivacyError : a number is not finite, or so large that the sum could overflow.
        """
        if not 1 <= sites <= MOST_SITES:
            raise PrivacyError("a secure sum of so many sites", value=sites, allowed=f"1 to {MOST_SITES}")
        flat = np.asarray(values, dtype=np.float64).ravel()
        with np.errstate(invalid="ignore"):
            fits = np.abs(flat) <= self.largest(sites)
        if not fits.all():
            raise PrivacyError(
                f"{what} does not fit the fixed-point numbers of a secure sum",
                value=float(flat[~fits][0]),
                allowed=f"finite, at most {self.largest(sites):g} in magnitude for {sites} sites",
            )
        if self.words == 1:
            return np.asarray(np.rint(flat * 2.0**self.fraction_bits).astype(np.int64).view(np.uint64))
        floor = np.floor(flat)
        over = np.rint((flat - floor) * 2.0**self.fraction_bits).astype(np.uint64)
        return np.concatenate([floor.astype(np.int64).view(np.uint64), over])

    def decode(self, total: Words) -> Floats:
        """Return the numbers that summed words stand for, shape = (size,)."""
        if self.words == 1:
            return np.asarray(total.view(np.int64).astype(np.float64) / 2.0**self.fraction_bits)
        floor, over = total[: len(total) // 2], total[len(total) // 2 :]
        # What is over may have grown beyond one: as integers first, so that nothing is rounded twice.
        carry = over >> np.uint64(self.fraction_bits)
        rest = (over & np.uint64((1 << self.fraction_bits) - 1)).astype(np.float64) / 2.0**self.fraction_bits
        return np.asarray((floor + carry).view(np.int64).astype(np.float64) + rest)


EXACT = FixedPoint(words=2, fraction_bits=50)
SHORT = FixedPoint(words=1, fraction_bits=40)
