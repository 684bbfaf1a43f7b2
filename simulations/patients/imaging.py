"""What a scan and a tape measure find: where the heart lies, how it is turned, its volumes, where electrodes sat."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from simulations.patients.scenario import ImagingConfig, Scenario
from simulations.physics.beats import chest_of
from simulations.physics.body import anatomy_of
from simulations.physics.disease import People
from simulations.physics.torso import ELECTRODES, Anatomy
from simulations.physics.traits import draw_traits

F64 = NDArray[np.float64]
_AXES = ("left", "posterior", "superior")
_TURNS = ("frontal", "vertical", "tilt")


def true_anatomy(people: People, world: Scenario) -> Anatomy:
    """Return where each person's heart lies, by the physics of the scenario's hearts."""
    if world.heart == "activation":
        return chest_of(draw_traits(people, world.heart_scatter))
    return anatomy_of(people, world.physique)


def measured_anatomy(
    rng: np.random.Generator,
    people: People,
    person: NDArray[np.int64],
    electrodes_cm: F64,
    imaging: ImagingConfig,
    world: Scenario,
) -> pd.DataFrame:
    """Return what is measured of each ECG's person, one row per ECG.

    Parameters
    ----------
    people : the hospital's persons at entry; a person's scan is the same for all of their ECGs.
    person : int array, shape = (n_ecgs,): the patient of each ECG.
    electrodes_cm : array, shape = (n_ecgs, 10, 3): where the ten electrodes sat at each ECG.

    Returns
    -------
    DataFrame: ``heart_*_cm`` (3), ``heart_*_deg`` (3), ``lv_mass_g``, ``lv_edv_ml``, ``lv_esv_ml`` (NaN where the
    ventricles were not measured), ``electrode_NAME_*_cm`` (30).
    """
    n = len(people.age)
    anatomy = true_anatomy(people, world)
    centre = anatomy.heart_cm + imaging.position_error_cm * rng.standard_normal((n, 3))
    turn = np.rad2deg(anatomy.turn_rad) + imaging.turn_error_deg * rng.standard_normal((n, 3))
    columns = {f"heart_{axis}_cm": np.round(centre[:, i], 2)[person] for i, axis in enumerate(_AXES)}
    columns |= {f"heart_{turned}_deg": np.round(turn[:, i], 1)[person] for i, turned in enumerate(_TURNS)}
    error = np.exp(imaging.volume_error * rng.standard_normal((n, 3)))
    seen = rng.random(n) < imaging.volumes_share
    volumes = np.stack(lv_volumes(people), axis=1) * error
    for i, name in enumerate(("lv_mass_g", "lv_edv_ml", "lv_esv_ml")):
        columns[name] = np.where(seen, np.round(volumes[:, i], 1), np.nan)[person]
    for e, electrode in enumerate(ELECTRODES):
        for i, axis in enumerate(_AXES):
            columns[f"electrode_{electrode}_{axis}_cm"] = np.round(electrodes_cm[:, e, i], 2)
    return pd.DataFrame(columns)


def lv_volumes(people: People) -> tuple[F64, F64, F64]:
    """Return left ventricular mass (g), end-diastolic and end-systolic volume (ml), shape = (n,) each.

    Mass goes with the size of the electrical source and the duration of QRS, whose traits it shares; men and the
    heavy have more; a failing heart is large.
    """
    source, muscle = people.electrical[:, 0], people.electrical[:, 4]
    size = 0.2 * (people.male - 0.5) + 0.012 * (people.bmi - 26) + 0.10 * muscle
    mass = 92.0 * np.exp(size + 0.10 * source + 0.05 * people.shape[:, -1] + 0.10 * people.heart_failure)
    diastolic = 145.0 * np.exp(size - 0.003 * (people.age - 60) + 0.10 * people.shape[:, -2])
    diastolic = diastolic * np.exp(0.25 * people.heart_failure)
    return mass, diastolic, diastolic * (1 - people.lvef)
