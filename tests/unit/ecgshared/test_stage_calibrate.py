"""calibrate over sites, through the gate, against statsmodels on the pooled data."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from federated_stages import CALIBRATE, UNGATED, Federation, pooled, site_data, study, typed

from client.stages.calibrate import FitRows, newton_answer
from ecgshared.errors import ConfigError, Refused, RunError, StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.calibrate import effective_patients
from ecgshared.study.registry import room
from ecgshared.wire.protocol import Request
from server.stages.calibrate import report


def three_sites():
    return {
        "a": site_data(1, 300),
        "b": site_data(2, 200, shift=2.0, base=-0.5),
        "c": site_data(3, 250, split="lockbox"),
    }


@pytest.mark.parametrize("limits", [UNGATED, DisclosureLimits()])
def test_it_equals_statsmodels_on_pooled_validation_data(limits):
    data = three_sites()
    result = Federation(study([CALIBRATE]), data, limits).run()["score"]
    x, y, patient = pooled(data, ("a", "b"), "validation")
    fit = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-14, maxiter=200)
    np.testing.assert_allclose(result.arrays["coef"], fit.params, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(list(result.result["se"].values()), fit.bse, rtol=1e-7)
    n = len(np.unique(patient))
    clustered = sm.Logit(y, sm.add_constant(x)).fit(
        disp=0, tol=1e-14, maxiter=200, cov_type="cluster", cov_kwds={"groups": patient, "use_correction": False}
    )
    np.testing.assert_allclose(
        list(result.result["se_patient_clustered"].values()), clustered.bse * np.sqrt(n / (n - 1)), rtol=1e-6
    )
    assert result.result["ecgs"] == len(y)
    assert result.result["patients"] == n
    assert result.result["events"] == y.sum()


def test_training_data_are_used_where_the_study_says_so():
    data = three_sites()
    result = Federation(study([{**CALIBRATE, "split": "train"}]), data).run()["score"]
    x, y, _ = pooled(data, ("a", "b"), "train")
    fit = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-14, maxiter=200)
    np.testing.assert_allclose(result.arrays["coef"], fit.params, rtol=1e-8, atol=1e-8)


def test_max_age_leaves_the_old_out():
    data = three_sites()
    result = Federation(study([{**CALIBRATE, "max_age": 60}]), data).run()["score"]
    x, _, _ = pooled(data, ("a", "b"), "validation")
    assert result.result["ecgs"] == (x[:, 0] < 60).sum()


def test_a_small_site_takes_no_part_and_is_named():
    data = {**three_sites(), "b": site_data(5, 9, split="validation")}
    result = Federation(study([CALIBRATE]), data, DisclosureLimits()).run()["score"].result
    assert result["withheld"] == ["b"]
    assert result["sites"]["b"]["took_part"] is False
    x, y, _ = pooled(data, ("a",), "validation")
    fit = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-14, maxiter=200)
    np.testing.assert_allclose(list(result["coef"].values()), fit.params, rtol=1e-8, atol=1e-8)


def test_nobody_may_release_is_an_error_that_says_what_to_do():
    data = {s: site_data(i, 8, split="validation") for i, s in enumerate("abc")}
    with pytest.raises(RunError, match="twice as many patients"):
        Federation(study([CALIBRATE]), data, DisclosureLimits()).run()


def test_a_site_that_dies_mid_fit_leaves_the_fit_of_the_others():
    data = three_sites()
    chosen = study([CALIBRATE], federation={"quorum": 1})
    result = Federation(chosen, data, gone={("b", "newton", 2)}).run()["score"]
    x, y, _ = pooled(data, ("a",), "validation")
    fit = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-14, maxiter=200)
    np.testing.assert_allclose(result.arrays["coef"], fit.params, rtol=1e-8, atol=1e-8)
    assert result.result["absent"] == {"b": {"newton": "deadline"}}
    assert result.result["withheld"] == ["b"]


@pytest.mark.parametrize(
    ("gone", "away", "members"),
    [
        ({("c", "newton", 4)}, {("b", "newton", 2)}, ("a", "b")),
        (set(), {(site, "newton", 2) for site in "abc"}, ("a", "b", "c")),
        (set(), {("a", "newton", 1), ("b", "newton", 2), ("a", "newton", 3)}, ("b", "c")),
    ],
    ids=["comes back when another leaves", "all away at once", "away twice"],
)
def test_a_site_that_comes_back_takes_part_again(gone, away, members):
    data = {s: site_data(i, 300, split="validation", shift=i - 1) for i, s in enumerate("abc")}
    chosen = study(
        [{**CALIBRATE, "sites": ["a", "b", "c"]}], federation={"quorum": 1}, train=tuple("abc"), zero_shot=()
    )
    score = Federation(chosen, data, gone=gone, away=away).run()["score"]
    assert [s for s, told in score.result["sites"].items() if told["took_part"]] == list(members)
    x, y, _ = pooled(data, members, "validation")
    fit = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-14, maxiter=200)
    np.testing.assert_allclose(score.arrays["coef"], fit.params, rtol=1e-8, atol=1e-8)


def test_coefficients_that_single_people_out_close_the_gate():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 2))
    rows = FitRows(x, rng.integers(0, 2, 100), np.arange(100), np.zeros(0, dtype=np.int64))
    fair = newton_answer(rows, np.zeros(3), np.zeros(2), np.ones(2)).evidence["hessian"]
    assert fair.patients == 100
    # A steep sigmoid centred on one person's value: the Hessian would be that person's.
    steep = np.array([-4000.0 * np.sort(x[:, 0])[50], 4000.0, 0.0])
    aimed = newton_answer(rows, steep, np.zeros(2), np.ones(2)).evidence["hessian"]
    assert aimed.patients < 10
    design = np.column_stack([np.ones(100), x])
    assert effective_patients(design, rows.y, rows.patient, steep) < 10


def test_no_more_sums_leave_than_a_fit_asks_for(tmp_path):
    federation = Federation(study([{**CALIBRATE, "max_iterations": 4}]), {"a": site_data(1, 300)}, state=tmp_path)

    def asked(phase, intercept, run="run"):
        arrays = {"coef": np.array([intercept, 0, 0, 0, 0]), "mean": np.zeros(4), "scale": np.ones(4)}
        request = Request(federation.study.sha256, run, "score", phase, 0, arrays)
        return room("client", "calibrate").PHASES[phase](federation.context("score", "a"), request)

    for i in range(5):
        asked("newton", float(i))
    with pytest.raises(Refused, match="spent"):
        asked("newton", 5.0, run="another")
    asked("newton", 4.0, run="another")


def test_fewer_than_twice_as_many_patients_as_coefficients_release_no_sums():
    rng = np.random.default_rng(1)
    for n, released in ((5, 0), (6, 6)):
        rows = FitRows(rng.normal(size=(n, 2)), np.arange(n) % 2, np.arange(n), np.zeros(0, dtype=np.int64))
        assert newton_answer(rows, np.zeros(3), np.zeros(2), np.ones(2)).evidence["gradient"].patients == released


def test_an_input_that_is_the_answer_separates_and_says_so():
    step = {**CALIBRATE, "target": "sex", "max_iterations": 25}
    with pytest.raises((StatisticsError, RunError)):
        Federation(study([step]), three_sites(), DisclosureLimits()).run()


def test_sex_is_no_default_input_where_sex_is_the_target():
    chosen = study([{"id": "score", "stage": "calibrate", "target": "sex"}])
    result = Federation(chosen, three_sites()).run()["score"].result
    assert result["inputs"] == ["age"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target": "nothing"}, "target 'nothing' is no endpoint"),
        ({"inputs": ["age", "net.event"]}, "net.event"),
        ({"inputs": ["age", "age"]}, "twice"),
    ],
)
def test_a_step_that_does_not_fit_its_study_is_refused(change, says):
    with pytest.raises((ValueError, ConfigError), match=says):
        study([{**CALIBRATE, **change}])


def test_the_report_shows_every_coefficient():
    result = Federation(study([CALIBRATE]), three_sites()).run()["score"]
    tables = {b.title: b for s in report(typed(result)) for b in s.blocks if hasattr(b, "rows")}
    words = ["Intercept", "Age, years", "Male", "Body mass index, kg/m²", "Ejection fraction"]
    assert [row[0] for row in tables["Coefficients"].rows] == words
