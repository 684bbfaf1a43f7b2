"""Beats of latents, by any net that decodes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@torch.no_grad()
def decode_beats(
    model: Any, z: NDArray[np.float64], conditions: NDArray[np.float64], *, batch_size: int = 256
) -> NDArray[np.float32]:
    """Return beats of latents (n, latent) and standardised conditions (n, C), shape = (n, 12, W), float32 mV.

    Parameters
    ----------
    model : a net whose configuration says ``makes_beats``: it has ``decode(z, conditions)`` and ``samples`` (W).
    """
    first = next(model.parameters())
    out = np.empty((len(z), 12, model.samples), dtype=np.float32)
    for start in range(0, len(z), batch_size):
        part = slice(start, start + batch_size)
        latent, given = (torch.as_tensor(a[part]).to(first.device, first.dtype) for a in (z, conditions))
        out[part] = model.decode(latent, given).float().cpu().numpy()
    return out
