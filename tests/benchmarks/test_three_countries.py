"""What is planted in ``three_countries`` is found: pytest -m benchmark -s tests/benchmarks/test_three_countries.py

The defibrillator's interaction at the level of statistics: 440,000 people of the three Swedish hospitals are drawn from
the scenario's own ages, hazards and implants; a score is the true risk with an error. A cohort is as many of them as
the published lockbox has ECGs; who has the event is drawn from the true probability, with a device that prevents what
the scenario says. The regression is that of the stage, its sums added over the hospitals; the truth is that of all
440,000 on their true probabilities.
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
PUBLISHED_ECGS = 119_541


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
    sizes = {name: scenario.hospitals[name].population.patients for name in names}
    rng = np.random.default_rng(17)
    many = [people_of(rng, scenario, baseline, name, 40 * sizes[name]) for name in names]
    cut = float(np.quantile(np.concatenate([part[2] for part in many]), 1 - TOP_SHARE))
    everybody = [(design(*part[:4], cut), part[4]) for part in many]
    x, chance = (np.concatenate([part[i] for part in everybody]) for i in (0, 1))
    truth = float(np.linalg.lstsq(np.column_stack([np.ones(len(x)), x]), chance, rcond=None)[0][-1])
    held, shown, values = 0, 0, []
    for _ in range(200):
        sites = []
        for name, (terms, p) in zip(names, everybody, strict=True):
            n = round(PUBLISHED_ECGS * sizes[name] / sum(sizes.values()))
            drawn = rng.integers(0, len(p), n)
            sites.append((terms[drawn], (rng.random(n) < p[drawn]).astype(float)))
        fit = solve([linear_sums(a, b[:, None], [])[0] for a, b in sites], TERMS)
        x, y = (np.concatenate([site[i] for site in sites]) for i in (0, 1))
        influence = patient_scores(x, linear_residual(x, y, fit.coef, absorbed=False), np.arange(len(y))) @ fit.bread.T
        covariance = influence.T @ influence * cr1(len(influence), len(y), fit.parameters)
        deciding = deciding_patients((influence**2).sum(axis=0), (influence**4).sum(axis=0))
        found = decided_estimate(float(fit.coef[-1]), float(np.sqrt(covariance[-1, -1])), float(deciding[-1]))
        values.append(found.value)
        shown += bool(np.isfinite(found.low))
        held += bool(found.low <= truth <= found.high)
    print(
        f"planted {100 * truth:.2f} points, mean found {100 * np.mean(values):.2f}; of 200 cohorts {shown} bear an "
        f"interval, which holds it in {held / max(shown, 1):.3f}"
    )
    assert truth < -0.01
    assert abs(np.mean(values) - truth) < 4 * np.std(values) / np.sqrt(200)
    assert shown == 200
    assert 0.93 <= held / shown <= 0.97
