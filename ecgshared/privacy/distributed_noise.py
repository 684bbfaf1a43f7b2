"""Noise that the sites of a secure sum add in shares, so that the SUM carries what differential privacy asks for.

Each site adds to its own numbers, before they go under masks, a Gaussian of its own. Nobody sees one site's numbers,
and the sum has the noise of all: with ``n`` sites each share is smaller than the whole by sqrt(n). What must not be
counted on is the noise of sites that were lost, and of those that tell the coordinator theirs: a share is made so
large that ``counted`` sites' noise is enough, and the accounting says what holds where t sites collude.

Fixed-point numbers make it exact. A site's numbers are put on a grid first, a millionth of the noise wide and one that
the sum's numbers hold exactly. That moves each by at most half a unit, so that one patient moves a vector of d numbers
by at most C + unit sqrt(d); then noise on the same grid is added. The sum of the sites' words is an integer with the
density of the whole Gaussian, smoothed by the roundings, up to terms below exp(-2 pi^2 s^2) with s a share's standard
deviation in units (Poisson's summation; Kairouz, Liu and Steinke, The distributed discrete Gaussian mechanism,
arXiv:2102.06387): shares of fewer than LEAST_UNITS are refused.

Epsilon of one release is the closed form of Balle and Wang, arXiv:1805.06530, theorem 8. Neighbouring data differ in
one patient at one site, whose contribution is put to nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr

from ecgshared.arrays import Floats
from ecgshared.errors import PrivacyError
from ecgshared.privacy.accounting import Spent
from ecgshared.privacy.fixed_point import EXACT, FixedPoint
from ecgshared.privacy.noise import secure_gaussian
from ecgshared.study.secure import LEAST_SITES

LEAST_UNITS = 1024.0
"""Of a share's standard deviation, in units of the fixed-point numbers."""

_GRID_BITS = 20

_MOST_EPSILON = 1e4


@dataclass(frozen=True)
class NoiseShares:
    """How the sites of one sum share its noise.

    Attributes
    ----------
    noise_multiplier : sigma of the sum: its noise has standard deviation sigma times ``max_norm``.
    max_norm : C, the most (L2) that one patient adds to a site's numbers.
    counted : sites whose noise is counted on: those that open a sum at least, less those that may collude.
    form : the sum's fixed-point numbers.
    """

    noise_multiplier: float
    max_norm: float
    counted: int
    form: FixedPoint = EXACT

    def __post_init__(self) -> None:
        if not (self.noise_multiplier > 0 and self.max_norm > 0 and math.isfinite(self.share_std)):
            raise PrivacyError("noise needs a positive multiplier and norm")
        if self.counted < 1:
            raise PrivacyError(
                "no site's noise can be counted on",
                value=self.counted,
                allowed="at least 1: a threshold above the number of sites that may collude",
            )
        if self.share_std < LEAST_UNITS * self.form.unit:
            raise PrivacyError(
                "a site's share of the noise is too small for the fixed-point numbers of a secure sum",
                value=self.share_std,
                allowed=f"at least {LEAST_UNITS * self.form.unit:g}",
            )

    @classmethod
    def of(
        cls,
        noise_multiplier: float,
        max_norm: float,
        *,
        threshold: int,
        colluding: int,
        size: int = 1,
        form: FixedPoint = EXACT,
    ) -> NoiseShares:
        """Return the shares with which any sum that opens has its noise, also where ``colluding`` sites tell theirs.

        Parameters
        ----------
        threshold : how many sites open a sum at least.
        size : how many numbers a site adds: by what their rounding lets a patient move them the noise is larger.
        """
        if threshold < LEAST_SITES or colluding < 0:
            raise PrivacyError("a sum of so few sites", value=threshold, allowed=f"at least {LEAST_SITES}")
        found = cls(noise_multiplier, max_norm, threshold - colluding, form)
        # The grid of the larger noise may be a step coarser.
        more = 1.0 + 2 * found.unit * math.sqrt(size) / max_norm
        return cls(noise_multiplier * more, max_norm, threshold - colluding, form)

    @property
    def share_std(self) -> float:
        """Standard deviation of one site's noise."""
        return self.noise_multiplier * self.max_norm / math.sqrt(max(self.counted, 1))

    @property
    def unit(self) -> float:
        """Of the grid of numbers and noise: a power of two that the sum's fixed-point numbers hold exactly."""
        return max(self.form.unit, 2.0 ** (math.floor(math.log2(self.share_std)) - _GRID_BITS))

    def left(self, in_sum: int, colluding: int, size: int) -> float:
        """Return the noise multiplier that those have before them who know the noise of ``colluding`` sites.

        Parameters
        ----------
        in_sum : sites in the sum. colluding : those of them that tell their noise; all of it then is known.
        size : how many numbers a site adds: rounding them to the grid lets a patient move them by a little more.
        """
        honest = in_sum - colluding
        if honest < 1:
            return 0.0
        moved = self.max_norm + self.unit * math.sqrt(size)
        return self.share_std * math.sqrt(honest) / moved

    def spent(self, in_sum: int, colluding: int, size: int, *, sample_rate: float = 1.0, steps: int = 1) -> Spent:
        """Return the ledger entry of sums of these sites, for :mod:`ecgshared.privacy.accounting`."""
        return Spent(self.left(in_sum, colluding, size), sample_rate, steps)

    def epsilon(self, in_sum: int, colluding: int, size: int, delta: float) -> float:
        """Return epsilon of ONE sum of all patients, at ``delta``; infinite where every site of it colludes."""
        return gaussian_epsilon(self.left(in_sum, colluding, size), delta)


