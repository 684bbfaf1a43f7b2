"""Where the beats are, the beats themselves, and the median beat: what a recording repeats, noise set aside.

Two windows: the one of 600 ms that models of single beats see (Nature 2026, doi 10.1038/s41586-026-10674-6), and
a wider one of the median beat, on which intervals, axes and amplitudes are measured.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.pulse import qrs_centres
from ecgshared.ecg.rows import cut, means, median_of, medians
from ecgshared.ecg.windows import BEAT_S, samples_of

F32 = NDArray[np.float32]

MEDIAN_S = (-0.45, 0.65)
"""Window of the median beat about the middle of its QRS complex."""

ALIGN_S, MAX_SHIFT_S = 0.06, 0.025
"""Half width of the stretch by which beats are brought into line, and how far one may move."""

PR_LEVEL_S = (-0.09, -0.06)
"""Between P and QRS, before the QRS middle: the level from which amplitudes count."""

ALIKE = 0.85
"""Correlation with the median beat's QRS over all leads from which a beat is one of the usual kind."""

MAX_RANGE_MV, MAX_SD_MV, MIN_AUTOCORRELATION = 0.5, 0.06, 0.75


@dataclass(frozen=True)
class MedianBeat:
    """The usual beat of one recording.

    Attributes
    ----------
    signal : array, shape = (12, W), float32 mV above the level before the QRS complex; zero in an absent lead.
    fs : samples per second of ``signal``.
    centre : index of the QRS middle in ``signal``.
    qrs : int64 array, shape = (beats,): QRS middle of every beat of the recording, brought into line.
    alike : bool array, shape = (beats,): the beats the median is made of.
    agreement : array, shape = (12,): median correlation of those beats' QRS with the median beat's, lead by lead.
    """

    signal: F32
    fs: float
    centre: int
    qrs: NDArray[np.int64]
    alike: NDArray[np.bool_]
    agreement: F32

    @property
    def rr_s(self) -> NDArray[np.float64]:
        """Intervals between successive beats, seconds, shape = (beats - 1,)."""
        return np.diff(self.qrs) / self.fs


def median_beat(
    p_signal: F32, fs: float, *, swing: F32 | None = None, centres: NDArray[np.int64] | None = None
) -> MedianBeat | None:
    """Return the median beat of one recording; None where fewer than two whole beats show.

    Parameters
    ----------
    p_signal : array, shape = (12, T), mV; a sample that is no number counts as zero.
    swing, centres : each lead's usual swing in 2 s, mV, and the middles of the QRS complexes, where known already.

    Beats are found on all leads at once, brought into line by the slopes of all leads, and those unlike the
    rest (ectopic, noisy) are left out of the median.
    """
    x = p_signal.astype(np.float32, copy=False)
    if not np.isfinite(x).all():
        x = np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
    scale = np.maximum(_swing(x, fs) if swing is None else swing, np.float32(0.02))[:, None]
    if centres is None:
        centres = qrs_centres(np.asarray(x / scale, dtype=np.float32), fs)
    centres = _aligned(x, scale, centres, fs)
    before, after = round(-MEDIAN_S[0] * fs), round(MEDIAN_S[1] * fs)
    whole = (centres >= before) & (centres + after <= x.shape[1])
    if whole.sum() < 2:
        return None
    windows = cut(x, centres[whole] - before, before + after)  # (12, beats, W)
    low, high = (max(0, before + round(s * fs)) for s in PR_LEVEL_S)
    windows -= means(windows[:, :, low : max(high, low + 1)])[..., None]
    width = round(0.08 * fs)
    core = np.divide(windows[:, :, before - width : before + width], scale[..., None], dtype=np.float32)
    usual = _usual(core)
    if not usual.all():
        windows = windows[:, usual]
    median = _median(windows)
    alike = np.zeros(len(centres), dtype=bool)
    alike[np.flatnonzero(whole)[usual]] = True
    near = slice(before - width, before + round(0.12 * fs))
    return MedianBeat(median, fs, before, centres, alike, _agreement(windows[:, :, near], median[:, near]))


