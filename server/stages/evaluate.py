"""evaluate, at the coordinator: every site's own figures, then pooled curves with bounds, intervals and slope by
group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.errors import RunError, StatisticsError
from ecgshared.stages.evaluate import (
    AT_THRESHOLD,
    COUNTS,
    Config,
    Histograms,
    Influence,
    LocalResults,
    Result,
    SlopeSums,
    heads_of,
    subgroup_names,
)
from ecgshared.stats.calibration import LogisticSums, sandwich
from ecgshared.stats.histogram import N_BINS, ScoreHistogram
from ecgshared.stats.influence import UNDEFINED, estimate
from ecgshared.study.score import risk_score
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, est, federated_newton, histogram_of, inside_bins, number, quorum, released
from server.pooling.evaluation import HeadInfluence, PooledHead, pooled_head, pooled_json, request_arrays, site_roc
from server.report.evaluation import sections
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Section
from server.rounds.step_context import Artefact, StepContext

_ESTIMATES = {
    "auc": "auc",
    "brier": "brier",
    "calibration_slope": "slope",
    "calibration_intercept": "intercept",
    "expected_over_observed": "expected_over_observed",
}


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Evaluate; sites that train and sites that never did are pooled apart."""
    if not isinstance(step, Config):
        raise TypeError("an evaluate step's configuration was expected")
    study = context.study
    heads = heads_of(step, study)
    subgroups = tuple(name for names in subgroup_names(step) for name in names)
    fixed = study.used(step, "threshold")
    arrays = context.inputs[fixed.id].arrays if fixed is not None else {}
    cut_bin = int(arrays["cut_bin"][0]) if fixed is not None else None
    score = risk_score(step, study)
    absent: dict[str, Any] = {}
    context.progress(0, 4, "each site's own figures")
    answers = context.ask("local", quorum=quorum(context, context.sites))
    absences(answers, absent, "local")
    local: dict[str, LocalResults] = dict(answers.by_site)
    members = tuple(local)
    context.progress(1, 4, "histograms")
    answers = context.ask("histogram", sites=members, quorum=quorum(context, members))
    absences(answers, absent, "histogram")
    histograms = {s: _split(reply, len(heads), absent, s) for s, reply in answers.by_site.items()}
    groups = {"training": study.sites.train, "zero_shot": study.sites.zero_shot}
    pooled: dict[str, Any] = {}
    for i, (group, names) in enumerate(groups.items()):
        sites = tuple(s for s in names if s in local)
        if sites:
            context.progress(2 + i, 4, f"pooled, {group.replace('_', '-')}")
            pooled[group] = _pool_group(step, context, sites, local, histograms, cut_bin, subgroups, absent)
    result = {
        "score": score.calibrate or score.inputs[0],
        "heads": list(heads),
        "threshold": None if fixed is None else number(arrays["cutoff"][0]),
        "top_shares": list(step.top_shares),
        "sites": {
            s: {
                "group": "training" if s in study.sites.train else "zero_shot",
                "interval_unit": "patient" if local[s].patients_known else "ECG",
                "heads": {
                    head: _site_json(local[s], h, step, subgroups, histograms.get(s, {}).get(h), cut_bin)
                    for h, head in enumerate(heads)
                },
            }
            for s in context.sites
            if s in local
        },
        "pooled": pooled,
        "absent": absent,
    }
    return Artefact(step.id, "evaluate", Result.model_validate(result))


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """Headlines, tables, and ROC, PPV and calibration plots of each endpoint."""
    return sections(artefact.step, artefact.result, labels)


_Binned = tuple[ScoreHistogram, Floats]


def _split(reply: Histograms, n_heads: int, absent: dict[str, Any], site: str) -> dict[int, _Binned]:
    """Take a site's bins apart by head; what is no histogram is left out and named."""
    found: dict[int, _Binned] = {}
    for h in range(n_heads):
        try:
            mine = (reply.head == h) & np.isfinite(reply.predicted) & np.isfinite(reply.cases)
            histogram = histogram_of(reply.lower[mine], reply.upper[mine], reply.cases[mine], reply.controls[mine])
        except (StatisticsError, IndexError, ValueError):
            absent.setdefault(site, {})["histogram"] = "not-a-histogram"
            continue
        if len(histogram.lower) and inside_bins(histogram):
            found[h] = (histogram, np.asarray(reply.predicted[mine], dtype=np.float64))
    return found


def _pool_group(
    step: Config,
    context: StepContext,
    sites: tuple[str, ...],
    local: Mapping[str, LocalResults],
    histograms: Mapping[str, Mapping[int, _Binned]],
    cut_bin: int | None,
    subgroups: tuple[str, ...],
    absent: dict[str, Any],
) -> dict[str, Any]:
    heads = heads_of(step, context.study)
    pooled: list[PooledHead] = []
    for h in range(len(heads)):
        binned = {s: histograms[s][h] for s in sites if h in histograms.get(s, {})}
        pooled.append(pooled_head({s: b[0] for s, b in binned.items()}, {s: b[1] for s, b in binned.items()}, local, h))
    asked = tuple(s for s in sites if histograms.get(s))
    influences: dict[str, Influence] = {}
    if asked:
        answers = context.ask(
            "influence", arrays=request_arrays(pooled, cut_bin), sites=asked, quorum=quorum(context, asked)
        )
        absences(answers, absent, "influence")
        influences = dict(answers.by_site)
    result = {}
    for h, head in enumerate(heads):
        result[head] = {
            **pooled_json(
                pooled[h],
                {s: i for s, reply in influences.items() if (i := _of_head(reply, h, len(heads))) is not None},
                local,
                h,
                top_shares=step.top_shares,
                subgroups=subgroups,
                cut_bin=None if cut_bin is None or cut_bin >= N_BINS else cut_bin,
            ),
            **_line(context, h, tuple(pooled[h].histograms), local, absent),
            "withheld": [s for s in sites if s not in pooled[h].histograms],
            "interval_unit": "patient" if all(local[s].patients_known for s in pooled[h].histograms) else "ECG",
        }
    return result


