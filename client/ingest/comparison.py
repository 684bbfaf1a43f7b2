"""The second look: each recording beside the others of its device.

A single recording at five times its size may be a large heart; among a thousand of the same cart it is none. Compared
are the usual amplitude, the smallest step between values, and the stated gain; and each device with all hospitals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ecgshared.arrays import Bools, Floats

FEWEST = 20
"""Fewer recordings of a device say too little about a further one; then all of the site's are taken together."""

FAR, FAR_SD = float(np.log(2.7)), 3.0
"""In logs and in robust standard deviations: of 992 real recordings, each beside the others of its device, 0.5% differ
so much; at five times their size, or a fifth, more than 95% do."""

DEVICE_MV = (0.55, 3.4)
"""The usual amplitude of a device's recordings, by their median: 1.2 to 2.0 mV in five hospitals of three countries."""

USUAL_MV = 1.5

COMMON = 0.9
"""Share of a device's recordings that must have one step or gain for another to stand out."""


@dataclass(frozen=True)
class Sized:
    """One recording: path, whose it is, its device, usual amplitude (mV), step (mV) and stated units per mV."""

    path: str
    patient: bytes
    device: str
    amplitude_mv: float
    step_mv: float | None
    units_per_mv: float | None


@dataclass(frozen=True)
class Outlier:
    """One recording that stands out: its finding's code, and why."""

    path: str
    patient: bytes
    device: str
    code: str
    why: str


def outliers(recordings: Iterable[Sized]) -> list[Outlier]:
    """Return the recordings that stand out among those of their device, each once, by path."""
    groups: dict[str, list[Sized]] = {}
    for recording in recordings:
        groups.setdefault(recording.device, []).append(recording)
    small = [device for device, members in groups.items() if len(members) < FEWEST]
    together = [member for device in small for member in groups.pop(device)]
    found = [outlier for members in groups.values() for outlier in _of_one_device(members)]
    # Devices with few recordings: amplitude alone is compared, with the whole site's.
    everybody = [member for members in groups.values() for member in members] + together
    if together and len(everybody) >= FEWEST:
        found += _by_amplitude(together, everybody)
    return sorted(found, key=lambda outlier: outlier.path)


def summary(found: Iterable[Outlier]) -> list[str]:
    """Return a line for each device and kind of finding: how many, and one of them."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], Outlier] = {}
    for outlier in found:
        key = outlier.device, outlier.code
        counts[key] += 1
        first.setdefault(key, outlier)
    return [
        f"{device}: {count:,} x {code}; e.g. {first[device, code].path}: {first[device, code].why}"
        for (device, code), count in counts.most_common()
    ]


def _of_one_device(members: list[Sized]) -> list[Outlier]:
    amplitude = np.log([member.amplitude_mv for member in members])
    usual = float(np.exp(np.median(amplitude)))
    if not DEVICE_MV[0] <= usual <= DEVICE_MV[1]:
        return _whole_device(members, usual)
    found: dict[str, Outlier] = {}
    for outlier in (*_by_gain(members, amplitude), *_by_amplitude(members, members), *_by_step(members)):
        found.setdefault(outlier.path, outlier)
    return list(found.values())


def _whole_device(members: list[Sized], usual: float) -> list[Outlier]:
    gains = Counter(member.units_per_mv for member in members if member.units_per_mv)
    why = f"the {len(members):,} recordings of this device have {usual:.2g} mV in the middle, hospitals 1.2 to 2.0"
    if gains:
        stated = gains.most_common(1)[0][0] or 1.0
        why += f"; the stated {stated:g} units per mV would have to be about {stated * usual / USUAL_MV:.2g}"
    return [Outlier(member.path, member.patient, member.device, "device-amplitude", why) for member in members]


def _by_amplitude(members: list[Sized], others: list[Sized]) -> list[Outlier]:
    logs = np.log([other.amplitude_mv for other in others])
    middle = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(logs - middle)))
    limit = max(FAR, FAR_SD * min(spread, 0.4))
    usual = float(np.exp(middle))
    found = []
    for member in members:
        ratio = member.amplitude_mv / usual
        if abs(np.log(ratio)) > limit:
            times = f"{ratio:.1f} times" if ratio > 1 else f"1/{1 / ratio:.1f} of"
            why = f"{member.amplitude_mv:.2g} mV, {times} the {usual:.2g} mV of the others"
            found.append(Outlier(member.path, member.patient, member.device, "amplitude-outlier", why))
    return found


def _by_gain(members: list[Sized], amplitude: Floats) -> list[Outlier]:
    """Return recordings of another stated gain that are in line with the others only at the others' gain."""
    stated: Floats = np.array([member.units_per_mv or np.nan for member in members], dtype=np.float64)
    common, _ = _common(stated, 0.5)
    if common is None:
        return []
    middle = float(np.median(amplitude[stated == common]))
    as_stated = np.abs(amplitude - middle)
    as_others = np.abs(amplitude + np.log(stated / common) - middle)
    doubtful = _unlike(stated, common) & (as_others + 0.35 < as_stated)
    return [
        Outlier(
            members[i].path,
            members[i].patient,
            members[i].device,
            "gain-outlier",
            f"states {stated[i]:g} units per mV, the others {common:g}; at theirs it would be "
            f"{np.exp(amplitude[i]) * stated[i] / common:.2g} mV, not {np.exp(amplitude[i]):.2g}",
        )
        for i in np.flatnonzero(doubtful)
    ]


def _by_step(members: list[Sized]) -> list[Outlier]:
    steps: Floats = np.array([member.step_mv or np.nan for member in members], dtype=np.float64)
    common, share = _common(steps, COMMON)
    if common is None:
        return []
    return [
        Outlier(
            members[i].path,
            members[i].patient,
            members[i].device,
            "step-outlier",
            f"its values move in steps of {1000 * steps[i]:.4g} uV, those of {share:.0%} of the others in "
            f"{1000 * common:.4g}",
        )
        for i in np.flatnonzero(_unlike(steps, common))
    ]


def _common(values: Floats, least: float) -> tuple[float | None, float]:
    """Return the value that most have, and its share; None where too few do."""
    known = np.round(np.log(values[np.isfinite(values)]), 3)
    if len(known) < FEWEST:
        return None, 0.0
    value, count = Counter(known.tolist()).most_common(1)[0]
    share = count / len(known)
    if share < least:
        return None, share
    return float(np.median(values[np.isfinite(values)][known == value])), share


def _unlike(values: Floats, common: float) -> Bools:
    """Mark what is at least nearly twice or half of the common value."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(np.log(values / common)) > np.log(1.9))
