"""Fit hearts to the median beats of real healthy people, and write down how hearts differ: parameters, no recordings.

    python -m simulations.judging.fit_hearts PTBXL simulations/physics/hearts.json

Of PTB-XL's NORM records those of patients with an even number are fitted; the others are left for judging
(``ecgfed simulate realism`` and its detector see those alone). Each beat is fitted by damped Gauss-Newton steps with a
prior; what is kept is the mean by age and sex and the covariance of what is left.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt

from ecgshared.ecg.beats import median_beat
from simulations.judging.realism import FS, Recordings, read_norm
from simulations.physics.beats import Bodies, atrial_beats, ventricular_beats
from simulations.physics.conduction import none_of
from simulations.physics.cycle import LEAD_STEPS, STEP_MS
from simulations.physics.torso import reference_electrodes
from simulations.physics.traits import MEANINGS, NAMES, SPREAD, USUAL, Traits

F64 = NDArray[np.float64]

BEFORE_MS, AFTER_MS = 250.0, 520.0
_TIMES = np.arange(-BEFORE_MS, AFTER_MS, STEP_MS)
_INDEPENDENT = [0, 1, 6, 7, 8, 9, 10, 11]
MOST = 84
"""Beats that are fitted: two thirds of a second each."""
FACTORS = 34
"""Standard normal numbers of a person's own that carry the scatter."""
_ERROR_MV = np.where(_TIMES < -25, 0.005, np.where(_TIMES < 120, 0.028, 0.015))
"""How closely P, QRS and ST-T are to be met."""
_ALIKE = 20.0
"""Neighbouring samples and leads that count as one: they err together."""


@dataclass(frozen=True)
class Beat:
    """A median beat: eight leads, shape = (8, T), mV at :data:`_TIMES` from the beginning of QRS; its RR, s."""

    leads: F64
    rr_s: float


def beat_of(signal: NDArray[np.float32]) -> Beat | None:
    """Return the median beat of a recording, brought to QRS onset and to zero between T and P."""
    sos = butter(2, 0.4, "highpass", fs=FS, output="sos")
    beat = median_beat(sosfiltfilt(sos, signal, axis=-1).astype(np.float32), FS)
    if beat is None or len(beat.rr_s) < 3:
        return None
    x = beat.signal[_INDEPENDENT].astype(np.float64)
    size = np.abs(np.gradient(x, axis=1)).mean(axis=0)
    near = size[beat.centre - 40 : beat.centre + 40].max()
    start = beat.centre
    while start > beat.centre - 45 and size[start - 6 : start].max() > 0.09 * near:
        start -= 1
    at = start + (_TIMES * FS / 1000).astype(np.int64)
    rr = float(np.median(beat.rr_s))
    if at[0] < 0 or at[-1] >= x.shape[1] or rr < AFTER_MS / 1000 + BEFORE_MS / 1000:
        at = np.clip(at, 0, x.shape[1] - 1)
    leads = x[:, at]
    return Beat(leads - leads[:, :10].mean(axis=1, keepdims=True), rr)


def model(values: F64, shift_ms: F64, rr_s: float) -> F64:
    """Return what hearts of these traits make of a beat, shape = (n, 8, T)."""
    n = len(values)
    traits = Traits(values)
    bodies = Bodies(traits, none_of(n), np.zeros(n), np.ones((n, 3)), reference_electrodes(n), np.zeros(n))
    qrs, atria = ventricular_beats(bodies), atrial_beats(bodies)
    since = _TIMES[None] - shift_ms[:, None]
    steps = since / STEP_MS + LEAD_STEPS
    out = _read(qrs.early, steps)
    out += _read(qrs.late, since / np.cbrt(rr_s) / STEP_MS + LEAD_STEPS)
    back = (traits["pr"] + 40 * (rr_s - 1))[:, None] / STEP_MS
    return out + _read(atria.early, steps + back) + _read(atria.late, steps + back)


def _read(waves: NDArray[np.float32], steps: F64) -> F64:
    """Return the first eight leads at fractional steps."""
    at = np.clip(steps, 0, waves.shape[2] - 1.001)
    first = at.astype(np.int64)
    rows = np.arange(len(waves))[:, None, None]
    leads = np.arange(8)[None, :, None]
    low, high = waves[rows, leads, first[:, None, :]], waves[rows, leads, first[:, None, :] + 1]
    share = (at - first)[:, None, :]
    return np.asarray(low * (1 - share) + high * share, dtype=np.float64)


