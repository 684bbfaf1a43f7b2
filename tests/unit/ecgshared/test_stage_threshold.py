"""threshold over sites, through the gate, against the choice made on pooled data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from federated_stages import CALIBRATE, UNGATED, Federation, pooled, site_data, study, typed

from ecgshared.errors import ConfigError, RunError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.threshold import largest_group
from ecgshared.stats.histogram import N_BINS, bin_of_risk, edge_risk
from ecgshared.stats.influence import top_group_rate
from ecgshared.study.score import risk_from_inputs
from server.stages.threshold import report

THRESHOLD = {"id": "cut", "stage": "threshold", "uses": ["score"], "min_rate": 0.35}


def sites(scale: int = 1):
    return {
        "a": site_data(1, 500 * scale),
        "b": site_data(2, 400 * scale, shift=1.0, base=-1.5),
        "c": site_data(3, 100, split="lockbox"),
    }


def test_ungated_it_chooses_what_the_pooled_data_choose():
    data = sites()
    found = Federation(study([CALIBRATE, THRESHOLD]), data, UNGATED).run()
    x, y, patient = pooled(data, ("a", "b"), "validation")
    bins = bin_of_risk(risk_from_inputs(x, found["score"].arrays["coef"]))
    lows = {int(edge): top_group_rate(bins >= edge, y, patient) for edge in np.unique(bins)}
    best = min(edge for edge, estimate in lows.items() if estimate.low > 0.35)
    result = found["cut"].result
    assert int(found["cut"].arrays["cut_bin"][0]) == best
    assert abs(result["cutoff"] - float(edge_risk(best))) < 1e-12
    assert abs(result["share_above"] - (bins >= best).mean()) < 1e-12
    assert result["qualified"] is True
    np.testing.assert_allclose(list(result["rate"].values()), lows[best].as_array(), rtol=1e-9)


def test_gated_the_chosen_group_is_close_and_its_rate_bounded():
    data = sites(6)
    free = Federation(study([CALIBRATE, THRESHOLD]), data, UNGATED).run()["cut"].result
    found = Federation(study([CALIBRATE, THRESHOLD]), data, DisclosureLimits()).run()
    gated = found["cut"].result
    assert abs(gated["share_above"] - free["share_above"]) < 0.03
    x, y, _ = pooled(data, ("a", "b"), "validation")
    bins = bin_of_risk(risk_from_inputs(x, found["score"].arrays["coef"]))
    exact = y[bins >= int(found["cut"].arrays["cut_bin"][0])].mean()
    assert gated["rate_bounds"][0] <= exact <= gated["rate_bounds"][1]


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
    above = np.array([1000.0, 500.0, 200.0])
    # The middle group fails, the largest does not: it is chosen all the same.
    choice = largest_group(
        above,
        np.array([0.10, 0.06, 0.30]),
        np.array([90.0, 28.0, 42.0]),
        np.array([900.0, 450.0, 180.0]),
        min_rate=0.049,
        confidence=0.95,
    )
    assert choice.estimates[1].low < 0.049 < choice.estimates[0].low
    assert choice.index == 0


def test_no_group_qualifies_and_there_is_no_way_out():
    found = Federation(study([CALIBRATE, {**THRESHOLD, "min_rate": 0.999}]), sites(), DisclosureLimits()).run()["cut"]
    assert found.result["rule"] == "none"
    assert found.result["cutoff"] is None
    assert found.result["qualified"] is False
    assert found.arrays["cut_bin"][0] == N_BINS
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
