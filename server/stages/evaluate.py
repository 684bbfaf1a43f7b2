"""evaluate, at the coordinator: every site's own figures, then pooled curves with bounds, intervals and slope by
group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.errors import RunError, StatisticsError
from ecgshared.stages.evaluate import (
    Compared,
    Config,
    Histograms,
    LocalResults,
    Placement,
    Result,
    Scale,
    SlopeSums,
    Weighted,
    heads_of,
    subgroup_names,
)
from ecgshared.stats.calibration import LogisticSums, sandwich
from ecgshared.stats.influence import UNDEFINED, estimate
from ecgshared.stats.score_scale import HIGHEST, Sketch
from ecgshared.stats.small_samples import few_events
from ecgshared.study.score import risk_score
from ecgshared.study.secure import secure_sum_in_use
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, bare, est, federated_newton, number, quorum, released
from server.pooling.compared import pooled_difference
from server.pooling.cuts import SiteCuts, evaluation_cuts, padded, released_sketches, site_cuts
from server.pooling.evaluation import pooled_json, site_json
from server.pooling.head import PooledHead, request_arrays
from server.pooling.points import SiteRates
from server.pooling.summed_evaluation import summed
from server.pooling.weighted import pooled_weighted, site_weighted, well_formed
from server.report.evaluation import sections
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Section
from server.rounds.step_context import Artefact, StepContext


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Evaluate; sites that train and sites that never did are pooled apart."""
    if not isinstance(step, Config):
        raise TypeError("an evaluate step's configuration was expected")
    study = context.study
    if secure_sum_in_use(study, step):
        return Artefact(step.id, "evaluate", summed(step, context))
    heads = heads_of(step, study)
    fixed = study.used(step, "threshold")
    cut = float(context.inputs[fixed.id].arrays["cut"][0]) if fixed is not None else HIGHEST
    absent: dict[str, Any] = {}
    context.progress(0, 4, "each site's own figures")
    local: dict[str, LocalResults] = dict(_ask(context, "local", context.sites, absent))
    context.progress(1, 4, "where the scores lie")
    cohorts = tuple(s for s in local if s not in study.sites.case_control)
    scales: dict[str, Scale] = dict(_ask(context, "scale", cohorts, absent))
    pooled: dict[str, Any] = {}
    counted: dict[str, Mapping[int, _Counted]] = {}
    for i, (group, names) in enumerate({"training": study.sites.train, "zero_shot": study.sites.zero_shot}.items()):
        sites = tuple(s for s in names if s in local)
        if sites:
            context.progress(2 + i, 4, f"pooled, {group.replace('_', '-')}")
            found = _ask_counts(step, context, sites, scales, absent)
            counted.update(found.by_site)
            pooled[group] = _pool_group(step, context, local, sites, found, cut if cut < HIGHEST else None, absent)
    compared = _compared(step, context, tuple(local), absent)
    weighted = _weighted(context, cohorts, len(heads), absent)
    score = risk_score(step, study)
    for group, by_head in pooled.items():
        members = study.sites.train if group == "training" else study.sites.zero_shot
        for h, head in enumerate(heads):
            by_head[head]["withheld"] = [s for s in members if s in local and s not in by_head[head]["sites"]]
            by_head[head]["compared"] = {
                name: pooled_difference([compared[s] for s in members if s in compared], h, v)
                for v, name in enumerate(step.compare)
            }
            by_head[head]["weighted"] = pooled_weighted(weighted, members, h)
    return Artefact(
        step.id,
        "evaluate",
        Result.model_validate(
            {
                "score": score.calibrate or score.inputs[0],
                "heads": list(heads),
                "threshold": None if fixed is None else number(context.inputs[fixed.id].arrays["cutoff"][0]),
                "sites": {
                    s: {
                        "group": study.sites.group_of(s),
                        "interval_unit": "patient" if local[s].patients_known else "ECG",
                        "heads": {
                            head: {
                                **site_json(
                                    local[s],
                                    h,
                                    step,
                                    counted.get(s, {}).get(h),
                                    compared.get(s),
                                    with_threshold=fixed is not None and s in cohorts,
                                    by_ranks=s not in cohorts,
                                    study=study,
                                ),
                                "weighted": site_weighted(weighted.get(s), h),
                            }
                            for h, head in enumerate(heads)
                        },
                    }
                    for s in context.sites
                    if s in local
                },
                "pooled": pooled,
                "top_shares": step.top_shares,
                "absent": absent,
            }
        ),
    )


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """Headlines, tables, and ROC, PPV and calibration plots of each endpoint."""
    return sections(artefact.step, artefact.result, labels)


