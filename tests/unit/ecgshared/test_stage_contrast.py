"""contrast over sites, through the gate, against DeLong by its kernels, in loops; nothing of ecgfed's AUC is called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from federated_stages import CALIBRATE, UNGATED, Federation, site_data, study, typed
from scipy.stats import norm

from ecgshared.models import build
from ecgshared.models.config import HeadSpec
from ecgshared.models.resnet1d import Resnet1dConfig
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stats.discrimination import placebo_difference
from server.report.forest import Forest
from server.report.sections import Key, Table
from server.rounds.step_context import Artefact
from server.stages.contrast import report

COEF = np.array([-5.0, 0.06, 0.5, 0.1])
ENDPOINTS = {
    "event": {"kind": "binary", "column": "event"},
    "sex": {"kind": "binary", "column": "male"},
    "other": {"kind": "binary", "column": "other"},
}
STEP = {
    "id": "k",
    "stage": "contrast",
    "uses": ["score"],
    "scores": ["score", "-lvef", "bmi"],
    "outcomes": ["event"],
    "placebo": "other",
}


@pytest.fixture(autouse=True)
def _state_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def hospital(seed, patients):
    """One ECG a patient; of arrests, some are of another kind that no column knows."""
    data = site_data(seed, patients, split="lockbox")
    rng = np.random.default_rng(40 + seed)
    first = np.unique(data.patient, return_index=True)[1]
    data = data.subset(first)
    event = data.labels[:, 0].copy()
    other = np.where(event == 0, 0.0, np.nan).astype(np.float32)
    placebo = (event == 0) & (rng.random(len(event)) < 0.12)
    event[placebo], other[placebo] = np.nan, 1.0
    return replace(data, heads=("event", "sex", "other"), labels=np.stack([event, data.labels[:, 1], other], axis=1))


def hospitals(sizes=(500, 400, 450)):
    return {site: hospital(i, n) for i, (site, n) in enumerate(zip("abc", sizes, strict=True), 1)}


def federation(data, limits=UNGATED, **step):
    steps = [CALIBRATE | {"inputs": ["age", "male", "bmi"]}, STEP | step]
    made = Federation(study(steps, endpoints=ENDPOINTS), data, limits)
    made.artefacts = {"score": Artefact("score", "calibrate", None, {"coef": COEF})}
    return made


def run(data, limits=UNGATED, **step):
    return federation(data, limits, **step).run()["k"].result


def kernel(cases, controls):
    """DeLong's components by their definition: shapes (m,), (n,)."""
    wins = (cases[:, None] > controls[None, :]) + 0.5 * (cases[:, None] == controls[None, :])
    return wins.mean(axis=1), wins.mean(axis=0)


def scored(d):
    x = np.column_stack([d.age, d.male, d.covariates["bmi"]]).astype(np.float64)
    return {
        "score": COEF[0] + x @ COEF[1:],
        "-lvef": -d.covariates["lvef"].astype(np.float64),
        "bmi": d.covariates["bmi"].astype(np.float64),
    }


def delong(first, second, y):
    """AUCs, difference and its error, DeLong et al. 1988."""
    a10, a01 = kernel(first[y == 1], first[y == 0])
    b10, b01 = kernel(second[y == 1], second[y == 0])
    variance = np.var(a10 - b10, ddof=1) / (y == 1).sum() + np.var(a01 - b01, ddof=1) / (y == 0).sum()
    return a10.mean(), b10.mean(), a10.mean() - b10.mean(), np.sqrt(variance)


