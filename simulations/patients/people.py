"""Whom a hospital treats: persons drawn with their traits, seen and unseen."""

from __future__ import annotations

import numpy as np

from simulations.patients.scenario import PopulationConfig
from simulations.physics.disease import MAX_FIBROSIS, SHAPE_TRAITS, People


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
    lvef = 0.64 - population.heart_failure_lvef_loss * failing - 0.22 * fibrosis + 0.075 * rng.standard_normal(n)
    return People(
        age, male, bmi, failing, fibrosis, np.clip(lvef, 0.12, 0.78),
        rng.standard_normal((n, 6)), rng.standard_normal((n, 8)),
        # From a stream of their own: more traits of shape must not change who is ill and when.
        rng.spawn(1)[0].standard_normal((n, SHAPE_TRAITS), dtype=np.float32),
    )  # fmt: skip
