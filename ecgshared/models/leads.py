"""What nets that make beats share: the eight independent leads, and a basis of the time of a beat."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

INDEPENDENT = (0, 1, 6, 7, 8, 9, 10, 11)
"""I, II, V1..V6 among the twelve leads."""

LIMB = np.array([[1, 0], [0, 1], [-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]])
"""The six limb leads from I and II."""

_SPACING_S = ((-0.12, 0.014), (-0.08, 0.010), (0.09, 0.005), (0.14, 0.010), (math.inf, 0.018))
"""Distance of spline knots up to a time: dense in QRS, wide under P and T."""


def time_basis(samples: int, window_s: tuple[float, float]) -> NDArray[np.float64]:
    """Return orthonormal functions of a beat's window, shape = (samples, J): cubic splines, made orthogonal
    symmetrically (Loewdin), so that each keeps its place in time."""
    low, high = window_s
    step = (high - low) / samples
    t = low + step * (np.arange(samples) + 0.5)
    knots = [low]
    while knots[-1] < high - 1e-9:
        spacing = next(distance for until, distance in _SPACING_S if knots[-1] < until - 1e-9)
        knots.append(min(knots[-1] + max(spacing, 1.25 * step), high))
    if len(knots) > 2 and knots[-1] - knots[-2] < step:
        del knots[-2]
    full = np.array([*[low] * 3, *knots, *[high] * 3])
    splines = BSpline.design_matrix(t, full, 3).toarray()
    values, vectors = np.linalg.eigh(splines.T @ splines)
    basis: NDArray[np.float64] = splines @ (vectors / np.sqrt(values)) @ vectors.T
    return basis