def _ask(
    context: StepContext,
    phase: str,
    sites: tuple[str, ...],
    absent: dict[str, Any],
    *,
    round_: int = 0,
    arrays: Mapping[str, Floats] | None = None,
) -> Mapping[str, Any]:
    """Ask sites one thing; who did not answer is noted."""
    if not sites:
        return {}
    answers = context.ask(phase, round=round_, arrays=arrays, sites=sites, quorum=quorum(context, sites))
    absences(answers, absent, phase)
    return answers.by_site


_Counted = tuple[SiteCuts, SiteRates]


@dataclass(frozen=True)
class _GroupCounts:
    """What the sites of one group released of their scores: by site and head, with the cuts that were asked for."""

    cuts: list[tuple[float, ...]]
    sketches: Mapping[str, list[tuple[Sketch, Sketch]]]
    by_site: Mapping[str, Mapping[int, _Counted]]


def _ask_counts(
    step: Config, context: StepContext, sites: tuple[str, ...], scales: Mapping[str, Scale], absent: dict[str, Any]
) -> _GroupCounts:
    """Choose the group's cuts from the sites' sketches and ask for the counts there."""
    n_heads = len(heads_of(step, context.study))
    sketches = {
        s: [released_sketches(r.head, r.case, r.mean, r.ecgs, h) for h in range(n_heads)]
        for s in sites
        if (r := scales.get(s)) is not None
    }
    cuts = [evaluation_cuts([of_head[h] for of_head in sketches.values()], step.top_shares) for h in range(n_heads)]
    replies = _ask(context, "histogram", tuple(sketches), absent, arrays={"cuts": padded(cuts)})
    return _GroupCounts(cuts, sketches, {s: _split(reply, n_heads, absent, s) for s, reply in replies.items()})


def _split(reply: Histograms, n_heads: int, absent: dict[str, Any], site: str) -> dict[int, _Counted]:
    """Take a site's counts apart by head; what is no histogram is left out and named."""
    found: dict[int, _Counted] = {}
    for h in range(n_heads):
        try:
            bins, cut = reply.head == h, reply.cut_head == h
            counts = site_cuts(
                reply.lower[bins], reply.upper[bins], reply.controls[bins], reply.cut[cut], reply.cases[cut]
            )
            order = np.argsort(-reply.cut[cut], kind="stable")
            rates = SiteRates(
                reply.predicted[cut][order],
                reply.rate[cut][order].reshape(-1, 4),
                reply.group[cut][order].reshape(-1, 6),
            )
        except (StatisticsError, IndexError, ValueError):
            absent.setdefault(site, {})["histogram"] = "not-a-histogram"
            continue
        if counts is not None and np.isfinite(rates.predicted).all():
            found[h] = counts, rates
    return found