@pytest.mark.parametrize("limits", [UNGATED, DisclosureLimits()])
def test_paired_differences_equal_delong_s(limits):
    data = hospitals()
    found = run(data, limits)["sites"]
    for site in "abc":
        scores, y = scored(data[site]), data[site].labels[:, 0]
        for other in ("-lvef", "bmi"):
            keep = np.isfinite(scores["score"]) & np.isfinite(scores[other]) & np.isfinite(y)
            want = delong(scores["score"][keep], scores[other][keep], y[keep])
            got = found[site]["pairs"]["event"][other]
            values = (
                got["auc"]["value"],
                got["other_auc"]["value"],
                got["difference"]["value"],
                got["difference"]["se"],
            )
            # A share of a column's range is as single precision has it.
            np.testing.assert_allclose(values, want, atol=2e-7)
            assert got["ecgs"] == keep.sum()
            p = 2 * norm.sf(abs(want[2]) / want[3])
            assert got["p"] == pytest.approx(p, abs=0.02)


def test_the_placebo_s_error_is_delong_s_with_controls_shared():
    data = hospitals()
    found = run(data)["sites"]
    for site in "abc":
        scores = scored(data[site])
        event, other = data[site].labels[:, 0], data[site].labels[:, 2]
        for name in ("score", "-lvef"):
            s = scores[name]
            known = np.isfinite(s)
            a10, a01 = kernel(s[known & (event == 1)], s[known & (event == 0)])
            b10, b01 = kernel(s[known & (other == 1)], s[known & (other == 0)])
            assert len(a01) == len(b01)
            variance = (
                np.var(a10, ddof=1) / len(a10) + np.var(b10, ddof=1) / len(b10) + np.var(a01 - b01, ddof=1) / len(a01)
            )
            got = found[site]["placebo"][name]
            assert got["difference"]["value"] == pytest.approx(a10.mean() - b10.mean(), abs=2e-7)
            assert got["difference"]["se"] == pytest.approx(np.sqrt(variance), abs=2e-7)
            assert (got["events"], got["placebo_events"]) == (len(a10), len(b10))


def test_over_sites_each_weighs_by_its_pairs():
    data = hospitals()
    result = run(data)
    pooled, sites = result["pooled"]["training"]["pairs"]["event"]["-lvef"], result["sites"]
    rows = [sites[s]["pairs"]["event"]["-lvef"] for s in "ab"]
    pairs = np.array([r["events"] * (r["ecgs"] - r["events"]) for r in rows])
    weight = pairs / pairs.sum()
    want = weight @ [r["difference"]["value"] for r in rows]
    assert pooled["difference"]["value"] == pytest.approx(want, abs=1e-12)
    error = np.sqrt(((weight * [r["difference"]["se"] for r in rows]) ** 2).sum())
    assert pooled["difference"]["se"] == pytest.approx(error, abs=1e-12)
    assert pooled["sites"] == ["a", "b"]
    alone = result["pooled"]["zero_shot"]["placebo"]["score"]
    assert alone["difference"] == sites["c"]["placebo"]["score"]["difference"]


def test_a_score_that_nearly_all_have_tells_nothing_of_the_few_who_lack_it():
    data = hospitals()
    lvef = data["a"].covariates["lvef"].copy()
    lvef[:4] = np.nan
    data["a"] = replace(data["a"], covariates={**data["a"].covariates, "lvef": lvef})
    found = run(data, DisclosureLimits())["sites"]["a"]["pairs"]["event"]
    assert found["-lvef"]["auc"]["value"] is None
    assert run(data)["sites"]["a"]["pairs"]["event"]["-lvef"]["auc"]["value"] is not None


def test_a_hospital_without_the_outcome_or_with_few_arrests_tells_nothing():
    data = hospitals()
    labels = data["a"].labels.copy()
    labels[:, 0] = np.nan
    data["a"] = replace(data["a"], labels=labels)
    labels = data["b"].labels.copy()
    labels[np.flatnonzero(labels[:, 2] == 1)[4:], 2] = 0
    data["b"] = replace(data["b"], labels=labels)
    result = run(data, DisclosureLimits())
    assert result["sites"]["a"]["pairs"]["event"]["bmi"]["ecgs"] is None
    assert result["sites"]["b"]["placebo"]["score"]["difference"]["value"] is None
    assert result["sites"]["b"]["pairs"]["event"]["bmi"]["ecgs"] is not None


