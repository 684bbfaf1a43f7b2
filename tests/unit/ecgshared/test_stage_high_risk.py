"""high_risk over sites, through the gate, against pandas and lifelines on the pooled rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from federated_stages import CALIBRATE, UNGATED, Federation, site_data, study, typed
from lifelines import AalenJohansenFitter

from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.study.endpoints import EventTimes
from server.report.sections import Panels, Table
from server.rounds.step_context import Artefact
from server.stages.high_risk import report

COEF = np.array([-5.0, 0.04, 0.5, 0.02])
CUT = -1.3
STEPS = [
    CALIBRATE | {"inputs": ["age", "male", "bmi"]},
    {"id": "cut", "stage": "threshold", "uses": ["score"], "top_share": 0.1},
    {
        "id": "who",
        "stage": "high_risk",
        "uses": ["cut"],
        "markers": ["lvef<=0.35", "bmi>30"],
        "event": "death",
        "times_years": [1, 2, 4],
        "risk_bands": [0.1, 0.2, 0.3],
    },
]


@pytest.fixture(autouse=True)
def _state_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def hospital(seed, patients):
    data = site_data(seed, patients, split="lockbox", base=-1.8)
    rng = np.random.default_rng(30 + seed)
    n = len(data)
    lvef = np.where(rng.random(n) < 0.5, data.covariates["lvef"], np.nan).astype(np.float32)
    device = (rng.random(patients) < 0.3)[data.patient].astype(float)
    years, cause = rng.exponential(4, n), rng.choice(3, n, p=[0.4, 0.35, 0.25])
    times = EventTimes(np.round(years, 4) + 0.001, cause == 1, cause == 2)
    return replace(
        data,
        covariates={**data.covariates, "lvef": lvef},
        columns={"defibrillator": device},
        event_times={"death": times},
    )


def hospitals(sizes=(700, 600, 650)):
    return {site: hospital(i, n) for i, (site, n) in enumerate(zip("abc", sizes, strict=True), 1)}


def federation(data, limits=UNGATED, **step):
    made = Federation(study([*STEPS[:2], STEPS[2] | step]), data, limits)
    made.artefacts = {
        "score": Artefact("score", "calibrate", None, {"coef": COEF}),
        "cut": Artefact(
            "cut", "threshold", None, {"cut": np.array([CUT]), "cutoff": 1 / (1 + np.exp(-np.array([CUT])))}
        ),
    }
    return made


def run(data, limits=UNGATED, **step):
    return federation(data, limits, **step).run()["who"].result


def frame(data, sites):
    parts = []
    for i, site in enumerate(sites):
        d = data[site]
        columns = {
            "age": d.age,
            "male": d.male,
            **d.covariates,
            "device": d.columns["defibrillator"],
            "y": d.labels[:, 0],
        }
        f = pd.DataFrame({name: np.asarray(column, dtype=float) for name, column in columns.items()})
        f["eta"] = COEF[0] + COEF[1] * f.age + COEF[2] * f.male + COEF[3] * f.bmi
        f["risk"], f["patient"], f["site"] = 1 / (1 + np.exp(-f.eta)), d.patient + 10_000 * i, site
        f["years"], f["cause"] = d.event_times["death"].years, d.event_times["death"].cause
        parts.append(f)
    return pd.concat(parts).dropna(subset=["risk"]).reset_index(drop=True)


@pytest.mark.parametrize("limits", [UNGATED, DisclosureLimits()])
def test_spread_variables_devices_and_flags_equal_pandas(limits):
    data = hospitals()
    result = run(data, limits)
    for group, sites in (("training", "ab"), ("zero_shot", "c")):
        f, got = frame(data, sites), result["pooled"][group]
        high = f.eta >= CUT
        assert got["ecgs"] == len(f)
        assert got["high_risk_share"] == pytest.approx(high.mean(), abs=1e-12)
        assert got["distribution"]["mean"] == pytest.approx(f.risk.mean(), rel=1e-9)
        assert got["distribution"]["sd"] == pytest.approx(f.risk.std(ddof=0), rel=1e-9)
        for name, column in (("age", f.age), ("male", f.male), ("lvef", f.lvef), ("defibrillator", f.device)):
            for side, mine in (("high", column[high]), ("others", column[~high])):
                assert got["variables"][name][side]["mean"] == pytest.approx(mine.mean(), rel=1e-9), name
                assert got["variables"][name][side]["sd"] == pytest.approx(mine.std(ddof=0), rel=1e-7)
        assert got["variables"]["lvef_measured"]["high"]["mean"] == pytest.approx(f.lvef.notna()[high].mean())
        edges = [0, 0.1, 0.2, 0.3, 1.01]
        for band, low, top in zip(got["devices_by_risk"], edges, edges[1:], strict=False):
            mine = f[(f.risk >= low) & (f.risk < top)]
            if band["ecgs"] is not None:
                assert band["ecgs"] == len(mine)
                assert band["share_with_device"] == pytest.approx(mine.device.mean())
        shares = [
            f.device[f.lvef <= np.float32(0.35)].mean(),
            f.device[f.lvef > 0.5].mean(),
            f.device[f.lvef.isna()].mean(),
        ]
        by_lvef = [got["devices_by_lvef"][b]["share_with_device"] for b in (0, 2, 3)]
        np.testing.assert_allclose(by_lvef, shares, rtol=1e-9)
        known = f.dropna(subset=["y"])
        rules = {"high_risk": known.eta >= CUT, "lvef<=0.35": known.lvef <= np.float32(0.35), "bmi>30": known.bmi > 30}
        rules["any_marker"] = rules["lvef<=0.35"] | rules["bmi>30"]
        assert list(got["captured"]) == list(rules)
        for rule, flag in rules.items():
            found = got["captured"][rule]
            assert found["flagged_share"] == pytest.approx(flag.mean())
            assert found["captured"]["value"] == pytest.approx((flag & (known.y == 1)).sum() / known.y.sum())
            assert found["captured"]["low"] < found["captured"]["value"] < found["captured"]["high"]


def test_any_marker_is_not_told_where_a_few_have_two_of_them():
    data = hospitals((600, 600, 650))
    a = data["a"]
    two = (a.covariates["lvef"] <= 0.35) & (a.covariates["bmi"] > 30)
    few = np.isin(a.patient, np.unique(a.patient[two])[:4])
    data["a"] = replace(a, covariates={**a.covariates, "bmi": np.where(two & ~few, 25.0, a.covariates["bmi"])})
    told = run(data, DisclosureLimits())["sites"]["a"]["captured"]
    assert told["bmi>30"]["events"] is not None
    assert told["any_marker"]["events"] is None
    assert run(data)["sites"]["a"]["captured"]["any_marker"]["events"] is not None


def test_a_site_s_incidence_is_lifelines_and_sites_together_weigh_by_ecgs():
    data = hospitals()
    result = run(data)
    f = frame(data, "ab")
    curves = {}
    for site in "ab":
        for side, mine in (
            ("high", f[(f.site == site) & (f.eta >= CUT)]),
            ("others", f[(f.site == site) & (f.eta < CUT)]),
        ):
            fitted = AalenJohansenFitter(calculate_variance=False).fit(mine.years, mine.cause, event_of_interest=1)
            want = [float(fitted.cumulative_density_.loc[:t].iloc[-1, 0]) for t in (1, 2, 4)]
            np.testing.assert_allclose(result["sites"][site]["incidence"][side]["risk"], want, atol=1e-9)
            curves[site, side] = np.array(want), len(mine)
    for side in ("high", "others"):
        (a, n), (b, m) = curves["a", side], curves["b", side]
        np.testing.assert_allclose(
            result["pooled"]["training"]["incidence"][side]["risk"], (n * a + m * b) / (n + m), atol=1e-9
        )


def test_quantiles_are_rounded_and_of_one_site_alone():
    data = hospitals()
    result = run(data, DisclosureLimits())
    f = frame(data, "c")
    for percent, value in result["sites"]["c"]["distribution"]["quantiles"].items():
        if value is not None:
            assert value == float(f"{np.quantile(f.risk, float(percent) / 100):.2g}")
    assert set(result["pooled"]["training"]["distribution"]["quantiles"].values()) == {None}


def test_a_high_risk_group_of_a_few_is_not_told_by_any_figure():
    data = hospitals((200, 600, 650))
    f = frame(data, "a")
    people = f.groupby("patient").eta.max().sort_values(ascending=False)
    result = federation(data, DisclosureLimits())
    cut = float(people.iloc[5])
    result.artefacts["cut"] = Artefact("cut", "threshold", None, {"cut": np.array([cut]), "cutoff": np.array([0.5])})
    own = result.run()["who"].result["sites"]["a"]
    assert own["high_risk_share"] is None
    assert own["captured"]["high_risk"]["events"] is None
    assert own["variables"]["age"] == {side: {"mean": None, "sd": None} for side in ("high", "others")}
    assert own["incidence"]["high"]["risk"] == [None] * 3
    assert own["incidence"]["others"]["risk"] == [None] * 3
    assert own["distribution"]["mean"] is not None


def test_a_band_of_a_few_cannot_be_had_from_the_others():
    data = hospitals()
    device = np.where(np.isin(data["a"].patient, np.arange(3)), 1.0, 0.0)
    low = np.where(np.isnan(data["a"].covariates["lvef"]), np.nan, 0.6).astype(np.float32)
    low[np.isin(data["a"].patient, np.arange(6))] = 0.3
    data["a"] = replace(data["a"], columns={"defibrillator": device}, covariates={**data["a"].covariates, "lvef": low})
    bands = run(data, DisclosureLimits())["sites"]["a"]["devices_by_lvef"]
    withheld = [b["ecgs"] is None for b in bands]
    assert withheld[0]
    assert sum(withheld) != 1


def test_the_report_shows_every_part():
    (section,) = report(typed(federation(hospitals()).run()["who"]))
    titles = [b.title for b in section.blocks if isinstance(b, Table | Panels)]
    for words in (
        "How the predicted risk",
        "Cumulative incidence of death",
        "What is flagged",
        "by predicted risk",
        "by ejection",
    ):
        assert any(words in title for title in titles), words


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"uses": ["score"]}, "needs a threshold step"),
        ({"markers": ["troponin"]}, "no column of the study"),
        ({"markers": ["lvef<=0.35:male"]}, "one column"),
        ({"risk_bands": [0.2, 0.1]}, "must ascend"),
        ({"outcome": "stroke"}, "no endpoint"),
    ],
)
def test_a_step_that_cannot_be_is_refused(step, words):
    with pytest.raises(ValueError, match=words):
        study([*STEPS[:2], STEPS[2] | step])
