"""Time of the pooled AUC and its patient-clustered interval at the size of the published lockbox: 113,072 ECGs."""

from __future__ import annotations

import time

import numpy as np
import pytest
from ecgshared.stats.histogram import bin_of_risk, pool, pooled_auc, score_histogram
from sklearn.metrics import roc_auc_score

from client.rows.risk import Scored
from client.stages.evaluate import histogram_answer, influence_answer, pooled_curves
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stats.influence import AucSums, clustered_auc, estimate
from ecgshared.wire.protocol import Request
from server.pooling.combine import histogram_of
from server.pooling.evaluation import pooled_head, request_arrays

ECGS, PATIENTS, BASE_RATE, SITES = 113_072, 35_417, 0.006, 3


def cohort() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Risks, events and patients like the published ones: 0.6% events, AUC about 0.87."""
    rng = np.random.default_rng(0)
    patient = np.sort(rng.integers(0, PATIENTS, ECGS))
    event = rng.random(PATIENTS) < BASE_RATE
    y = event[patient].astype(int)
    eta = rng.normal(-6, 1.0, PATIENTS)[patient] + 1.75 * y + 0.5 * rng.normal(size=ECGS)
    return 1 / (1 + np.exp(-eta)), y, patient


@pytest.mark.benchmark
def test_pooled_auc_and_interval_of_113072_ecgs():
    risk, y, patient = cohort()
    start = time.perf_counter()
    exact = clustered_auc(risk, y, patient)
    pooled_seconds = time.perf_counter() - start
    assert abs(exact.value - roc_auc_score(y, risk)) < 1e-12
    start = time.perf_counter()
    roc_auc_score(y, risk)
    sklearn_seconds = time.perf_counter() - start

    heads = []
    for site in range(SITES):
        mine = patient % SITES == site
        blank = np.full(int(mine.sum()), np.nan, dtype=np.float32)
        heads.append(Scored(risk[mine], y[mine], patient[mine], blank, blank, 0, 0))
    limits = DisclosureLimits()
    start = time.perf_counter()
    replies = [histogram_answer([head], limits, cut_bin=None).payload for head in heads]
    histograms = {str(s): histogram_of(r.lower, r.upper, r.cases, r.controls) for s, r in enumerate(replies)}
    head = pooled_head(histograms, {str(s): r.predicted for s, r in enumerate(replies)}, {}, 0)
    curves = pooled_curves(Request("", "", "", "influence", 0, request_arrays([head], None)), 1)
    answers = [influence_answer([h], curves, limits, cut_bin=None).payload for h in heads]
    bounds = pooled_auc(list(histograms.values()), [clustered_auc(h.risk, h.y, h.patient).value for h in heads])
    federated = estimate(bounds.value, AucSums.total(a.auc[0] for a in answers).variance, "logit")
    federated_seconds = time.perf_counter() - start

    assert bounds.low <= exact.value <= bounds.high
    whole = pool([score_histogram(bin_of_risk(risk), y, patient, limits)[0]]).auc
    print(
        f"\n{ECGS} ECGs, {PATIENTS} patients, {int(y.sum())} events"
        f"\n  pooled, ungated:   {pooled_seconds:.3f} s   AUC {exact.value:.4f} ({exact.low:.4f} to {exact.high:.4f})"
        f"\n  {SITES} sites, gated:    {federated_seconds:.3f} s   AUC {federated.value:.4f} ({federated.low:.4f} to "
        f"{federated.high:.4f}), bounds {bounds.low:.4f} to {bounds.high:.4f} (histograms alone: "
        f"{head.curves.auc.low:.4f} to {head.curves.auc.high:.4f}), with PPV variances at "
        f"{sum(len(h.lower) for h in histograms.values())} edges"
        f"\n  one merged histogram of all: bounds {whole.low:.4f} to {whole.high:.4f}"
        f"\n  scikit-learn, AUC alone: {sklearn_seconds:.3f} s; ours with interval takes "
        f"{pooled_seconds / sklearn_seconds:.2f} x"
    )