def test_the_placebo_s_interval_holds_where_the_score_knows_of_neither_more():
    """96 arrests and 161 others against 400 controls, and the smallest series that bears an interval."""
    rng = np.random.default_rng(12)
    for cases, others, controls, shift in ((96, 161, 400, 0.8), (12, 15, 45, 0.8)):
        truth = norm.cdf(shift / np.sqrt(2)) - 0.5
        held = []
        for _ in range(500):
            score = np.concatenate([rng.normal(shift, 1, cases), rng.normal(0, 1, others + controls)])
            kind = np.repeat([0, 1, 2], [cases, others, controls])
            first = np.where(kind == 0, 1.0, np.where(kind == 2, 0.0, np.nan))
            second = np.where(kind == 1, 1.0, np.where(kind == 2, 0.0, np.nan))
            found = placebo_difference(score, first, second, np.arange(len(score)))
            held.append(found.low <= truth <= found.high)
        assert 0.925 <= np.mean(held) <= 0.98, (cases, np.mean(held))
    few = placebo_difference(score, np.where(np.arange(len(score)) < 9, 1.0, first), second, np.arange(len(score)))
    assert np.isfinite(few.value)


def test_a_single_lead_model_sees_its_lead_alone():
    import torch

    heads = [HeadSpec("event")]
    whole = build(Resnet1dConfig(dropout=0.0), heads, 200, 1)
    single = build(Resnet1dConfig(dropout=0.0, leads=("aVL",)), heads, 200, 1)
    assert whole.state_dict().keys() == single.state_dict().keys()
    x, covariates = torch.randn(3, 12, 200), torch.zeros(3, 2)
    alone = x * (torch.arange(12) == 4)[:, None]
    whole.eval()
    single.eval()
    with torch.no_grad():
        assert torch.equal(single(x, covariates), whole(alone, covariates))
        assert not torch.allclose(single(x, covariates), whole(x, covariates))
        assert torch.isfinite(single(x, covariates)).all()


def test_the_report_has_the_placebo_first_and_a_forest_of_scores():
    (section,) = report(typed(federation(hospitals()).run()["k"]))
    keys = [b for b in section.blocks if isinstance(b, Key)]
    assert "less that for" in keys[0].label
    titles = [b.title for b in section.blocks if isinstance(b, Table)]
    assert titles[0].startswith("Placebo")
    assert any(isinstance(b, Forest) for b in section.blocks)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"scores": ["score", "troponin"]}, "scores names 'troponin'"),
        ({"scores": ["score"], "placebo": None}, "name a second score"),
        ({"placebo": "event"}, "one of the outcomes"),
        ({"outcomes": ["death"]}, "no endpoint"),
        ({"scores": ["score", "score"]}, "names one twice"),
    ],
)
def test_a_step_that_cannot_be_is_refused(step, words):
    with pytest.raises(ValueError, match=words):
        study([CALIBRATE, STEP | step], endpoints=ENDPOINTS)


SECOND = np.array([-4.0, 0.05, 0.2])


def two_risks(data, limits=UNGATED, **step):
    """Two calibrated scores of the same target beside each other, and a column."""
    steps = [
        CALIBRATE | {"inputs": ["age", "male", "bmi"]},
        CALIBRATE | {"id": "short", "inputs": ["age", "male"]},
        STEP | {"uses": ["score", "short"], "scores": ["score", "short", "bmi"]} | step,
    ]
    made = Federation(study(steps, endpoints=ENDPOINTS), data, limits)
    made.artefacts = {
        "score": Artefact("score", "calibrate", None, {"coef": COEF}),
        "short": Artefact("short", "calibrate", None, {"coef": SECOND}),
    }
    return made


