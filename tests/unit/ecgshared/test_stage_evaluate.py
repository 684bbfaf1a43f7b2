"""evaluate over sites, through the gate: exact at each site, equal to pooling ungated, bounded where gated."""

from __future__ import annotations

import json

import numpy as np
import pytest
from federated_stages import CALIBRATE, UNGATED, Federation, pooled, site_data, study, typed
from sklearn.metrics import brier_score_loss, roc_auc_score

from client.rows.risk import Scored
from client.stages.evaluate import influence_answer, pooled_curves
from ecgshared.errors import ConfigError, Refused
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stats.calibration import calibration_line, expected_over_observed
from ecgshared.stats.histogram import N_BINS, bin_of_risk, score_histogram
from ecgshared.stats.influence import clustered_auc, clustered_ratio, top_group_rate
from ecgshared.study.score import risk_from_inputs
from ecgshared.wire.protocol import Request
from server.stages.evaluate import report

STEPS = [
    CALIBRATE,
    {"id": "cut", "stage": "threshold", "uses": ["score"], "min_rate": 0.35, "top_share": 0.1},
    {"id": "abroad", "stage": "evaluate", "uses": ["score", "cut"], "top_shares": [0.05, 0.2, 1.0]},
]
LIMITS = DisclosureLimits()


def sites(scale: int = 1):
    return {
        "a": site_data(1, 300 * scale),
        "b": site_data(2, 250 * scale, shift=1.0, base=-1.5),
        "c": site_data(3, 300 * scale, shift=-0.5, split="lockbox"),
        "d": site_data(4, 200 * scale, split="lockbox"),
    }


def four_sites(steps=STEPS):
    return study(steps, zero_shot=("c", "d"))


@pytest.fixture(scope="module")
def ungated():
    federation = Federation(four_sites(), sites(), UNGATED)
    return federation, federation.run()


@pytest.fixture(scope="module")
def gated():
    federation = Federation(four_sites(), sites(6), LIMITS)
    return federation, federation.run()


def risks(federation, found, names):
    x, y, patient = pooled(federation.data, names, "lockbox")
    return risk_from_inputs(x, found["score"].arrays["coef"]), y, patient


def values(estimate):
    return [estimate[k] for k in ("value", "se", "low", "high")]


@pytest.mark.parametrize("site", ["a", "b", "c", "d"])
def test_each_sites_own_figures_are_exact_though_gated(gated, site):
    federation, found = gated
    risk, y, patient = risks(federation, found, (site,))
    mine = found["abroad"].result["sites"][site]["heads"]["event"]
    assert abs(mine["auc"]["value"] - roc_auc_score(y, risk)) < 1e-12
    np.testing.assert_allclose(values(mine["auc"]), clustered_auc(risk, y, patient).as_array(), rtol=1e-9)
    assert abs(mine["brier"]["value"] - brier_score_loss(y, risk)) < 1e-12
    intercept, slope = calibration_line(risk, y, patient)
    np.testing.assert_allclose(values(mine["calibration_slope"]), slope.as_array(), rtol=1e-9)
    np.testing.assert_allclose(values(mine["calibration_intercept"]), intercept.as_array(), rtol=1e-9)
    assert (mine["ecgs"], mine["events"]) == (len(y), y.sum())
    assert (mine["patients"], mine["event_patients"]) == (len(set(patient)), len(set(patient[y == 1])))
    assert abs(mine["ppv"][-1]["rate"]["value"] - y.mean()) < 1e-12
    assert sum(row["ecgs"] for row in mine["calibration_curve"]) == len(y)
    cut = int(found["cut"].arrays["cut_bin"][0])
    flagged = bin_of_risk(risk) >= cut
    assert abs(mine["threshold"]["ppv"]["value"] - y[flagged].mean()) < 1e-12
    assert abs(mine["threshold"]["sensitivity"]["value"] - flagged[y == 1].mean()) < 1e-12


@pytest.mark.parametrize(("group", "names"), [("training", ("a", "b")), ("zero_shot", ("c", "d"))])
def test_ungated_pooled_results_equal_those_of_pooled_data(ungated, group, names):
    federation, found = ungated
    risk, y, patient = risks(federation, found, names)
    both = found["abroad"].result["pooled"][group]["event"]
    # Within a fine bin scores of two sites are ties; the error is that of the binned score.
    bins = bin_of_risk(risk)
    assert abs(both["auc"]["se"] - clustered_auc(bins, y, patient).se) < 1e-12
    np.testing.assert_allclose(values(both["auc"]), clustered_auc(risk, y, patient).as_array(), atol=5e-4)
    assert both["auc"]["bound_low"] <= roc_auc_score(y, risk) <= both["auc"]["bound_high"]
    np.testing.assert_allclose(
        values(both["expected_over_observed"]), expected_over_observed(risk, y, patient).as_array(), rtol=1e-9
    )
    assert abs(both["brier"] - brier_score_loss(y, risk)) < 1e-12
    intercept, slope = calibration_line(risk, y, patient)
    np.testing.assert_allclose(values(both["calibration_slope"]), slope.as_array(), rtol=1e-7)
    np.testing.assert_allclose(values(both["calibration_intercept"]), intercept.as_array(), rtol=1e-6, atol=1e-8)
    flagged = bins >= int(found["cut"].arrays["cut_bin"][0])
    np.testing.assert_allclose(
        values(both["threshold"]["ppv"]), top_group_rate(flagged, y, patient).as_array(), rtol=1e-9
    )
    np.testing.assert_allclose(
        values(both["threshold"]["sensitivity"]),
        clustered_ratio(flagged * y, y.astype(float), patient).as_array(),
        rtol=1e-9,
    )
    assert abs(both["ppv"][-1]["rate"]["value"] - y.mean()) < 1e-12


