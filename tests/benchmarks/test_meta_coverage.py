"""What the intervals over several sites cover, beside DerSimonian and Laird's with a normal quantile."""

from __future__ import annotations

import numpy as np
import pytest
from test_meta_analysis import coverage

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
