"""From signals of any rate to what the model sees: one rate, band, baseline and length.

Order: gaps closed, resampled, filtered, baseline removed per lead, cropped or padded, absent leads zero.
Cropping comes last, so that filter and resampling see the recording's own surroundings, not its cut.
"""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from ecgshared.arrays import Floats
from ecgshared.ecg.record import EcgRecord
from ecgshared.ecg.rows import medians
from ecgshared.errors import EcgReadError

if TYPE_CHECKING:
    from ecgshared.ecg.input import InputConfig

ALGORITHM_VERSION = 3
"""Raised with every change of the numbers returned: caches made by another version are not read."""

FILTER_ORDER = 2
"""Of the Butterworth band-pass, applied forwards and backwards."""

MAINS_QUALITY = 30.0
"""Centre frequency over width of the mains notch."""

_BLOCK_VALUES = 12 * 5000 * 8
"""Values filtered at once: a block and its spectrum stay in the cache."""

_DENOMINATORS = (1000, 10_000, 100_000)
DRIFT_SAMPLES = 0.05
"""How far the last sample may lie from its place after resampling: a rate such as 499.7 Hz needs a finer ratio."""

TAPS = 10
"""Half width of the resampling filter, in samples of the slower of both rates."""

FORESEEN_S = 0.2
"""How far beyond an end the filter's input is predicted."""

_NOTHING_LEFT = 1e-10
"""Share of the power that no prediction has to explain: rounding would make it grow."""

_ORDER, _FROM_SAMPLES = 12, 200
"""Of the prediction: how many samples it looks back on, and from how many at that end it is learnt."""


