"""What a fit over tables says besides its coefficients: tests, concordance, baseline hazards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ecgshared.arrays import Floats, Ints
from ecgshared.stats.concordance import clustered_variance, concordance_of_fit
from ecgshared.stats.cox import RiskSums, risk_sums, tie_terms
from ecgshared.stats.cox_fit import CoxFit
from ecgshared.stats.cox_residuals import residual_terms
from ecgshared.stats.few_events import few_events_estimate
from ecgshared.stats.influence import Estimate
from ecgshared.tables.fit import Fitted, Group, Options, Pooling, groups_of
from ecgshared.tables.tables import SiteTable


def concordance(sites: Sequence[SiteTable], fit: CoxFit, mode: Pooling) -> Estimate:
    """Return Harrell's C of the linear predictor on the fit's own rows: pairs that share a baseline hazard.

    The interval is clustered by patient. It is that of the fitted rows: new people will do a little worse.
    """
    time, event, strata = (np.concatenate([getattr(s, name) for s in sites]) for name in ("time", "event", "strata"))
    weight, entry = (column(sites, name, absent) for name, absent in (("weight", 1.0), ("entry", -1.0)))
    where = np.repeat(np.arange(len(sites)), [len(s.time) for s in sites])
    key = np.unique(strata.astype(str), return_inverse=True)[1] * len(sites) + (where if mode == "stratified" else 0)
    score = np.concatenate([s.x @ fit.beta for s in sites])
    found = concordance_of_fit(time, event, score, weight=weight, entry=entry, group=key)
    patient = patients(sites)
    return few_events_estimate(
        found.value, clustered_variance(found.influence, patient), len(np.unique(patient[event])), "logit"
    )


def patients(sites: Sequence[SiteTable]) -> Ints:
    """Number the patients of all sites' rows, shape = (n,)."""
    numbers, offset = [], 0
    for site in sites:
        own = np.arange(len(site.time)) if site.cluster is None else site.cluster
        shared = site.cluster is not None and site.patients_shared
        numbers.append(own if shared else own + offset)
        offset += 0 if shared else int(own.max(initial=-1)) + 1
    return np.concatenate(numbers).astype(np.int64)


def column(sites: Sequence[SiteTable], name: str, absent: float) -> Floats | None:
    """Put a column of all sites together, ``absent`` for those without it, shape = (n,); None where nobody has it."""
    found = [getattr(site, name) for site in sites]
    if all(values is None for values in found):
        return None
    return np.concatenate([np.full(len(s.time), absent) if v is None else v for s, v in zip(sites, found, strict=True)])


@dataclass(frozen=True)
class Baseline:
    """The baseline of one hazard, at the mean of the covariates; arrays by time, shape = (K,).

    Attributes
    ----------
    stratum, site : which one; "" where it is everybody's. until : the last time at which anybody is followed.
    time : ascending, each with an event. hazard : cumulative. variance : of it, were the coefficients known.
    drift : float array, shape = (K, p): cumulative hazard times the mean standardised covariates at risk.
    """

    stratum: str
    site: str
    until: float
    time: Floats
    hazard: Floats
    variance: Floats
    drift: Floats


def baselines(sites: Sequence[SiteTable], fitted: Fitted, mode: Pooling, options: Options) -> list[Baseline]:
    """Return the baseline hazards of a Cox fit, by Efron's or Breslow's rule as the fit."""
    moments = fitted.moments
    beta = fitted.fit.beta * moments.sd
    found = []
    for group in groups_of(sites, moments, mode, options.grid):
        total = RiskSums.total(risk_sums(part.rows, beta, options.ties) for part in group.parts)
        terms, shrink = tie_terms(total, options.ties), np.exp(-total.shift)
        found.append(
            Baseline(
                *group.key,
                until=_until(sites, group),
                time=group.parts[0].rows.grid,
                hazard=np.cumsum(terms.one) * shrink,
                variance=np.cumsum(terms.one2) * shrink**2,
                drift=np.cumsum(residual_terms(total, options.ties).drift, axis=0) * shrink,
            )
        )
    return found


def _until(sites: Sequence[SiteTable], group: Group) -> float:
    return max(float(sites[part.site].time[part.index].max()) for part in group.parts)
