"""evaluate with `censoring: ipcw`: equal to scikit-survival at a site, without bias, and silent about few."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from federated_stages import UNGATED, Federation, study
from sksurv.metrics import brier_score, cumulative_dynamic_auc
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from client.dataset.data import SiteData
from client.rows.weighted import Followed
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.evaluate import WEIGHTED
from ecgshared.study.endpoints import EventTimes
from server.rounds.step_context import Artefact

HORIZON, COEF = 2.0, np.array([-1.2, 1.0])


def of(*sites: str, heads: tuple[str, ...] = ("dead",)):
    """Steps of a study that judges these sites alone."""
    return [
        {"id": "score", "stage": "calibrate", "target": "dead", "inputs": ["bmi"]},
        {"id": "cutoff", "stage": "threshold", "uses": ["score"], "top_share": 0.2},
        {
            "id": "judged",
            "stage": "evaluate",
            "uses": ["score", "cutoff"],
            "subgroups": [],
            "sites": list(sites),
            "heads": list(heads),
        },
    ]


def ipcw_study(censoring: str = "ipcw", sites: tuple[str, ...] = ("a", "b")):
    endpoints = {"dead": {"kind": "time_to_event", "event": "death", "horizon_years": HORIZON}}
    return study(
        of(*sites), train=("elsewhere",), zero_shot=sites, endpoints=endpoints, censoring=censoring, covariates=["bmi"]
    )


def made(rng: np.random.Generator, patients: int, *, ends: float = 4.0, competing: float = 0.0) -> SiteData:
    """One ECG a patient, spread evenly over the years before the data end; risk by bmi, a hazard that the score knows.

    The chance to have the event within two years is expit(COEF . (1, bmi)).
    """
    x = rng.normal(size=patients)
    hazard = np.log1p(np.exp(COEF[0] + COEF[1] * x)) / HORIZON
    event = rng.exponential(1 / hazard)
    other = rng.exponential(1 / competing, patients) if competing else np.full(patients, np.inf)
    end = rng.uniform(0, ends, patients)
    years = np.minimum.reduce([event, other, end])
    cause = np.where(years == event, 1, np.where(years == other, 2, 0))
    label = np.where(end < HORIZON, np.nan, (event < HORIZON) & (event < other))
    blank = np.full(patients, np.nan, dtype=np.float32)
    return SiteData(
        signals=np.zeros((patients, 12, 1), dtype=np.int16),
        patient=np.arange(patients),
        split=np.full(patients, 2, dtype=np.int8),
        heads=("dead",),
        labels=label.astype(np.float32)[:, None],
        age=blank,
        male=blank,
        covariates={"bmi": x.astype(np.float32)},
        fs_hz=100.0,
        patients_known=True,
        flow=(),
        descriptions={},
        follow_up_years=blank,
        event_times={"death": EventTimes(years, cause == 1, cause == 2)},
    )


def judged(data: dict[str, SiteData], *, limits: DisclosureLimits = UNGATED, censoring: str = "ipcw"):
    federation = Federation(ipcw_study(censoring, tuple(data)), data, limits)
    federation.artefacts["score"] = Artefact("score", "calibrate", {}, {"coef": COEF})
    cut = float(COEF @ [1, 1.0])
    federation.artefacts["cutoff"] = Artefact(
        "cutoff", "threshold", {}, {"cut": np.array([cut]), "cutoff": np.array([1 / (1 + np.exp(-cut))])}
    )
    return federation.run()["judged"].result


def test_a_sites_figures_are_scikit_survivals():
    data = made(np.random.default_rng(1), 800)
    found = judged({"a": data})["sites"]["a"]["heads"]["dead"]["weighted"]
    times = data.event_times["death"]
    risk = 1 / (1 + np.exp(-(COEF[0] + COEF[1] * data.covariates["bmi"].astype(np.float64))))
    seen = Surv.from_arrays(times.observed, times.years)
    auc, _ = cumulative_dynamic_auc(seen, seen, risk, [HORIZON])
    _, brier = brier_score(seen, seen, (1 - risk)[:, None], [HORIZON])
    at, free = kaplan_meier_estimator(times.observed, times.years)
    rate = 1 - free[np.searchsorted(at, HORIZON, side="right") - 1]
    assert found["auc"]["value"] == pytest.approx(auc[0], abs=1e-9)
    assert found["brier"]["value"] == pytest.approx(brier[0], abs=1e-9)
    assert found["event_rate"]["value"] == pytest.approx(rate, abs=1e-9)
    assert found["expected_over_observed"]["value"] == pytest.approx(risk.mean() / rate, abs=1e-9)
    high = risk >= 1 / (1 + np.exp(-COEF.sum()))
    at, free = kaplan_meier_estimator(times.observed[high], times.years[high])
    ppv = 1 - free[np.searchsorted(at, HORIZON, side="right") - 1]
    assert found["ppv"]["value"] == pytest.approx(ppv, abs=1e-9)
    assert found["ecgs"] == 800
    assert found["events"] == (times.observed & (times.years <= HORIZON)).sum()


def test_nobody_censored_before_the_horizon_leaves_the_plain_figures():
    data = {s: made(np.random.default_rng(i), 400, ends=4.0) for i, s in enumerate("ab")}
    data = {s: d.subset(np.flatnonzero(np.isfinite(d.labels[:, 0]))) for s, d in data.items()}
    result = judged(data)
    pooled = result["pooled"]["zero_shot"]["dead"]
    for found in (pooled, *(result["sites"][s]["heads"]["dead"] for s in "ab")):
        weighted = found["weighted"]
        assert weighted["event_rate"]["value"] == pytest.approx(found["base_rate"], abs=1e-12)
        plain = found["auc_within_sites"] if "auc_within_sites" in found else found["auc"]
        assert weighted["auc"]["value"] == pytest.approx(plain["value"], abs=1e-9)
        assert weighted["expected_over_observed"]["value"] == pytest.approx(
            found["expected_over_observed"]["value"], abs=1e-9
        )
        brier = found["brier"]["value"] if isinstance(found["brier"], dict) else found["brier"]
        assert weighted["brier"]["value"] == pytest.approx(brier, abs=1e-9)


def truth(competing: float) -> tuple[float, float]:
    """Event rate and AUC by the horizon in a million who are all followed to it."""
    from sklearn.metrics import roc_auc_score

    everybody = made(np.random.default_rng(0), 1_000_000, ends=1e12, competing=competing)
    times = everybody.event_times["death"]
    y = times.observed & (times.years <= HORIZON)
    return float(y.mean()), float(roc_auc_score(y, everybody.covariates["bmi"]))


@pytest.mark.parametrize("competing", [0.0, 0.15])
def test_without_bias_and_with_honest_intervals_over_draws(competing):
    rate, auc = truth(competing)
    rng, draws = np.random.default_rng(2), 50
    kept, hits, values = [], {"event_rate": [], "auc": []}, {"event_rate": [], "auc": []}
    for _ in range(draws):
        data = {s: made(rng, 200, competing=competing) for s in "abc"}
        found = judged(data, limits=DisclosureLimits())["pooled"]["zero_shot"]["dead"]
        times = [d.event_times["death"] for d in data.values()]
        # What keeping the events and dropping the living would say.
        cases = sum(int((t.observed & (t.years <= HORIZON)).sum()) for t in times)
        known = sum(int(((t.cause > 0) | (t.years > HORIZON)).sum()) for t in times)
        kept.append(cases / known)
        for name, true in (("event_rate", rate), ("auc", auc)):
            one = found["weighted"][name]
            values[name].append(one["value"])
            hits[name].append(one["low"] <= true <= one["high"])
    assert np.mean(kept) > 1.15 * rate
    for name, true in (("event_rate", rate), ("auc", auc)):
        error = 3 * np.std(values[name]) / np.sqrt(draws)
        assert abs(np.mean(values[name]) - true) < error + 0.002
        # Three standard errors of a coverage of 95% over so many draws.
        assert np.mean(hits[name]) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / draws)


def test_few_who_died_before_the_data_ended_are_not_told_of():
    rng = np.random.default_rng(3)
    data = made(rng, 600)
    early = np.flatnonzero(np.isnan(data.labels[:, 0]) & data.event_times["death"].observed)
    for kept, told in ((12, True), (3, False)):
        rows = np.setdiff1d(np.arange(600), early[kept:])
        found = judged({"a": data.subset(rows)}, limits=DisclosureLimits())
        weighted = found["sites"]["a"]["heads"]["dead"]["weighted"]
        assert all((weighted[name]["value"] is not None) == told for name in WEIGHTED if name != "ppv")
        assert (weighted["events"] is not None) == told
        assert found["sites"]["a"]["heads"]["dead"]["auc"]["value"] is not None
        assert (found["pooled"]["zero_shot"]["dead"]["weighted"]["auc"]["value"] is not None) == told


def test_the_smallest_group_behind_a_figure():
    years = np.array([0.5, 0.5, 3.0, 3.0, 0.5, 3.0, 3.0])
    cause = np.array([1, 1, 0, 0, 0, 1, 1])
    rows = Followed(np.full(7, 0.5), years, cause, np.arange(7), np.array([0, 0, 1, 1, 0, 1, 1], bool), 2.0)
    # Two events before the data end, four who were free at the horizon, one of whom nothing is known.
    assert (rows.size().patients, rows.size().events) == (1, 2)


def test_a_study_that_does_not_weight_is_not_answered():
    data = {"a": made(np.random.default_rng(4), 300)}
    found = judged(data, censoring="strict")
    assert found["sites"]["a"]["heads"]["dead"]["weighted"] is None
    assert found["pooled"]["zero_shot"]["dead"]["weighted"] is None
    from client.stages.evaluate import weighted
    from ecgshared.errors import Refused
    from ecgshared.wire.protocol import Request

    federation = Federation(ipcw_study("strict", ("a",)), data)
    with pytest.raises(Refused, match="does not weight"):
        weighted(federation.context("judged", "a"), Request("", "run", "judged", "weighted", 0, {}))


def test_a_headless_horizon_has_no_weighted_figures():
    data = made(np.random.default_rng(5), 300)
    both = replace(data, heads=("dead", "sex"), labels=np.column_stack([data.labels[:, 0], np.arange(300) % 2]))
    endpoints = {
        "dead": {"kind": "time_to_event", "event": "death", "horizon_years": HORIZON},
        "sex": {"kind": "binary", "column": "male"},
    }
    score, _, evaluate = of("a", heads=("dead", "sex"))
    steps = [score, {**evaluate, "uses": ["score"]}]
    asked = study(
        steps, train=("elsewhere",), zero_shot=("a",), endpoints=endpoints, censoring="ipcw", covariates=["bmi"]
    )
    federation = Federation(asked, {"a": both})
    federation.artefacts["score"] = Artefact("score", "calibrate", {}, {"coef": COEF})
    heads = federation.run()["judged"].result["sites"]["a"]["heads"]
    assert heads["sex"]["weighted"]["auc"]["value"] is None
    assert heads["dead"]["weighted"]["auc"]["value"] is not None