def fingerprint(config: InputConfig) -> str:
    """Return a hash of everything that determines the output besides the recording."""
    settings = {"algorithm": ALGORITHM_VERSION, **config.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def preprocess_record(record: EcgRecord, config: InputConfig) -> NDArray[np.float32]:
    """Preprocess one record; shape = (12, config.samples), float32 mV."""
    processed: NDArray[np.float32] = preprocess(record.p_signal[np.newaxis], record.fs, config)[0]
    return processed


def preprocess(p_signal: NDArray[np.float32], fs: float, config: InputConfig) -> NDArray[np.float32]:
    """Bring records of one rate and length to the study's form.

    Parameters
    ----------
    p_signal : array, shape = (n, 12, T), mV. A lead that is NaN throughout is absent and becomes 0; single
        samples that are no numbers are interpolated.
    fs : samples per second of ``p_signal``.

    Returns
    -------
    array, shape = (n, 12, config.samples), float32 mV.

    Raises
    ------
    EcgReadError : ``p_signal`` is not of that shape or ``fs`` not positive.
    """
    if p_signal.ndim != 3 or p_signal.shape[2] < 2 or not np.isfinite(fs) or fs <= 0:
        raise EcgReadError(
            "these signals cannot be preprocessed",
            value=(p_signal.shape, fs),
            allowed="shape (n, leads, T) with T of at least 2, and a positive rate",
            remedy="read the recording again",
        )
    n, leads, length = p_signal.shape
    out = np.empty((n, leads, config.samples), dtype=np.float32)
    per_block = max(1, _BLOCK_VALUES // (leads * length))
    for start in range(0, n, per_block):
        block, absent = without_gaps(np.asarray(p_signal[start : start + per_block], dtype=np.float32))
        x = resample(block, fs, config.fs_hz, method=config.resample)
        if config.band_hz is not None or config.mains_hz is not None:
            x = zero_phase(x, config.fs_hz, band_hz=config.band_hz, mains_hz=config.mains_hz)
        if config.baseline != "none":
            x = np.subtract(x, baseline(x, config.baseline), out=None if x is block else x)
        _fit(x, out[start : start + per_block], config.pad)
        if absent is not None:
            out[start : start + per_block][absent] = 0
    return out


def without_gaps(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Return signals with what is no number interpolated, and which leads are absent, shape = (n, leads).

    Absent leads become 0. Where every sample is a number, ``x`` itself and None.
    """
    finite = np.isfinite(x)
    if finite.all():
        return x, None
    x = x.copy()
    absent = np.asarray(~finite.any(axis=2))
    x[absent] = 0
    for i, j in np.argwhere(~finite.all(axis=2) & ~absent):
        known = np.flatnonzero(finite[i, j])
        gaps = np.flatnonzero(~finite[i, j])
        x[i, j, gaps] = np.interp(gaps, known, x[i, j, known])
    return x, absent


def resample(x: NDArray[np.float32], fs: float, fs_hz: float, *, method: str = "polyphase") -> NDArray[np.float32]:
    """Resample along the last axis from ``fs`` to ``fs_hz``.

    ``polyphase`` is :func:`scipy.signal.resample_poly` at a ratio that keeps the last sample within a twentieth of
    its place. Both ends are first continued by linear prediction, and what was added is cut off again: the margins
    of a recording are then as right as its middle.
    ``linear`` interpolates upwards, as the paper does from 250 to 500 Hz; downwards it would alias, and
    polyphase is used.
    """
    length = x.shape[-1]
    ratio = _ratio(fs, fs_hz, length)
    if ratio == 1:
        return x
    if method == "linear" and ratio > 1:
        positions = np.arange(-(-length * ratio.numerator // ratio.denominator)) / float(ratio)
        left = np.minimum(positions.astype(np.int64), length - 2)
        weight = np.minimum(positions - left, 1).astype(np.float32)
        return cast(NDArray[np.float32], x[..., left] * (1 - weight) + x[..., left + 1] * weight)
    up, down = ratio.numerator, ratio.denominator
    rows = x.reshape(-1, length)
    first = rows[:, :1]
    # The phases of the filter pass a constant with gains 1e-3 apart: an offset left in would become a ripple.
    slope = (rows[:, -1:] - first) / np.float32(length - 1)
    level = np.asarray(rows - (first + slope * np.arange(length, dtype=np.float32)), dtype=np.float32)
    beyond = int(np.ceil((TAPS + 1) * max(1.0, down / up)))
    before, after = _foreseen(level, beyond)
    taps, drop = _polyphase(up, down, beyond)
    wanted = -(-length * up // down)
    resampled = signal.upfirdn(taps, np.concatenate([before, level, after], axis=1), up, down, axis=1)
    resampled = resampled[:, drop : drop + wanted]
    resampled += first + slope * (np.arange(wanted) / float(ratio)).astype(np.float32)
    return np.asarray(resampled.reshape(*x.shape[:-1], wanted), dtype=np.float32)


def _ratio(fs: float, fs_hz: float, length: int) -> Fraction:
    """Return the simplest ratio of rates at which the last sample stays in its place."""
    wanted = fs_hz / fs
    for most in _DENOMINATORS:
        ratio = Fraction(wanted).limit_denominator(most)
        if abs(float(ratio) / wanted - 1) * length * max(1.0, wanted) <= DRIFT_SAMPLES:
            break
    return ratio


@lru_cache(maxsize=16)
def _polyphase(up: int, down: int, beyond: int) -> tuple[NDArray[np.float32], int]:
    """Return the taps of the resampling filter, and how many results lie before the first sample.

    The windowed sinc of :func:`scipy.signal.resample_poly`, which itself cannot begin between two samples.
    """
    half = TAPS * max(up, down)
    taps = up * signal.firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0))
    first = half + beyond * up
    late = -first % down
    return np.concatenate([np.zeros(late), taps]).astype(np.float32), (first + late) // down


def _foreseen(x: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what each row is taken to be in ``count`` samples before and after it, each shape = (rows, count).

    By linear prediction, its coefficients by Burg's method (1967; Marple 1987, Digital Spectral Analysis), which
    always decays and so never runs away.
    """
    rows, near = len(x), min(x.shape[1], _FROM_SAMPLES)
    # Time runs down and both ends of every row lie side by side: all are predicted at once.
    known = np.empty((near, 2 * rows))
    known[:, :rows], known[:, rows:] = x[:, near - 1 :: -1].T if near else 0, x[:, x.shape[1] - near :].T
    order = min(_ORDER, near // 3)
    if not order:
        return np.repeat(x[:, :1], count, axis=1), np.repeat(x[:, -1:], count, axis=1)
    # Not sample by sample: each step gives as many as the prediction looks back on.
    step = np.zeros((2 * rows, order, order))
    step[:, np.arange(order - 1), np.arange(1, order)] = 1
    step[:, -1] = -_burg(known, order)[:0:-1].T
    leap = np.linalg.matrix_power(step, order)
    state, parts = known[near - order :].T[..., None], []
    for _ in range(-(-count // order)):
        state = leap @ state
        parts.append(state[..., 0])
    found = np.concatenate(parts, axis=1)[:, :count].astype(np.float32)
    return found[:rows, ::-1], found[rows:]


def _burg(known: Floats, order: int) -> Floats:
    """Return the prediction error filter of each column, shape = (order + 1, columns), its first row 1."""
    forward, backward = known[1:].copy(), known[:-1].copy()
    power = np.einsum("tc,tc->c", forward, forward) + np.einsum("tc,tc->c", backward, backward)
    least = _NOTHING_LEFT * power + 1e-20
    a = np.zeros((order + 1, known.shape[1]))
    a[0] = 1
    for done in range(1, order + 1):
        k = -2 * np.einsum("tc,tc->c", forward, backward) / np.maximum(power, least)
        np.clip(k, -1, 1, out=k)
        further = k * backward
        backward += k * forward
        forward += further
        # What is left of the power, and less the two ends that the next step no longer has (Andersen 1978).
        power *= 1 - k * k
        power -= forward[0] ** 2 + backward[-1] ** 2
        forward, backward = forward[1:], backward[:-1]
        a[: done + 1] += k * a[done::-1]
    return a


def zero_phase(
    x: NDArray[np.float32],
    fs_hz: float,
    *,
    band_hz: tuple[float, float] | None = None,
    mains_hz: float | None = None,
) -> NDArray[np.float32]:
    """Filter forwards and backwards, in the frequency domain.

    The spectrum is multiplied by the squared magnitude of a Butterworth band-pass (order 2) and of a mains
    notch (quality 30): what ``scipy.signal.sosfiltfilt`` does in the middle of a recording to half a
    microvolt, at less cost. Within two periods of the lower cut-off (a second without one) of either end the
    two differ, as each must invent what lies beyond: here the recording goes on by linear prediction for a fifth of
    a second and fades out. Point reflection, which scipy takes, makes of every wave cut at its top a lasting step,
    and five times the error in the margins of real recordings.
    A notch at or above half the rate has nothing to remove and is left out.
    """
    length = x.shape[-1]
    reach = fs_hz if band_hz is None else fs_hz / band_hz[0]
    pad = int(min(length - 1, max(reach, fs_hz)))
    mean = x.mean(axis=-1, keepdims=True)
    size = fft.next_fast_len(length + 2 * pad, real=True)
    extended = np.empty((*x.shape[:-1], size), dtype=np.float32)
    centred = extended[..., pad : pad + length]
    np.subtract(x, mean, out=centred)
    count = min(pad, round(FORESEEN_S * fs_hz))
    extended[..., : pad - count] = 0
    extended[..., pad + length + count :] = 0
    before, after = _foreseen(centred.reshape(-1, length), count)
    fade = (0.5 + 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / count)).astype(np.float32)
    extended[..., pad - count : pad] = (before * fade[::-1]).reshape(*x.shape[:-1], count)
    extended[..., pad + length : pad + length + count] = (after * fade).reshape(*x.shape[:-1], count)
    spectrum = fft.rfft(extended, size, axis=-1)
    spectrum *= _gain(size, fs_hz, band_hz, mains_hz)
    filtered = fft.irfft(spectrum, size, axis=-1, overwrite_x=True)[..., pad : pad + length]
    if band_hz is None:  # a notch passes the constant that was taken out above
        filtered += mean
    return np.asarray(filtered, dtype=np.float32)


@lru_cache(maxsize=32)
def _gain(size: int, fs_hz: float, band_hz: tuple[float, float] | None, mains_hz: float | None) -> NDArray[np.float32]:
    hz = np.arange(size // 2 + 1) * fs_hz / size
    gain = np.ones(len(hz))
    if band_hz is not None:
        sos = signal.butter(FILTER_ORDER, band_hz, "bandpass", fs=fs_hz, output="sos")
        gain *= np.abs(signal.sosfreqz(sos, hz, fs=fs_hz)[1]) ** 2
    if mains_hz is not None and mains_hz < fs_hz / 2:
        b, a = signal.iirnotch(mains_hz, MAINS_QUALITY, fs=fs_hz)
        gain *= np.abs(signal.freqz(b, a, hz, fs=fs_hz)[1]) ** 2
    return gain.astype(np.float32)


def baseline(x: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """Return each lead's median or mode, shape = (n, leads, 1).

    The mode is the most frequent value at a resolution of 1 uV, the smallest where several tie; it is sought about
    the median, as a DC-coupled recorder may stand tens of millivolts from zero.
    """
    if kind == "median":
        return np.asarray(medians(x)[..., None], dtype=np.float32)
    middle = np.rint(np.median(x, axis=-1, keepdims=True) * 1000)
    microvolts = np.clip(np.rint(x * 1000) - middle, -32768, 32767).astype(np.int16)
    lowest = microvolts.min(axis=-1, keepdims=True)
    counts_from = (microvolts.astype(np.int32) - lowest).reshape(-1, x.shape[-1])
    modes = np.array([np.bincount(row).argmax() for row in counts_from]).reshape(*x.shape[:-1], 1)
    return np.asarray((middle + lowest + modes) / 1000, dtype=np.float32)


def _fit(x: NDArray[np.float32], out: NDArray[np.float32], pad: str) -> None:
    """Copy the middle of a longer ``x`` into ``out``, or a shorter one to its start or middle."""
    have, want = x.shape[-1], out.shape[-1]
    if have >= want:
        start = (have - want) // 2
        out[...] = x[..., start : start + want]
    else:
        start = 0 if pad == "right" else (want - have) // 2
        out[..., :start], out[..., start + have :] = 0, 0
        out[..., start : start + have] = x
