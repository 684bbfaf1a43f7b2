"""arrhythmia, at the coordinator: curves over the training sites and over the others, and how VF/VT is written down."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ecgshared.errors import RunError, StatisticsError
from ecgshared.stages.arrhythmia import OUTCOMES, CodingSums, Config, Curve, Result, fixed
from ecgshared.stages.results.arrhythmia import Coded, Coding, SiteIncidence
from ecgshared.stages.results.base import Absences, Group
from ecgshared.stats.calibration import LogisticSums, sandwich
from ecgshared.stats.influence import estimate
from ecgshared.stats.regression import decided_p
from ecgshared.stats.score_scale import HIGHEST, pooled_sketch, quantile_cut, risk_of
from ecgshared.stats.small_samples import few_events
from ecgshared.wire.protocol import StepConfig
from server.pooling.arrhythmia import Curves, own, pooled
from server.pooling.combine import absences, est, federated_newton, number, quorum, released
from server.pooling.cuts import evaluation_cuts, released_sketches
from server.report.arrhythmia import sections
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Section
from server.rounds.step_context import Artefact, StepContext


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Ask the training sites first: what share lies above the cut-off there is the share that others are cut at too."""
    if not isinstance(step, Config):
        raise TypeError("an arrhythmia step's configuration was expected")
    study, threshold = context.study, fixed(step, context.study)
    cut = float(context.inputs[threshold.id].arrays["cut"][0])
    absent: Absences = {}
    share = np.nan
    found: dict[Group, Curves] = {}
    groups: dict[Group, tuple[str, ...]] = {"training": study.sites.train, "zero_shot": study.sites.zero_shot}
    for i, (group, names) in enumerate(groups.items()):
        context.progress(i, 3, f"rates, {group.replace('_', '-')}")
        members = tuple(s for s in names if s in context.sites)
        if not members:
            continue
        curves = _curves(step, context, members, cut, share, absent)
        if not curves.by_site:
            continue
        found[group] = curves
        if group == "training":
            share = curves.share_above(cut)
    context.progress(2, 3, "how VF/VT is written down")
    result = Result(
        scd=step.scd,
        vfvt=step.vfvt,
        cutoff=number(risk_of(cut)) if cut < HIGHEST else None,
        share=number(share),
        sites={
            s: SiteIncidence(group=group, outcomes=own(s, curves))
            for group, curves in found.items()
            for s in curves.by_site
        },
        pooled={group: pooled(curves) for group, curves in found.items()},
        coding=_coding(step, context, found, absent),
        absent=absent,
    )
    return Artefact(step.id, "arrhythmia", result, {})


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """Rates by percentile, the two high-risk groups, and how VF/VT is written down."""
    return sections(artefact.step, artefact.result, labels)


def _curves(
    step: Config, context: StepContext, sites: tuple[str, ...], cut: float, share: float, absent: Absences
) -> Curves:
    """Choose a group's cuts from sketches, ask for the counts there, and for errors at the pooled rates."""
    replies = context.ask("scale", sites=sites, quorum=quorum(context, sites))
    absences(replies, absent, "scale")
    sketches = [released_sketches(r.head, r.case, r.mean, r.ecgs, 0) for r in replies.by_site.values()]
    everybody = pooled_sketch([part for pair in sketches for part in pair])
    if not len(everybody[0]):
        for site in replies.by_site:
            absent.setdefault(site, {})["scale"] = "too-few"
        return Curves((), {}, {}, cut, HIGHEST)
    like = quantile_cut(*everybody, share) if np.isfinite(share) and 0 < share < 1 else cut
    wanted = [c for c in (cut, like) if c < HIGHEST]
    cuts = tuple(dict.fromkeys([*wanted, *evaluation_cuts(sketches, step.top_shares)]))
    asked = tuple(replies.by_site)
    arrays = {"cuts": np.array(cuts)}
    answers = context.ask("curve", arrays=arrays, sites=asked, quorum=quorum(context, asked))
    absences(answers, absent, "curve")
    by_site = {}
    for site, reply in answers.by_site.items():
        if _whole(reply, cuts):
            by_site[site] = reply
        else:
            absent.setdefault(site, {})["curve"] = "too-few"
    curves = Curves(cuts, by_site, {}, cut, like, len(asked))
    if not by_site:
        return curves
    asked = tuple(by_site)
    errors = context.ask(
        "errors", arrays=arrays | {"rates": curves.rates()}, sites=asked, quorum=quorum(context, asked)
    )
    absences(errors, absent, "errors")
    good = {s: e for s, e in errors.by_site.items() if np.shape(e.squares) == (len(e.cut), len(OUTCOMES))}
    return Curves(cuts, by_site, good, cut, like, curves.asked)


def _whole(reply: Curve, cuts: tuple[float, ...]) -> bool:
    """Say whether a reply has its shapes, and at least everybody."""
    n = len(reply.cut)
    shapes = {np.shape(getattr(reply, name)) for name in ("ecgs", "patients", "events", "event_patients")}
    return (
        n > 0
        and shapes == {(n, 3)}
        and np.shape(reply.rate) == (n, len(OUTCOMES), 4)
        and bool(np.isfinite(reply.cut).all())
    )


