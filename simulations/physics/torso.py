"""From the heart's dipole to the electrodes: potentials in an infinite medium, and the leads made of them.

Body coordinates are (left, posterior, superior) in cm; dipole axes are X left, Y inferior, Z posterior. The
eight independent leads are I, II, V1..V6; the other four follow by Einthoven and Goldberger.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

ELECTRODES = ("LA", "RA", "LL", "RL", "V1", "V2", "V3", "V4", "V5", "V6")
REFERENCE_ELECTRODES_CM = np.array(
    [
        (18.4, -10.9, 13.0),
        (-16.3, -9.4, 15.8),
        (13.0, -13.5, -27.4),
        (-14.5, -14.4, -24.5),
        (-2.5, -18.3, -1.8),
        (1.3, -18.6, -2.7),
        (4.1, -18.7, -4.6),
        (6.6, -18.7, -6.8),
        (15.0, -13.3, -6.2),
        (16.4, -5.5, -1.9),
    ]
)
REFERENCE_HEART_CM = np.array([5.2, -9.3, -3.2])
THORAX_CM = 33.0

INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
DOWER = np.array(
    [
        (0.632, -0.235, 0.059),
        (0.235, 1.066, -0.132),
        (-0.515, 0.157, -0.917),
        (0.044, 0.164, -1.387),
        (0.882, 0.098, -1.277),
        (1.213, 0.127, -0.601),
        (1.125, 0.127, -0.086),
        (0.831, 0.076, 0.230),
    ]
)
"""Dower 1980: mV of each independent lead per mV of X, Y, Z."""
MEDIUM_GAIN_CM2 = 175.0
"""k of phi = k d.(e - h)/|e - h|^3 that gives the reference heart chest leads of ordinary size."""
LIMB_GAIN_CM2 = 285.0
"""Gain of BOTH limb leads, so that turning the heart turns the axis as much as in the plain medium."""

RESPIRATION_TURN_RAD = np.array([0.2, 0.16, 0.14])
RESPIRATION_SHIFT = 0.05
"""Full excursion of the heart's turn, and of its shift as a share of the thorax (Sameni 2007)."""


@dataclass(frozen=True)
class Anatomy:
    """Where n hearts lie and how they are turned.

    Attributes
    ----------
    heart_cm : array, shape = (n, 3): centre of the ventricles.
    turn_rad : array, shape = (n, 3): rotation in the frontal plane (positive: apex down, a vertical heart),
        about the vertical (positive: apex to the back, later transition), and about the left-right axis.
    scale : array, shape = (n,): size of the electrical source, by ventricular mass and what surrounds it.
    chest_gain : array, shape = (n, 6): what the tissue under V1..V6 lets through; None is 1.
    """

    heart_cm: NDArray[np.float64]
    turn_rad: NDArray[np.float64]
    scale: NDArray[np.float64]
    chest_gain: NDArray[np.float64] | None = None


def reference_anatomy(n: int = 1) -> Anatomy:
    """Return n copies of the reference anatomy."""
    return Anatomy(np.repeat(REFERENCE_HEART_CM[None], n, axis=0), np.zeros((n, 3)), np.ones(n))


def reference_electrodes(n: int = 1) -> NDArray[np.float64]:
    """Return n copies of the ten reference positions, shape = (n, 10, 3), cm."""
    return np.repeat(REFERENCE_ELECTRODES_CM[None], n, axis=0)


