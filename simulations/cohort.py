"""A hospital's people: who they are, when their ECGs are taken, what happens to them, and the truth.

Event times come from the true hazards (Gompertz in age), which compete. A defibrillator lowers the hazard of
arrhythmic death from the day it is implanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgshared.errors import ConfigError
from simulations.disease import MAX_FIBROSIS, HazardEffects, Hazards, People, hazards
from simulations.scenario import HospitalConfig, PopulationConfig, Scenario

F64 = NDArray[np.float64]
DAYS_PER_YEAR = 365.25

ARRHYTHMIC, PUMP, OTHER = "arrhythmic", "pump", "other"
OUTSIDE = {ARRHYTHMIC: 0.75, PUMP: 0.08, OTHER: 0.35}
"""Share of deaths outside hospital, by mechanism."""
FIRST_DAY = {ARRHYTHMIC: 0.17, PUMP: 0.05, OTHER: 0.05}
"""Share of deaths in the first 24 hours of a stay."""
# Cause on the certificate, ICD-10: what registers make of each mechanism.
_CAUSES = {
    ARRHYTHMIC: (
        ("I46.1", "I46.9", "I49.0", "I25.1", "I42.0", "R96.0"),
        (0.30, 0.14, 0.10, 0.30, 0.10, 0.06),
    ),
    PUMP: (("I50.0", "I50.9", "I25.5", "I21.9"), (0.35, 0.30, 0.2, 0.15)),
    OTHER: (
        ("C34.9", "J44.9", "J18.9", "N18.5", "C18.9", "G30.9", "E11.7"),
        (0.24, 0.16, 0.18, 0.1, 0.12, 0.1, 0.1),
    ),
}


def scd_share(mechanism: str) -> float:
    """Return the share of deaths of a mechanism that registers will show as sudden cardiac death."""
    return 0.0 if mechanism == OTHER else OUTSIDE[mechanism] + FIRST_DAY[mechanism]


@dataclass(frozen=True)
class Hospital:
    """One hospital's cohort.

    Attributes
    ----------
    people : traits at entry, one per patient.
    person : int array, shape = (n_ecgs,): the patient of each ECG.
    at_years : array, shape = (n_ecgs,): time from entry to the ECG.
    table : what the hospital knows, one row per ECG, under standard column names (missing is NaT, NaN or "").
    truth : what nobody at the hospital knows, one row per ECG.
    """

    people: People
    person: NDArray[np.int64]
    at_years: F64
    table: pd.DataFrame
    truth: pd.DataFrame


def draw_people(rng: np.random.Generator, population: PopulationConfig, n: int) -> People:
    """Draw n persons; fibrosis rises with age, in men and with heart failure, LVEF falls with it (weakly)."""
    age = np.clip(population.age_mean + population.age_sd * rng.standard_normal(n), 22, 95)
    male = rng.random(n) < population.male_share
    bmi = np.clip(population.bmi_mean + population.bmi_sd * rng.standard_normal(n), 16, 50)
    share = population.heart_failure_share
    failing = rng.random(n) < 1 / (1 + np.exp(-(np.log(share / (1 - share)) + 0.04 * (age - 65) + 0.1 * male)))
    middle = population.fibrosis_median / MAX_FIBROSIS
    logit = np.log(middle / (1 - middle)) + 0.012 * (age - 65) - 0.15 * (~male) + 0.5 * failing
    logit = logit + population.fibrosis_spread * rng.standard_normal(n)
    fibrosis = MAX_FIBROSIS / (1 + np.exp(-logit))
    lvef = 0.64 - 0.16 * failing - 0.22 * fibrosis + 0.075 * rng.standard_normal(n)
    return People(
        age, male, bmi, failing, fibrosis, np.clip(lvef, 0.12, 0.78),
        rng.standard_normal((n, 6)), rng.standard_normal((n, 8)),
    )  # fmt: skip


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
    steps = 24
    dt = horizon_years / steps
    t = (np.arange(steps) + 0.5)[None] * dt
    arrhythmic = ((1 - np.asarray(spared)) * rates.arrhythmic)[:, None] * np.exp(effects.arrhythmic_age * t)
    pump = rates.pump[:, None] * np.exp(effects.pump_age * t)
    other = rates.other[:, None] * np.exp(effects.other_age * t)
    everything = (arrhythmic + pump + other) * dt
    survival = np.exp(-(np.cumsum(everything, axis=1) - everything / 2))
    sudden = scd_share(ARRHYTHMIC) * arrhythmic + scd_share(PUMP) * pump
    return np.asarray((sudden * survival).sum(axis=1) * dt)


def solve_baseline(scenario: Scenario, people_per_hospital: int = 3000) -> float:
    """Return the log baseline rate of arrhythmic death at which the mean event probability is the scenario's.

    Solved over a fixed sample of the hospitals that train, so it depends on the scenario alone.
    """
    rng = np.random.default_rng(20070701)
    training = [hospital for hospital in scenario.hospitals.values() if hospital.trains]
    people = [
        draw_people(rng, hospital.population, people_per_hospital)
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


def make_cohort(
    rng: np.random.Generator,
    name: str,
    hospital: HospitalConfig,
    scenario: Scenario,
    log_baseline: float,
    patients: int,
) -> Hospital:
    """Draw a hospital's patients, their ECGs, their fates, what its registers hold and the truth.

    Parameters
    ----------
    log_baseline : see :func:`solve_baseline`.
    patients : how many.
    """
    care, effects = hospital.care, scenario.hazard
    people = draw_people(rng, hospital.population, patients)
    rates = hazards(people, effects, log_baseline)
    span = (care.last_ecg - care.first_ecg).days / DAYS_PER_YEAR
    end = (care.data_end - care.first_ecg).days / DAYS_PER_YEAR
    entry = rng.random(patients) * span

    low = people.lvef <= 0.35
    implanted = rng.random(patients) < np.where(low, care.defibrillator_if_low, care.defibrillator_otherwise)
    icd = np.where(implanted, rng.gamma(1.5, 1.2, patients) - 1.0, np.inf)
    time = {
        ARRHYTHMIC: gompertz_time(
            rng.exponential(size=patients), rates.arrhythmic, effects.arrhythmic_age,
            spared=care.defibrillator_prevents, from_years=np.maximum(icd, 0.0),
        ),
        PUMP: gompertz_time(rng.exponential(size=patients), rates.pump, effects.pump_age),
        OTHER: gompertz_time(rng.exponential(size=patients), rates.other, effects.other_age),
    }  # fmt: skip
    vfvt = gompertz_time(rng.exponential(size=patients), rates.vfvt, effects.arrhythmic_age)
    mi = gompertz_time(rng.exponential(size=patients), rates.mi, effects.mi_age)
    mechanisms = np.array([ARRHYTHMIC, PUMP, OTHER])
    deaths = np.stack([time[m] for m in mechanisms])
    mechanism, death = mechanisms[deaths.argmin(axis=0)], deaths.min(axis=0)

    # An ECG may come with the event, hours before it; none comes after death.
    person, at_years = _ecg_times(rng, hospital.population, entry, np.minimum(death, span - entry))
    at_ecg = people.rows(person, people.age[person] + at_years)
    now = hazards(at_ecg, effects, log_baseline)
    has_icd = icd[person] <= at_years
    probability = event_probability(
        now, effects, scenario.horizon_years, np.where(has_icd, care.defibrillator_prevents, 0.0)
    )

    cause = np.full(patients, "", dtype=object)
    where = rng.random(patients)
    outside, first_day = np.zeros(patients, bool), np.zeros(patients, bool)
    for m in (ARRHYTHMIC, PUMP, OTHER):
        mine = mechanism == m
        codes, weights = _CAUSES[m]
        cause[mine] = rng.choice(np.array(codes), size=int(mine.sum()), p=weights)
        outside[mine] = where[mine] < OUTSIDE[m]
        first_day[mine] = ~outside[mine] & (where[mine] < OUTSIDE[m] + FIRST_DAY[m])
    stay_hours = np.where(first_day, rng.uniform(0.5, 22.0, patients), 30.0 + rng.exponential(120.0, patients))

    lost = rng.random(patients) < care.lost_share
    seen_until = np.where(
        lost, rng.uniform(0.1, 0.8, patients) * (end - entry), end - entry - rng.exponential(0.25, patients)
    )
    last_ecg = np.zeros(patients)
    np.maximum.at(last_ecg, person, at_years)
    seen = np.minimum(np.maximum(seen_until, last_ecg), death)
    died = entry + death < end

    first = np.datetime64(care.first_ecg, "s")

    def when(years: F64) -> NDArray[np.datetime64]:
        """Dates of person-times (years after entry) as UTC-less seconds; NaT beyond the end of data."""
        known = np.isfinite(years) & (entry + np.minimum(years, 1e4) < end)
        seconds = np.where(known, (entry + np.where(known, years, 0.0)) * DAYS_PER_YEAR * 86400, 0).astype(np.int64)
        return np.where(known, first + seconds.astype("timedelta64[s]"), np.datetime64("NaT"))

    death_at = when(death)
    recorded = first + ((entry[person] + at_years) * DAYS_PER_YEAR * 86400).astype(np.int64).astype("timedelta64[s]")
    vfvt_at = when(np.where(vfvt < death, vfvt, np.inf))[person]
    mi_at = when(np.where(mi < death, mi, np.inf))[person]
    measured = (rng.random(patients) < care.lvef_measured_share) | (people.heart_failure & (rng.random(patients) < 0.6))
    reported_lvef = np.clip(people.lvef + 0.03 * rng.standard_normal(patients), 0.1, 0.8)
    diabetes = rng.random(patients) < np.clip(0.05 + 0.012 * (people.bmi - 22), 0.02, 0.6)
    hypertension = rng.random(patients) < np.clip(0.15 + 0.008 * (people.age - 45), 0.05, 0.8)
    previous = (rng.random(patients) < 0.1)[person] | (mi[person] < at_years)
    n = len(person)
    order = np.arange(n)
    table = pd.DataFrame(
        {
            "ecg_id": [f"{name[:2].upper()}{i:07d}" for i in order],
            "patient_id": [f"{name[:1].upper()}{p:06d}" for p in _numbers(rng, patients)[person]],
            "file": [f"{i // 1000:03d}/{name[:2]}{i:07d}" for i in order],
            "recorded_at": recorded,
            "age": np.floor(at_ecg.age).astype(np.int64),
            "sex": np.where(people.male[person], "M", "F"),
            "death_date": death_at[person],
            "death_cause": np.where(died, cause, "")[person],
            "death_in_hospital": np.where(died, np.where(outside, 0.0, 1.0), np.nan)[person],
            "admission_time": np.where(
                died & ~outside, death_at - (stay_hours * 3600).astype(np.int64).astype("timedelta64[s]"),
                np.datetime64("NaT"),
            )[person],
            "vfvt_date": np.where(vfvt_at >= recorded, vfvt_at, np.datetime64("NaT")),
            "mi_date": np.where(mi_at >= recorded, mi_at, np.datetime64("NaT")),
            "icd_date": when(np.where(icd < death, icd, np.inf))[person],
            "last_encounter": when(np.minimum(seen, end - entry - 1e-6))[person],
            "data_end": np.full(n, np.datetime64(care.data_end, "s")),
            "lvef": np.where(measured, np.round(reported_lvef, 2), np.nan)[person],
            "bmi": np.round(people.bmi[person], 1),
            "heart_failure": people.heart_failure[person].astype(np.float64),
            "diabetes": diabetes[person].astype(np.float64),
            "hypertension": hypertension[person].astype(np.float64),
            "previous_mi": previous.astype(np.float64),
        }
    )  # fmt: skip
    sudden = died & np.isin(mechanism, (ARRHYTHMIC, PUMP)) & (outside | first_day)
    # Whole days between calendar dates, as registers count them.
    days = (death_at[person].astype("datetime64[D]") - recorded.astype("datetime64[D]")).astype(np.float64)
    event = sudden[person] & (days >= 0) & (days < DAYS_PER_YEAR * scenario.horizon_years)
    truth = pd.DataFrame(
        {
            "ecg_id": table["ecg_id"],
            "patient_id": table["patient_id"],
            "true_fibrosis": at_ecg.fibrosis,
            "true_lvef": at_ecg.lvef,
            "true_hazard_arrhythmic": now.arrhythmic,
            "true_hazard_vfvt": now.vfvt,
            "true_hazard_pump": now.pump,
            "true_hazard_other": now.other,
            "true_hazard_mi": now.mi,
            "true_scd_probability": probability,
            "true_scd_event": event.astype(np.int64),
            "true_mechanism": np.where(died, mechanism, "alive")[person],
            "true_years_to_death": np.where(died[person], death[person] - at_years, np.nan),
        }
    )
    return Hospital(people, person, at_years, table, truth)


def _ecg_times(
    rng: np.random.Generator, population: PopulationConfig, entry: F64, room_years: F64
) -> tuple[NDArray[np.int64], F64]:
    """The first ECG is the entry; further ones come within days (a stay) or months to years."""
    n = len(entry)
    extra = rng.poisson(population.ecgs_per_patient - 1, n)
    person = np.repeat(np.arange(n), extra)
    gap = np.where(
        rng.random(len(person)) < 0.3,
        rng.exponential(3 / DAYS_PER_YEAR, len(person)),
        rng.gamma(1.3, 0.8, len(person)),
    )
    at = gap.copy()
    for i in range(1, len(person)):
        if person[i] == person[i - 1]:
            at[i] += at[i - 1]
    kept = at < room_years[person]
    person = np.concatenate([np.arange(n), person[kept]])
    at = np.concatenate([np.zeros(n), at[kept]])
    order = np.lexsort((at, person))
    return person[order].astype(np.int64), at[order]


def _numbers(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    """Patient numbers in no order, so that a number says nothing about entry."""
    return rng.permutation(n) + 100_000