def chances(d):
    x = np.column_stack([d.age, d.male, d.covariates["bmi"]]).astype(np.float64)
    return [1 / (1 + np.exp(-z)) for z in (COEF[0] + x @ COEF[1:], SECOND[0] + x[:, :2] @ SECOND[1:])]


def known_both(d):
    """Both risks and the event, of ECGs that have all three."""
    first, second = chances(d)
    y = d.labels[:, 0]
    keep = np.isfinite(first) & np.isfinite(second) & np.isfinite(y)
    return first[keep], second[keep], y[keep]


def test_brier_scores_slopes_and_their_errors_are_those_of_plain_means_and_statsmodels():
    import statsmodels.api as sm

    data = hospitals()
    result = two_risks(data).run()["k"].result
    for site in "abc":
        first, second, y = known_both(data[site])
        got = result["sites"][site]["pairs"]["event"]["short"]["risks"]
        apart = (first - y) ** 2 - (second - y) ** 2
        assert got["brier"]["value"] == pytest.approx(np.mean((first - y) ** 2), abs=1e-9)
        assert got["other_brier"]["value"] == pytest.approx(np.mean((second - y) ** 2), abs=1e-9)
        assert got["brier_difference"]["value"] == pytest.approx(apart.mean(), abs=1e-9)
        assert got["brier_difference"]["se"] == pytest.approx(apart.std(ddof=1) / np.sqrt(len(y)), rel=1e-6)
        for name, p in (("slope", first), ("other_slope", second)):
            fit = sm.Logit(y, sm.add_constant(np.log(p / (1 - p)))).fit(disp=0, cov_type="HC0")
            assert got[name]["value"] == pytest.approx(fit.params[1], abs=1e-6)
            assert got[name]["se"] == pytest.approx(fit.bse[1], rel=0.01)
        assert result["sites"][site]["pairs"]["event"]["bmi"]["risks"] is None
    pooled = result["pooled"]["training"]["pairs"]["event"]["short"]["risks"]
    first, second, y = (np.concatenate(part) for part in zip(*(known_both(data[s]) for s in "ab"), strict=True))
    apart = (first - y) ** 2 - (second - y) ** 2
    assert pooled["brier_difference"]["value"] == pytest.approx(apart.mean(), abs=1e-9)
    assert pooled["brier_difference"]["se"] == pytest.approx(apart.std() / np.sqrt(len(apart)), rel=0.02)
    assert pooled["slope"] is None
    assert pooled["sites"] == ["a", "b"]


def test_a_case_control_series_tells_no_brier_score_and_is_not_asked():
    data = hospitals()
    whole = two_risks(data).study
    sites = whole.sites.model_copy(update={"case_control": ("c",), "zero_shot": ()})
    made = Federation(whole.model_copy(update={"sites": sites}), data, UNGATED)
    made.artefacts = two_risks(data).artefacts
    found = made.run()["k"].result["sites"]
    assert found["c"]["pairs"]["event"]["short"]["auc"]["value"] is not None
    assert found["c"]["pairs"]["event"]["short"]["risks"] is None
    assert found["a"]["pairs"]["event"]["short"]["risks"] is not None


def test_an_outcome_that_a_hospital_does_not_know_costs_no_other_answer():
    data = hospitals()
    data["a"] = replace(data["a"], labels=np.where([True, False, False], np.nan, data["a"].labels))
    made = two_risks(data, outcomes=["event", "sex"])
    found = made.run()["k"].result["sites"]["a"]["pairs"]
    assert found["event"]["short"]["risks"] is None
    assert found["sex"]["short"]["risks"] is not None


def test_the_report_shows_risks_beside_each_other():
    (section,) = report(typed(two_risks(hospitals()).run()["k"]))
    (table,) = [b for b in section.blocks if isinstance(b, Table) and b.title.startswith("As risks")]
    assert {row[1] for row in table.rows} == {"risk of short"}
    assert len(table.rows) == 4
