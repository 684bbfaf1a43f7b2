"""A case-control series at an emergency department: arrests by mechanism, random controls, ECGs before an index date.

Cases are found as a registry finds them: persons are drawn, live under their true hazards, and those whose heart
stops within the window are taken, an arrhythmic arrest where arrhythmia is what stopped it. Fibrosis acts on that
hazard alone, so the other arrests are the placebo.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecgshared.errors import ConfigError
from simulations.patients.cohort import DAYS_PER_YEAR, Hospital, comorbidities, ecg_ids, ecg_times, true_state
from simulations.patients.fates import ARRHYTHMIC, draw_fates, event_probability, gompertz_time
from simulations.patients.people import draw_people
from simulations.patients.scenario import HospitalConfig, Scenario, SeriesConfig
from simulations.physics.disease import People, hazards

F64 = NDArray[np.float64]
CASE_LABEL, PLACEBO_LABEL = "arrhythmic_arrest", "other_arrest"
"""Labels of a series: 1 for its arrests, 0 for the controls, empty for arrests of the other kind."""
CONTROL, OTHER_ARREST = "control", "other"
_BATCH, _MAX_BATCHES = 20_000, 400


def make_series(
    rng: np.random.Generator,
    name: str,
    hospital: HospitalConfig,
    series: SeriesConfig,
    scenario: Scenario,
    log_baseline: float,
    patients: int,
) -> Hospital:
    """Draw cases and controls, their ECGs, what the registry holds and the truth.

    Parameters
    ----------
    log_baseline : see :func:`simulations.patients.fates.solve_baseline`.
    patients : cases and controls together, at least one of each.

    Raises
    ------
    ConfigError : the population has too few arrests to fill the series.
    """
    care, effects = hospital.care, scenario.hazard
    people, group, index_years = _find(rng, hospital, series, scenario, log_baseline, patients)
    n = len(group)
    span = (care.last_ecg - care.first_ecg).days / DAYS_PER_YEAR
    entry = rng.random(n) * span
    person, at_years = ecg_times(rng, hospital.population, entry, np.minimum(index_years, span - entry))
    late = np.flatnonzero((group != CONTROL) & (rng.random(n) < series.last_days_share))
    before = np.minimum(rng.uniform(0.02, 2.0, len(late)) / DAYS_PER_YEAR, index_years[late])
    person = np.concatenate([person, late])
    at_years = np.concatenate([at_years, index_years[late] - before])
    order = np.lexsort((at_years, person))
    person, at_years = person[order], at_years[order]

    at_ecg = people.rows(person, people.age[person] + at_years, scatter=False)
    now = hazards(at_ecg, effects, log_baseline)
    first = np.datetime64(care.first_ecg, "s")

    def when(years: F64) -> NDArray[np.datetime64]:
        return np.asarray(first + (years * DAYS_PER_YEAR * 86400).astype(np.int64).astype("timedelta64[s]"))

    mine = group[person]
    table = pd.DataFrame(
        {
            **ecg_ids(rng, name, person, n),
            "recorded_at": when(entry[person] + at_years),
            "age": np.floor(at_ecg.age).astype(np.int64),
            "sex": np.where(at_ecg.male, "M", "F"),
            "index_date": when((entry + index_years)[person]),
            CASE_LABEL: np.select([mine == ARRHYTHMIC, mine == CONTROL], [1.0, 0.0], np.nan),
            PLACEBO_LABEL: np.select([mine == OTHER_ARREST, mine == CONTROL], [1.0, 0.0], np.nan),
            **comorbidities(rng, people, care, person),
        }
    )
    truth = pd.DataFrame(
        {
            **true_state(table, at_ecg, now, care),
            "true_hazard_arrest": now.arrest,
            "true_scd_probability": event_probability(now, effects, scenario.horizon_years),
            "true_scd_event": (mine == ARRHYTHMIC).astype(np.int64),
            "true_mechanism": mine,
            "true_years_to_death": np.where(mine == CONTROL, np.nan, index_years[person] - at_years),
        }
    )
    return Hospital(people, person, at_years, table, truth)


def _find(
    rng: np.random.Generator,
    hospital: HospitalConfig,
    series: SeriesConfig,
    scenario: Scenario,
    log_baseline: float,
    patients: int,
) -> tuple[People, NDArray[np.str_], F64]:
    """Return the persons of the series at entry, their group, and the index in years from entry."""
    wanted = {
        ARRHYTHMIC: max(round(series.arrhythmic_share * patients), 1),
        OTHER_ARREST: max(round(series.other_share * patients), 1),
    }
    wanted[CONTROL] = max(patients - sum(wanted.values()), 1)
    missing, found = dict(wanted), []
    for _ in range(_MAX_BATCHES):
        people = draw_people(rng, hospital.population, _BATCH)
        rates = hazards(people, scenario.hazard, log_baseline)
        fates = draw_fates(rng, people, rates, scenario.hazard, hospital.care)
        arrest = gompertz_time(rng.exponential(size=_BATCH), rates.arrest, scenario.hazard.arrest_age)
        visit = rng.random(_BATCH) * series.within_years
        died = fates.death_years < series.within_years
        chosen = {
            ARRHYTHMIC: np.flatnonzero(died & (fates.mechanism == ARRHYTHMIC) & (fates.death_years < arrest)),
            OTHER_ARREST: np.flatnonzero((arrest < series.within_years) & (arrest < fates.death_years)),
            CONTROL: np.flatnonzero(np.minimum(fates.death_years, arrest) > series.within_years),
        }
        times = {ARRHYTHMIC: fates.death_years, OTHER_ARREST: arrest, CONTROL: visit}
        for group, rows in chosen.items():
            rows = rows[: missing[group]]
            missing[group] -= len(rows)
            found.append((people.rows(rows, people.age[rows]), np.full(len(rows), group), times[group][rows]))
        if not any(missing.values()):
            break
    else:
        raise ConfigError(
            "too few arrests in this population to fill the series",
            where=scenario.name,
            value={group: wanted[group] - short for group, short in missing.items()},
            allowed=str(wanted),
            remedy="lower the shares of cases, or raise event_rate",
        )
    parts, groups, years = zip(*found, strict=True)
    joined = People(**{f: np.concatenate([getattr(p, f) for p in parts]) for f in People.__dataclass_fields__})
    # Mixed, else a row's place in the table would tell its group.
    mixed = rng.permutation(len(joined.age))
    return joined.rows(mixed, joined.age[mixed]), np.concatenate(groups)[mixed], np.concatenate(years)[mixed]
