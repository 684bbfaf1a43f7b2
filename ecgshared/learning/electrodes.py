"""What moving the chest electrodes does to an ECG, to first order, by the forward model's lead field.

A chest lead sees the heart's dipole along a direction of its own; a centimetre along the chest turns and stretches that
direction. The dipole is told from the ECG itself, by least squares over the eight independent leads.
"""

from __future__ import annotations

import numpy as np
import torch

from ecgshared.ecg.dipole import INDEPENDENT, LEAD_FIELD

CHEST = slice(6, 12)
"""V1..V6 among the twelve leads."""

PER_CM = np.array(
    [
        ([0.004, -0.088, 0.012], [0.024, 0.001, -0.117]),
        ([-0.004, -0.137, 0.002], [0.131, 0.003, -0.114]),
        ([0.018, -0.157, -0.049], [0.184, -0.004, 0.008]),
        ([0.075, -0.116, -0.071], [0.098, -0.023, 0.096]),
        ([0.061, -0.098, -0.012], [-0.057, -0.020, 0.104]),
        ([-0.013, -0.075, -0.003], [-0.102, 0.002, 0.038]),
    ]
)
"""By how much a chest lead's field (mV for each mV of X, Y, Z) changes with each cm that its electrode lies higher, and
further to the patient's left around the chest: shape = (6, 2, 3)."""

_TO_DIPOLE = np.linalg.pinv(LEAD_FIELD)


def move_chest_electrodes(x: torch.Tensor, shift_cm: torch.Tensor) -> torch.Tensor:
    """Return ECGs as recorded with each chest electrode elsewhere; limb leads stay.

    Parameters
    ----------
    x : shape (B, 12, T), mV, in the standard order of leads.
    shift_cm : shape (B, 6, 2): of V1..V6, up and to the left. Beyond some two cm the field bends.
    """
    dipole = torch.as_tensor(_TO_DIPOLE).to(x) @ x[:, list(INDEPENDENT)]  # (B, 3, T)
    change = torch.einsum("bvs,vsd->bvd", shift_cm.to(x), torch.as_tensor(PER_CM).to(x))
    return torch.cat([x[:, :6], x[:, CHEST] + change @ dipole], 1)
