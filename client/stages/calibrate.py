"""calibrate, at the site: moments of the inputs, Newton sums at given coefficients, clustered meat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.rows.allowance import spend
from client.rows.context import SiteContext
from client.rows.logits import feature_matrix
from client.rows.risk import label_column, received, rows_under
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.disclosure import group_size
from ecgshared.stages.calibrate import (
    Config,
    ErrorSums,
    Moments,
    NewtonSums,
    effective_patients,
    standardised_design,
    sums_evidence,
    sums_together,
)
from ecgshared.stats.calibration import logistic_sums, score_meat
from ecgshared.study.score import calibrate_inputs
from ecgshared.wire.protocol import Answer, Evidence, Request


@dataclass(frozen=True)
class FitRows:
    """ECGs with all inputs and the label; x of shape = (n, p)."""

    x: NDArray[np.float64]
    y: NDArray[np.int64]
    patient: NDArray[np.int64]
    left_out: NDArray[np.int64]


def moments(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``moments``."""
    rows = _counted_rows(site, request)
    return moments_answer(rows, patients_known=site.data.patients_known)


def newton(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``newton``."""
    rows = _counted_rows(site, request)
    return newton_answer(rows, *_asked(request, rows.x.shape[1]))


def errors(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``errors``."""
    rows = _counted_rows(site, request)
    return errors_answer(rows, *_asked(request, rows.x.shape[1]))


PHASES = {"moments": moments, "newton": newton, "errors": errors}


def moments_answer(rows: FitRows, *, patients_known: bool) -> Answer:
    """Sum inputs and their squares, and count."""
    size = group_size(rows.patient, rows.y)
    evidence = sums_evidence(size.patients, size.events, rows.x.shape[1] + 1)
    patients = float(size.patients) if patients_known else np.nan
    return Answer(
        Moments(
            counts=np.array([len(rows.y), patients, rows.y.sum()], dtype=np.float64),
            left_out=np.array([len(rows.left_out)], dtype=np.float64),
            total=rows.x.sum(axis=0),
            squares=(rows.x**2).sum(axis=0),
            patients_known=int(patients_known),
        ),
        {
            "counts": Evidence(np.array(size.patients), np.array(size.events)),
            "left_out": Evidence(np.array(len(np.unique(rows.left_out)))),
            "total": evidence,
            "squares": evidence,
        },
        sums_together(rows.patient, rows.y, rows.x.shape[1] + 1),
    )


def newton_answer(
    rows: FitRows, coef: NDArray[np.float64], mean: NDArray[np.float64], scale: NDArray[np.float64]
) -> Answer:
    """Sum gradient, Hessian and log-likelihood at ``coef`` of standardised inputs."""
    design = standardised_design(rows.x, mean, scale)
    sums = logistic_sums(design, rows.y, coef)
    evidence = _evidence(rows, design, coef)
    return Answer(
        NewtonSums(sums.gradient, sums.hessian, np.array([sums.log_likelihood])),
        {"gradient": evidence, "hessian": evidence, "log_likelihood": evidence},
        sums_together(rows.patient, rows.y, len(coef), design, coef),
    )


def errors_answer(
    rows: FitRows, coef: NDArray[np.float64], mean: NDArray[np.float64], scale: NDArray[np.float64]
) -> Answer:
    """Sum the outer products of patients' gradients at ``coef``."""
    design = standardised_design(rows.x, mean, scale)
    meat = score_meat(design, rows.y, rows.patient, coef)
    return Answer(
        ErrorSums(meat),
        {"meat": _evidence(rows, design, coef)},
        sums_together(rows.patient, rows.y, len(coef), design, coef),
    )


def _evidence(rows: FitRows, design: NDArray[np.float64], coef: NDArray[np.float64]) -> Evidence:
    size = group_size(rows.patient, rows.y)
    effective = effective_patients(design, rows.y, rows.patient, coef) if len(rows.y) else 0.0
    return sums_evidence(size.patients, size.events, len(coef), effective)


def _counted_rows(site: SiteContext, request: Request) -> FitRows:
    step = site.step
    if not isinstance(step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step does not calibrate", value=step.stage)
    inputs = calibrate_inputs(step, site.study)
    rows = rows_under(site, site.data.rows(step.split), step.max_age)
    x = feature_matrix(site, inputs, request.arrays, rows) if len(rows) else np.zeros((0, len(inputs)))
    # Inputs may come from weights that were sent: other weights are another question about the same people.
    spend(site, request, request.phase, cap=step.questions(request.phase))
    y = label_column(site, step.target)[rows]
    keep = np.isfinite(x).all(axis=1) & np.isfinite(y)
    return FitRows(x[keep], y[keep].astype(np.int64), site.data.patient[rows[keep]], site.data.patient[rows[~keep]])


def _asked(request: Request, inputs: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    coef = received(request, "coef", (inputs + 1,))
    mean, scale = received(request, "mean", (inputs,)), received(request, "scale", (inputs,))
    if not (scale > 0).all():
        raise Refused(RefusalCode.BAD_REQUEST, "scales must be positive", value=float(scale.min()))
    return coef, mean, scale
