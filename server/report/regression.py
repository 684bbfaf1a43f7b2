"""How regressions are shown: one table an outcome with models as columns, and the hospitals side by side."""

from __future__ import annotations

import math

from ecgshared.stages.results.base import EstimateResult
from ecgshared.stages.results.regress import CoefficientResult, FitResult, ModelResult, Result
from ecgshared.study.terms import Factor, Term
from server.report.forest import Forest, ForestRow, forest
from server.report.glossary import in_words
from server.report.labels import Labels
from server.report.sections import Block, Cell, Section, Table, Text

_NAMES = {
    "high_risk": "High-risk ECG",
    "risk": "Predicted risk, from 0 to 1",
    "log_odds": "Logit of the predicted risk",
    "defibrillator": "Defibrillator",
}
_SIGNS = {"<=": "at most", "<": "below", ">=": "at least", ">": "above"}
_EFFECTS = {"site": "hospital", "year": "year", "month": "month", "hour": "hour of the day"}
_METHODS = {"ols": "linear", "logistic": "logistic"}


def sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """The models of each outcome, then who took part."""
    whom = labels.whom(step)
    about = f" Of {whom}." if whom else ""
    cut = "" if r.cutoff is None else f" A high-risk ECG has a predicted risk of {100 * r.cutoff:.2f}% or more."
    unknown = ", ".join(labels.column(name) for name in r.unknown_as_no)
    unknown = f" Not known counts as no for: {unknown}." if unknown else ""
    first = Text(
        "Regressions on ECGs that no training saw; all columns are of the same ECGs. Standard errors are clustered by "
        "patient, small-sample factor CR1. Intervals and P by Student's t, with as many degrees of freedom as patients "
        f"decide a coefficient, less one.{about}{cut}{unknown}"
    )
    blocks: list[Block] = [first]
    for method in dict.fromkeys(model.method for model in r.models):
        for outcome in r.outcomes:
            models = [m for m in r.models if m.outcome == outcome and m.method == method]
            blocks.append(_table(models, r, outcome, method, labels))
            blocks += [plot for m in models for term in _told_apart(m, r) if (plot := _forest(m, term, labels))]
    return [Section(f"{labels.step(step)}: regression", [*blocks, _who(r, labels)])]


def _table(models: list[ModelResult], r: Result, outcome: str, method: str, labels: Labels) -> Table:
    terms = list(dict.fromkeys(term for model in models for term in model.terms))
    rows: list[list[Cell]] = [
        [_words(term, labels), *(_cell(model, term) for model in models)] for term in [*terms, "intercept"]
    ]
    if any(model.fixed_effects for model in models):
        rows.append(["Intercepts of each hospital's own", *(_effects(model) for model in models)])
    for group in dict.fromkeys(rate.group for model in models for rate in model.pooled.rates):
        of = [next((rate for rate in m.pooled.rates if rate.group == group), None) for m in models]
        name, treatment = _words(group, labels), _words(r.treatment or "", labels).lower()
        for what, label in (
            ("without", f"{name}: rate without {treatment}"),
            ("expected", f"{name}: rate expected with {treatment}"),
            ("change", f"{name}: change by {treatment}"),
        ):
            rows.append([label, *("-" if rate is None else _percent(getattr(rate, what)) for rate in of)])
    rows.append(["R²" if method == "ols" else "Pseudo-R²", *(model.pooled.r2 for model in models)])
    rows.append(["ECGs", *(model.pooled.ecgs for model in models)])
    rows.append(["Patients", *(model.pooled.patients for model in models)])
    rows.append(["ECGs with the outcome", *(model.pooled.events for model in models)])
    rows.append(["Hospitals", *(", ".join(labels.site(s) for s in m.pooled.sites) or "-" for m in models)])
    reasons = {m.pooled.reason for m in models if m.pooled.reason}
    scale = "percentage points" if method == "ols" else "odds ratios"
    note = f"In {scale}, with 95% intervals and P."
    if any(model.pooled.rates for model in models):
        note += (
            " Rates are at the means of the terms outside the products. Expected: were the group's effect and the "
            "treatment's to add up; change: by what share of that the product moves it, with "
            + ("Fieller's interval." if method == "ols" else "an interval on the log scale.")
        )
    note += "".join(f" A column without coefficients: {reason}." for reason in sorted(reasons))
    title = f"{labels.endpoint(outcome)[:1].upper()}{labels.endpoint(outcome)[1:]}: {_METHODS[method]} regression"
    columns = ["", *(f"({i}) {m.label or m.name.replace('_', ' ')}" for i, m in enumerate(models, start=1))]
    return Table(title, columns, rows, note=note)


def _words(text: str, labels: Labels) -> str:
    if text in ("", "intercept"):
        return "Intercept" if text else ""
    words = [_factor(factor, labels) for factor in Term.read(text).factors]
    return " × ".join([words[0], *(word[:1].lower() + word[1:] for word in words[1:])])


