"""Random changes of ECGs during training, on whole batches at once.

Each ECG draws its own. Draws come from the generator passed in, in an order that does not depend on the settings
of the others' strength.
"""

from __future__ import annotations

import math

import torch

from ecgshared.learning.plan import AugmentConfig

WANDER_HZ = (0.05, 0.5)


def augment(x: torch.Tensor, config: AugmentConfig, *, fs_hz: float, generator: torch.Generator) -> torch.Tensor:
    """Return changed copies of ECGs.

    Parameters
    ----------
    x : shape (B, 12, T), mV.
    fs_hz : samples per second.
    generator : on the device of x.
    """
    if not config.any or len(x) == 0:
        return x
    batch, leads, samples = x.shape

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, device=x.device, dtype=x.dtype)

    if config.shift_seconds:
        most = min(round(config.shift_seconds * fs_hz), samples - 1)
        shift = torch.randint(-most, most + 1, (batch, 1), generator=generator, device=x.device)
        source = torch.arange(samples, device=x.device) - shift  # (B, T)
        inside = (source >= 0) & (source < samples)
        index = source.clamp(0, samples - 1)[:, None, :].expand(-1, leads, -1)
        x = x.gather(2, index) * inside[:, None, :]
    if config.scale:
        x = x * (1 + config.scale * (2 * uniform(batch, 1, 1) - 1))
    if config.wander_mv:
        low, high = WANDER_HZ
        frequency = low + (high - low) * uniform(batch, 1, 1)
        phase = 2 * math.pi * uniform(batch, leads, 1)
        amplitude = config.wander_mv * uniform(batch, leads, 1)
        time = torch.arange(samples, device=x.device, dtype=x.dtype) / fs_hz
        x = x + amplitude * torch.sin(2 * math.pi * frequency * time + phase)
    if config.noise_mv:
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        x = x + config.noise_mv * noise
    if config.lead_dropout:
        x = x * (uniform(batch, leads, 1) >= config.lead_dropout)
    return x