def rotation(turn_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation matrices of :class:`Anatomy` ``turn_rad``, in dipole axes, shape = (n, 3, 3)."""
    (cf, cv, ct), (sf, sv, st) = np.cos(turn_rad).T, np.sin(turn_rad).T
    zero, one = np.zeros_like(cf), np.ones_like(cf)

    def matrix(rows: list[list[NDArray[np.float64]]]) -> NDArray[np.float64]:
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

    frontal = matrix([[cf, -sf, zero], [sf, cf, zero], [zero, zero, one]])
    vertical = matrix([[cv, zero, -sv], [zero, one, zero], [sv, zero, cv]])
    tilt = matrix([[one, zero, zero], [zero, ct, -st], [zero, st, ct]])
    return frontal @ vertical @ tilt


def lead_field(anatomy: Anatomy, electrodes_cm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each independent lead sees of a unit dipole in an infinite medium.

    Parameters
    ----------
    anatomy : n hearts.
    electrodes_cm : array, shape = (n, 10, 3), in the order of :data:`ELECTRODES`.

    Returns
    -------
    array, shape = (n, 8, 3), mV per mV of X, Y, Z, with :data:`MEDIUM_GAIN_CM2`.
    """
    arm = electrodes_cm - anatomy.heart_cm[:, None, :]
    field = arm / np.linalg.norm(arm, axis=-1, keepdims=True) ** 3
    field = np.stack([field[..., 0], -field[..., 2], field[..., 1]], axis=-1)  # left, inferior, posterior
    field = MEDIUM_GAIN_CM2 * field @ rotation(anatomy.turn_rad) * anatomy.scale[:, None, None]
    left, right, foot = field[:, 0], field[:, 1], field[:, 2]
    terminal = (left + right + foot) / 3  # Wilson's
    limb = np.stack([left - right, foot - right], axis=1)
    return np.concatenate([limb, field[:, 4:] - terminal[:, None, :]], axis=1)


def _dower_maps() -> NDArray[np.float64]:
    """Return per lead the smallest rotation and gain that take the reference field to Dower's, (8, 3, 3)."""
    maps = []
    for seen, wanted in zip(lead_field(reference_anatomy(), reference_electrodes())[0], DOWER, strict=True):
        a, b = seen / np.linalg.norm(seen), wanted / np.linalg.norm(wanted)
        v = np.cross(a, b)
        skew = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
        maps.append((np.eye(3) + skew + skew @ skew / (1 + a @ b)) * np.linalg.norm(wanted) / np.linalg.norm(seen))
    return np.array(maps)


_REFERENCE_FIELD = lead_field(reference_anatomy(), reference_electrodes())[0]
_TO_DOWER = _dower_maps()


def calibrated(field: NDArray[np.float64], scale: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Bring a lead field to Dower's scale: Dower itself at the reference, moved as the field moves elsewhere.

    Chest leads are mapped one by one (gain and smallest rotation). The limb leads share one gain, else their
    unequal gains would overstate how the axis follows the heart. ``scale`` is the anatomy's, shape = (n,): with
    it a larger source is larger in every lead alike.
    """
    size = np.ones(len(field)) if scale is None else scale
    chest = np.einsum("lij,nlj->nli", _TO_DOWER[2:], field[:, 2:])
    change = field[:, :2] / size[:, None, None] - _REFERENCE_FIELD[:2]
    limb = (DOWER[:2] + LIMB_GAIN_CM2 / MEDIUM_GAIN_CM2 * change) * size[:, None, None]
    return np.concatenate([limb, chest], axis=1)


def breathing_field(
    anatomy: Anatomy,
    electrodes_cm: NDArray[np.float64],
    sign: float,
    depth: NDArray[np.float64] | None = None,
    *,
    calibrate: bool = True,
) -> NDArray[np.float64]:
    """Return the lead field at the end of a breath, shape = (n, 8, 3); parameters are those of :func:`project`.

    ``sign`` is 1 breathed in, -1 out, 0 between.
    """
    amount = 0.5 * sign * (np.ones(len(anatomy.scale)) if depth is None else depth)[:, None]
    shift = RESPIRATION_SHIFT * THORAX_CM * amount * np.array([0.0, 0.0, -1.0])  # in: the diaphragm pulls down
    moved = Anatomy(anatomy.heart_cm + shift, anatomy.turn_rad + amount * RESPIRATION_TURN_RAD, anatomy.scale)
    raw = lead_field(moved, electrodes_cm)
    seen = calibrated(raw, anatomy.scale) if calibrate else raw
    if anatomy.chest_gain is not None:
        seen[:, 2:] *= anatomy.chest_gain[:, :, None]
    return seen


def project(
    dipole: F32,
    anatomy: Anatomy,
    electrodes_cm: NDArray[np.float64],
    *,
    respiration: F32 | None = None,
    depth: NDArray[np.float64] | None = None,
    calibrate: bool = True,
) -> F32:
    """Return the eight independent leads.

    Parameters
    ----------
    dipole : array, shape = (n, 3, T), mV.
    anatomy, electrodes_cm : of n records.
    respiration : array, shape = (n, T), -1 (out) to 1 (in); None holds the breath.
    depth : array, shape = (n,): excursion relative to :data:`RESPIRATION_TURN_RAD`, default 1.
    calibrate : False leaves the plain infinite medium.

    Returns
    -------
    array, shape = (n, 8, T), float32 mV. The lead field is linear in the breath between its two ends.
    """

    def field(sign: float) -> NDArray[np.float64]:
        return breathing_field(anatomy, electrodes_cm, sign, depth, calibrate=calibrate)

    if respiration is None:
        return np.asarray(field(0.0).astype(np.float32) @ dipole)
    inward, outward = field(1.0), field(-1.0)
    out = ((inward + outward) / 2).astype(np.float32) @ dipole
    swing = ((inward - outward) / 2).astype(np.float32) @ dipole
    swing *= respiration[:, None, :]
    out += swing
    return np.asarray(out)


def twelve(eight: F32) -> F32:
    """Return the twelve leads in standard order from I, II, V1..V6; shape (..., 8, T) -> (..., 12, T)."""
    one, two = eight[..., 0:1, :], eight[..., 1:2, :]
    three = two - one
    limb = [one, two, three, -(one + two) / 2, (one - three) / 2, (two + three) / 2]
    return np.concatenate([*limb, eight[..., 2:, :]], axis=-2)