def _coding(step: Config, context: StepContext, found: Mapping[Group, Curves], absent: Absences) -> Coding:
    """Fit VF/VT on the logit of the risk: one intercept for the training sites, one for each other that tells of it."""

    def telling(group: Group) -> tuple[str, ...]:
        return found[group].telling("vfvt") if group in found else ()

    reference, others = telling("training"), telling("zero_shot")
    none = est(np.full(4, np.nan))
    if not reference or not others:
        what = "no training hospital" if not reference else "no other hospital"
        return Coding(slope=none, reference=reference, sites={}, reason=f"{what} tells of VF/VT")
    place = dict.fromkeys(reference, 0) | {s: i + 1 for i, s in enumerate(others)}
    k = len(others) + 1
    meats: dict[str, np.ndarray] = {}

    def ask_sums(coef: np.ndarray, round_: int, members: tuple[str, ...]) -> dict[str, LogisticSums | None]:
        sums: dict[str, LogisticSums | None] = {}
        # Sites of one intercept are asked together.
        for one in dict.fromkeys(place[s] for s in members):
            asked = tuple(s for s in members if place[s] == one)
            answers = context.ask(
                "coding",
                round=round_,
                arrays={"coef": np.array([coef[one], coef[k]])},
                sites=asked,
                quorum=quorum(context, asked),
            )
            absences(answers, absent, "coding")
            for site, reply in answers.by_site.items():
                sums[site] = _placed(reply, place[site], k)
                meats[site] = _square(reply.meat, place[site], k)
        present = {place[s] for s in members}
        first = next((s for s in sums.values() if s is not None), None)
        if first is not None:
            # The intercept of a site that left: nothing tells of it, nothing depends on it.
            gone = [i for i in range(k) if i not in present]
            first.hessian[gone, gone] = 1.0
        return sums

    start = np.zeros(k + 1)
    start[k] = 1.0
    names = ["intercept of the training sites", *(f"intercept of {s}" for s in others), "logit of the risk"]
    try:
        fit, stayed = federated_newton(
            ask_sums, (*reference, *others), start, names=names, max_iterations=step.max_iterations
        )
    except (StatisticsError, RunError) as error:
        return Coding(slope=none, reference=reference, sites={}, reason=str(error).splitlines()[0])
    if not any(s in stayed for s in reference):
        return Coding(slope=none, reference=reference, sites={}, reason="no training hospital tells of VF/VT")
    curves = {s: c for group in found.values() for s, c in group.by_site.items()}
    patients = sum(_patients(curves[s].patients, curves[s].ecgs) for s in stayed)
    covariance = sandwich(fit.covariance, np.sum([meats[s] for s in stayed], axis=0), patients)
    ill = {s: _patients(curves[s].event_patients, curves[s].events) for s in stayed}
    at_home = sum(ill[s] for s in reference if s in stayed)
    coded = {}
    for site in (s for s in others if s in stayed):
        contrast = np.zeros(k + 1)
        contrast[[0, place[site]]] = -1.0, 1.0
        value, variance = float(contrast @ fit.coef), float(contrast @ covariance @ contrast)
        fewest = min(ill[site], at_home)
        df = 0.0 if few_events(fewest) else fewest - 1
        log = estimate(value, variance, "identity", df=df)
        ratio = np.exp(np.array([log.value, log.low, log.high]))
        coded[site] = Coded(
            odds_ratio=est(np.array([ratio[0], log.se * ratio[0], ratio[1], ratio[2]])),
            p=number(decided_p(value, log.se, fewest)) if df > 0 else None,
            ecgs=number(curves[site].ecgs[-1, 0]),
            events=number(curves[site].events[-1, 0]),
        )
    everybody = sum(ill.values())
    df = 0.0 if few_events(everybody) else everybody - 1
    slope = est(estimate(float(fit.coef[k]), float(covariance[k, k]), "identity", df=df))
    return Coding(slope=slope, reference=tuple(s for s in reference if s in stayed), sites=coded)


def _patients(patients: np.ndarray, ecgs: np.ndarray) -> float:
    """Of everybody, VF/VT; ECGs where a site does not know its patients."""
    return float(patients[-1, 0]) if np.isfinite(patients[-1, 0]) else float(ecgs[-1, 0])


def _placed(reply: CodingSums, place: int, k: int) -> LogisticSums | None:
    if not (
        released(reply.gradient, (2,)) and released(reply.hessian, (2, 2)) and released(reply.log_likelihood, (1,))
    ):
        return None
    gradient = np.zeros(k + 1)
    gradient[[place, k]] = reply.gradient
    return LogisticSums(gradient, _square(reply.hessian, place, k), float(reply.log_likelihood[0]))


def _square(part: np.ndarray, place: int, k: int) -> np.ndarray:
    whole = np.zeros((k + 1, k + 1))
    if np.shape(part) == (2, 2):
        whole[np.ix_([place, k], [place, k])] = part
    return whole