@pytest.mark.parametrize(("group", "names"), [("training", ("a", "b")), ("zero_shot", ("c", "d"))])
def test_gated_bounds_hold_the_exact_pooled_values(gated, group, names):
    federation, found = gated
    risk, y, patient = risks(federation, found, names)
    both = found["abroad"].result["pooled"][group]["event"]
    exact = clustered_auc(risk, y, patient)
    assert both["auc"]["bound_low"] <= exact.value <= both["auc"]["bound_high"]
    assert both["auc"]["bound_high"] - both["auc"]["bound_low"] < 0.06
    assert abs(both["auc"]["se"] - exact.se) < 0.05 * exact.se
    for row in both["ppv"]:
        assert row["bound_low"] <= row["rate"]["value"] <= row["bound_high"]
    _, slope = calibration_line(risk, y, patient)
    assert abs(both["calibration_slope"]["value"] - slope.value) < 1e-7
    for row in both["calibration_curve"]:
        assert row["bound_low"] <= row["observed"] <= row["bound_high"]
    for low, tpr, high in zip(both["roc"]["tpr_low"], both["roc"]["tpr"], both["roc"]["tpr_high"], strict=True):
        assert low - 1e-9 <= tpr <= high + 1e-9


def test_one_site_alone_has_its_exact_auc_though_gated():
    data = sites(3)
    found = Federation(study(STEPS, zero_shot=("c",)), data, LIMITS).run()["abroad"].result
    alone, pooled_alone = found["sites"]["c"]["heads"]["event"]["auc"], found["pooled"]["zero_shot"]["event"]["auc"]
    assert pooled_alone["value"] == pooled_alone["bound_low"] == pooled_alone["bound_high"]
    assert abs(pooled_alone["value"] - alone["value"]) < 1e-15
    assert abs(pooled_alone["se"] - alone["se"]) < 0.03 * alone["se"]


def test_subgroups_agree_with_their_own_data(gated):
    federation, found = gated
    x, y, patient = pooled(federation.data, ("c",), "lockbox")
    risk = risk_from_inputs(x, found["score"].arrays["coef"])
    cells = found["abroad"].result["sites"]["c"]["heads"]["event"]["subgroups"]
    for name, inside in (("male", x[:, 1] == 1), ("age 50 to under 65", (x[:, 0] >= 50) & (x[:, 0] < 65))):
        assert abs(cells[name]["auc"]["value"] - roc_auc_score(y[inside], risk[inside])) < 1e-12
        assert cells[name]["patients"] == len(set(patient[inside]))
    assert found["abroad"].result["pooled"]["zero_shot"]["event"]["subgroups"]["male"]["low"] is not None


def test_what_left_holds_no_small_cell(gated):
    federation, _ = gated
    seen = 0
    for _, phase, payload in federation.sent:
        if phase == "histogram" and hasattr(payload, "predicted"):
            seen += 1
            assert (payload.cases >= LIMITS.min_events).all()
            assert (payload.cases + payload.controls >= LIMITS.min_patients).all()
        if phase == "local":
            counts = payload.subgroup_counts[..., 1]
            assert (counts[np.isfinite(counts)] >= LIMITS.min_patients).all()
    assert seen == 4


@pytest.mark.parametrize("patients", [0, 1, 17])
def test_a_tiny_site_withholds_everything_and_breaks_nothing(patients):
    data = {**sites(), "d": site_data(7, patients, split="lockbox", base=-4.0)}
    found = Federation(four_sites(), data, LIMITS).run()["abroad"]
    mine = found.result["sites"]["d"]["heads"]["event"]
    assert mine["ecgs"] is None
    assert values(mine["auc"]) == [None] * 4
    assert mine["roc"] is None
    assert mine["calibration_curve"] == []
    assert found.result["pooled"]["zero_shot"]["event"]["withheld"] == ["d"]
    json.dumps(found.result, allow_nan=False)
    assert report(typed(found))


def test_every_site_tiny_still_gives_a_report():
    chosen = four_sites()
    scored = Federation(chosen, sites(), UNGATED).run()
    tiny = {s: site_data(i, 6, split="lockbox") for i, s in enumerate("abcd")}
    found = Federation(chosen, tiny, LIMITS, artefacts={k: scored[k] for k in ("score", "cut")}).run()["abroad"]
    assert found.result["pooled"]["training"]["event"]["auc"]["value"] is None
    json.dumps(found.result, allow_nan=False)
    assert report(typed(found))


