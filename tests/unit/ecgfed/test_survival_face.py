"""ecgfed.survival.fit: equal to lifelines on the rows laid together, from frames and from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

import ecgfed


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(11)

    def table(n: int) -> pd.DataFrame:
        age, ill = rng.normal(60, 10, n), rng.integers(0, 2, n)
        time = rng.exponential(1 / (0.2 * np.exp(0.04 * (age - 60) + 0.5 * ill)))
        return pd.DataFrame(
            {"years": np.minimum(time, 5).round(3), "died": (time < 5).astype(int), "age": age, "ill": ill}
        )

    return {"oslo": table(250), "bergen": table(180)}


def test_exact_equals_lifelines(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    fitted = ecgfed.survival.fit(tables, time="years", event="died", covariates=["age", "ill"], mode="exact")
    oracle = CoxPHFitter().fit(
        pd.concat(tables.values(), ignore_index=True), "years", "died", fit_options={"precision": 1e-13}
    )
    assert fitted.summary["log_hazard_ratio"].to_numpy() == pytest.approx(oracle.params_.to_numpy(), abs=1e-7)
    assert fitted.summary["standard_error"].to_numpy() == pytest.approx(oracle.standard_errors_.to_numpy(), abs=1e-7)
    assert fitted.concordance["value"] == pytest.approx(oracle.concordance_index_, abs=2e-3)
    assert "GLOBAL" in fitted.proportional_hazards.index
    assert "oslo 250" in str(fitted)
    fitted.plot(tmp_path / "forest.svg")
    assert "<svg" in (tmp_path / "forest.svg").read_text(encoding="utf-8")


def test_files_are_taken_as_well(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    file = tmp_path / "export of March.csv"
    tables["oslo"].to_csv(file, index=False)
    mixed = ecgfed.survival.fit(
        {"oslo": file, "bergen": tables["bergen"]}, time="years", event="died", covariates=["age", "ill"]
    )
    plain = ecgfed.survival.fit(tables, time="years", event="died", covariates=["age", "ill"])
    pd.testing.assert_frame_equal(mixed.summary, plain.summary)


def test_faults_are_errors_of_ours(tables: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(ecgfed.EcgFedError, match="no hospital"):
        ecgfed.survival.fit({}, time="years", event="died", covariates=["age"])
    with pytest.raises(ecgfed.EcgFedError, match="weight"):
        ecgfed.survival.fit(tables, time="years", event="died", covariates=["weight"])
    with pytest.raises(ecgfed.EcgFedError, match="no name of a file"):
        ecgfed.survival.fit({"a/b": tables["oslo"]}, time="years", event="died", covariates=["age"])
    with pytest.raises(ecgfed.EcgFedError, match="cannot be read"):
        ecgfed.survival.fit({"oslo": "none.csv"}, time="years", event="died", covariates=["age"])
