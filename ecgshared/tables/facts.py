"""What ``ecgfed survival fit`` says, as plain values: what --json prints and the tables are made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import norm

from ecgshared.errors import StatisticsError
from ecgshared.stats.cox_fit import CoxFit
from ecgshared.stats.cox_tests import Test, overall_tests, wald
from ecgshared.stats.influence import Estimate
from ecgshared.stats.meta_analysis import meta_analysis
from ecgshared.tables.after import concordance
from ecgshared.tables.fit import Fitted, Options, fit_local
from ecgshared.tables.levels import Levels
from ecgshared.tables.tables import SiteTable, Tables

if TYPE_CHECKING:
    from ecgshared.tables.fit import Pooling


def of_tables(tables: Tables, options: Options, mode: str, model: str) -> dict[str, Any]:
    """Return what was asked and who is in it."""
    return {
        "model": model,
        "mode": mode,
        "engine": "lifelines, each site by itself" if mode == "local" else "federated Newton",
        "ties": options.ties,
        "penalizer": options.penalty.penalizer,
        "l1_ratio": options.penalty.l1_ratio,
        "robust": options.robust,
        "grid": None if options.grid is None else options.grid.tolist(),
        "sites": [counts(site) for site in tables.sites],
        "levels": levels(tables.levels),
        "notes": [*tables.reference_levels, *tables.notes],
    }


def of_pooled(tables: Tables, fitted: Fitted, options: Options, mode: Pooling) -> dict[str, Any]:
    """Return what one model over all sites says."""
    fit = fitted.fit
    facts = _model(fit, tables.names) | {
        "tests": {name: _test(test) for name, test in overall_tests(fit).items()},
        "terms": {
            name: _test(wald(fit, columns))
            for name, columns in {**tables.design.terms, **tables.design.nonlinear}.items()
            if len(columns) > 1 or name in tables.design.nonlinear
        },
        "proportional_hazards": _proportional(fitted, options.transform),
    }
    try:
        facts["concordance"] = _estimate(concordance(tables.sites, fit, mode))
    except StatisticsError as error:
        facts["concordance"] = None
        facts["without_concordance"] = error.what
    return facts


def of_sites(tables: Tables, options: Options, facts: dict[str, Any]) -> None:
    """Add each site's own model to ``facts``; raise where no site could be fitted."""
    for site, row in zip(tables.sites, facts["sites"], strict=True):
        try:
            found, said = fit_local(site, tables.names, options)
        except StatisticsError as error:
            row["error"] = str(error)
            continue
        row |= _model(found, tables.names)
        facts["notes"] += [f"{site.name}: {line}" for line in said]
    if all("error" in row for row in facts["sites"]):
        raise StatisticsError("no site could be fitted", value=facts["sites"][0]["error"])
    facts["random_effects"] = [_together(facts["sites"], j, name) for j, name in enumerate(tables.names)]


def _together(sites: list[dict[str, Any]], j: int, name: str) -> dict[str, Any]:
    """Put the sites' own coefficients of one covariate together; a site without one, or its error, is left out."""
    rows = [row["covariates"][j] if "covariates" in row else {} for row in sites]
    values, errors = (
        np.array([np.nan if (v := row.get(key)) is None else v for row in rows], dtype=np.float64)
        for key in ("log_hazard_ratio", "standard_error")
    )
    found = meta_analysis(values, errors)
    low, high = found.prediction
    return {
        "covariate": name,
        "sites": [site["site"] for site, used in zip(sites, found.used, strict=True) if used],
        "log_hazard_ratio": number(found.random.value),
        "standard_error": number(found.random.se),
        "hazard_ratio": number(np.exp(found.random.value)),
        "hazard_ratio_low": number(np.exp(found.random.low)),
        "hazard_ratio_high": number(np.exp(found.random.high)),
        "p": number(found.random_p),
        "tau2": number(found.tau2),
        "i2": number(found.i2),
        "prediction": [number(np.exp(low)), number(np.exp(high))],
    }


def counts(site: SiteTable) -> dict[str, Any]:
    """Return who is at a site."""
    patients = len(site.event) if site.cluster is None else len(np.unique(site.cluster))
    return {
        "site": site.name,
        "rows": len(site.event),
        "patients": patients,
        "events": int(site.event.sum()),
        "competing": 0 if site.cause is None else int((site.cause == 2).sum()),
        "dropped": site.dropped,
    }


def levels(found: tuple[Levels, ...]) -> dict[str, dict[str, dict[str, int]]]:
    """Return the rows of each site that have each level, by column and level."""
    return {one.name: {label: dict(one.rows[label]) for label in one.labels} for one in found}


def number(value: float) -> float | None:
    """Return a float, or None where it is none."""
    return float(value) if math.isfinite(value) else None


def _estimate(found: Estimate) -> dict[str, float | None]:
    return dict(zip(("value", "standard_error", "low", "high"), map(number, found.as_array()), strict=True))


def _test(test: Test) -> dict[str, Any]:
    return {"chi_squared": number(test.statistic), "degrees": test.degrees, "p": number(test.p)}


def _model(fit: CoxFit, names: tuple[str, ...]) -> dict[str, Any]:
    z = float(norm.ppf(0.975))
    rows = []
    for name, beta, se in zip(names, fit.beta, fit.standard_errors, strict=True):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            values = np.exp([beta, beta - z * se, beta + z * se])
            p = 2 * norm.sf(abs(beta) / se)
        shown = [number(v) for v in (beta, se, *values, p)]
        keys = ("log_hazard_ratio", "standard_error", "hazard_ratio", "hazard_ratio_low", "hazard_ratio_high", "p")
        rows.append({"covariate": name, **dict(zip(keys, shown, strict=True))})
    return {
        "covariates": rows,
        "covariance": [[number(v) for v in row] for row in fit.covariance],
        "log_likelihood": fit.log_likelihood,
        "log_likelihood_null": fit.log_likelihood_null,
        "rounds": fit.rounds,
    }


def _proportional(fitted: Fitted, transform: str) -> dict[str, Any]:
    test = fitted.proportional
    lines = [] if test is None else zip(test.names, test.statistic, test.degrees, test.p_value, strict=True)
    return {
        "transform": transform,
        "lines": [
            {"covariate": name, "chi_squared": number(statistic), "degrees": int(degrees), "p": number(p)}
            for name, statistic, degrees, p in lines
        ],
    }
