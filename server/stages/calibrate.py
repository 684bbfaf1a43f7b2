"""calibrate, at the coordinator: moments, then Newton's method over the sites, then clustered errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.errors import StatisticsError, TooFewError
from ecgshared.stages.calibrate import Config, Moments, Result
from ecgshared.stages.results.base import Absences
from ecgshared.stages.results.calibrate import SiteCalibration
from ecgshared.stats.calibration import LogisticSums, sandwich, to_raw_scale
from ecgshared.study.score import calibrate_inputs
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, federated_newton, number, numbers, quorum, released
from server.report.glossary import in_words
from server.report.labels import NO_LABELS, Labels, counted
from server.report.sections import Section, Table, Text
from server.rounds.step_context import Artefact, StepContext


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Fit the score; sites that withhold their moments take no part."""
    if not isinstance(step, Config):
        raise TypeError("a calibrate step's configuration was expected")
    inputs = calibrate_inputs(step, context.study)
    names = ("intercept", *inputs)
    p = len(names)
    absent: Absences = {}
    replies = context.ask("moments", quorum=quorum(context, context.sites))
    absences(replies, absent, "moments")
    moments: dict[str, Moments] = dict(replies.by_site)
    active = tuple(
        s
        for s, m in moments.items()
        if released(m.total, (p - 1,)) and released(m.squares, (p - 1,)) and np.isfinite(m.counts[0])
    )
    if not active:
        raise TooFewError(
            "no site may release the sums that calibration needs",
            where=step.id,
            value=", ".join(context.sites),
            remedy="fewer inputs, or more patients: a site needs twice as many patients as coefficients",
        )
    mean, scale = _standardisation([moments[s] for s in active], inputs)

    def ask_sums(coef: Floats, number_: int, sites: tuple[str, ...]) -> Mapping[str, LogisticSums | None]:
        context.progress(number_, step.max_iterations, f"Newton {number_ + 1}")
        answers = context.ask(
            "newton",
            round=number_,
            arrays={"coef": coef, "mean": mean, "scale": scale},
            sites=sites,
            quorum=quorum(context, sites),
        )
        absences(answers, absent, "newton")
        whole = {
            site: released(a.gradient, (p,)) and released(a.hessian, (p, p)) and released(a.log_likelihood, (1,))
            for site, a in answers.by_site.items()
        }
        return {
            site: LogisticSums(a.gradient, a.hessian, float(a.log_likelihood[0])) if whole[site] else None
            for site, a in answers.by_site.items()
        }

    start = np.zeros(len(names))
    ecgs, events = (sum(moments[s].counts[i] for s in active) for i in (0, 2))
    if 0 < events < ecgs:
        start[0] = np.log(events / (ecgs - events))
    fit, members = federated_newton(
        ask_sums,
        active,
        start,
        names=names,
        ridge=step.ridge,
        max_iterations=step.max_iterations,
        tolerance=step.tolerance,
    )
    clustered = _clustered(fit.coef, fit.covariance, mean, scale, members, moments, context, absent)
    coef, covariance = to_raw_scale(fit.coef, fit.covariance, mean, scale)
    known = covariance if clustered is None else clustered
    patients = [moments[s].counts[1] for s in members]
    result = Result(
        target=step.target,
        split=step.split,
        inputs=inputs,
        coef=dict(zip(names, numbers(coef), strict=True)),
        se=dict(zip(names, numbers(np.sqrt(np.diag(covariance))), strict=True)),
        se_patient_clustered=(
            None if clustered is None else dict(zip(names, numbers(np.sqrt(np.diag(clustered))), strict=True))
        ),
        covariance=tuple(tuple(numbers(row)) for row in known),
        ecgs=number(sum(moments[s].counts[0] for s in members)),
        patients=number(sum(patients)),
        events=number(sum(moments[s].counts[2] for s in members)),
        iterations=fit.iterations,
        log_likelihood=number(fit.log_likelihood),
        ridge=step.ridge,
        sites={
            s: SiteCalibration(
                ecgs=number(m.counts[0]),
                patients=number(m.counts[1]),
                events=number(m.counts[2]),
                left_out=number(m.left_out[0]),
                took_part=s in members,
            )
            for s, m in moments.items()
        },
        withheld=tuple(s for s in moments if s not in members),
        absent=absent,
    )
    return Artefact(step.id, "calibrate", result, {"coef": coef})


def _standardisation(moments: list[Moments], inputs: tuple[str, ...]) -> tuple[Floats, Floats]:
    n = float(sum(m.counts[0] for m in moments))
    mean = np.sum([m.total for m in moments], axis=0) / n
    variance = np.sum([m.squares for m in moments], axis=0) / n - mean**2
    flat = variance <= 1e-12 * np.maximum(mean**2, 1e-12)
    if flat.any():
        raise StatisticsError(
            "an input of the score does not vary over all sites",
            value=", ".join(name for name, f in zip(inputs, flat, strict=True) if f),
            remedy="leave it out of inputs",
        )
    return mean, np.sqrt(variance)


def _clustered(
    coef: Floats,
    covariance: Floats,
    mean: Floats,
    scale: Floats,
    members: tuple[str, ...],
    moments: Mapping[str, Moments],
    context: StepContext,
    absent: Absences,
) -> Floats | None:
    """Covariance on the inputs' own scale; None where patients are unknown or a site gives no meat."""
    if not all(moments[s].patients_known for s in members):
        return None
    answers = context.ask(
        "errors",
        arrays={"coef": coef, "mean": mean, "scale": scale},
        sites=members,
        quorum=quorum(context, members),
    )
    absences(answers, absent, "errors")
    meats = [a.meat for a in answers.by_site.values() if released(a.meat, (len(coef), len(coef)))]
    if len(meats) < len(members):
        return None
    patients = float(sum(moments[s].counts[1] for s in members))
    robust = sandwich(covariance, np.sum(meats, axis=0), patients)
    return np.asarray(to_raw_scale(coef, robust, mean, scale)[1], dtype=np.float64)


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """The score's coefficients, and whose data they rest on."""
    r = artefact.result
    clustered = r.se_patient_clustered
    rows = [
        [labels.column(name), r.coef[name], r.se[name], None if clustered is None else clustered[name]]
        for name in r.coef
    ]
    sites = [
        [labels.site(site), s.ecgs, s.patients, s.events, s.left_out, "yes" if s.took_part else "no"]
        for site, s in r.sites.items()
    ]
    sites += [
        [labels.site(site), "-", "-", "-", "-", f"no: {in_words(why.values())}"]
        for site, why in r.absent.items()
        if site not in r.sites
    ]
    penalty = f", ridge {r.ridge:g}" if r.ridge else ""
    return [
        Section(
            f"{labels.step(artefact.step)}: calibrated risk of {labels.endpoint(r.target)}",
            [
                Text(
                    f"Logistic regression of {labels.endpoint(r.target)} on {counted(len(r.inputs), 'input')}, "
                    f"{r.split} "
                    f"patients, by exact federated Newton in {r.iterations} iterations{penalty}."
                ),
                Table(
                    "Coefficients",
                    ["input", "coefficient", "standard error", "clustered by patient"],
                    rows,
                    note="On the inputs' own scale: logits, years, 1 for male.",
                ),
                Table(
                    "Hospitals of the fit",
                    ["hospital", "ECGs", "patients", "ECGs with the event", "ECGs left out", "took part"],
                    sites,
                    note="Left out: an input or the label is unknown.",
                ),
            ],
        )
    ]
