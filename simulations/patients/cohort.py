"""A hospital's cohort: when ECGs are taken, what its registers come to hold, and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from simulations.patients.fates import ARRHYTHMIC, FIRST_DAY, OTHER, OUTSIDE, PUMP, draw_fates, event_probability
from simulations.patients.people import draw_people
from simulations.patients.scenario import CareConfig, HospitalConfig, PopulationConfig, Scenario
from simulations.physics.disease import Hazards, People, hazards

F64 = NDArray[np.float64]
DAYS_PER_YEAR = 365.25

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

    fates = draw_fates(rng, people, rates, effects, care)
    icd, death, mechanism = fates.icd_years, fates.death_years, fates.mechanism
    vfvt, mi = fates.vfvt_years, fates.mi_years

    # An ECG may come with the event, hours before it; none comes after death.
    person, at_years = ecg_times(rng, hospital.population, entry, np.minimum(death, span - entry))
    at_ecg = people.rows(person, people.age[person] + at_years, scatter=False)
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
        return np.where(known, first + seconds.astype("timedelta64[s]"), np.datetime64("NaT", "s"))

    death_at = when(death)
    recorded = first + ((entry[person] + at_years) * DAYS_PER_YEAR * 86400).astype(np.int64).astype("timedelta64[s]")
    vfvt_at = when(np.where(vfvt < death, vfvt, np.inf))[person]
    mi_at = when(np.where(mi < death, mi, np.inf))[person]
    known = comorbidities(rng, people, care, person)
    previous = (rng.random(patients) < 0.1)[person] | (mi[person] < at_years)
    n = len(person)
    table = pd.DataFrame(
        {
            **ecg_ids(rng, name, person, patients),
            "recorded_at": recorded,
            "age": np.floor(at_ecg.age).astype(np.int64),
            "sex": np.where(people.male[person], "M", "F"),
            "death_date": death_at[person],
            "death_cause": np.where(died, cause, "")[person],
            "death_in_hospital": np.where(died, np.where(outside, 0.0, 1.0), np.nan)[person],
            "admission_time": np.where(
                died & ~outside, death_at - (stay_hours * 3600).astype(np.int64).astype("timedelta64[s]"),
                np.datetime64("NaT", "s"),
            )[person],
            "vfvt_date": np.where(vfvt_at >= recorded, vfvt_at, np.datetime64("NaT", "s")),
            "mi_date": np.where(mi_at >= recorded, mi_at, np.datetime64("NaT", "s")),
            "icd_date": when(np.where(icd < death, icd, np.inf))[person],
            "last_encounter": when(np.minimum(seen, end - entry - 1e-6))[person],
            "data_end": np.full(n, np.datetime64(care.data_end, "s")),
            **known,
            "previous_mi": previous.astype(np.float64),
        }
    )  # fmt: skip
    sudden = died & np.isin(mechanism, (ARRHYTHMIC, PUMP)) & (outside | first_day)
    # Whole days between calendar dates, as registers count them.
    days = (death_at[person].astype("datetime64[D]") - recorded.astype("datetime64[D]")).astype(np.float64)
    event = sudden[person] & (days >= 0) & (days < DAYS_PER_YEAR * scenario.horizon_years)
    truth = pd.DataFrame(
        {
            **true_state(table, at_ecg, now, care),
            "true_scd_probability": probability,
            "true_scd_event": event.astype(np.int64),
            "true_mechanism": np.where(died, mechanism, "alive").astype(object)[person],
            "true_years_to_death": np.where(died[person], death[person] - at_years, np.nan),
        }
    )
    return Hospital(people, person, at_years, table, truth)


def ecg_times(
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


def ecg_ids(rng: np.random.Generator, name: str, person: NDArray[np.int64], patients: int) -> dict[str, Any]:
    """Return the identifiers of each ECG and its file's path, without suffix, below the records folder."""
    # Patient numbers in no order, so that a number says nothing about entry.
    patient = np.array([f"{name[:1].upper()}{p:06d}" for p in rng.permutation(patients) + 100_000], dtype=object)
    return {
        "ecg_id": [f"{name[:2].upper()}{i:07d}" for i in range(len(person))],
        "patient_id": patient[person],
        "file": [f"{i // 1000:03d}/{name[:2]}{i:07d}" for i in range(len(person))],
    }


def true_state(table: pd.DataFrame, at_ecg: People, now: Hazards, care: CareConfig) -> dict[str, Any]:
    """Return the truth table's columns of every kind of series: who, and the latent state and hazards at the ECG."""
    return {
        "ecg_id": table["ecg_id"],
        "patient_id": table["patient_id"],
        "true_fibrosis": at_ecg.fibrosis,
        "true_lvef": at_ecg.lvef,
        "true_hazard_arrhythmic": now.arrhythmic,
        "true_hazard_vfvt": now.vfvt * care.vfvt_found,
        "true_hazard_pump": now.pump,
        "true_hazard_other": now.other,
        "true_hazard_mi": now.mi,
    }


def comorbidities(
    rng: np.random.Generator, people: People, care: CareConfig, person: NDArray[np.int64]
) -> dict[str, F64]:
    """Return what the records say of each ECG's patient: LVEF where it was measured, BMI, diagnoses."""
    n = len(people.age)
    measured = (rng.random(n) < care.lvef_measured_share) | (people.heart_failure & (rng.random(n) < 0.6))
    reported_lvef = np.clip(people.lvef + 0.03 * rng.standard_normal(n), 0.1, 0.8)
    diabetes = rng.random(n) < np.clip(0.05 + 0.012 * (people.bmi - 22), 0.02, 0.6)
    hypertension = rng.random(n) < np.clip(0.15 + 0.008 * (people.age - 45), 0.05, 0.8)
    return {
        "lvef": np.where(measured, np.round(reported_lvef, 2), np.nan)[person],
        "bmi": np.round(people.bmi[person], 1),
        "heart_failure": people.heart_failure[person].astype(np.float64),
        "diabetes": diabetes[person].astype(np.float64),
        "hypertension": hypertension[person].astype(np.float64),
    }