def fit(beat: Beat, centre: F64, spread: F64, turns: int = 4) -> tuple[F64, float]:
    """Return the traits that make a beat, shape = (len(NAMES),), and the error left, RMS in mV.

    Slopes are measured ``turns`` times; between, they follow what each step found (Broyden).
    """
    prior, size = np.append(centre, 0.0), np.append(spread, 6.0)
    theta, damping, delta = prior.copy(), 1.0, 0.05 * size

    def residuals(many: F64) -> F64:
        made = model(many[:, :-1], many[:, -1], beat.rr_s)
        off = (made - beat.leads) / _ERROR_MV / np.sqrt(_ALIKE)
        return np.concatenate([off.reshape(len(many), -1), (many - prior) / size], axis=1)

    current = residuals(theta[None])[0]
    for _ in range(turns):
        slopes = (residuals(theta + np.diag(delta)) - current) / delta[:, None]
        for _ in range(4):
            step = np.linalg.solve(slopes @ slopes.T + damping * np.diag(1 / size**2), slopes @ current)
            tried = residuals((theta - step)[None])[0]
            slopes += np.outer(-step, tried - current + step @ slopes) / (step @ step)
            if (tried**2).sum() < (current**2).sum():
                theta, current, damping = theta - step, tried, max(damping / 4, 0.02)
            else:
                damping *= 6
    left = current[: -len(theta)].reshape(8, -1) * _ERROR_MV * np.sqrt(_ALIKE)
    return theta[:-1], float(np.sqrt((left**2).mean()))


def population(values: F64, age: F64, male: NDArray[np.bool_], factors: int = FACTORS) -> dict[str, object]:
    """Return mean, change by decade and sex, and the factor of the scatter, ready for ``hearts.json``."""
    design = np.column_stack([np.ones(len(age)), (age - 50) / 10, male])
    # What is fitted alone says little of the rest: slopes are drawn towards none.
    pull = np.diag([0.0, 4.0, 1.0])
    found = np.linalg.solve(design.T @ design + pull, design.T @ values)
    left = values - design @ found
    low, high = np.percentile(left, [2, 98], axis=0)
    left = np.clip(left, low, high)
    unit = left / SPREAD
    power, ways = np.linalg.eigh(np.cov(unit.T))
    keep = np.argsort(power)[::-1][:factors]
    factor = SPREAD[:, None] * ways[:, keep] * np.sqrt(np.maximum(power[keep], 0))
    return {
        "names": list(NAMES),
        "mean": found[0].round(5).tolist(),
        "decade": found[1].round(5).tolist(),
        "male": found[2].round(5).tolist(),
        "factor": factor.round(5).tolist(),
    }


def fit_all(real: Recordings) -> tuple[F64, F64, NDArray[np.int64]]:
    """Return traits and errors of each recording with a beat, and their rows; fitted twice, the second about the
    first's median."""
    beats = [(i, beat_of(signal)) for i, signal in enumerate(real.signal)]
    known = [(i, beat) for i, beat in beats if beat is not None]
    centre, spread = USUAL, SPREAD
    for turn in range(2):
        found = [fit(beat, centre, spread) for _, beat in (known[::8] if turn == 0 else known[:MOST])]
        values = np.array([theta for theta, _ in found])
        errors = np.array([error for _, error in found])
        print(f"pass {turn + 1}: {len(found)} beats, median error {1000 * np.median(errors):.0f} uV", flush=True)
        centre, spread = np.median(values, axis=0), SPREAD
    return values, errors, np.array([i for i, _ in known[:MOST]])


def main(ptbxl: Path, out: Path) -> None:
    """Fit the even patients' NORM records below ``ptbxl`` and write ``out``."""
    real = read_norm(ptbxl, part="fit")
    values, errors, rows = fit_all(real)
    good = errors < np.percentile(errors, 95)
    held = population(values[good], real.age[rows][good], real.male[rows][good])
    for i, name in enumerate(NAMES):
        spread = values[good][:, i].std()
        print(f"{name:12} {np.mean(values[good][:, i]):8.3f} +- {spread:.3f}  {MEANINGS[name][2]}")
    lines = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in held.items())
    out.write_text("{" + lines + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
