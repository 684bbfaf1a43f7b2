"""Stretches of time about a beat; apart from the code that cuts them, as a study is read without SciPy."""

from __future__ import annotations

BEAT_S = (-0.2, 0.4)
"""Window of a single beat about its R peak: 300 samples at 500 Hz (Nature 2026, doi 10.1038/s41586-026-10674-6)."""


def samples_of(window_s: tuple[float, float], fs: float) -> tuple[int, int]:
    """Return how many samples before and after its middle a window takes at a rate."""
    return round(-window_s[0] * fs), round(window_s[1] * fs)
