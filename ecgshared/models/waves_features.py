"""What the net :mod:`ecgshared.models.waves` sees of an ECG: three numbers a lead, without parameters."""

from __future__ import annotations

import torch

from ecgshared.models.headed import FLOOR_RMS_MV

WINDOWS = 8
"""The recording is cut into so many parts, each with a beat or more; the median of their extremes is no artefact's."""

HIGHEST_MV = (0.6, 0.8, 0.4, 0.1, 0.4, 0.5, 0.3, 0.6, 0.8, 1.1, 1.1, 1.0)
LOWEST_MV = (-0.2, -0.2, -0.3, -0.7, -0.3, -0.2, -0.8, -1.1, -0.9, -0.6, -0.4, -0.3)
"""Usual extremes of I, II, III, aVR, aVL, aVF, V1 to V6 about the median: round numbers."""
SPREAD_MV = 0.4
TYPICAL_RMS_MV = 0.2
SPREAD_LOG_RMS = 0.4
BOUND = 4.0
"""Scaled features are held within -/+ this, so that no recording's gradient is cut to nothing by clipping."""


def wave_sizes(x: torch.Tensor) -> torch.Tensor:
    """(B, 12, T), mV -> (B, 36): highest and lowest deflection, and log RMS, of each lead, scaled and bounded."""
    length = x.shape[-1] // WINDOWS
    parts = x[..., : length * WINDOWS].reshape(*x.shape[:-1], WINDOWS, length)
    highest, lowest = (torch.tensor(usual, dtype=x.dtype, device=x.device) for usual in (HIGHEST_MV, LOWEST_MV))
    high = (parts.amax(-1).median(-1).values - highest) / SPREAD_MV
    low = (parts.amin(-1).median(-1).values - lowest) / SPREAD_MV
    power = x.square().mean(-1).clamp_min(FLOOR_RMS_MV**2)
    size = (0.5 * power.log() - torch.log(power.new_tensor(TYPICAL_RMS_MV))) / SPREAD_LOG_RMS
    return torch.cat([high, low, size], 1).clamp(-BOUND, BOUND)
