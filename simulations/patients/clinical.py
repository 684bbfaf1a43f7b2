"""What a hospital's records hold beyond the standard columns: a published risk score, troponin, a medication.

A study on made data declares them under ``columns:``; :data:`CLINICAL` names what can be made, with its range.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from simulations.physics.disease import People

CLINICAL: dict[str, str] = {
    "acc_score": "ten-year risk by a kind of pooled-cohorts score, percent, 0 to 100: from age, sex and diagnoses",
    "troponin": "high-sensitivity troponin T in the week before the ECG, ng/L, 0 to 10000; not measured in most",
    "beta_blocker": "flag: takes a beta-blocker",
    "smoking": "category: never, former, current; unknown in some",
}
"""Column: what it is."""

_MEASURED = 0.35


def clinical_columns(
    rng: np.random.Generator, people: People, person: NDArray[np.int64], known: pd.DataFrame, wanted: tuple[str, ...]
) -> pd.DataFrame:
    """Return the wanted columns of :data:`CLINICAL`, one row per ECG.

    The score knows age, sex, diabetes and hypertension and neither fibrosis nor ejection fraction; troponin rises with
    fibrosis and heart failure. All four are drawn whatever is wanted, so that one never shifts another.

    Parameters
    ----------
    people : the hospital's persons at entry. person : int array, shape = (n_ecgs,): the patient of each ECG.
    known : the cohort table, standard columns, shape = (n_ecgs,).
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
    made = {
        "acc_score": np.round(score, 1),
        "troponin": np.where(measured, np.round(troponin, 1), np.nan),
        "beta_blocker": treated[person].astype(np.float64),
        "smoking": smoking[person],
    }
    return pd.DataFrame({name: made[name] for name in wanted})