def _of_head(reply: Influence, h: int, n_heads: int) -> HeadInfluence | None:
    """Find one head's part of a site's reply; None where the site sent something of another shape."""
    columns = (reply.head, reply.edge, reply.edge_square_sum, reply.edge_patients)
    if np.shape(reply.auc) != (n_heads, 6) or {np.shape(reply.in_large), np.shape(reply.sensitivity)} != {(n_heads,)}:
        return None
    if any(np.shape(column) != np.shape(reply.head) or np.ndim(column) != 1 for column in columns):
        return None
    mine = reply.head == h
    return HeadInfluence(
        auc=reply.auc[h],
        in_large=float(reply.in_large[h]),
        sensitivity=float(reply.sensitivity[h]),
        edge=reply.edge[mine],
        edge_square_sum=reply.edge_square_sum[mine],
        edge_patients=reply.edge_patients[mine],
    )


def _line(
    context: StepContext, h: int, sites: tuple[str, ...], local: Mapping[str, LocalResults], absent: dict[str, Any]
) -> dict[str, Any]:
    """Pooled calibration intercept and slope by federated Newton; one site's own need no asking."""
    undefined = {"calibration_intercept": est(UNDEFINED), "calibration_slope": est(UNDEFINED)}
    if len(sites) < 2:
        if not sites:
            return undefined
        own = local[sites[0]]
        return {"calibration_intercept": est(own.intercept[h]), "calibration_slope": est(own.slope[h])}
    meats: dict[str, Floats] = {}

    def ask_sums(coef: Floats, round_: int, members: tuple[str, ...]) -> Mapping[str, LogisticSums]:
        answers = context.ask(
            "slope",
            round=100 * h + round_,
            arrays={"head": np.array([float(h)]), "coef": coef},
            sites=members,
            quorum=quorum(context, members),
        )
        absences(answers, absent, "slope")
        found: dict[str, LogisticSums] = {}
        for site, reply in answers.by_site.items():
            sums: SlopeSums = reply
            if released(sums.hessian, (2, 2)) and released(sums.gradient, (2,)) and released(sums.log_likelihood, (1,)):
                found[site] = LogisticSums(sums.gradient, sums.hessian, float(sums.log_likelihood[0]))
                meats[site] = sums.meat
        return found

    try:
        fit, members = federated_newton(ask_sums, sites, np.array([0.0, 1.0]), names=("intercept", "logit of the risk"))
    except (StatisticsError, RunError) as error:
        absent.setdefault("pooled", {})["slope"] = str(error).splitlines()[0]
        return undefined
    patients = sum(local[s].counts[h, 1] for s in members)
    covariance = fit.covariance
    if np.isfinite(patients) and all(released(meats[s], (2, 2)) for s in members):
        covariance = sandwich(covariance, np.sum([meats[s] for s in members], axis=0), float(patients))
    intercept, slope = (est(estimate(fit.coef[j], covariance[j, j], "identity")) for j in (0, 1))
    return {"calibration_intercept": intercept, "calibration_slope": slope}


def _site_json(
    local: LocalResults, h: int, step: Config, subgroups: tuple[str, ...], binned: _Binned | None, cut_bin: int | None
) -> dict[str, Any]:
    counts = local.counts[h]
    return {
        **{name: number(counts[i]) for i, name in enumerate(COUNTS)},
        "left_out": number(local.left_out[h]),
        "base_rate": number(counts[2] / counts[0]) if counts[0] > 0 else None,
        "mean_predicted": number(local.mean_predicted[h]),
        **{name: est(getattr(local, field)[h]) for name, field in _ESTIMATES.items()},
        "ppv": [
            {"wanted_share": share, "share": number(local.top[h, k, 0]), "rate": est(local.top[h, k, 1:])}
            for k, share in enumerate(step.top_shares)
        ],
        "threshold": None
        if cut_bin is None
        else {name: est(local.at_threshold[h, i]) for i, name in enumerate(AT_THRESHOLD)},
        "subgroups": {
            name: {
                **{count: number(local.subgroup_counts[h, g, i]) for i, count in enumerate(COUNTS)},
                "mean_predicted": number(local.subgroup_rates[h, g, 0]),
                "observed": number(local.subgroup_rates[h, g, 1]),
                "auc": est(local.subgroup_auc[h, g]),
            }
            for g, name in enumerate(subgroups)
        },
        "calibration_curve": [
            {"ecgs": number(row[0]), "mean_predicted": number(row[1]), "observed": est(row[2:])}
            for row in local.calibration[h]
            if np.isfinite(row[0])
        ],
        "roc": None if binned is None else site_roc(binned[0]),
    }
