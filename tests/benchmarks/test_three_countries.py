"""What is planted in ``three_countries`` is found: pytest -m benchmark -s tests/benchmarks/test_three_countries.py

The defibrillator's interaction at the level of statistics: cohorts of the three Swedish hospitals are drawn from the
scenario's own people, hazards and implants; a score is the true risk with an error; who has the event is drawn from the
true probability, with a device that prevents what the scenario says. The regression is that of the stage, its sums
added over the hospitals, of cohorts as large as the published one (some 40,000 patients). The truth is the same
regression of a million such people on their true probabilities.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit

from ecgshared.stats.regression import (
    cr1,
    decided_estimate,
    deciding_patients,
    linear_residual,
    linear_sums,
    patient_scores,
    solve,
)
from simulations.patients.fates import draw_fates, event_probability, solve_baseline
from simulations.patients.people import draw_people
from simulations.patients.scenario import load_scenario
from simulations.physics.disease import hazards

pytestmark = pytest.mark.benchmark
TERMS = ("age", "male", "high_risk", "defibrillator", "high_risk:defibrillator")
SCORE_ERROR = 0.7
"""SD, on the logit scale, of the score around the true risk."""
TOP_SHARE = 0.022


def people_of(rng, scenario, baseline, name, n):
    """Age, sex, score (on the logit scale), device, and the true probability of sudden death within a year."""
    hospital = scenario.hospitals[name]
    people = draw_people(rng, hospital.population, n)
    people = people.rows(np.flatnonzero(people.age < 80), people.age[people.age < 80])
    rates = hazards(people, scenario.hazard, baseline)
    fates = draw_fates(rng, people, rates, scenario.hazard, hospital.care)
    # ECGs are taken at any time in the years that follow: by then a device may be in place.
    device = (fates.icd_years <= rng.uniform(0, 4, len(fates.icd_years))).astype(float)
    without = event_probability(rates, scenario.hazard, scenario.horizon_years)
    with_it = event_probability(
        rates, scenario.hazard, scenario.horizon_years, hospital.care.defibrillator_prevents * device
    )
    score = logit(without) + SCORE_ERROR * rng.standard_normal(len(without))
    return people.age, people.male.astype(float), score, device, with_it


def design(age, male, score, device, cut):
    high = (score >= cut).astype(float)
    return np.column_stack([age, male, high, device, high * device])


def test_the_interaction_s_interval_covers_what_is_planted_in_200_cohorts():
    scenario = load_scenario("three_countries")
    baseline = solve_baseline(scenario)
    names = [name for name, hospital in scenario.hospitals.items() if hospital.trains]
    sizes = {name: 4 * scenario.hospitals[name].population.patients for name in names}
    rng = np.random.default_rng(17)
    many = [people_of(rng, scenario, baseline, n, 25 * sizes[n]) for n in names]
    cut = float(np.quantile(np.concatenate([part[2] for part in many]), 1 - TOP_SHARE))
    x = np.concatenate([design(*part[:4], cut) for part in many])
    y = np.concatenate([part[4] for part in many])
    truth = np.linalg.lstsq(np.column_stack([np.ones(len(x)), x]), y, rcond=None)[0][-1]
    held, shown, values = 0, 0, []
    for _ in range(200):
        sites = []
        for name in names:
            *traits, chance = people_of(rng, scenario, baseline, name, sizes[name])
            sites.append((design(*traits, cut), (rng.random(len(chance)) < chance).astype(float)))
        fit = solve([linear_sums(a, b[:, None], [])[0] for a, b in sites], TERMS)
        x, y = (np.concatenate([site[i] for site in sites]) for i in (0, 1))
        patient = np.arange(len(y))
        influence = patient_scores(x, linear_residual(x, y, fit.coef, absorbed=False), patient) @ fit.bread.T
        covariance = influence.T @ influence * cr1(len(influence), len(y), fit.parameters)
        deciding = deciding_patients((influence**2).sum(axis=0), (influence**4).sum(axis=0))
        found = decided_estimate(float(fit.coef[-1]), float(np.sqrt(covariance[-1, -1])), float(deciding[-1]))
        values.append(found.value)
        shown += np.isfinite(found.low)
        held += found.low <= truth <= found.high
    print(
        f"planted {100 * truth:.2f} points, mean found {100 * np.mean(values):.2f}; of 200 cohorts {shown} bear an "
        f"interval, which holds it in {held / max(shown, 1):.3f}"
    )
    assert truth < -0.01
    assert abs(np.mean(values) - truth) < 4 * np.std(values) / np.sqrt(200)
    assert shown >= 190
    assert 0.93 <= held / shown <= 0.975
