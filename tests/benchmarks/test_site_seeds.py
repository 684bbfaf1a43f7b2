"""Key figures of three studies under 100 site seeds: beside the ungated ones, and beside the truth of the population.

What a 95% interval claims is the population's value; that it also holds the ungated figure of the same ECGs is what the
limits must not take away.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from site_seeds import FrozenStudy, Tally, tallied

from simulations.hospitals.demo import prepare

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(0)]

SEEDS = range(1, 101)
EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "real"
STUDIES = {
    "sex": ("male", ("ptbxl0", "ptbxl1", "ptbxl2", "ptbxl3", "ahus", "antodono")),
    "superclass": ("norm", ("ptbxl0", "ptbxl1", "ptbxl2", "ptbxl3")),
}


@pytest.fixture(params=["sex", "superclass", "demo"])
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, FrozenStudy]:
    name = request.param
    if name == "demo":
        study, sites = prepare(tmp_path / "made", None)
        return name, FrozenStudy.trained(study, sites, "scd_2y", tmp_path)
    request.getfixturevalue("shared_data")
    head, sites = STUDIES[name]
    return name, FrozenStudy.trained(EXAMPLES / f"{name}.yaml", [EXAMPLES / f"{s}.yaml" for s in sites], head, tmp_path)


def told(name: str, whose: str, figure: str, tally: Tally) -> str:
    held = f"{100 * tally.held / tally.with_interval:5.1f}%" if tally.with_interval else "      "
    return (
        f"{name:<11}{whose:<9}{figure:<21}{tally.printed:>7}{tally.with_interval:>9} {held:>8}   {tally.furthest:.4f}"
    )


def test_key_figures_under_100_site_seeds(frozen: tuple[str, FrozenStudy]) -> None:
    name, study = frozen
    missed = []
    for drawn, against in (
        ("records", "the same ECGs without limits"),
        ("population", "the population that the patients are drawn from"),
    ):
        tallies, nothing = tallied(study, SEEDS, drawn)
        print(f"\n{name}, {len(SEEDS)} seeds, against {against}; a step could give nothing at {nothing}")
        print(f"{'study':<11}{'whose':<9}{'figure':<21}{'printed':>7}{'interval':>9} {'holds':>8}   furthest")
        for (whose, figure), tally in tallies.items():
            print(told(name, whose, figure, tally), flush=True)
            n = tally.with_interval
            # Three standard errors of a coverage of 93%: a figure printed at few seeds is not judged by them.
            if n >= 20 and tally.held / n < 0.93 - (drawn == "population") * 3 * np.sqrt(0.93 * 0.07 / n):
                missed.append(f"{drawn}: {whose}, {figure}: {tally.held} of {n}")
    assert not missed