def r_peaks(lead: F32, fs: float) -> NDArray[np.int64]:
    """Return R peaks of one lead by NeuroKit2 (Makowski 2021, doi 10.3758/s13428-020-01516-y), shape = (beats,).

    It moves a peak by the lag of its own filter and by noise; each is put back on the tallest sample, of either
    sign, within 50 ms of the cleaned lead.
    """
    import neurokit2

    values = np.nan_to_num(np.asarray(lead, dtype=np.float64))
    if not np.ptp(values) > 0 or len(values) < 2 * fs:
        return np.empty(0, dtype=np.int64)
    with warnings.catch_warnings():
        # It warns where it finds no beat; so does the empty answer.
        warnings.simplefilter("ignore")
        cleaned = neurokit2.ecg_clean(values, sampling_rate=round(fs), method="neurokit")
        _, found = neurokit2.ecg_peaks(cleaned, sampling_rate=round(fs), method="neurokit")
    peaks = np.asarray(found["ECG_R_Peaks"], dtype=np.float64)
    peaks = peaks[np.isfinite(peaks)].astype(np.int64)
    reach = round(0.05 * fs)
    near = np.clip(peaks[:, None] + np.arange(-reach, reach + 1), 0, len(values) - 1)
    moved = near[np.arange(len(peaks)), np.abs(cleaned[near]).argmax(axis=1)] if len(peaks) else peaks
    return np.unique(moved).astype(np.int64)


def single_beats(p_signal: F32, fs: float, peaks: NDArray[np.int64]) -> tuple[F32, NDArray[np.int64]]:
    """Cut the beats that models of single beats see.

    Parameters
    ----------
    p_signal : array, shape = (12, T), mV. peaks : R peaks, shape = (beats,), in order.

    Returns
    -------
    beats, shape = (n, 12, W), and the R peak of each, shape = (n,). First and last beat, beats cut by the
    recording's ends and windows with more than one R peak are left out; so are beats whose mean range is at most
    0.5 mV, mean SD at most 0.06 mV, or mean autocorrelation over lags of 2 to 10 ms at most 0.75 (of the leads).
    """
    before, after = samples_of(BEAT_S, fs)
    inner = peaks[1:-1]
    fits = (inner >= before) & (inner + after <= p_signal.shape[1])
    alone = (np.diff(peaks)[:-1] > before) & (np.diff(peaks)[1:] >= after) if len(peaks) > 2 else np.zeros(0, bool)
    kept = inner[fits & alone]
    windows = p_signal[:, kept[:, None] + np.arange(-before, after)].transpose(1, 0, 2)
    windows = np.nan_to_num(windows).astype(np.float32)
    if not len(kept):
        return windows, kept
    centred = windows - windows.mean(axis=2, keepdims=True)
    power = np.maximum((centred**2).sum(axis=2), 1e-12)
    lags = [max(1, round(k * 0.002 * fs)) for k in range(1, 6)]
    auto = np.mean([(centred[:, :, k:] * centred[:, :, :-k]).sum(axis=2) / power for k in lags], axis=0)
    good = (
        (np.ptp(windows, axis=2).mean(axis=1) > MAX_RANGE_MV)
        & (windows.std(axis=2).mean(axis=1) > MAX_SD_MV)
        & (auto.mean(axis=1) > MIN_AUTOCORRELATION)
    )
    return windows[good], kept[good]


