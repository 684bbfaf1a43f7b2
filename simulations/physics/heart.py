"""The heart as a moving dipole: P, QRS and T as separate sums of Gaussians, beat after beat.

The kernels are those of Sameni et al. 2007 (doi 10.1155/2007/43407). Their phase is read as time at 60 beats per
minute, so that the three parts can be stretched and moved on their own when rate or conduction changes. Dipole
axes are X left, Y inferior, Z posterior; amplitudes are in mV.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

SECONDS_PER_RADIAN = 1.0 / (2 * np.pi)
QRS_ONSET_S = -0.045
"""QRS onset of the reference beat, seconds from its R peak."""
REFERENCE_PR_S, REFERENCE_QT_S = 0.157, 0.365
"""PR and QT interval of the reference beat at an RR of 1 s."""

# (phase in rad, amplitude in mV, width in rad) per axis; the table of Sameni 2007.
_KERNELS = {
    "p": (
        ((-1.09, 0.03, 0.0906), (-0.83, 0.08, 0.1057)),
        ((-1.1, 0.035, 0.07), (-0.9, 0.015, 0.07), (-0.76, -0.019, 0.04)),
        ((-1.1, -0.03, 0.03), (-0.93, -0.14, 0.12), (-0.7, -0.035, 0.04), (-0.4, 0.045, 0.4)),
    ),
    "qrs": (
        (
            (-0.19, -0.13, 0.0453),
            (-0.07, 0.85, 0.0378),
            (0.0, 1.11, 0.0332),
            (0.06, 0.75, 0.0302),
            (0.22, 0.06, 0.0378),
        ),
        ((-0.11, 0.32, 0.055), (-0.01, 0.51, 0.037), (0.065, -0.32, 0.0604)),
        ((-0.15, -0.4, 0.045), (0.095, 0.46, 0.05)),
    ),
    "t": (
        ((1.2, 0.1, 0.604), (1.42, 0.17, 0.302), (1.68, 0.39, 0.1812), (2.9, 0.03, 0.5)),
        ((0.8, 0.04, 0.45), (1.58, 0.08, 0.3), (2.9, 0.014, 0.5)),
        ((1.05, -0.12, 0.8), (1.25, -0.2, 0.4), (1.55, -0.35, 0.2), (2.8, -0.035, 0.4)),
    ),
}
_WINDOW_S = {"p": (-0.34, 0.14), "qrs": (-0.10, 0.17), "t": (-0.25, 0.75)}
"""Where each part is rendered, seconds from the R peak, before it is moved or stretched."""

NORMAL, ATRIAL, VENTRICULAR = 0, 1, 2
"""Kinds of beat."""


@dataclass(frozen=True)
class Part:
    """One part of the beat: K Gaussian kernels of n hearts.

    Attributes
    ----------
    vector : array, shape = (n, K, 3), mV: amplitude of each kernel along X, Y, Z.
    centre_s, width_s : arrays, shape = (n, K): seconds from the R peak, standard deviation in seconds.
    """

    vector: F32
    centre_s: F32
    width_s: F32


@dataclass(frozen=True)
class Heart:
    """The electrical shape of n hearts at an RR of 1 s; ``pr_s`` and ``qt_s`` have shape = (n,)."""

    p: Part
    qrs: Part
    t: Part
    pr_s: F32
    qt_s: F32


@dataclass(frozen=True)
class Rhythm:
    """When n hearts beat, and how each beat differs.

    Attributes
    ----------
    r_s : array, shape = (n, B): times of the R peaks; a beat that does not exist is NaN.
    kind : int8 array, shape = (n, B): NORMAL, ATRIAL or VENTRICULAR.
    rr_s : array, shape = (n, B): the RR interval to which each beat's repolarisation has adapted.
    gain : array, shape = (n, B, 3): amplitude of P, QRS, T of each beat relative to the heart's own.
    af : bool array, shape = (n,): atrial fibrillation, no P and fibrillatory waves instead.
    af_hz, af_mv : arrays, shape = (n,): rate and amplitude of those waves.
    """

    r_s: F32
    kind: NDArray[np.int8]
    rr_s: F32
    gain: F32
    af: NDArray[np.bool_]
    af_hz: F32
    af_mv: F32


def reference_part(name: str, n: int) -> Part:
    """Return n copies of the part ``p``, ``qrs`` or ``t`` of the reference beat."""
    rows = [(axis, *kernel) for axis, kernels in enumerate(_KERNELS[name]) for kernel in kernels]
    table = np.array(rows, dtype=np.float32)
    vector = np.zeros((len(rows), 3), dtype=np.float32)
    vector[np.arange(len(rows)), table[:, 0].astype(int)] = table[:, 2]
    scale = np.float32(SECONDS_PER_RADIAN)

    def repeat(a: F32) -> F32:
        return np.repeat(a[None], n, axis=0)

    return Part(repeat(vector), repeat(table[:, 1] * scale), repeat(table[:, 3] * scale))


def reference_heart(n: int = 1) -> Heart:
    """Return n copies of the reference heart."""
    return Heart(
        reference_part("p", n),
        reference_part("qrs", n),
        reference_part("t", n),
        np.full(n, REFERENCE_PR_S, dtype=np.float32),
        np.full(n, REFERENCE_QT_S, dtype=np.float32),
    )


def regular_rhythm(rate_per_min: F32, seconds: float) -> Rhythm:
    """Return beats at a constant rate, the first R peak half an interval in."""
    rr = 60.0 / np.asarray(rate_per_min, dtype=np.float32)
    beats = int(np.ceil(seconds / rr.min())) + 1
    r_s = (np.arange(beats, dtype=np.float32)[None] + 0.5) * rr[:, None]
    n = len(rr)
    return Rhythm(
        np.where(r_s < seconds + 0.5, r_s, np.nan).astype(np.float32),
        np.zeros((n, beats), dtype=np.int8),
        np.repeat(rr[:, None], beats, axis=1),
        np.ones((n, beats, 3), dtype=np.float32),
        np.zeros(n, dtype=bool),
        np.full(n, 6.0, dtype=np.float32),
        np.zeros(n, dtype=np.float32),
    )


def draw_rhythm(
    rng: np.random.Generator,
    *,
    rate_per_min: F32,
    respiration_hz: F32,
    ectopic_share: F32,
    af: NDArray[np.bool_],
    seconds: float,
) -> Rhythm:
    """Draw beats with respiratory and slow variability, ectopic beats, the irregularity of fibrillation.

    Parameters
    ----------
    rate_per_min, respiration_hz : arrays, shape = (n,).
    ectopic_share : array, shape = (n,): share of beats that come early; six in ten of them ventricular.
    af : bool array, shape = (n,).
    seconds : duration of the recording; beats begin before it and end after it.
    """
    rr0 = (60.0 / rate_per_min).astype(np.float32)[:, None]
    n = len(rr0)
    beats = int(np.ceil((seconds + 3.0) / (rr0.min() * 0.6))) + 1
    index = np.arange(beats, dtype=np.float32)[None]
    phase = 2 * np.pi * (respiration_hz[:, None] * rr0 * index + rng.random((n, 1)))
    # Sinus arrhythmia fades with rate: vagal tone is what carries it.
    depth = 0.03 * rr0**2
    slow = np.cumsum(rng.standard_normal((n, beats)), axis=1) / np.sqrt(beats)
    sinus = rr0 * (1 + depth * np.sin(phase) + 0.012 * slow + 0.008 * rng.standard_normal((n, beats)))
    irregular = rr0 * rng.gamma(22.0, 1 / 22.0, (n, beats))
    rr = np.where(af[:, None], np.clip(irregular, 0.33, 2.0), np.clip(sinus, 0.3, 2.2))

    early = rng.random((n, beats)) < ectopic_share[:, None]
    early[:, 1:] &= ~early[:, :-1]
    early[:, 0] = False
    ventricular = early & ((rng.random((n, beats)) < 0.6) | af[:, None])
    kind = np.where(ventricular, VENTRICULAR, np.where(early, ATRIAL, NORMAL)).astype(np.int8)
    prematurity = np.where(ventricular, 0.62, 0.70)
    step = np.where(early, rr * prematurity, rr)
    # The pause after a ventricular beat is compensatory; an atrial one resets the sinus node.
    after = np.concatenate([np.zeros((n, 1)), np.where(ventricular, 1.38, np.where(early, 1.08, 0.0))[:, :-1]], 1)
    step = np.where(after > 0, rr * after, step)
    r_s = np.cumsum(step, axis=1) - rr0 * rng.random((n, 1)) - 0.5
    adapted = np.array(step)
    for b in range(1, beats):
        adapted[:, b] = 0.7 * adapted[:, b - 1] + 0.3 * step[:, b]
    gain = 1 + rng.standard_normal((n, beats, 3)) * np.array([0.06, 0.02, 0.03])
    return Rhythm(
        np.where(r_s < seconds + 0.5, r_s, np.nan).astype(np.float32),
        kind,
        adapted.astype(np.float32),
        gain.astype(np.float32),
        np.asarray(af, dtype=bool),
        rng.uniform(4.5, 7.5, n).astype(np.float32),
        np.where(af, rng.uniform(0.012, 0.045, n), 0.0).astype(np.float32),
    )


def dipole(heart: Heart, rhythm: Rhythm, *, fs: float, seconds: float) -> F32:
    """Render the dipole over time.

    Parameters
    ----------
    heart, rhythm : n hearts and their beats.
    fs : samples per second.
    seconds : duration.

    Returns
    -------
    array, shape = (n, 3, T), float32 mV along X, Y, Z; T = round(fs * seconds).
    """
    n, beats = rhythm.r_s.shape
    samples = round(fs * seconds)
    margin = int(fs * 1.6)
    out = np.zeros((n, samples + 2 * margin, 3), dtype=np.float32)
    rows = np.arange(n)[:, None]
    for name, column in (("p", 0), ("qrs", 1), ("t", 2)):
        part: Part = getattr(heart, name)
        low, high = _WINDOW_S[name]
        for b in range(beats):
            r_s = rhythm.r_s[:, b]
            inside = np.isfinite(r_s) & (r_s > -1.2) & (r_s < seconds + 0.4)
            if not inside.any():
                continue
            shift, stretch = _timing(name, heart, rhythm, b)
            wide = np.where(rhythm.kind[:, b] == VENTRICULAR, 1.75, 1.0).astype(np.float32)
            if name == "qrs":
                stretch = wide
            span = float(stretch[inside].max())
            offsets = np.arange(int(low * span * fs) - 1, int(high * span * fs) + 2)
            start = np.where(inside, np.round((np.nan_to_num(r_s) + shift) * fs), 0).astype(np.int64)
            index = start[:, None] + offsets[None] + margin
            local = ((index - margin) / fs - (np.nan_to_num(r_s) + shift)[:, None]).astype(np.float32)
            local /= stretch[:, None]
            z = (local[:, :, None] - part.centre_s[:, None, :]) / part.width_s[:, None, :]
            np.multiply(z, z, out=z)
            z *= np.float32(-0.5)
            np.exp(z, out=z)
            vector = _beat_vector(name, part, rhythm, b) * (rhythm.gain[:, b, column] * inside)[:, None, None]
            wave = z @ vector.astype(np.float32)
            # Each heart keeps to its own window, so that no record depends on those rendered beside it.
            wave *= ((local >= low) & (local <= high))[:, :, None]
            out[rows, np.clip(index, 0, out.shape[1] - 1)] += wave
    body = out[:, margin : margin + samples].transpose(0, 2, 1)
    if rhythm.af.any():
        body = body + _fibrillation(rhythm, fs, samples)
    return np.ascontiguousarray(body, dtype=np.float32)


def _timing(name: str, heart: Heart, rhythm: Rhythm, b: int) -> tuple[F32, F32]:
    """Return when a part comes (seconds from R) and how far it is stretched, shape = (n,) each."""
    rr = np.clip(rhythm.rr_s[:, b], 0.35, 1.8)
    ones = np.ones_like(rr)
    if name == "p":
        # PR shortens a little with rate: 0.02 s from 60 to 120 per minute.
        shift = REFERENCE_PR_S - heart.pr_s - 0.04 * (rr - 1)
        return shift.astype(np.float32), ones
    if name == "t":
        stretch = heart.qt_s / REFERENCE_QT_S * np.cbrt(rr)  # Fridericia
        return (ones * 0).astype(np.float32), stretch.astype(np.float32)
    return (ones * 0).astype(np.float32), ones


# A ventricular beat starts in the right ventricle: it runs left, up and back.
_VENTRICULAR_TURN = np.array([[0.9, -0.25, 0.35], [0.1, -0.9, 0.2], [0.5, 0.2, 1.1]], dtype=np.float32).T


def _beat_vector(name: str, part: Part, rhythm: Rhythm, b: int) -> F32:
    kind = rhythm.kind[:, b]
    vector = part.vector
    if name == "p":
        gain = np.where(rhythm.af | (kind == VENTRICULAR), 0.0, np.where(kind == ATRIAL, 0.8, 1.0))
        return (vector * gain[:, None, None]).astype(np.float32)
    if not (kind == VENTRICULAR).any():
        return vector
    turned = vector @ _VENTRICULAR_TURN * np.float32(1.25 if name == "qrs" else -1.1)
    return np.where((kind == VENTRICULAR)[:, None, None], turned, vector).astype(np.float32)


def _fibrillation(rhythm: Rhythm, fs: float, samples: int) -> F32:
    """Fibrillatory waves: a sawtooth whose rate and size wander (Stridh 2001), shape = (n, 3, T)."""
    t = (np.arange(samples) / fs)[None]
    hz = rhythm.af_hz[:, None]
    phase = 2 * np.pi * hz * t + 1.5 * np.sin(2 * np.pi * 0.17 * t + hz) + 0.7 * np.sin(2 * np.pi * 0.41 * t)
    wave = sum(np.sin(k * phase) / k for k in (1, 2, 3)) * (1 + 0.3 * np.sin(2 * np.pi * 0.11 * t * hz / 6))
    direction = np.array([0.3, 0.7, -0.9], dtype=np.float32)
    return (rhythm.af_mv[:, None] * wave)[:, None, :].astype(np.float32) * direction[None, :, None]
