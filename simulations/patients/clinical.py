"""What a hospital's records hold beyond the standard columns: a published risk score, troponin, a medication.

A study on made data declares them under ``columns:``; :data:`CLINICAL` names what can be made, with its range.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from simulations.patients.ailments import States
from simulations.physics.disease import People

CLINICAL: dict[str, str] = {
    "acc_score": "ten-year risk by a kind of pooled-cohorts score, percent, 0 to 100: from age, sex and diagnoses",
    "troponin": "high-sensitivity troponin T in the week before the ECG, ng/L, 0 to 10000; not measured in most",
    "beta_blocker": "flag: takes a beta-blocker",
    "smoking": "category: never, former, current; unknown in some",
    "ecg_rhythm": "category: sinus, fibrillation, flutter, av_block, paced: the statement beside the ECG",
    "ecg_conduction": "category: normal, lbbb, rbbb, lafb, lpfb, bifascicular: the same",
    "raised_troponin": "event: first raised troponin after the ECG, an infarction's or another",
}
"""Column: what it is."""

STATEMENTS = ("ecg_rhythm", "ecg_conduction")
"""Columns of :data:`CLINICAL` that only a scenario with ``heart: activation`` can make."""

_MEASURED, _YEAR = 0.35, 365.25 * 86_400


APART = ("vt_date", "vf_date", "ecg_vt")
"""Standard columns that a hospital may keep beside, or instead of, the date of VF or VT."""


def clinical_columns(
    rng: np.random.Generator,
    people: People,
    person: NDArray[np.int64],
    known: pd.DataFrame,
    wanted: tuple[str, ...],
    states: States | None = None,
) -> pd.DataFrame:
    """Return the wanted columns of :data:`CLINICAL` and :data:`APART`, one row per ECG.

    The score knows age, sex, diabetes and hypertension and neither fibrosis nor ejection fraction; troponin rises with
    fibrosis and heart failure. All are drawn whatever is wanted, so that one never shifts another.

    Parameters
    ----------
    people : the hospital's persons at entry. person : int array, shape = (n_ecgs,): the patient of each ECG.
    known : the cohort table, standard columns, shape = (n_ecgs,).
    states : what ails each person's heart, where hearts are made of tissue: only then are there :data:`STATEMENTS`.
    """
    n, patients = len(person), len(people.age)
    diabetes, hypertension = (np.nan_to_num(known[c].to_numpy(dtype=np.float64)) for c in ("diabetes", "hypertension"))
    age, male = known["age"].to_numpy(dtype=np.float64), people.male[person]
    smoking = rng.choice(np.array(["never", "former", "current", ""], dtype=object), patients, p=[0.5, 0.25, 0.15, 0.1])
    current = (smoking == "current")[person]
    odds = -3.2 + 0.075 * (age - 60) + 0.55 * male + 0.5 * diabetes + 0.4 * hypertension + 0.5 * current
    score = 100 * expit(odds + 0.25 * rng.standard_normal(n))
    level = 1.6 + 4.0 * people.fibrosis[person] + 0.8 * people.heart_failure[person] + 0.02 * (age - 60)
    troponin = np.minimum(np.exp(level + 0.6 * rng.standard_normal(n)), 10_000)
    measured = rng.random(n) < _MEASURED
    treated = rng.random(patients) < np.where(people.heart_failure, 0.75, 0.18)
    made: dict[str, NDArray[Any]] = {
        "acc_score": np.round(score, 1),
        "troponin": np.where(measured, np.round(troponin, 1), np.nan),
        "beta_blocker": treated[person].astype(np.float64),
        "smoking": smoking[person],
        "raised_troponin": _raised(rng, people, person, known),
        **_apart(rng, person, patients, known),
    }
    if states is not None:
        made |= _statements(states, person)
    return pd.DataFrame({name: made[name] for name in wanted})


def _statements(states: States, person: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """What is written beside each ECG of its rhythm and its conduction."""
    blocked = {"wenckebach": "av_block", "two_to_one": "av_block", "complete_block": "av_block"}
    rhythm = np.array([blocked.get(name, name) for name in states.rhythm_names().tolist()], dtype=object)
    left, right, anterior, posterior = states.ailments.block.T
    fascicle = np.where(anterior, "lafb", np.where(posterior, "lpfb", "normal"))
    both = right & (anterior | posterior)
    conduction = np.select([left, both, right], ["lbbb", "bifascicular", "rbbb"], fascicle).astype(object)
    return {"ecg_rhythm": rhythm[person], "ecg_conduction": conduction[person]}


def _dates(known: pd.DataFrame, name: str) -> NDArray[np.datetime64]:
    if name not in known:
        return np.full(len(known), np.datetime64("NaT", "s"), dtype="datetime64[s]")
    return known[name].to_numpy().astype("datetime64[s]")


def _raised(
    rng: np.random.Generator, people: People, person: NDArray[np.int64], known: pd.DataFrame
) -> NDArray[np.datetime64]:
    """The first raised troponin after each ECG: an infarction's, or another; a person has one of the others."""
    recorded, first = _dates(known, "recorded_at"), np.full(len(people.age), np.iinfo(np.int64).max)
    np.minimum.at(first, person, recorded.astype(np.int64))
    wait = rng.exponential(25 / np.exp(0.03 * (people.age - 60) + 0.7 * people.heart_failure))
    at = (first + (wait * _YEAR).astype(np.int64))[person].astype("datetime64[s]")
    ends = np.fmin(_dates(known, "death_date"), _dates(known, "data_end"))
    seen = (at >= recorded) & (np.isnat(ends) | (at < ends))
    return np.fmin(np.where(seen, at, np.datetime64("NaT", "s")), _dates(known, "mi_date"))


def _apart(
    rng: np.random.Generator, person: NDArray[np.int64], patients: int, known: pd.DataFrame
) -> dict[str, NDArray[Any]]:
    """VT, VF, or both on one day; an ECG soon after a tachycardia may still show one, and few others do."""
    came, nowhere = _dates(known, "vfvt_date"), np.datetime64("NaT", "s")
    kind = rng.choice(np.array(["vt", "vf", "both"]), patients, p=[0.65, 0.15, 0.2])[person]
    vt, vf = np.where(kind == "vf", nowhere, came), np.where(kind == "vt", nowhere, came)
    last = np.full(patients, np.iinfo(np.int64).min)
    dated = ~np.isnat(vt)
    np.maximum.at(last, person[dated], vt[dated].astype(np.int64))
    since = (_dates(known, "recorded_at").astype(np.int64) - last[person]) / _YEAR
    soon = (last[person] > np.iinfo(np.int64).min) & (since >= 0) & (since < 0.2)
    shows = rng.random(len(person)) < np.where(soon, 0.4, 0.003)
    return {"vt_date": vt, "vf_date": vf, "ecg_vt": shows.astype(np.float64)}
