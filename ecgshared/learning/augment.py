"""Random changes of ECGs during training, on whole batches at once.

Each ECG draws its own. Draws come from the generator passed in, in an order that does not depend on the settings
of the others' strength.
"""

from __future__ import annotations

import math

import torch

from ecgshared.errors import ConfigError
from ecgshared.learning.electrodes import move_chest_electrodes
from ecgshared.learning.plan import MAINS_HZ, AugmentConfig

WANDER_HZ = (0.05, 0.5)
BURST_S = (0.2, 1.5)
"""How long a burst of muscle noise lasts."""


def augment(x: torch.Tensor, config: AugmentConfig, *, fs_hz: float, generator: torch.Generator) -> torch.Tensor:
    """Return changed copies of ECGs.

    Parameters
    ----------
    x : shape (B, 12, T), mV.
    fs_hz : samples per second.
    generator : on the device of x.

    Raises
    ------
    ConfigError : mains hum is asked for that signals of so few samples a second cannot hold.
    """
    if not config.any or len(x) == 0:
        return x
    draw = _Draw(x, fs_hz, generator)
    batch, leads, samples = x.shape
    if config.electrode_cm:
        x = move_chest_electrodes(x, config.electrode_cm * draw.normal(batch, 6, 2))
    if config.shift_seconds:
        x = draw.shifted(x, config.shift_seconds)
    if config.scale:
        x = x * (1 + config.scale * (2 * draw.uniform(batch, 1, 1) - 1))
    if config.wander_mv:
        low, high = WANDER_HZ
        x = x + draw.sines(config.wander_mv, low + (high - low) * draw.uniform(batch, 1, 1))
    if config.mains_mv:
        x = x + draw.mains(config.mains_mv)
    if config.muscle_mv:
        x = x + draw.muscle(config.muscle_mv)
    if config.noise_mv:
        x = x + config.noise_mv * draw.normal(batch, leads, samples)
    if config.lead_dropout:
        x = x * (draw.uniform(batch, leads, 1) >= config.lead_dropout)
    return x


class _Draw:
    """Draws for one batch of ECGs, on their device and in their precision."""

    def __init__(self, x: torch.Tensor, fs_hz: float, generator: torch.Generator) -> None:
        self._like, self._fs_hz, self._generator = x, fs_hz, generator
        self._time = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype) / fs_hz

    def uniform(self, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=self._generator, device=self._like.device, dtype=self._like.dtype)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator, device=self._like.device, dtype=self._like.dtype)

    def shifted(self, x: torch.Tensor, most_s: float) -> torch.Tensor:
        """Move each ECG in time, the gap filled with zeros."""
        batch, leads, samples = x.shape
        most = min(round(most_s * self._fs_hz), samples - 1)
        shift = torch.randint(-most, most + 1, (batch, 1), generator=self._generator, device=x.device)
        source = torch.arange(samples, device=x.device) - shift  # (B, T)
        inside = (source >= 0) & (source < samples)
        index = source.clamp(0, samples - 1)[:, None, :].expand(-1, leads, -1)
        return x.gather(2, index) * inside[:, None, :]

    def sines(self, most_mv: float, frequency: torch.Tensor) -> torch.Tensor:
        """One sine an ECG, ``frequency`` of shape (B, 1, 1) in Hz; phase and amplitude are each lead's own."""
        batch, leads, _ = self._like.shape
        phase = 2 * math.pi * self.uniform(batch, leads, 1)
        amplitude = most_mv * self.uniform(batch, leads, 1)
        return amplitude * torch.sin(2 * math.pi * frequency * self._time + phase)

    def mains(self, most_mv: float) -> torch.Tensor:
        """Hum of 50 or 60 Hz, of those that the sampling rate can tell."""
        told = [hz for hz in MAINS_HZ if hz < self._fs_hz / 2]
        if not told:
            raise ConfigError(
                "so few samples a second hold no mains hum",
                where="augment.mains_mv",
                value=f"{self._fs_hz:g} Hz",
                allowed=f"more than {2 * min(MAINS_HZ):g} Hz",
            )
        which = (self.uniform(len(self._like), 1, 1) * len(told)).long().clamp_max(len(told) - 1)
        return self.sines(most_mv, self._time.new_tensor(told)[which])

    def muscle(self, most_mv: float) -> torch.Tensor:
        """One burst an ECG of noise without its slow half, under a raised cosine; its SD at the middle is each lead's
        own."""
        batch, leads, samples = self._like.shape
        low, high = BURST_S
        lasts = low + (high - low) * self.uniform(batch, 1, 1)
        middle = self.uniform(batch, 1, 1) * samples / self._fs_hz
        away = (self._time - middle) / lasts
        hull = torch.cos(math.pi * away).square() * (away.abs() < 0.5)
        fast = self.normal(batch, leads, samples + 1).diff(dim=-1) / math.sqrt(2)
        return most_mv * self.uniform(batch, leads, 1) * hull * fast
