"""threshold over sites, through the gate, against the choice made on pooled data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from federated_stages import CALIBRATE, UNGATED, Federation, pooled, site_data, study, typed

from ecgshared.errors import ConfigError, RunError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.threshold import Candidates, candidate_shares, largest_group, likely_share
from ecgshared.stats.influence import rate_above
from ecgshared.stats.score_scale import HIGHEST, LOWEST, score_of
from ecgshared.study.score import risk_from_inputs
from server.stages.threshold import report

THRESHOLD = {"id": "cut", "stage": "threshold", "uses": ["score"], "min_rate": 0.35}


def sites(scale: int = 1):
    return {
        "a": site_data(1, 500 * scale),
        "b": site_data(2, 400 * scale, shift=1.0, base=-1.5),
        "c": site_data(3, 100, split="lockbox"),
    }


def validation(data, found):
    x, y, patient = pooled(data, ("a", "b"), "validation")
    return score_of(risk_from_inputs(x, found["score"].arrays["coef"])), y, patient


def test_ungated_it_chooses_what_the_pooled_data_choose():
    data = sites()
    federation = Federation(study([CALIBRATE, THRESHOLD]), data, UNGATED)
    found = federation.run()
    score, y, patient = validation(data, found)
    result = found["cut"].result
    candidates = result["candidates"]
    risk = np.array(candidates["cutoff"])
    cuts = np.where(risk > 0, score_of(risk), LOWEST)
    exact = [rate_above(score >= cut - 1e-12, y, patient) for cut in cuts]
    # Where a site has nobody between two cuts it answers one of them, and lends the other its error.
    answered = [p.cut for _, phase, p in federation.sent if phase == "variance"]
    everywhere = [i for i, cut in enumerate(cuts) if all(np.isclose(own, cut, atol=1e-9).any() for own in answered)]
    assert len(everywhere) > 20
    for name in ("bound_low", "rate", "bound_high"):
        np.testing.assert_allclose(
            np.array(candidates[name])[everywhere], np.array([e.value for e in exact])[everywhere], rtol=1e-9
        )
    assert all(
        low - 1e-12 <= e.value <= high + 1e-12
        for low, e, high in zip(candidates["bound_low"], exact, candidates["bound_high"], strict=True)
    )
    np.testing.assert_allclose(
        np.array(candidates["low"])[everywhere], np.array([e.low for e in exact])[everywhere], rtol=1e-9
    )
    qualified = [i for i, low in enumerate(candidates["low"]) if low > 0.35]
    best = max(qualified, key=lambda i: candidates["share"][i])
    cut = float(found["cut"].arrays["cut"][0])
    assert abs(cut - cuts[best]) < 1e-9
    assert result["share_above"] == pytest.approx((score >= cut).mean(), abs=1e-12)
    assert result["share_bounds"] == [result["share_above"]] * 2
    assert result["qualified"] is True
    assert result["rate"]["low"] == candidates["low"][best] > 0.35


def test_gated_the_chosen_group_is_close_and_its_rate_bounded():
    data = sites(6)
    free = Federation(study([CALIBRATE, THRESHOLD]), data, UNGATED).run()["cut"].result
    found = Federation(study([CALIBRATE, THRESHOLD]), data, DisclosureLimits()).run()
    gated = found["cut"].result
    assert abs(gated["share_above"] - free["share_above"]) < 0.06
    score, y, _ = validation(data, found)
    above = score >= found["cut"].arrays["cut"][0]
    assert gated["rate_bounds"][0] <= y[above].mean() <= gated["rate_bounds"][1]
    assert gated["share_bounds"][0] <= above.mean() <= gated["share_bounds"][1]
    for low, rate, high in zip(*(gated["candidates"][k] for k in ("bound_low", "rate", "bound_high")), strict=True):
        assert low <= rate <= high


def test_what_left_holds_no_small_group():
    limits = DisclosureLimits()
    federation = Federation(study([CALIBRATE, THRESHOLD]), sites(6), limits)
    federation.run()
    seen = 0
    for _, phase, payload in federation.sent:
        if phase == "histogram" and hasattr(payload, "cut"):
            seen += 1
            assert (payload.controls >= limits.min_patients).all()
            assert (np.diff(payload.cases, prepend=0.0) >= limits.min_events).all()
            assert np.isin(payload.cut, payload.lower).all()
    assert seen == 2


def test_only_validation_patients_decide():
    data = sites()
    found = Federation(study([CALIBRATE, THRESHOLD]), data, UNGATED).run()["cut"].result
    _, y, _ = pooled(data, ("a", "b"), "validation")
    assert found["ecgs"] == len(y)
    assert found["events"] == y.sum()


def test_max_age_leaves_the_old_out():
    data = sites()
    found = Federation(study([CALIBRATE, {**THRESHOLD, "max_age": 60}]), data, UNGATED).run()["cut"].result
    x, _, _ = pooled(data, ("a", "b"), "validation")
    assert found["ecgs"] == (x[:, 0] < 60).sum()


def test_the_lower_limit_need_not_be_monotone():
    # The middle group fails, the largest does not: it is chosen all the same.
    rate = np.array([0.10, 0.06, 0.30])
    tried = Candidates(
        ecgs=np.array([1000.0, 500.0, 200.0]),
        rate_low=rate,
        rate=rate,
        rate_high=rate,
        square_sum=np.array([90.0, 28.0, 42.0]),
        patients=np.array([900.0, 450.0, 180.0]),
    )
    limits = tried.estimates(0.95)
    assert limits[1].low < 0.049 < limits[0].low
    assert largest_group(tried, min_rate=0.049, confidence=0.95) == 0


def test_events_that_a_site_may_not_count_help_no_group_to_qualify():
    rate = np.array([0.10])
    sure = Candidates(np.array([1000.0]), rate, rate, rate, np.array([90.0]), np.array([1000.0]))
    unsure = Candidates(np.array([1000.0]), rate - 0.05, rate, rate + 0.05, np.array([90.0]), np.array([1000.0]))
    assert largest_group(sure, min_rate=0.06, confidence=0.95) == 0
    assert largest_group(unsure, min_rate=0.06, confidence=0.95) is None
    found = unsure.estimates(0.95)[0]
    assert found.low < 0.05 < 0.15 < found.high


def test_the_guess_lands_near_the_group_that_qualifies():
    rng = np.random.default_rng(0)
    controls, cases = np.sort(rng.normal(-3, 1, 20_000)), np.sort(rng.normal(-1.5, 1, 400))
    sketched = (
        (controls[::-1].reshape(-1, 10).mean(1), np.full(2000, 10.0)),
        (cases.reshape(-1, 10).mean(1), np.full(40, 10.0)),
    )
    share = likely_share(*sketched, 0.1)
    cut = np.sort(np.concatenate([controls, cases]))[::-1][int(share * 20_400)]
    rate = (cases >= cut).sum() / ((cases >= cut).sum() + (controls >= cut).sum())
    assert 0.1 < rate < 0.16
    assert candidate_shares(share, None)[0] == share
    assert candidate_shares(None, 0.1)[0] == 0.1
    assert all(0 < s < 1 for s in candidate_shares(0.9, 0.1))


def test_a_size_that_no_edge_expresses_gives_no_group():
    step = {**THRESHOLD, "min_rate": 0.999, "top_share": 0.002}
    found = Federation(study([CALIBRATE, step]), sites(), DisclosureLimits()).run()["cut"]
    assert found.result["rule"] == "none"
    assert found.result["cutoff"] is None
    assert found.arrays["cut"][0] == HIGHEST
    assert "near the top 0.2% of ECGs either. There is no high-risk group" in report(typed(found))[0].blocks[0].text


def test_no_group_qualifies_and_there_is_no_way_out():
    found = Federation(study([CALIBRATE, {**THRESHOLD, "min_rate": 0.999}]), sites(), DisclosureLimits()).run()["cut"]
    assert found.result["rule"] == "none"
    assert found.result["cutoff"] is None
    assert found.result["qualified"] is False
    assert found.arrays["cut"][0] == HIGHEST
    assert np.isinf(found.arrays["cutoff"][0])
    json.dumps(found.result, allow_nan=False)
    assert "no high-risk group" in report(typed(found))[0].blocks[0].text


@pytest.mark.parametrize("min_rate", [0.999, None])
def test_the_top_share_is_the_way_out_or_the_rule(min_rate):
    step = {**THRESHOLD, "min_rate": min_rate, "top_share": 0.1}
    found = Federation(study([CALIBRATE, step]), sites(), UNGATED).run()["cut"].result
    assert found["rule"] == "top_share"
    assert abs(found["share_above"] - 0.1) < 0.01
    assert found["qualified"] is (None if min_rate is None else False)


def test_a_site_that_may_release_nothing_is_withheld():
    data = {**sites(), "b": site_data(9, 6, split="validation")}
    found = Federation(study([CALIBRATE, THRESHOLD]), data, DisclosureLimits()).run()["cut"].result
    assert found["withheld"] == ["b"]
    assert found["sites"]["b"] == {"ecgs": None, "patients": None, "events": None}


def test_no_site_may_release_anything():
    chosen = study([CALIBRATE, THRESHOLD])
    scored = Federation(chosen, sites(), UNGATED).run()["score"]
    tiny = {s: site_data(i, 5, split="validation") for i, s in enumerate("abc")}
    with pytest.raises(RunError, match="histogram"):
        Federation(chosen, tiny, DisclosureLimits(), artefacts={"score": scored}).run()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"uses": []}, "must use a calibrate step"),
        ({"score": "net.event"}, "no head of a train step"),
        ({"min_rate": None}, "min_rate, top_share"),
        ({"target": "nothing"}, "no endpoint"),
    ],
)
def test_a_step_that_does_not_fit_its_study_is_refused(change, says):
    with pytest.raises((ValueError, ConfigError), match=says):
        study([CALIBRATE, {**THRESHOLD, **change}])