def _pool_group(
    step: Config,
    context: StepContext,
    local: Mapping[str, LocalResults],
    sites: tuple[str, ...],
    counted: _GroupCounts,
    cut: float | None,
    absent: dict[str, Any],
) -> dict[str, Any]:
    subgroups = subgroup_names(step, context.study)
    result = {}
    for h, head in enumerate(heads_of(step, context.study)):
        mine = {s: of_head[h] for s, of_head in counted.by_site.items() if h in of_head}
        cases = {s: counted.sketches[s][h][1] for s in mine}
        pooled = PooledHead(
            local={s: local[s] for s in mine},
            counts={s: counts for s, (counts, _) in mine.items()},
            rates={s: rates for s, (_, rates) in mine.items()},
            cases={s: (c.mean, c.ecgs) for s, c in cases.items()},
            h=h,
            cuts=tuple(padded(counted.cuts)[h].tolist()),
            fixed=cut,
            withheld=tuple(s for s in sites if s not in mine),
        )
        result[head] = {
            **pooled_json(pooled, _placements(context, pooled, counted, absent), subgroups),
            **_line(context, pooled, absent),
            "interval_unit": "patient" if all(local[s].patients_known for s in mine) else "ECG",
        }
    return result


def _placements(
    context: StepContext, pooled: PooledHead, counted: _GroupCounts, absent: dict[str, Any]
) -> dict[str, Placement]:
    """Ask for the sums over cases, where there is more than one site."""
    if len(pooled.sites) < 2:
        return {}
    arrays = {"cuts": padded(counted.cuts), **request_arrays(pooled)}
    replies = _ask(context, "placement", pooled.sites, absent, round_=pooled.h, arrays=arrays)
    good = {}
    for site, reply in replies.items():
        if np.ndim(reply.cut) == 1 and np.shape(reply.cut) == np.shape(reply.square_sum) == np.shape(reply.patients):
            good[site] = reply
        else:
            absent.setdefault(site, {})["placement"] = "wrong-shape"
    return good


def _compared(
    step: Config, context: StepContext, sites: tuple[str, ...], absent: dict[str, Any]
) -> dict[str, Compared]:
    if not step.compare:
        return {}
    shape = (len(heads_of(step, context.study)), len(step.compare))
    found = {}
    for site, reply in _ask(context, "compare", sites, absent).items():
        if (np.shape(reply.counts), np.shape(reply.auc), np.shape(reply.difference)) == (
            (*shape, 4),
            (*shape, 2),
            (*shape, 4),
        ):
            found[site] = reply
        else:
            absent.setdefault(site, {})["compare"] = "wrong-shape"
    return found


def _weighted(
    context: StepContext, sites: tuple[str, ...], n_heads: int, absent: dict[str, Any]
) -> dict[str, Weighted]:
    """Ask for the figures weighted for censoring, where the study wants them."""
    if context.study.censoring != "ipcw":
        return {}
    found = {}
    for site, reply in _ask(context, "weighted", sites, absent).items():
        if well_formed(reply, n_heads):
            found[site] = reply
        else:
            absent.setdefault(site, {})["weighted"] = "wrong-shape"
    return found


def _line(context: StepContext, head: PooledHead, absent: dict[str, Any]) -> dict[str, Any]:
    """Pooled calibration intercept and slope by federated Newton; one site's own need no asking."""
    h, sites, local = head.h, head.sites, head.local
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
    if members != tuple(sites):
        silent = ", ".join(s for s in sites if s not in members)
        absent.setdefault("pooled", {})["slope"] = (
            f"{silent} gave no sums of it: a line of the others is not of the group"
        )
        return undefined
    # Where a site does not know its patients each ECG stands for one: the error is robust all the same.
    counts = [local[s].counts[h] for s in members]
    patients = sum(float(c[1] if np.isfinite(c[1]) else c[0]) for c in counts)
    covariance = fit.covariance
    if np.isfinite(patients) and all(released(meats[s], (2, 2)) for s in members):
        covariance = sandwich(covariance, np.sum([meats[s] for s in members], axis=0), float(patients))
    df = 0.0 if few_events(head.patients_with_event) else head.patients_with_event - 1
    intercept, slope = (est(estimate(fit.coef[j], covariance[j, j], "identity", df=df)) for j in (0, 1))
    return {
        "calibration_intercept": bare(intercept) if head.chosen_by_events else intercept,
        "calibration_slope": slope,
    }