def _swing(x: F32, fs: float) -> F32:
    """Return each lead's usual peak-to-peak amplitude in 2 s, shape = (12,), mV."""
    width = min(x.shape[1], round(2 * fs))
    pieces = x[:, : x.shape[1] // width * width].reshape(len(x), -1, width)
    return medians(pieces.max(axis=2) - pieces.min(axis=2))


def _aligned(x: F32, scale: F32, centres: NDArray[np.int64], fs: float) -> NDArray[np.int64]:
    """Move each centre to where the slopes of its QRS fit those of the others best."""
    half, shift = max(2, round(ALIGN_S * fs)), max(1, round(MAX_SHIFT_S * fs))
    reach = half + shift
    inside = np.flatnonzero((centres >= reach + 1) & (centres + reach < x.shape[1] - 1))
    if len(inside) < 2:
        return centres
    middle = centres[inside]
    around = cut(x, middle - (reach + 1), 2 * reach + 3)
    # Slopes, as the baseline beneath a beat must not pull it.
    slopes = (around[:, :, 2:] - around[:, :, :-2]) / scale[..., None]
    by_beat = np.ascontiguousarray(slopes.transpose(1, 0, 2)).reshape(len(middle), -1)
    lined = slopes[:, :, shift : shift + 2 * half + 1]
    for last in (False, True):
        template = np.add.reduce(lined, axis=1) / np.float32(lined.shape[1])
        fit = by_beat @ _shifted(template, 2 * shift + 1).T  # (beats, shifts)
        moved, best = fit.argmax(axis=1) - shift, fit.max(axis=1)
        # An ectopic beat fits badly, or is larger: it has no say in the second round.
        usual = median_of(best)
        like = (best >= 0.5 * usual) & (best <= 1.5 * usual)
        if not like.any():  # nothing resembles anything: noise, not beats
            return centres
        if not last:
            at = np.flatnonzero(like)
            lined = np.stack(
                [slopes[:, b, shift + d : shift + d + 2 * half + 1] for b, d in zip(at, moved[at], strict=True)], axis=1
            )
    out = centres.copy()
    out[inside] = middle + moved
    return out


def _shifted(template: F32, shifts: int) -> F32:
    """Return a template at each of its places in a longer stretch, shape = (shifts, 12 * (width + shifts - 1))."""
    leads, width = template.shape
    out = np.zeros((shifts, leads, width + shifts - 1), dtype=np.float32)
    by_shift, by_lead, by_sample = out.strides
    places = np.ndarray((shifts, leads, width), out.dtype, out, 0, (by_shift + by_sample, by_lead, by_sample))
    places[...] = template
    return out.reshape(shifts, -1)


def _usual(core: F32) -> NDArray[np.bool_]:
    """Mark the beats like their own median over all leads; all of them where fewer than half are."""
    flat = core.transpose(1, 0, 2).reshape(core.shape[1], -1)
    template = _median(core).ravel()
    alike = _correlation(flat, template) >= ALIKE
    return alike if 2 * alike.sum() >= len(alike) else np.ones(len(alike), dtype=bool)


def _median(windows: F32) -> F32:
    """Return the median over beats, (12, beats, W) -> (12, W).

    By a sorting network over whole beats (Batcher's merge exchange, Knuth 5.2.2 M), of which only what the middle
    depends on is done: for a dozen beats it takes a tenth of the time that a partition along so short an axis does.
    """
    sorted_ = list(windows.transpose(1, 0, 2).copy())
    spare = np.empty_like(sorted_[0])
    for i, j, lower, upper in _exchanges(len(sorted_)):
        if lower and upper:
            np.minimum(sorted_[i], sorted_[j], out=spare)
            np.maximum(sorted_[i], sorted_[j], out=sorted_[j])
            sorted_[i], spare = spare, sorted_[i]
        elif lower:
            np.minimum(sorted_[i], sorted_[j], out=sorted_[i])
        else:
            np.maximum(sorted_[i], sorted_[j], out=sorted_[j])
    half = len(sorted_) // 2
    out: F32 = sorted_[half] if len(sorted_) % 2 else (sorted_[half - 1] + sorted_[half]) / np.float32(2)
    return out


@lru_cache(maxsize=128)
def _exchanges(n: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Return the places a network of ``n`` compares, in order, and whether the lower and the higher are needed."""
    top = 1 << max(0, (n - 1).bit_length() - 1)
    pairs = []
    p = top
    while p and n > 1:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    needed, kept = {n // 2, (n - 1) // 2}, []
    for i, j in reversed(pairs):
        if i in needed or j in needed:
            kept.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return tuple(reversed(kept))


def _agreement(windows: F32, median: F32) -> F32:
    return medians(_correlation(windows, median[:, None])).astype(np.float32)


def _correlation(a: F32, b: F32) -> NDArray[np.float64]:
    """Pearson correlation along the last axis; 0 where either is constant."""
    a = a - means(a)[..., None]
    b = b - means(b)[..., None]
    size = np.sqrt(np.einsum("...t,...t->...", a, a) * np.einsum("...t,...t->...", b, b))
    return cast(NDArray[np.float64], np.einsum("...t,...t->...", a, b) / np.maximum(size, 1e-9))
