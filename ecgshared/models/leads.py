"""What nets that make beats share: a basis of the time of a beat, and usual directions of its leads."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.interpolate import BSpline

from ecgshared.ecg.dipole import LEAD_FIELD

_SPACING_S = ((-0.12, 0.014), (-0.08, 0.010), (0.09, 0.005), (0.14, 0.010), (math.inf, 0.018))
"""Distance of spline knots up to a time: dense in QRS, wide under P and T."""


def time_basis(samples: int, window_s: tuple[float, float], finer: float = 1.0) -> NDArray[np.float64]:
    """Return orthonormal functions of a beat's window, shape = (samples, J): cubic splines, made orthogonal
    symmetrically (Loewdin), so that each keeps its place in time. ``finer`` divides the distances of their knots."""
    low, high = window_s
    step = (high - low) / samples
    t = low + step * (np.arange(samples) + 0.5)
    knots = [low]
    while knots[-1] < high - 1e-9:
        spacing = next(distance for until, distance in _SPACING_S if knots[-1] < until - 1e-9)
        knots.append(min(knots[-1] + max(spacing / finer, 1.25 * step), high))
    if len(knots) > 2 and knots[-1] - knots[-2] < step:
        del knots[-2]
    full = np.array([*[low] * 3, *knots, *[high] * 3])
    splines = BSpline.design_matrix(t, full, 3).toarray()
    values, vectors = np.linalg.eigh(splines.T @ splines)
    basis: NDArray[np.float64] = splines @ (vectors / np.sqrt(values)) @ vectors.T
    return basis


def usual_directions(functions: int, count: int) -> NDArray[np.float64]:
    """Return orthonormal directions among the coefficients of eight leads, shape = (count, 8 * functions).

    Those a beat has most of, without having seen one: leads together as a dipole shows in them, and slow before fast;
    then what remains. Never more than there are coefficients.
    """
    leads, _ = np.linalg.qr(np.concatenate([LEAD_FIELD, np.eye(8)], axis=1))
    time = dct(np.eye(functions), norm="ortho", axis=0)
    share = np.outer([1.0] * 3 + [0.05] * 5, (1 + (np.arange(functions) / 8) ** 2) ** -2.0)
    order = np.argsort(-share, axis=None, kind="stable")[: min(count, share.size)]
    space, slow = np.unravel_index(order, share.shape)
    found: NDArray[np.float64] = (leads.T[space][:, :, None] * time[slow][:, None, :]).reshape(len(order), -1)
    return found
