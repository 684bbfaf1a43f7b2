"""biomarker: its coefficients per SD equal statsmodels on pooled rows; all blocks are of the same ECGs; limits hold."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from federated_stages import UNGATED, Federation, site_data, study, typed

from client.stages import biomarker as handler
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.biomarker import CONTROLS, FEATURES, NO_BEATS, NO_WAVE, NUMBERS, REASONS
from server.report.sections import Key, Table
from server.stages.biomarker import report, zoom

INPUT = {"fs_hz": 250, "seconds": 10}
STEP = {"id": "slur", "stage": "biomarker", "outcome": "event"}


def values_of(data, seed):
    """Measurements by row: a biomarker that goes with the event, controls that go with it, some absent."""
    rng = np.random.default_rng(seed)
    n = len(data)
    out = np.empty((n, NUMBERS))
    out[:, :-1] = rng.standard_normal((n, NUMBERS - 1))
    d1 = len(CONTROLS) + FEATURES.index("avl_d1")
    out[:, d1] = 0.03 + 0.01 * (out[:, d1] - 0.8 * np.nan_to_num(data.labels[:, 0]) + 0.5 * out[:, 0])
    out[:, CONTROLS.index("qrs_axis_deg")] = 50 * rng.standard_normal(n)
    out[:, -1] = -1
    out[rng.random(n) < 0.05, CONTROLS.index("pr_ms")] = np.nan
    lost = rng.random(n) < 0.03
    out[lost] = np.nan
    out[lost, -1] = REASONS.index(NO_BEATS)
    return out


@pytest.fixture
def federation(monkeypatch):
    data = {name: site_data(i, 700, split="lockbox") for i, name in enumerate("abc")}
    values = {id(d.patient): values_of(d, i) for i, d in enumerate(data.values())}

    class Measured:
        def __init__(self, of):
            self._values = values[id(of.patient)]

        def of(self, rows):
            return self._values[rows]

    monkeypatch.setattr(handler, "MeasuredBeats", Measured)

    def made(limits=UNGATED, **step):
        return Federation(study([STEP | step], input=INPUT), data, limits=limits)

    made.data, made.values = data, [values[id(d.patient)] for d in data.values()]
    return made


def pooled(made):
    """Complete rows of all sites: measurements, outcome, patient."""
    xs, ys, ps = [], [], []
    for i, (data, values) in enumerate(zip(made.data.values(), made.values, strict=True)):
        y = data.labels[:, 0]
        keep = np.isfinite(values).all(axis=1) & np.isfinite(y)
        xs.append(values[keep])
        ys.append(y[keep])
        ps.append(data.patient[keep] + 10_000 * i)
    return np.concatenate(xs), np.concatenate(ys).astype(float), np.concatenate(ps)


def oracle(columns, y, patient):
    x = np.column_stack(columns)
    fit = sm.OLS(y, sm.add_constant(x / x.std(axis=0))).fit(cov_type="cluster", cov_kwds={"groups": patient})
    return fit.params, fit.bse


def test_coefficients_per_sd_equal_statsmodels_on_the_pooled_rows(federation):
    result = federation().run()["slur"].result
    x, y, patient = pooled(federation)
    d1 = x[:, len(CONTROLS) + FEATURES.index("avl_d1")]
    alone = next(m for m in result["avl"] if m["name"] == "avl_d1_alone")["pooled"]
    beside = next(m for m in result["avl"] if m["name"] == "avl_d1_with")["pooled"]
    for fit, columns in ((alone, [d1]), (beside, [d1, *x[:, : len(CONTROLS)].T])):
        params, errors = oracle(columns, y, patient)
        found = [c for name, c in fit["coefficients"].items() if name != "intercept"]
        np.testing.assert_allclose([c["value"] for c in found], params[1:], rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose([c["se"] for c in found], errors[1:], rtol=1e-7)
        assert fit["ecgs"] == len(y)
    assert alone["coefficients"]["avl_d1"]["high"] < 0
    # Every lead, each by itself, of the same ECGs.
    assert [m["name"] for m in result["leads"]] == list(FEATURES)
    for j in (0, 9, 23):
        params, errors = oracle([x[:, len(CONTROLS) + j]], y, patient)
        c = result["leads"][j]["pooled"]["coefficients"][FEATURES[j]]
        np.testing.assert_allclose([c["value"], c["se"]], [params[1], errors[1]], rtol=1e-6, atol=1e-10)
    assert {m["pooled"]["ecgs"] for m in (*result["leads"], *result["avl"], result["axis"])} == {len(y)}
    axis = x[:, CONTROLS.index("qrs_axis_deg")]
    left = ((axis > -90) & (axis < -30)).astype(float)
    fit = sm.OLS(y, sm.add_constant(left)).fit(cov_type="cluster", cov_kwds={"groups": patient})
    assert result["axis"]["pooled"]["coefficients"]["left_axis"]["value"] == pytest.approx(fit.params[1])
    sites = result["sites"]
    assert sum(s["left_out"][NO_BEATS] for s in sites.values()) == sum((v[:, -1] == 0).sum() for v in federation.values)
    assert all(s["left_out"][NO_WAVE] > 10 for s in sites.values())


def test_each_hospital_fits_its_own(federation):
    result = federation().run()["slur"].result
    data, values = federation.data["b"], federation.values[1]
    keep = np.isfinite(values).all(axis=1) & np.isfinite(data.labels[:, 0])
    d1 = values[keep, len(CONTROLS) + FEATURES.index("avl_d1")]
    fit = sm.OLS(data.labels[keep, 0].astype(float), sm.add_constant(d1)).fit()
    model = next(m for m in result["avl"] if m["name"] == "avl_d1_alone")
    # Per SD over all hospitals.
    sd = result["sd"]["avl_d1"]
    assert model["sites"]["b"]["coefficients"]["avl_d1"]["value"] == pytest.approx(fit.params[1] * sd)


def test_a_hospital_too_small_for_all_blocks_takes_part_in_none(federation):
    """Each regression alone would be let through; together they are more numbers than half its patients."""
    gated = federation(limits=DisclosureLimits())
    step = gated.study.step("slur")
    patients = min(d.n_patients for d in federation.data.values())
    assert 2 * step.regression(3).numbers_sent() < patients < 2 * step.numbers_sent()
    with pytest.raises(Exception, match="no site can take part"):
        gated.run()
    few = federation(limits=DisclosureLimits(), every_lead=False, controls=[])
    result = few.run()["slur"].result
    assert len(result["avl"]) == 2
    # Whatever the controls are, it is the same ECGs.
    assert result["avl"][0]["pooled"]["ecgs"] == len(pooled(federation)[1])
    assert result["leads"] == []
    assert result["avl"][0]["pooled"]["coefficients"]["avl_d1"]["high"] < 0


def test_the_report_says_what_was_found(federation):
    made = federation()
    made.run()
    (section,) = report(typed(made.artefacts["slur"]))
    assert len([block for block in section.blocks if isinstance(block, Key)]) == 2
    tables = [block for block in section.blocks if isinstance(block, Table)]
    assert [len(table.rows) > 2 for table in tables] == [True, True, True]


def test_aVL_close_up_tells_what_the_whole_beat_does():
    t = np.arange(150) / 250 - 0.2
    wave = np.exp(-((t / 0.014) ** 2)) + 0.2 * np.exp(-(((t - 0.25) / 0.05) ** 2))
    found = zoom("a beat", np.outer(np.linspace(0.5, 1.2, 12), wave), 250.0, (-0.2, 0.4))
    inside = [i for i, ms in enumerate(found.ms) if found.peak_ms < ms <= found.end_ms]
    assert np.mean([found.d1[i] for i in inside]) == pytest.approx(found.mean_d1, abs=2e-5)
    assert abs(found.peak_ms) <= 4
    assert max(v for v in found.scaled) == pytest.approx(1, abs=1e-3)


def test_a_rate_or_band_too_low_is_refused():
    for changed in ({"fs_hz": 100, "seconds": 10}, {"fs_hz": 250, "seconds": 10, "band_hz": [0.5, 30]}):
        with pytest.raises(ValueError, match="40 Hz"):
            study([STEP], input=changed)
    with pytest.raises(ValueError, match="no endpoint"):
        study([STEP | {"outcome": "nothing"}], input=INPUT)
