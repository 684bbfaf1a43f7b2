"""What the intervals over several sites cover, beside DerSimonian and Laird's with a normal quantile."""

from __future__ import annotations

import numpy as np
import pytest
from pooled_designs import TRUE_AUC, Design
from scipy.special import logit
from test_meta_analysis import coverage

from ecgshared.stats.influence import clustered_auc
from ecgshared.stats.meta_analysis import meta_analysis

DRAWS = 600


def dersimonian_laird(sites: int, sd: float) -> float:
    rng, held = np.random.default_rng(1), 0
    for _ in range(DRAWS):
        errors = np.exp(rng.uniform(np.log(0.1), np.log(0.4), sites))
        values = sd * rng.normal(size=sites) + errors * rng.normal(size=sites)
        rng.normal()
        weight = errors**-2
        spread = weight @ (values - weight @ values / weight.sum()) ** 2
        tau2 = max(0.0, (spread - sites + 1) / (weight.sum() - weight @ weight / weight.sum()))
        wide = 1 / (errors**2 + tau2)
        held += abs(wide @ values / wide.sum()) < 1.96 / np.sqrt(wide.sum())
    return held / DRAWS


@pytest.mark.benchmark
def test_coverage_of_random_effects(capsys):
    lines = ["sites  sd between  mean, 95%  another site, 95%  DerSimonian-Laird, mean"]
    for sites in (2, 3, 4, 6):
        for sd in (0.0, 0.15, 0.4):
            mean, another = coverage(sites, sd, DRAWS)
            told = f"{another:17.3f}" if sites > 2 else f"{'-':>17}"
            lines.append(f"{sites:5d}  {sd:10.2f}  {mean:9.3f}  {told}  {dersimonian_laird(sites, sd):23.3f}")
            assert mean > 0.92
            assert sites == 2 or another > 0.92
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def held_with_few_events(design: Design, draws: int) -> tuple[float, int]:
    """Share of intervals of the mean AUC that hold the true one, over hospitals of five events or more; and how many.

    Below ten events a hospital's own AUC has no interval, and its error is known to four degrees of freedom or little
    more: the forest plot takes it up all the same.
    """
    rng, held = np.random.default_rng(1), []
    for _ in range(draws):
        found = []
        for head in design.draw(rng):
            if head.y.sum() < 5:
                continue
            own = clustered_auc(head.risk, head.y, head.patient)
            if 0 < own.value < 1 and own.se > 0:
                found.append((logit(own.value), own.se / (own.value * (1 - own.value))))
        if len(found) > 1:
            mean = meta_analysis(*np.array(found).T).random
            held.append(mean.low <= logit(TRUE_AUC) <= mean.high)
    return float(np.mean(held)), len(held)


@pytest.mark.benchmark
def test_random_effects_over_hospitals_that_have_no_interval_of_their_own(capsys):
    for design in (Design(5 / 45, 3, 45), Design(7 / 45, 3, 45), Design(7 / 45, 5, 45), Design(0.2, 5, 60)):
        share, drawn = held_with_few_events(design, 300)
        with capsys.disabled():
            print(f"\n{design!s}: mean AUC held in {100 * share:.1f}% of {drawn}")
        assert share >= 0.93
