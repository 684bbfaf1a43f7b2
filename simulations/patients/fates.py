"""From hazards to fates: competing times to death by mechanism, VF/VT, infarction; what a perfect model knows.

Event times come from the true hazards (Gompertz in age), which compete. A defibrillator lowers the hazard of
arrhythmic death from the day it is implanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgshared.errors import ConfigError
from simulations.patients.people import draw_people
from simulations.patients.scenario import CareConfig, Scenario
from simulations.physics.disease import HazardEffects, Hazards, People, hazards

F64 = NDArray[np.float64]

ARRHYTHMIC, PUMP, OTHER = "arrhythmic", "pump", "other"
OUTSIDE = {ARRHYTHMIC: 0.75, PUMP: 0.08, OTHER: 0.35}
"""Share of deaths outside hospital, by mechanism."""
FIRST_DAY = {ARRHYTHMIC: 0.17, PUMP: 0.05, OTHER: 0.05}
"""Share of deaths in the first 24 hours of a stay."""
_STEPS, _SLICE = 24, 50_000


def scd_share(mechanism: str) -> float:
    """Return the share of deaths of a mechanism that registers will show as sudden cardiac death."""
    return 0.0 if mechanism == OTHER else OUTSIDE[mechanism] + FIRST_DAY[mechanism]


def event_probability(rates: Hazards, effects: HazardEffects, horizon_years: float, spared: F64 | float = 0.0) -> F64:
    """Return each person's probability of a death that registers show as SCD within the horizon.

    Parameters
    ----------
    rates : hazards now, shape = (n,).
    spared : share by which a defibrillator in place lowers the arrhythmic hazard, scalar or shape = (n,).

    Returns
    -------
    array, shape = (n,): the SCD hazard times survival of all deaths, integrated (midpoint rule, 24 steps).
    """
    spared = np.broadcast_to(np.asarray(spared, dtype=np.float64), rates.arrhythmic.shape)
    out = np.empty(len(rates.arrhythmic))
    for start in range(0, len(out), _SLICE):  # steps x persons: a million at once would take a gigabyte
        part = slice(start, start + _SLICE)
        t = (np.arange(_STEPS) + 0.5)[None] * horizon_years / _STEPS
        arrhythmic = ((1 - spared[part]) * rates.arrhythmic[part])[:, None] * np.exp(effects.arrhythmic_age * t)
        pump = rates.pump[part, None] * np.exp(effects.pump_age * t)
        other = rates.other[part, None] * np.exp(effects.other_age * t)
        everything = (arrhythmic + pump + other) * horizon_years / _STEPS
        survival = np.exp(-(np.cumsum(everything, axis=1) - everything / 2))
        sudden = scd_share(ARRHYTHMIC) * arrhythmic + scd_share(PUMP) * pump
        out[part] = (sudden * survival).sum(axis=1) * horizon_years / _STEPS
    return out


def solve_baseline(scenario: Scenario, people_per_hospital: int = 3000) -> float:
    """Return the log baseline rate of arrhythmic death at which the mean event probability is the scenario's.

    Solved over a fixed sample of the hospitals that train, so it depends on the scenario alone.
    """
    rng = np.random.default_rng(20070701)
    training = [hospital for hospital in scenario.hospitals.values() if hospital.trains]
    people = [
        _younger(draw_people(rng, hospital.population, people_per_hospital), scenario.max_age)
        for hospital in (training or list(scenario.hospitals.values()))
    ]
    low, high = -16.0, 2.0
    for _ in range(50):
        middle = (low + high) / 2
        rate = np.mean(
            [
                event_probability(
                    hazards(group, scenario.hazard, middle), scenario.hazard, scenario.horizon_years
                ).mean()
                for group in people
            ]
        )
        low, high = (middle, high) if rate < scenario.event_rate else (low, middle)
    if not -15.9 < middle < 1.9:
        raise ConfigError(
            "the event rate cannot be reached by any baseline hazard",
            where=scenario.name,
            value=scenario.event_rate,
            remedy="change event_rate, or the rates of death not due to arrhythmia",
        )
    return middle


def _younger(people: People, max_age: float) -> People:
    return people.rows(np.flatnonzero(people.age < max_age), people.age[people.age < max_age])


def gompertz_time(exposure: F64, rate: F64, slope: float, *, spared: float = 0.0, from_years: F64 | None = None) -> F64:
    """Invert the cumulative hazard: time at which it reaches ``exposure``.

    Parameters
    ----------
    exposure : array, shape = (n,): standard exponential draws.
    rate : array, shape = (n,): hazard at time 0, growing by exp(slope * t).
    spared, from_years : the hazard is (1 - spared) times as high from ``from_years`` on (inf: never).

    Returns
    -------
    array, shape = (n,), years.
    """

    def inverse(total: F64) -> F64:
        return np.asarray(np.log1p(slope * total / rate) / slope if slope else total / rate)

    if from_years is None:
        return inverse(exposure)
    finite = np.minimum(from_years, 1e3)
    before = rate * (np.expm1(slope * finite) / slope if slope else finite)
    rest = np.maximum(exposure - before, 0.0) / max(1 - spared, 1e-12)
    return np.where(exposure <= before, inverse(exposure), inverse(before + rest))


@dataclass(frozen=True)
class Fates:
    """What happens to n persons and when, in years from entry (inf: never); every array has shape = (n,).

    ``mechanism`` is that of the death, ARRHYTHMIC, PUMP or OTHER. VF/VT and infarction may come after death,
    which then hides them; a defibrillator in place before entry has a negative time.
    """

    icd_years: F64
    death_years: F64
    mechanism: NDArray[np.object_]
    vfvt_years: F64
    mi_years: F64


def draw_fates(
    rng: np.random.Generator, people: People, rates: Hazards, effects: HazardEffects, care: CareConfig
) -> Fates:
    """Draw implants, deaths, arrhythmias and infarctions of persons whose hazards at entry are ``rates``."""
    n = len(people.age)
    low = people.lvef <= 0.35
    implanted = rng.random(n) < np.where(low, care.defibrillator_if_low, care.defibrillator_otherwise)
    icd = np.where(implanted, rng.gamma(1.5, 1.2, n) - 1.0, np.inf)
    time = {
        ARRHYTHMIC: gompertz_time(
            rng.exponential(size=n), rates.arrhythmic, effects.arrhythmic_age,
            spared=care.defibrillator_prevents, from_years=np.maximum(icd, 0.0),
        ),
        PUMP: gompertz_time(rng.exponential(size=n), rates.pump, effects.pump_age),
        OTHER: gompertz_time(rng.exponential(size=n), rates.other, effects.other_age),
    }  # fmt: skip
    vfvt = gompertz_time(rng.exponential(size=n), rates.vfvt * care.vfvt_found, effects.arrhythmic_age)
    mi = gompertz_time(rng.exponential(size=n), rates.mi, effects.mi_age)
    mechanisms = np.array([ARRHYTHMIC, PUMP, OTHER], dtype=object)  # one string each, not one a person
    deaths = np.stack([time[m] for m in mechanisms])
    return Fates(icd, deaths.min(axis=0), mechanisms[deaths.argmin(axis=0)], vfvt, mi)