def _factor(factor: Factor, labels: Labels) -> str:
    given = labels.study is not None and factor.column in labels.study.labels
    name = labels.column(factor.column) if given else _NAMES.get(factor.column, labels.column(factor.column))
    name = name[:1].upper() + name[1:]
    if not factor.sign:
        return name
    bound = f"{100 * factor.bound:g}%" if factor.column == "lvef" else f"{factor.bound:g}"
    return f"{name.split(', ')[0]} {_SIGNS[factor.sign]} {bound}"


def _cell(model: ModelResult, term: str) -> Cell:
    if term != "intercept" and term not in model.terms:
        return "-"
    found = model.pooled.coefficients.get(term)
    if found is None or found.value is None:
        return None
    return f"{_span(found, model.method)}{_p(found)}"


def _span(c: EstimateResult, method: str) -> str:
    if c.value is None:
        return "withheld"
    value, low, high = (_scaled(v, method) for v in (c.value, c.low, c.high))
    if low is None or high is None:
        return f"{value:.2f} (no interval)"
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _scaled(value: float | None, method: str) -> float | None:
    """Percentage points, or the odds ratio."""
    if value is None:
        return None
    return 100 * value if method == "ols" else math.exp(min(value, 700.0))


def _p(c: CoefficientResult) -> str:
    if c.p is None:
        return ""
    return ", P < 0.001" if c.p < 0.001 else f", P = {c.p:.3f}"


def _percent(e: EstimateResult) -> Cell:
    if e.value is None:
        return None
    if e.low is None or e.high is None:
        return f"{100 * e.value:.1f}% (no interval)"
    return f"{100 * e.value:.1f}% ({100 * e.low:.1f} to {100 * e.high:.1f})"


def _effects(model: ModelResult) -> str:
    calendar = [_EFFECTS[effect] for effect in model.fixed_effects if effect != "site"]
    return f"by {' and '.join(calendar)}" if calendar else "one each" if model.fixed_effects else "-"


def _told_apart(model: ModelResult, r: Result) -> list[str]:
    """The terms of which hospitals are drawn side by side: products with the treatment, else the first."""
    products = [t for t in model.terms if ":" in t and (r.treatment is None or r.treatment in t.split(":"))]
    return products or [model.terms[0]]


def _forest(model: ModelResult, term: str, labels: Labels) -> Forest | None:
    fits: list[tuple[str, FitResult]] = [(site, fit) for site, fit in model.sites.items() if term in fit.coefficients]
    if not fits:
        return None

    rows = [_row(labels.site(site), fit.coefficients[term], model.method) for site, fit in fits]
    together, pooled = model.together.get(term), model.pooled.coefficients.get(term)
    if together is not None:
        rows.append(_row("random effects", together.random, model.method, pooled=True))
    if pooled is not None:
        rows.append(_row("all hospitals' sums", pooled, model.method, pooled=True))
    ols = model.method == "ols"
    spread = "" if together is None or together.heterogeneity.i2 is None else f" I² {together.heterogeneity.i2:.0%}."
    title = f"{_words(term, labels)}, model {model.label or model.name}: {labels.endpoint(model.outcome)}"
    return forest(
        title,
        rows,
        "percentage points (95% interval)" if ols else "odds ratio (95% interval)",
        reference=0.0 if ols else 1.0,
        log=not ols,
        caption=f"Each hospital's own fit, and all of them.{spread}",
    )


def _row(label: str, e: EstimateResult, method: str, *, pooled: bool = False) -> ForestRow:
    value, low, high = (_scaled(v, method) for v in (e.value, e.low, e.high))
    weight = e.se**-2 if e.se and not pooled else None
    return ForestRow(label, value, low, high, weight=weight, pooled=pooled)


def _who(r: Result, labels: Labels) -> Table:
    rows: list[list[Cell]] = [
        [
            labels.site(site),
            s.ecgs if not s.reason else "-",
            s.patients if not s.reason else "-",
            *(s.events[outcome] if not s.reason else "-" for outcome in r.outcomes),
            s.left_out,
            s.reason or _closed(s.closed, labels) or "-",
        ]
        for site, s in r.sites.items()
    ]
    rows += [
        [labels.site(site), *["-"] * (3 + len(r.outcomes)), in_words(why.values())]
        for site, why in r.absent.items()
        if site not in r.sites
    ]
    events = [f"with {labels.endpoint(outcome)}" for outcome in r.outcomes]
    return Table(
        "Who is in it, and what hospitals withheld",
        ["hospital", "ECGs", "patients", *events, "ECGs left out", "withheld, and why"],
        rows,
        note="Left out: a term or an outcome is unknown. A hospital takes no part in a model with a term it withheld: "
        "sums of yes/no terms are the cells of their cross-table, and none may be of too few patients.",
    )


def _closed(closed: dict[str, str], labels: Labels) -> str:
    by_reason: dict[str, list[str]] = {}
    for what, why in closed.items():
        outcome, of, term = what.rpartition(" of ")
        if set(what.split(" and ")) <= set(_EFFECTS):
            words = f"intercepts by {' and '.join(_EFFECTS[effect] for effect in what.split(' and '))}"
        else:
            words = "all" if term == "all" else _words(term, labels)
        by_reason.setdefault(why, []).append(f"{labels.endpoint(outcome)} by {words}" if of else words)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())