def test_ungated_empty_sites_break_nothing():
    data = {**sites(), "d": site_data(7, 0, split="lockbox"), "c": site_data(8, 1, split="lockbox")}
    found = Federation(four_sites(), data, UNGATED).run()["abroad"]
    json.dumps(found.result, allow_nan=False)
    assert report(typed(found))


def test_without_patient_ids_nothing_is_said_of_patients():
    data = {**sites(), "d": site_data(4, 200, split="lockbox", known=False)}
    result = Federation(four_sites(), data, LIMITS).run()["abroad"].result
    assert result["sites"]["d"]["interval_unit"] == "ECG"
    assert result["sites"]["d"]["heads"]["event"]["patients"] is None
    assert result["sites"]["d"]["heads"]["event"]["auc"]["low"] is not None
    assert result["pooled"]["zero_shot"]["event"]["interval_unit"] == "ECG"
    assert result["pooled"]["training"]["event"]["interval_unit"] == "patient"


def test_no_high_risk_group_is_carried_through():
    steps = [CALIBRATE, {**STEPS[1], "min_rate": 0.999, "top_share": None}, STEPS[2]]
    found = Federation(four_sites(steps), sites(), LIMITS).run()["abroad"]
    assert found.result["threshold"] is None
    assert found.result["pooled"]["zero_shot"]["event"]["threshold"] is None
    json.dumps(found.result, allow_nan=False)
    assert report(typed(found))


def test_a_site_that_drops_out_between_phases_costs_the_interval_not_the_result():
    chosen = study(STEPS, zero_shot=("c", "d"), federation={"quorum": 1})
    found = Federation(chosen, sites(), LIMITS, gone={("d", "influence", 0)}).run()["abroad"].result
    both = found["pooled"]["zero_shot"]["event"]
    assert both["auc"]["value"] is not None
    assert both["auc"]["low"] is None
    assert found["absent"]["d"]["influence"] == "deadline"


def test_several_heads_are_judged_apart():
    steps = [*STEPS[:2], {**STEPS[2], "heads": ["event", "sex"]}]
    federation = Federation(four_sites(steps), sites(3), LIMITS)
    found = federation.run()
    x, y, _ = pooled(federation.data, ("c",), "lockbox", head=1)
    risk = risk_from_inputs(x, found["score"].arrays["coef"])
    mine = found["abroad"].result["sites"]["c"]["heads"]["sex"]
    assert abs(mine["auc"]["value"] - roc_auc_score(y, risk)) < 1e-12
    both = found["abroad"].result["pooled"]["zero_shot"]
    assert both["sex"]["auc"]["se"] > 0
    assert both["sex"]["auc"]["value"] != both["event"]["auc"]["value"]


def test_a_curve_that_jumps_inside_a_merged_bin_tells_nothing_of_it():
    rng = np.random.default_rng(0)
    risk = rng.random(400)
    y = (rng.random(400) < risk).astype(int)
    head = Scored(risk, y, np.arange(400), np.zeros(400, np.float32), np.zeros(400, np.float32), 0, 0)
    base = {
        "control_placement": np.zeros((1, N_BINS)),
        **{name: np.zeros((1, N_BINS + 1)) for name in ("rate_above", "rate_at", "share_above")},
        **{name: np.zeros(1) for name in ("auc", "expected_over_observed", "sensitivity")},
        "n_cases": np.ones(1),
        "n_controls": np.ones(1),
    }

    def asked(bin_):
        curve = np.zeros((1, N_BINS))
        curve[0, bin_] = 1.0
        request = Request("", "", "", "influence", 0, {**base, "case_placement": curve})
        return influence_answer([head], pooled_curves(request, 1), LIMITS, cut_bin=None).payload.auc[0, 0]

    merged, _ = score_histogram(bin_of_risk(risk), y, np.arange(400), LIMITS)
    with_case = set(bin_of_risk(risk[y == 1]))
    inside = range(merged.lower[-3], merged.upper[-3])
    assert 0 < sum(b in with_case for b in inside) < len(inside)
    assert len({round(asked(b), 12) for b in inside}) == 1


def test_a_misshapen_curve_is_refused():
    with pytest.raises(Refused):
        pooled_curves(Request("", "", "", "influence", 0, {"case_placement": np.zeros((1, 3))}), 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"heads": ["nothing"]}, "heads names nothing"),
        ({"top_shares": [0.5, 0.1]}, "top_shares must ascend"),
        ({"top_shares": [0.0, 0.1]}, r"top_shares must lie in \(0, 1\]"),
        ({"age_bands": [50, 50]}, "age_bands must ascend"),
        ({"uses": []}, "must use a calibrate step"),
    ],
)
def test_a_step_that_does_not_fit_its_study_is_refused(change, says):
    with pytest.raises((ValueError, ConfigError), match=says):
        four_sites([*STEPS[:2], {**STEPS[2], **change}])
