"""The thought experiment with a sheet of muscle: obstacles, a front that goes round them, the end of a lead's signal.

``ecgfed simulate sheet --out FILE`` draws it: arrival times in sheets of growing density of obstacles, the signal that
a lead sees as the front leaves each, and the slopes of its end against density. The sheet is that of
:func:`simulations.physics.disease.solve_sheet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, sosfiltfilt

from ecgshared.ecg.features import FEATURE_FS_HZ
from ecgshared.ecg.terminal import HIGHEST_HZ
from ecgshared.errors import ConfigError
from simulations.physics.disease import MAX_FIBROSIS, sheet_arrival

F64 = NDArray[np.float64]

LENGTH, WIDTH = 120, 160
CROSSING_MS = 60.0
"""How long an intact sheet takes to cross: the later part of QRS."""


@dataclass(frozen=True)
class Crossing:
    """One density: ``arrival_ms``, shape = (WIDTH, LENGTH), inf in obstacles, of the first sheet; ``signal``, shape =
    (T,), scaled to its top, at 500 Hz, mean of all sheets; ``d1``, ``d2``, shape = (seeds,): slopes of its end."""

    obstacles: float
    arrival_ms: F64
    signal: F64
    d1: F64
    d2: F64


def cross(obstacles: float, seeds: int) -> Crossing:
    """Send fronts across sheets of one density.

    The lead lies ahead of the front: it sees current in proportion to how much muscle is being reached, and the muscle
    comes to an end over the last tenth of the sheet, as a wall does.
    """
    signals, slopes, first = [], [], None
    weight = np.ones(LENGTH)
    weight[-LENGTH // 10 :] = np.linspace(1, 0, LENGTH // 10)
    for seed in range(seeds):
        arrival = sheet_arrival(obstacles, LENGTH, WIDTH, 5, seed) * CROSSING_MS / LENGTH
        first = arrival if first is None else first
        reached = np.isfinite(arrival)
        step = 1000 / FEATURE_FS_HZ
        bins = np.arange(0, 4 * CROSSING_MS, step)
        weights = np.broadcast_to(weight, arrival.shape)[reached]
        signal = np.histogram(arrival[reached], bins=bins, weights=weights)[0]
        signal = gaussian_filter1d(np.concatenate([np.zeros(20), signal]), 1.0)
        sos = butter(4, HIGHEST_HZ, fs=FEATURE_FS_HZ, output="sos")
        signal = np.maximum(sosfiltfilt(sos, signal), 0)
        signal = signal / signal.max()
        signals.append(signal)
        slopes.append(_end_slopes(signal))
    assert first is not None
    d1, d2 = np.array(slopes).T
    return Crossing(obstacles, first, np.mean(signals, axis=0), d1, d2)


def _end_slopes(signal: F64) -> tuple[float, float]:
    """Return the mean absolute first and second differences from the last high place to the end of the signal."""
    begin = int(np.flatnonzero(signal > 0.9)[-1])
    after = np.flatnonzero(signal[begin:] < 0.04)
    end = begin + (int(after[0]) if len(after) else len(signal) - 1 - begin)
    part = signal[begin : end + 1]
    return float(np.abs(np.diff(part)).mean()), float(np.abs(np.diff(part, 2)).mean())


def draw_mechanism(out: Path, obstacles: Sequence[float], seeds: int) -> list[str]:
    """Draw the figure, and return one line of figures for each density.

    Raises
    ------
    ConfigError : a density out of range, or fewer than two.
    """
    from matplotlib.figure import Figure

    if len(obstacles) < 2 or not all(0 <= share <= MAX_FIBROSIS for share in obstacles):
        raise ConfigError(
            "obstacles are out of range", value=tuple(obstacles), allowed=f"two or more, 0..{MAX_FIBROSIS}"
        )
    found = [cross(share, seeds) for share in obstacles]
    figure = Figure(figsize=(2.6 * max(len(found), 3), 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 3 * len(found))
    latest = max(float(part.arrival_ms[np.isfinite(part.arrival_ms)].max()) for part in found)
    for k, part in enumerate(found):
        axes = figure.add_subplot(grid[0, 3 * k : 3 * k + 3])
        shown = np.where(np.isfinite(part.arrival_ms), part.arrival_ms, np.nan)
        axes.imshow(shown, vmin=0, vmax=latest, cmap="viridis")
        axes.set(title=f"{100 * part.obstacles:.0f}% obstacles", xticks=[], yticks=[])
        axes.set_facecolor("black")
    wide = len(found)
    lead, slope, curve = (figure.add_subplot(grid[1, wide * k : wide * k + wide]) for k in range(3))
    for part in found:
        time = (np.arange(len(part.signal)) - 20) * 1000 / FEATURE_FS_HZ
        lead.plot(time, part.signal, label=f"{100 * part.obstacles:.0f}%")
    lead.set(xlabel="ms from the edge of the sheet", ylabel="signal, scaled", xlim=(-20, 180))
    lead.legend(fontsize=7)
    for axes, name in ((slope, "d1"), (curve, "d2")):
        values = np.array([getattr(part, name) for part in found])
        axes.errorbar(np.array(obstacles) * 100, values.mean(axis=1), values.std(axis=1), fmt="o-")
        axes.set(xlabel="obstacles, %", ylabel=f"{name} of the end, a sample", ylim=(0, None))
    figure.savefig(out, dpi=110)
    return [_line(part) for part in found]


def _line(part: Crossing) -> str:
    last = part.arrival_ms[np.isfinite(part.arrival_ms)].max()
    slopes = f"d1 {part.d1.mean():.4f} (SD {part.d1.std():.4f}), d2 {part.d2.mean():.4f} (SD {part.d2.std():.4f})"
    return f"{100 * part.obstacles:4.0f}% obstacles: last arrival {last:4.0f} ms, {slopes}"
