"""evaluate over sites, through the gate: exact at each site, equal to pooling ungated, bounded where gated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from federated_stages import CALIBRATE, UNGATED, Federation, pooled, site_data, study, typed
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from client.egress.gate import release
from client.rows.binned import read_curve, read_cuts
from ecgshared.errors import ConfigError, Refused
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.evaluate import LINES
from ecgshared.stats.calibration import calibration_line, expected_over_observed
from ecgshared.stats.discrimination import auc_difference
from ecgshared.stats.influence import clustered_auc, clustered_ratio, rate_above
from ecgshared.stats.score_scale import score_of
from ecgshared.study.registry import room
from ecgshared.study.score import risk_from_inputs
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Request, payload_type
from server.stages.evaluate import report

AGE_SEX = {**CALIBRATE, "id": "age-sex", "inputs": ["age", "male"]}
STEPS = [
    CALIBRATE,
    AGE_SEX,
    {"id": "cut", "stage": "threshold", "uses": ["score"], "min_rate": 0.35, "top_share": 0.1},
    {
        "id": "abroad",
        "stage": "evaluate",
        "uses": ["score", "cut", "age-sex"],
        "top_shares": [0.05, 0.2, 1.0],
        "compare": ["age-sex"],
    },
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
    assert abs(mine["average_precision"]["value"] - average_precision_score(y, risk)) < 1e-12
    assert mine["scaled_brier"] == pytest.approx(1 - brier_score_loss(y, risk) / (y.mean() * (1 - y.mean())))
    assert abs(mine["ppv"][-1]["rate"]["value"] - y.mean()) < 1e-12
    assert sum(row["ecgs"] for row in mine["calibration_curve"]) == len(y)
    for row in mine["ppv"]:
        flagged = risk >= row["cutoff"] * (1 - 1e-12)
        np.testing.assert_allclose(values(row["rate"]), rate_above(flagged, y, patient).as_array(), rtol=1e-9)
        assert row["captured"] == pytest.approx(flagged[y == 1].mean())
        assert row["npv"] == pytest.approx((y[~flagged] == 0).mean() if (~flagged).any() else None)
        assert row["accuracy"] == pytest.approx((flagged == y).mean())
    cut = found["cut"].arrays["cut"][0]
    flagged = score_of(risk) >= cut
    at = mine["threshold"]
    for name, exact in (
        ("ppv", y[flagged].mean()),
        ("sensitivity", flagged[y == 1].mean()),
        ("specificity", (~flagged)[y == 0].mean()),
        ("npv", (y[~flagged] == 0).mean()),
        ("accuracy", (flagged == y).mean()),
    ):
        assert at[name]["value"] == pytest.approx(exact, abs=1e-12)


def test_a_paired_difference_is_that_of_the_pooled_pairs_within_sites(gated):
    federation, found = gated
    parts, weights = [], []
    for site in ("c", "d"):
        x, y, patient = pooled(federation.data, (site,), "lockbox")
        risk = risk_from_inputs(x, found["score"].arrays["coef"])
        other = risk_from_inputs(x[:, :2], found["age-sex"].arrays["coef"])
        mine = found["abroad"].result["sites"][site]["heads"]["event"]["compared"]["age-sex"]
        own = auc_difference(risk, other, y, patient)
        np.testing.assert_allclose(values(mine["difference"]), own.as_array(), rtol=1e-9)
        assert mine["other_auc"] == pytest.approx(roc_auc_score(y, other), abs=1e-12)
        assert mine["events"] == y.sum()
        parts.append(own)
        weights.append(y.sum() * (y == 0).sum())
    both = found["abroad"].result["pooled"]["zero_shot"]["event"]["compared"]["age-sex"]
    weight = np.array(weights) / np.sum(weights)
    assert both["difference"]["value"] == pytest.approx(weight @ [p.value for p in parts], abs=1e-12)
    assert both["difference"]["se"] == pytest.approx(np.sqrt(weight**2 @ np.array([p.se**2 for p in parts])), rel=1e-9)
    assert both["difference"]["low"] > 0
    assert both["p"] < 1e-6


@pytest.mark.parametrize(("group", "names"), [("training", ("a", "b")), ("zero_shot", ("c", "d"))])
def test_ungated_pooled_results_equal_those_of_pooled_data(ungated, group, names):
    federation, found = ungated
    risk, y, patient = risks(federation, found, names)
    both = found["abroad"].result["pooled"][group]["event"]
    np.testing.assert_allclose(values(both["auc"]), clustered_auc(risk, y, patient).as_array(), rtol=1e-9)
    assert both["auc"]["bound_low"] == pytest.approx(both["auc"]["bound_high"], abs=1e-12)
    np.testing.assert_allclose(
        values(both["expected_over_observed"]), expected_over_observed(risk, y, patient).as_array(), rtol=1e-9
    )
    assert abs(both["brier"] - brier_score_loss(y, risk)) < 1e-12
    intercept, slope = calibration_line(risk, y, patient)
    np.testing.assert_allclose(values(both["calibration_slope"]), slope.as_array(), rtol=1e-7)
    np.testing.assert_allclose(values(both["calibration_intercept"]), intercept.as_array(), rtol=1e-6, atol=1e-8)
    flagged = score_of(risk) >= found["cut"].arrays["cut"][0]
    np.testing.assert_allclose(values(both["threshold"]["ppv"]), rate_above(flagged, y, patient).as_array(), rtol=1e-9)
    np.testing.assert_allclose(
        values(both["threshold"]["sensitivity"]),
        clustered_ratio(flagged * y, y.astype(float), patient).as_array(),
        rtol=1e-9,
    )
    assert both["threshold"]["specificity"]["value"] == pytest.approx((~flagged)[y == 0].mean(), abs=1e-12)
    assert both["threshold"]["npv"]["value"] == pytest.approx((y[~flagged] == 0).mean(), abs=1e-12)
    assert both["threshold"]["accuracy"]["value"] == pytest.approx((flagged == y).mean(), abs=1e-12)
    assert abs(both["ppv"][-1]["rate"]["value"] - y.mean()) < 1e-12
    for row in both["ppv"]:
        above = risk >= row["cutoff"] * (1 - 1e-12)
        np.testing.assert_allclose(values(row["rate"]), rate_above(above, y, patient).as_array(), rtol=1e-9)
        odds = row["cutoff"] / (1 - row["cutoff"])
        benefit = ((above & (y == 1)).sum() - (above & (y == 0)).sum() * odds) / len(y)
        assert row["net_benefit"] == pytest.approx(benefit, abs=1e-9)


@pytest.mark.parametrize(("group", "names"), [("training", ("a", "b")), ("zero_shot", ("c", "d"))])
def test_gated_bounds_hold_the_exact_pooled_values(gated, group, names):
    federation, found = gated
    risk, y, patient = risks(federation, found, names)
    both = found["abroad"].result["pooled"][group]["event"]
    exact = clustered_auc(risk, y, patient)
    assert both["auc"]["bound_low"] <= exact.value <= both["auc"]["bound_high"]
    assert both["auc"]["bound_high"] - both["auc"]["bound_low"] < 0.01
    assert abs(both["auc"]["se"] - exact.se) < 0.01 * exact.se
    assert abs(both["auc"]["value"] - exact.value) < 0.002
    assert both["auc"]["low"] <= both["auc"]["bound_low"]
    assert both["auc"]["bound_high"] <= both["auc"]["high"]
    exact_precision = average_precision_score(y, risk)
    assert both["average_precision"]["bound_low"] <= exact_precision <= both["average_precision"]["bound_high"]
    for row in both["ppv"]:
        above = risk >= row["cutoff"] * (1 - 1e-12)
        assert row["bound_low"] <= row["rate"]["value"] <= row["bound_high"]
        assert row["bound_low"] - 1e-12 <= y[above].mean() <= row["bound_high"] + 1e-12
        assert row["captured_low"] - 1e-12 <= above[y == 1].mean() <= row["captured_high"] + 1e-12
        if row["rate"]["low"] is not None:
            assert row["rate"]["low"] <= row["bound_low"]
            assert row["bound_high"] <= row["rate"]["high"]
    _, slope = calibration_line(risk, y, patient)
    assert abs(both["calibration_slope"]["value"] - slope.value) < 1e-7
    assert sum(row["ecgs"] for row in both["calibration_curve"]) == len(y)
    assert sum(row["ecgs"] * row["observed"] for row in both["calibration_curve"]) == pytest.approx(y.sum())
    assert sum(row["ecgs"] * row["mean_predicted"] for row in both["calibration_curve"]) == pytest.approx(risk.sum())
    for row in both["calibration_curve"]:
        assert row["bound_low"] <= row["observed"] <= row["bound_high"]
    for low, tpr, high in zip(both["roc"]["tpr_low"], both["roc"]["tpr"], both["roc"]["tpr_high"], strict=True):
        assert low - 1e-9 <= tpr <= high + 1e-9


def test_a_group_of_one_site_shows_that_sites_own_figures_and_nothing_else():
    data = sites(3)
    found = Federation(study(STEPS, zero_shot=("c",)), data, LIMITS).run()["abroad"].result
    alone, group = found["sites"]["c"]["heads"]["event"], found["pooled"]["zero_shot"]["event"]
    assert values(group["auc"]) == values(alone["auc"])
    assert group["auc"]["value"] == group["auc"]["bound_low"] == group["auc"]["bound_high"]
    for name in ("expected_over_observed", "calibration_slope", "calibration_intercept"):
        assert group[name] == alone[name]
    assert group["average_precision"]["value"] == alone["average_precision"]["value"]
    assert [row["rate"] for row in group["ppv"]] == [row["rate"] for row in alone["ppv"]]
    assert group["roc"]["tpr"] == alone["roc"]["tpr"]
    assert [row["observed"] for row in group["calibration_curve"]] == [
        row["observed"]["value"] for row in alone["calibration_curve"]
    ]


def test_three_hospitals_of_forty_five_have_no_pooled_value_but_bounds_that_hold():
    small = {s: site_data(20 + i, 45, split="lockbox", base=-0.5) for i, s in enumerate("cde")}
    chosen = study(STEPS, zero_shot=("c", "d", "e"))
    fixed = Federation(chosen, {**sites(), **small}, UNGATED).run()
    federation = Federation(
        chosen, {**sites(), **small}, LIMITS, artefacts={k: fixed[k] for k in ("score", "age-sex", "cut")}
    )
    both = federation.run()["abroad"].result["pooled"]["zero_shot"]["event"]
    risk, y, _ = risks(federation, fixed, tuple(both["sites"]))
    assert len(both["sites"]) == 3
    assert both["auc"]["value"] is None
    assert both["auc"]["low"] is None
    assert both["auc"]["bound_low"] <= roc_auc_score(y, risk) <= both["auc"]["bound_high"]
    aucs, pairs = [], []
    for site in both["sites"]:
        r, o, _ = risks(federation, fixed, (site,))
        aucs.append(roc_auc_score(o, r))
        pairs.append(o.sum() * (o == 0).sum())
    assert both["auc_within_sites"]["value"] == pytest.approx(np.average(aucs, weights=pairs), abs=1e-12)
    assert both["auc_within_sites"]["low"] < both["auc_within_sites"]["value"]
    told = report(typed(federation.artefacts["abroad"]))
    assert any("pairs within a hospital" in getattr(block, "note", "") for block in told[0].blocks)


def with_events(seed, patients, events):
    """A hospital of which exactly so many patients have the event, at each of their ECGs."""
    data = site_data(seed, patients, split="lockbox")
    chosen = np.random.default_rng(seed).choice(patients, events, replace=False)
    labels = data.labels.copy()
    labels[:, 0] = np.isin(data.patient, chosen)
    return replace(data, labels=labels)


@pytest.mark.parametrize(("patients", "events", "told"), [(45, 12, False), (90, 25, True)])
def test_hospitals_that_had_the_events_by_luck_have_no_interval_of_rates(patients, events, told):
    """Beside one with too few they are pooled for their many: what tells how often the event is errs by the choice."""
    steps = [CALIBRATE, {"id": "abroad", "stage": "evaluate", "uses": ["score"]}]
    hospitals = {"c": with_events(11, patients, events), "d": with_events(12, patients, events)}
    chosen = study(steps, zero_shot=("c", "d", "e"))
    both = {"a": sites(6)["a"], "b": sites(6)["b"], **hospitals}
    found = Federation(chosen, {**both, "e": with_events(13, patients, 3)}, LIMITS).run()["abroad"]
    alone = Federation(study(steps, zero_shot=("c", "d")), both, LIMITS).run()["abroad"]
    few, whole = (made.result["pooled"]["zero_shot"]["event"] for made in (found, alone))
    assert few["withheld"] == ["e"]
    assert few["sites"] == whole["sites"] == ["c", "d"]
    for rate in (
        lambda p: p["expected_over_observed"],
        lambda p: p["calibration_intercept"],
        lambda p: p["ppv"][-1]["rate"],
        lambda p: p["calibration_curve"][0],
    ):
        assert rate(whole)["low"] is not None
        assert (rate(few)["low"] is not None, rate(few)["high"] is not None) == (told, told)
    assert few["expected_over_observed"]["value"] == whole["expected_over_observed"]["value"]
    assert few["auc_within_sites"]["low"] == whole["auc_within_sites"]["low"] is not None
    text = str(report(typed(found)))
    assert ("neither has an interval" in text) == (not told)
    assert "neither has an interval" not in str(report(typed(alone)))


def test_who_tells_at_the_threshold_by_luck_has_no_interval_there(gated):
    """Of two hospitals one misses too few events to tell; the other, which misses few, is chosen for it."""
    federation, found = gated
    both = found["abroad"].result["pooled"]["zero_shot"]["event"]
    assert both["threshold"]["sites"] == ["c", "d"]
    assert both["threshold"]["sensitivity"]["low"] is not None
    steps = [CALIBRATE, STEPS[2], {"id": "abroad", "stage": "evaluate", "uses": ["score", "cut"]}]
    risk, y, patient = risks(federation, found, ("c",))
    cut = float(found["cut"].arrays["cutoff"][0])
    # Of the events below the threshold four patients keep theirs.
    data = federation.data["c"]
    below = np.unique(patient[(risk < cut) & (y == 1)])
    labels = data.labels.copy()
    labels[np.isin(data.patient, below[4:]) & (labels[:, 0] == 1), 0] = 0
    few = federation.data | {"c": replace(data, labels=labels), "d": with_events(5, 400, 30)}
    kept = {name: found[name] for name in ("score", "cut")}
    told = Federation(study(steps, zero_shot=("c", "d")), few, LIMITS, artefacts=dict(kept)).run()["abroad"]
    at = told.result["pooled"]["zero_shot"]["event"]["threshold"]
    assert told.result["pooled"]["zero_shot"]["event"]["sites"] == ["c", "d"]
    assert at["sites"] == ["d"]
    assert at["sensitivity"]["value"] is not None
    for name in ("ppv", "sensitivity", "specificity", "npv", "accuracy"):
        assert (at[name]["low"], at[name]["high"]) == (None, None)
    assert "sensitivity is too low" in str(report(typed(told)))
    assert "sensitivity is too low" not in str(report(typed(found["abroad"])))


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
            assert (payload.controls >= LIMITS.min_patients).all()
            assert (np.diff(payload.cases, prepend=0.0) >= LIMITS.min_events).all()
            assert np.isin(payload.cut, payload.lower).all()
        if phase == "scale" and hasattr(payload, "mean"):
            assert (payload.ecgs >= LIMITS.min_patients).all()
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
    found = Federation(chosen, tiny, LIMITS, artefacts={k: scored[k] for k in ("score", "age-sex", "cut")}).run()[
        "abroad"
    ]
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


def test_a_pooled_slope_without_patient_ids_has_the_error_that_holds_for_a_wrong_line():
    import statsmodels.api as sm

    data = {s: site_data(seed, 300, split="lockbox", known=False) for s, seed in (("c", 3), ("d", 4))}
    federation = Federation(four_sites(), {**sites(), **data}, UNGATED)
    found = federation.run()
    result = found["abroad"].result
    risk, y, patient = risks(federation, found, ("c", "d"))
    design = sm.add_constant(np.log(risk / (1 - risk)))
    line = sm.Logit(y, design).fit(disp=0)
    scores = design * (y - line.predict())[:, None]
    summed = np.array([scores[patient == p].sum(axis=0) for p in np.unique(patient)])
    # Each ECG stands for a patient in the factor for few: nobody knows how many there are.
    covariance = line.cov_params() @ (summed.T @ summed) @ line.cov_params() * len(y) / (len(y) - 1)
    slope = result["pooled"]["zero_shot"]["event"]["calibration_slope"]
    assert slope["value"] == pytest.approx(line.params[1], abs=1e-7)
    assert slope["se"] == pytest.approx(np.sqrt(covariance[1, 1]), rel=1e-6)
    assert slope["se"] != pytest.approx(line.bse[1], rel=1e-3)


def test_a_pooled_slope_of_fewer_hospitals_than_are_pooled_is_none():
    federation = Federation(four_sites(), sites(6), LIMITS, away={("d", "slope", r) for r in range(100)})
    result = federation.run()["abroad"].result
    pooled_head = result["pooled"]["zero_shot"]["event"]
    assert pooled_head["sites"] == ["c", "d"] or pooled_head["sites"] == ("c", "d")
    assert pooled_head["calibration_slope"]["value"] is None
    assert "d gave no sums" in result["absent"]["pooled"]["slope"]
    assert result["pooled"]["training"]["event"]["calibration_slope"]["value"] is not None


def test_no_high_risk_group_is_carried_through():
    steps = [CALIBRATE, AGE_SEX, {**STEPS[2], "min_rate": 0.999, "top_share": None}, STEPS[3]]
    found = Federation(four_sites(steps), sites(), LIMITS).run()["abroad"]
    assert found.result["threshold"] is None
    assert found.result["pooled"]["zero_shot"]["event"]["threshold"] is None
    json.dumps(found.result, allow_nan=False)
    assert report(typed(found))


def test_a_site_that_drops_out_between_phases_costs_the_interval_not_the_result():
    chosen = study(STEPS, zero_shot=("c", "d"), federation={"quorum": 1})
    found = Federation(chosen, sites(), LIMITS, gone={("d", "placement", 0)}).run()["abroad"].result
    both = found["pooled"]["zero_shot"]["event"]
    whole = Federation(chosen, sites(), LIMITS).run()["abroad"].result["pooled"]["zero_shot"]["event"]
    # The pairs of its cases are known to their bounds only, and those hold.
    assert (
        both["auc"]["bound_low"] <= whole["auc"]["bound_low"] <= whole["auc"]["bound_high"] <= both["auc"]["bound_high"]
    )
    assert both["auc"]["low"] is None
    assert both["auc_within_sites"] == whole["auc_within_sites"]
    assert found["absent"]["d"]["placement"] == "deadline"


def test_several_heads_are_judged_apart():
    steps = [*STEPS[:3], {**STEPS[3], "heads": ["event", "sex"], "compare": []}]
    federation = Federation(four_sites(steps), sites(3), LIMITS)
    found = federation.run()
    x, y, _ = pooled(federation.data, ("c",), "lockbox", head=1)
    risk = risk_from_inputs(x, found["score"].arrays["coef"])
    mine = found["abroad"].result["sites"]["c"]["heads"]["sex"]
    assert abs(mine["auc"]["value"] - roc_auc_score(y, risk)) < 1e-12
    both = found["abroad"].result["pooled"]["zero_shot"]
    assert both["sex"]["auc"]["se"] > 0
    assert both["sex"]["auc"]["value"] != both["event"]["auc"]["value"]


def test_a_second_set_of_cuts_or_another_curve_is_refused():
    federation = Federation(four_sites(), sites(), LIMITS)
    found = federation.run()
    inputs = {f"{name}.{key}": v for name in ("score", "age-sex", "cut") for key, v in found[name].arrays.items()}

    def asked(phase, state, **arrays):
        federation.state = state
        context = federation.context("abroad", "c")
        request = Request(federation.study.sha256, "run", "abroad", phase, 0, {**inputs, **arrays})
        return room("client", "evaluate").PHASES[phase](context, request)

    with TemporaryDirectory() as folder:
        state = Path(folder)
        first = asked("histogram", state, cuts=np.array([[-1.0, 0.0]]))
        # The same again, word for word, costs nothing and tells nothing new.
        again = asked("histogram", state, cuts=np.array([[-1.0, 0.0]]))
        np.testing.assert_array_equal(first.payload.cases, again.payload.cases)
        with pytest.raises(Refused, match="spent"):
            asked("histogram", state, cuts=np.array([[-1.1, 0.1]]))


def asked_of(federation, site, step, phase, **arrays):
    """Ask the handler alone, as a coordinator of its own making would; ``__`` stands for the dot of an artefact."""
    named = {name.replace("__", "."): np.asarray(value, dtype=np.float64) for name, value in arrays.items()}
    stage = federation.study.step(step).stage
    request = Request(federation.study.sha256, "run", step, phase, 0, named)
    return room("client", stage).PHASES[phase](federation.context(step, site), request)


def test_two_scores_with_one_ecg_between_their_steps_are_not_both_judged(tmp_path):
    """Risks of 0 below an age and 1 above: the means of two of them differ by whoever stands between."""
    steps = [CALIBRATE, {"id": "abroad", "stage": "evaluate", "uses": ["score"]}]
    federation = Federation(study(steps, zero_shot=("c", "d")), sites(), LIMITS, state=tmp_path)
    ages = np.unique(pooled(federation.data, ("c",), "lockbox")[0][:, 0])
    middle = len(ages) // 2
    first, second = ([-1e4 * (ages[i] + ages[i + 1]) / 2, 1e4, 0.0, 0.0, 0.0] for i in (middle, middle + 1))
    for phase in ("local", "scale", "local"):
        asked_of(federation, "c", "abroad", phase, score__coef=first)
    for phase in ("local", "scale", "histogram", "slope"):
        with pytest.raises(Refused, match="spent"):
            asked_of(federation, "c", "abroad", phase, score__coef=second, cuts=[[0.0]], head=[0], coef=[0, 1])
    with pytest.raises(Refused, match="spent"):
        asked_of(federation, "c", "abroad", "local", score__coef=first, other__array=[0.0])
    # A question that is none takes nothing from another site's count.
    with pytest.raises(Refused, match="wrong shape"):
        asked_of(federation, "d", "abroad", "local", score__coef=first[:2])
    asked_of(federation, "d", "abroad", "local", score__coef=second)


def test_no_more_lines_are_summed_at_than_a_fit_asks_for(tmp_path):
    federation = Federation(four_sites([CALIBRATE, {"id": "abroad", "stage": "evaluate", "uses": ["score"]}]), sites())
    federation.state = tmp_path
    coef = [-2.0, 0.04, 0.5, 0.1, -5.0]
    for slope in range(LINES):
        asked_of(federation, "c", "abroad", "slope", score__coef=coef, head=[0], coef=[0.0, 1.0 + slope])
    with pytest.raises(Refused, match="spent"):
        asked_of(federation, "c", "abroad", "slope", score__coef=coef, head=[0], coef=[0.0, 100.0])
    asked_of(federation, "c", "abroad", "slope", score__coef=coef, head=[0], coef=[0.0, 1.0])


def test_a_crafted_curve_gets_nothing_though_it_contains_the_sites_own():
    federation = Federation(four_sites(), sites(2), LIMITS)
    found = federation.run()
    inputs = {f"{name}.{key}": v for name in ("score", "age-sex", "cut") for key, v in found[name].arrays.items()}
    risk, y, _ = risks(federation, found, ("c",))
    cuts = {"cuts": np.array([[-1.0]])}
    with TemporaryDirectory() as folder:
        federation.state = Path(folder)
        request = Request(federation.study.sha256, "run", "abroad", "histogram", 0, {**inputs, **cuts})
        own = room("client", "evaluate").PHASES["histogram"](federation.context("abroad", "c"), request).payload
    score = np.sort(score_of(risk[y == 1]))
    # Ten thousand invented controls right below the two highest cases.
    at = (score[-3] + score[-2]) / 2
    lower = np.concatenate([own.lower, [at - 1e-6]])
    upper = np.concatenate([own.upper, [at]])
    count = np.concatenate([own.controls, [10_000.0]])
    low, up = np.argsort(lower), np.argsort(upper)
    zeros = {"expected_over_observed": np.ones(1), "sensitivity": np.zeros(1), "head": np.zeros(1)}
    request = Request(
        federation.study.sha256,
        "run",
        "abroad",
        "placement",
        0,
        {
            **inputs,
            **zeros,
            **cuts,
            "rates": np.zeros(3),
            "lower": lower[low],
            "by_lower": np.cumsum(count[low]),
            "upper": upper[up],
            "by_upper": np.cumsum(count[up]),
            "case_position": np.zeros(1),
            "case_weight": np.ones(1),
        },
    )
    with TemporaryDirectory() as folder:
        federation.state = Path(folder)
        answer = room("client", "evaluate").PHASES["placement"](federation.context("abroad", "c"), request)
        sent = release(answer, request, stage="evaluate", settings=federation.settings("c"))
    payload = decode_payload(sent.body, payload_type("evaluate", "placement"), stamp_of(request, "c"))
    assert np.isnan(payload.pairs).all()
    assert np.isnan(payload.sums).all()


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"cuts": np.zeros((1, 200))},
        {"cuts": np.full((1, 3), np.nan)},
        {"cuts": np.zeros(3)},
    ],
)
def test_misshapen_cuts_are_refused(arrays):
    with pytest.raises(Refused):
        read_cuts(Request("", "", "", "histogram", 0, arrays), 1)


@pytest.mark.parametrize("broken", ["lower", "by_upper", "case_weight"])
def test_a_misshapen_curve_is_refused(broken):
    good = {name: np.arange(1.0, 4.0) for name in ("lower", "by_lower", "upper", "by_upper", "case_position")}
    arrays = {**good, "case_weight": np.ones(3), broken: np.array([3.0, -1.0])}
    with pytest.raises(Refused):
        read_curve(Request("", "", "", "placement", 0, arrays))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"heads": ["nothing"]}, "heads names nothing"),
        ({"top_shares": [0.5, 0.1]}, "top_shares must ascend"),
        ({"top_shares": [0.0, 0.1]}, r"top_shares must lie in \(0, 1\]"),
        ({"age_bands": [50, 50]}, "age_bands must ascend"),
        ({"uses": []}, "must use a calibrate step"),
        ({"compare": ["nobody"]}, "compare names 'nobody'; allowed.*age-sex"),
    ],
)
def test_a_step_that_does_not_fit_its_study_is_refused(change, says):
    with pytest.raises((ValueError, ConfigError), match=says):
        four_sites([*STEPS[:3], {**STEPS[3], **change}])
