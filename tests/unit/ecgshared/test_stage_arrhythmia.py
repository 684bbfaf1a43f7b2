"""arrhythmia over sites, through the gate, against pandas and statsmodels on the pooled rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from federated_stages import CALIBRATE, UNGATED, Federation, site_data, study, typed

from client.rows.bands import told_cuts
from client.stages.arrhythmia import composite, curve
from ecgshared.errors import Refused
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stats.score_scale import LOWEST
from ecgshared.wire.protocol import Request
from server.report.forest import Forest
from server.report.sections import Panels, Table
from server.rounds.step_context import Artefact
from server.stages.arrhythmia import report

COEF = np.array([-4.2, 0.03, 0.4, 0.02])
CUT = -1.25
STEPS = [
    CALIBRATE | {"inputs": ["age", "male", "bmi"]},
    {"id": "cut", "stage": "threshold", "uses": ["score"], "top_share": 0.1},
    {"id": "a", "stage": "arrhythmia", "uses": ["cut"], "scd": "event", "vfvt": "vfvt"},
]
ENDPOINTS = {
    "event": {"kind": "binary", "column": "event"},
    "sex": {"kind": "binary", "column": "male"},
    "vfvt": {"kind": "binary", "column": "vfvt"},
}


@pytest.fixture(autouse=True)
def _state_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def eta_of(d):
    return COEF[0] + COEF[1] * d.age + COEF[2] * d.male + COEF[3] * d.covariates["bmi"]


def hospital(seed, patients, *, coded=0.0, sees_death=True):
    """VF/VT grows with the risk, ``coded`` times likelier on the logit scale; a sudden death hides it."""
    data = site_data(seed, patients, split="lockbox", base=-2.6)
    rng = np.random.default_rng(70 + seed)
    with np.errstate(invalid="ignore"):
        p = 1 / (1 + np.exp(-(np.nan_to_num(eta_of(data), nan=-3.0) - 0.3 + coded)))
    vfvt = (rng.random(len(data)) < p).astype(np.float32)
    event = data.labels[:, 0]
    if sees_death:
        vfvt[(event == 1) & (rng.random(len(data)) < 0.6)] = np.nan
    else:
        event = np.full(len(data), np.nan, dtype=np.float32)
    return replace(data, heads=("event", "sex", "vfvt"), labels=np.stack([event, data.labels[:, 1], vfvt], axis=1))


def hospitals(sizes=(900, 800, 1000), coded=1.2):
    return {
        "a": hospital(1, sizes[0]),
        "b": hospital(2, sizes[1]),
        "c": hospital(3, sizes[2], coded=coded, sees_death=False),
    }


def federation(data, limits=UNGATED, cut=CUT, **keys):
    steps = [*STEPS[:2], STEPS[2] | keys]
    made = Federation(study(steps, endpoints=ENDPOINTS), data, limits)
    arrays = {"cut": np.array([cut]), "cutoff": 1 / (1 + np.exp(-np.array([cut])))}
    made.artefacts = {
        "score": Artefact("score", "calibrate", None, {"coef": COEF}),
        "cut": Artefact("cut", "threshold", None, arrays),
    }
    return made


def run(data, limits=UNGATED, **keys):
    return federation(data, limits, **keys).run()["a"].result


def frame(data, sites):
    parts = []
    for i, site in enumerate(sites):
        d = data[site]
        scd, vfvt = d.labels[:, 0].astype(float), d.labels[:, 2].astype(float)
        either = np.where(np.isnan(scd), np.nan, ((scd == 1) | (vfvt == 1)).astype(float))
        columns = {"scd": scd, "composite": either, "added": either - scd, "vfvt": vfvt}
        parts.append(
            pd.DataFrame({"eta": eta_of(d).astype(float), "patient": d.patient + 10_000 * i, "site": i} | columns)
        )
    return pd.concat(parts).dropna(subset=["eta"]).reset_index(drop=True)


@pytest.mark.parametrize("limits", [UNGATED, DisclosureLimits()])
def test_every_point_equals_pandas_on_the_pooled_rows(limits):
    data = hospitals()
    result = run(data, limits)
    for group, sites, outcomes in (
        ("training", "ab", ("scd", "composite", "added", "vfvt")),
        ("zero_shot", "c", ("vfvt",)),
    ):
        f = frame(data, sites)
        for outcome in outcomes:
            found = result["pooled"][group][outcome]
            known = f.dropna(subset=[outcome])
            assert found["ecgs"] == len(known)
            assert found["events"] == known[outcome].sum()
            assert len(found["points"]) > 3
            for point in found["points"]:
                low = -np.inf if point["cutoff"] == 0 else np.log(point["cutoff"] / (1 - point["cutoff"])) - 1e-9
                mine = known[known.eta >= low]
                assert (point["ecgs"], point["events"]) == (len(mine), mine[outcome].sum())
                assert point["share"] == pytest.approx(len(mine) / len(known), abs=1e-12)
                assert point["rate"]["value"] == pytest.approx(mine[outcome].mean(), abs=1e-12)
                people = mine.patient.nunique()
                fit = sm.OLS(mine[outcome], np.ones(len(mine))).fit(
                    cov_type="cluster", cov_kwds={"groups": mine.patient, "use_correction": False}
                )
                assert point["rate"]["se"] == pytest.approx(fit.bse.iloc[0] * np.sqrt(people / (people - 1)), rel=1e-6)


def test_what_vfvt_adds_is_the_composite_less_sudden_death_and_none_is_known_where_deaths_are_not():
    result = run(hospitals())
    at = {name: found["at_cutoff"] for name, found in result["pooled"]["training"].items()}
    assert at["added"]["rate"]["value"] == pytest.approx(at["composite"]["rate"]["value"] - at["scd"]["rate"]["value"])
    assert at["vfvt"]["ecgs"] < at["scd"]["ecgs"]
    assert result["pooled"]["zero_shot"]["scd"]["ecgs"] is None
    assert composite(np.array([1.0, 0.0, 0.0, np.nan]), np.array([np.nan, 1.0, np.nan, 1.0])).tolist()[:3] == [1, 1, 0]


def test_the_absolute_cut_is_carried_and_the_same_share_is_the_training_hospitals_own():
    data = hospitals()
    abroad = run(data)["pooled"]["zero_shot"]["vfvt"]
    home, away = frame(data, "ab"), frame(data, "c").dropna(subset=["vfvt"])
    share = (home.dropna(subset=["composite"]).eta >= CUT).mean()
    assert abroad["at_cutoff"]["share"] == pytest.approx((away.eta >= CUT).mean(), abs=1e-12)
    assert abroad["same_share"]["share"] == pytest.approx(share, rel=0.05)


def test_coding_equals_the_pooled_logistic_model():
    data = hospitals()
    found = run(data)["coding"]
    f = frame(data, "abc").dropna(subset=["vfvt"])
    x = np.column_stack([np.ones(len(f)), (f.site == 2).astype(float), f.eta])
    fit = sm.Logit(f.vfvt, x).fit(
        disp=0, tol=1e-14, cov_type="cluster", cov_kwds={"groups": f.patient, "use_correction": False}
    )
    people = f.patient.nunique()
    assert found["slope"]["value"] == pytest.approx(fit.params.iloc[2], rel=1e-8)
    ours = found["sites"]["c"]["odds_ratio"]
    assert ours["value"] == pytest.approx(np.exp(fit.params.iloc[1]), rel=1e-8)
    want = fit.bse.iloc[1] * np.sqrt(people / (people - 1)) * ours["value"]
    assert ours["se"] == pytest.approx(want, rel=1e-6)
    assert ours["low"] < np.exp(1.2) < ours["high"]
    assert found["reference"] == ["a", "b"]


def test_without_a_hospital_that_never_trained_nothing_is_compared():
    data = hospitals()
    blank = data["c"].labels.copy()
    blank[:, 2] = np.nan
    data["c"] = replace(data["c"], labels=blank)
    made = federation(data)
    result = typed(made.run()["a"])
    assert result.result.coding.reason == "no other hospital tells of VF/VT"
    assert "c" not in result.result.sites
    texts = [b.text for b in report(result)[0].blocks if hasattr(b, "text")]
    assert any("cannot be compared" in text for text in texts)
    assert any("tell of none" in text for text in texts)


def test_no_two_cuts_told_have_a_few_between_them_nor_two_outcomes():
    """Whatever cuts are asked for: groups between two, and those in whom outcomes differ, are nobody or enough."""
    rng = np.random.default_rng(5)
    limits = DisclosureLimits()
    n = 3000
    patient, score = np.repeat(np.arange(n // 2), 2), rng.normal(size=n)
    scd = (rng.random(n) < 0.05).astype(float)
    vfvt = np.where((scd == 1) & (rng.random(n) < 0.5), np.nan, (rng.random(n) < 0.05).astype(float))
    outcomes = {"vfvt": vfvt, "scd": scd, "composite": composite(scd, vfvt)}
    told = told_cuts(score, outcomes, patient, limits, rng.normal(size=60).tolist())
    assert told[-1] == LOWEST
    assert len(told) > 2
    edges = np.append(np.inf, told)
    for top, bottom in pairwise(edges):
        inside = (score >= bottom) & (score < top)
        for y in outcomes.values():
            ill = len(np.unique(patient[inside & (y == 1)]))
            assert ill >= 5
        hidden = len(np.unique(patient[inside & np.isnan(vfvt) & np.isfinite(scd)]))
        assert hidden == 0 or hidden >= 10


def test_a_hospital_of_few_deaths_tells_of_vfvt_alone():
    data = hospitals()
    labels = data["a"].labels.copy()
    ill = np.unique(data["a"].patient[labels[:, 0] == 1])
    labels[np.isin(data["a"].patient, ill[3:]) & (labels[:, 0] == 1), 0] = 0
    labels[np.isnan(labels[:, 2]), 2] = 0
    data["a"] = replace(data["a"], labels=labels)
    found = run(data, DisclosureLimits())["sites"]["a"]["outcomes"]
    assert found["scd"]["ecgs"] is None
    assert found["vfvt"]["ecgs"] is not None


def test_other_cuts_of_the_same_score_are_refused(tmp_path):
    made = federation(hospitals())
    made.state = tmp_path
    arrays = {"score.coef": COEF, "cut.cut": np.array([CUT])}

    def ask(cuts):
        request = Request(made.study.sha256, "run", "a", "curve", 0, arrays | {"cuts": np.array(cuts)})
        return curve(made.context("a", "a"), request)

    ask([CUT, -1.0])
    ask([CUT, -1.0])
    with pytest.raises(Refused, match="spent"):
        ask([CUT, -1.01])


@pytest.mark.slow
def test_the_interval_of_the_odds_ratio_holds_its_truth():
    """Fifty drawn consortia of a training hospital and another where VF/VT is written down 2.7 times as often."""
    held = shown = 0
    for i in range(50):
        data = {
            "a": hospital(100 + i, 150),
            "b": hospital(300 + i, 150),
            "c": hospital(500 + i, 200, coded=1.0, sees_death=False),
        }
        found = run(data)["coding"]["sites"]["c"]["odds_ratio"]
        if found["low"] is not None:
            shown += 1
            held += found["low"] <= np.e <= found["high"]
    assert shown >= 45
    assert held / shown >= 0.86


def test_the_report_draws_percentiles_the_table_and_the_forest():
    (section,) = report(typed(federation(hospitals()).run()["a"]))
    kinds = [type(b) for b in section.blocks]
    assert kinds.count(Panels) == 2
    assert Forest in kinds
    table = next(b for b in section.blocks if isinstance(b, Table))
    assert {row[1] for row in table.rows} == {
        "sudden death",
        "sudden death or VF/VT",
        "VF/VT on top of sudden death",
        "VF/VT alone",
    }


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"uses": ["score"]}, "needs a threshold step"),
        ({"vfvt": "vt"}, "no endpoint"),
        ({"scd": "vfvt"}, "name one endpoint"),
        ({"top_shares": [0.2, 0.1]}, "must ascend"),
    ],
)
def test_a_step_that_cannot_be_is_refused(step, words):
    with pytest.raises(ValueError, match=words):
        study([*STEPS[:2], STEPS[2] | step], endpoints=ENDPOINTS)