def noised(values: NDArray[np.floating], shares: NoiseShares, *, sites: int) -> Floats:
    """Return a site's numbers on the fixed-point grid, with its share of the noise; what it adds to the sum.

    Parameters
    ----------
    values : float array of any shape, of which one patient moves at most ``shares.max_norm`` (L2).
    sites : of the study's step, as for :meth:`ecgshared.privacy.fixed_point.FixedPoint.encode`.

    Raises
    ------
    PrivacyError : a number is not finite, or with its noise leaves the range of the fixed-point numbers.
    """
    unit, flat = shares.unit, np.asarray(values, dtype=np.float64).ravel()
    noise = secure_gaussian(len(flat), std=shares.share_std / unit).numpy()
    with np.errstate(invalid="ignore", over="ignore"):
        # Doubles hold integers of 53 bits: beyond them the grid of the sum would be coarser than was accounted for.
        grid, added = np.rint(flat / unit), np.rint(noise)
        total = grid + added
        fits = np.isfinite(total) & (np.maximum(np.abs(grid), np.abs(total)) < 2.0**53)
    if not fits.all():
        raise PrivacyError(
            "a number does not fit the grid on which noise is added to a secure sum",
            value=float(flat[~fits][0]),
            allowed=f"below {2.0**53 * unit:g} in magnitude",
        )
    found: Floats = (total * unit).reshape(np.shape(values))
    shares.form.encode(found, sites, what="a number with its noise")
    return found


def gaussian_delta(noise_multiplier: float, epsilon: float) -> float:
    """Return delta of one Gaussian release at ``epsilon``: its sensitivity is 1, its noise ``noise_multiplier``."""
    if noise_multiplier <= 0:
        return 1.0
    half, shift = 0.5 / noise_multiplier, epsilon * noise_multiplier
    above, below = log_ndtr(half - shift), epsilon + log_ndtr(-half - shift)
    return float(np.exp(above) * -np.expm1(min(below - above, 0.0)))


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """Return the least epsilon of one Gaussian release at ``delta``.

    Raises
    ------
    PrivacyError : delta is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise PrivacyError("delta of differential privacy", value=delta, allowed="above 0 and below 1")
    if gaussian_delta(noise_multiplier, _MOST_EPSILON) > delta:
        return math.inf
    if gaussian_delta(noise_multiplier, 0.0) <= delta:
        return 0.0
    found = brentq(lambda e: gaussian_delta(noise_multiplier, e) - delta, 0.0, _MOST_EPSILON, xtol=1e-12, rtol=1e-12)
    return float(found)
