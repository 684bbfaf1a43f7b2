"""Preprocessing as a torch module, so that it can stand inside an exported graph: what `ecgshared.ecg.preprocess` does.

In float64 throughout, where the sites' own is float32 in places: before rounding to whole microvolts the two agree to a
few hundredths of one. A lead that is NaN throughout is absent; single samples that are no numbers are not bridged here.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import fft
from torch import nn
from torch.nn import functional as F

from ecgshared.ecg import preprocess as sites
from ecgshared.ecg.input import InputConfig
from ecgshared.errors import ModelError


class Preprocessing(nn.Module):
    """Recordings of one rate and length, brought to what a model sees.

    Parameters
    ----------
    fs, length : of the recordings: samples per second, samples a lead.
    """

    def __init__(self, config: InputConfig, fs: float, length: int) -> None:
        super().__init__()
        if config.baseline == "mode":
            raise ModelError(
                "a graph cannot seek the most frequent value",
                where="input.baseline",
                value="mode",
                allowed="median, none",
            )
        self.config, self.length = config, length
        ratio = sites._ratio(fs, config.fs_hz, length)
        self.up, self.down = ratio.numerator, ratio.denominator
        self.linear = config.resample == "linear" and ratio > 1
        self.beyond = int(np.ceil((sites.TAPS + 1) * max(1.0, self.down / self.up)))
        self.wanted = -(-length * self.up // self.down)
        if self.up != self.down and not self.linear:
            self.place, self.weight = self._filter()
        self.pad = 0
        if config.band_hz is not None or config.mains_hz is not None:
            reach = config.fs_hz if config.band_hz is None else config.fs_hz / config.band_hz[0]
            self.pad = int(min(self.wanted - 1, max(reach, config.fs_hz)))
            self.size = fft.next_fast_len(self.wanted + 2 * self.pad, real=True)
            gain = sites._gain(self.size, config.fs_hz, config.band_hz, config.mains_hz)
            self.gain = torch.tensor(gain.astype(np.float64))

    def _filter(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return, for each sample wanted, the samples it is made of and their weights, shape = (wanted, P) each.

        A runtime need not convolve in float64, but every one can gather and add.
        """
        taps, drop = sites._polyphase(self.up, self.down, self.beyond)
        at = (np.arange(self.wanted) + drop)[:, None] * self.down
        source = at // self.up - np.arange(-(-len(taps) // self.up))
        tap = at - source * self.up
        extended = self.length + 2 * self.beyond
        used = (source >= 0) & (source < extended) & (tap < len(taps))
        weight = np.where(used, taps.astype(np.float64)[np.minimum(tap, len(taps) - 1)], 0.0)
        return torch.tensor(np.clip(source, 0, extended - 1)), torch.tensor(weight)

    def forward(self, p_signal: torch.Tensor) -> torch.Tensor:
        """Return (12, samples) in mV, whole microvolts, of (12, length) in mV."""
        x = p_signal.double()
        present = (~torch.isnan(x).all(-1, keepdim=True)).double()
        x = self._resampled(torch.nan_to_num(x, nan=0.0))
        if self.pad:
            x = self._filtered(x)
        if self.config.baseline == "median":
            ordered = torch.sort(x, dim=-1).values
            middle = (x.shape[-1] - 1) // 2, x.shape[-1] // 2
            x = x - 0.5 * (ordered[:, middle[0] : middle[0] + 1] + ordered[:, middle[1] : middle[1] + 1])
        return (torch.round(self._fitted(x) * present * 1000) / 1000).float()

    def _resampled(self, x: torch.Tensor) -> torch.Tensor:
        if self.up == self.down:
            return x
        if self.linear:
            place = np.arange(self.wanted) * self.down / self.up
            left = np.minimum(place.astype(np.int64), self.length - 2)
            weight = torch.tensor(np.minimum(place - left, 1))
            index = torch.tensor(left)
            return x.index_select(1, index) * (1 - weight) + x.index_select(1, index + 1) * weight
        first = x[:, :1]
        slope = (x[:, -1:] - first) / (self.length - 1)
        level = x - (first + slope * torch.arange(self.length, dtype=torch.float64))
        before = foreseen(level.flip(1), self.beyond).flip(1)
        y = torch.cat([before, level, foreseen(level, self.beyond)], 1)
        y = (y[:, self.place] * self.weight).sum(-1)
        return y + first + slope * (torch.arange(self.wanted, dtype=torch.float64) * (self.down / self.up))

    def _filtered(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        extended = torch.cat([self._margin(centred.flip(1)).flip(1), centred, self._margin(centred)], 1)
        spectrum = torch.fft.rfft(extended, n=self.size) * self.gain
        filtered: torch.Tensor = torch.fft.irfft(spectrum, n=self.size)[:, self.pad : self.pad + x.shape[1]]
        return filtered if self.config.band_hz is not None else filtered + (x[:, :1] - centred[:, :1])

    def _margin(self, centred: torch.Tensor) -> torch.Tensor:
        count = min(self.pad, round(sites.FORESEEN_S * self.config.fs_hz))
        fade = 0.5 + 0.5 * torch.cos(torch.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count)
        return F.pad(foreseen(centred, count) * fade, (0, self.pad - count))

    def _fitted(self, x: torch.Tensor) -> torch.Tensor:
        have, want = x.shape[-1], self.config.samples
        if have >= want:
            start = (have - want) // 2
            return x[:, start : start + want]
        start = 0 if self.config.pad == "right" else (want - have) // 2
        return F.pad(x, (start, want - have - start))


def foreseen(x: torch.Tensor, count: int) -> torch.Tensor:
    """Continue each row by ``count`` samples; :func:`ecgshared.ecg.preprocess._foreseen` without its loops of numpy."""
    known = x[:, -sites._FROM_SAMPLES :]
    order = min(sites._ORDER, known.shape[1] // 3)
    if not order:
        return x[:, -1:].expand(-1, count)
    forward = backward = known
    a = torch.ones_like(known[:, :1])
    for _ in range(order):
        ahead, behind = forward[:, 1:], backward[:, :-1]
        power = (ahead**2).sum(1) + (behind**2).sum(1)
        k = (-2 * (ahead * behind).sum(1) / power.clamp_min(1e-20))[:, None]
        forward, backward = ahead + k * behind, behind + k * ahead
        wider = F.pad(a, (0, 1))
        a = wider + k * wider.flip(1)
    coefficients = -a[:, 1:].flip(1)
    shift = torch.eye(order, dtype=x.dtype)[1:].expand(len(x), -1, -1)
    step = torch.cat([shift, coefficients[:, None]], 1)
    leap = step
    for bit in bin(order)[3:]:  # the power of `order`, by squaring
        leap = leap @ leap
        if bit == "1":
            leap = leap @ step
    state, parts = known[:, known.shape[1] - order :, None], []
    for _ in range(-(-count // order)):
        state = leap @ state
        parts.append(state[..., 0])
    return torch.cat(parts, 1)[:, :count]
