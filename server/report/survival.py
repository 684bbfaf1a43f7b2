"""How fitted survival models are shown: coefficients, forest plots, and who was followed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ecgshared.stages.results.base import Number
from ecgshared.stages.results.survival import Coefficient, CoxModel, ForestResult, Result
from ecgshared.study.columns import FLAGS
from server.report.forest import Forest, ForestRow, forest
from server.report.glossary import in_words
from server.report.labels import Labels
from server.report.sections import Block, Cell, Section, Table, Text

_MODES = {
    "stratified": "Every site keeps a baseline hazard of its own (stratified by site)",
    "exact": "One baseline hazard for all sites, on a coarse common time grid (exact pooled Cox)",
    "local": "Each site fits by itself; estimates are combined as random effects",
}


def fit_sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """Coefficients, forest plots and who was left out."""
    penalty = f"; penalty {r.penalizer:g}, l1 share {r.l1_ratio:g}" if r.penalizer else ""
    unit = "the most recent usable ECG of each patient" if r.one_ecg_per_patient else "all usable ECGs"
    cut = "" if r.follow_up_years is None else f" Follow-up is cut at {r.follow_up_years:g} years."
    kind = "Cox models" if r.hazard == "cause_specific" else "Fine and Gray's models"
    rivals = (
        "a competing death is censoring, as the hazard is that of people still alive"
        if r.hazard == "cause_specific"
        else "who dies of something else stays in the risk set as one who will not have the event, weighted by the "
        "chance to be followed, and a hazard ratio above 1 means a higher cumulative incidence"
    )
    first = Text(
        f"{kind} of {labels.event(r.event)}. {_MODES[r.mode]}; {r.ties.capitalize()} ties{penalty}. "
        f"{' and '.join(r.splits).capitalize()} patients; {unit}; {rivals}; "
        f"observed risk is the cumulative incidence.{cut} All models "
        "are fitted to the same ECGs, those with every input."
    )
    sections = [Section(f"{labels.step(step)}: survival", [first, _who(r, labels)])]
    for name, model in r.models.items():
        blocks: list[Block] = [_coefficients(name, model, r, labels)]
        blocks += [Text(note) for note in model.notes]
        blocks += [
            _forest(model, column, r.standardised[column].sd, labels)
            for column in model.inputs
            if not _is_latent(column) and len(model.forest[column].sites) > 0
        ]
        sections.append(Section(f"{labels.step(step)}: model {name}", blocks))
    return sections


def _is_latent(column: str) -> bool:
    return ".z" in column and column.rpartition(".z")[2].isdigit()


def _who(r: Result, labels: Labels) -> Table:
    rows: list[list[Cell]] = [
        [
            labels.site(site),
            "yes" if s.took_part else "no",
            s.reason or "-",
            s.ecgs,
            s.patients,
            s.events,
            s.left_out["time unknown"],
            s.left_out["input missing"],
            missing(s.missing),
        ]
        for site, s in r.sites.items()
    ]
    rows += [
        [labels.site(site), "no", in_words(why.values()), *["-"] * 6]
        for site, why in r.absent.items()
        if site not in r.sites
    ]
    columns = [
        "hospital",
        "took part",
        "why not",
        "ECGs",
        "patients",
        "events",
        "time unknown",
        "input missing",
        "missing",
    ]
    return Table(
        "Who was followed, and who was left out",
        columns,
        rows,
        note="ECGs without a time to event or censoring, and ECGs (with a time) that lack an input, are left out.",
    )


def missing(counts: Mapping[str, Number]) -> str:
    """Return the inputs that ECGs lack, with how many lack them; "withheld" where none or few do, and which is not
    told."""
    told = [f"{name} {n:.0f}" for name, n in counts.items() if n]
    silent = any(n is None for n in counts.values())
    if not told:
        return "withheld" if silent else "-"
    return ", ".join(told[:6]) + (" ..." if len(told) > 6 else "") + ("; others withheld" if silent else "")


def _coefficients(name: str, model: CoxModel, r: Result, labels: Labels) -> Table:
    hazards = model.proportional_hazards or {}
    rows: list[list[Cell]] = []
    for column, c in model.coefficients.items():
        sd = r.standardised[column].sd
        rows.append(
            [
                labels.column(column),
                c.coef,
                c.se,
                _ratio_span(c, 1.0),
                "-" if sd is None else _ratio_span(c, sd),
                c.p,
                hazards[column].p if column in hazards else "-",
                model.forest[column].i2 if model.forest[column].i2 is not None else "-",
            ]
        )
    together = hazards.get("GLOBAL")
    all_of = "" if together is None or together.p is None else f" (all inputs together: p {together.p:.3f})"
    errors = "robust, clustered by patient" if model.robust else "of the model"
    likelihood = ""
    if model.log_likelihood is not None and model.log_likelihood_null is not None:
        gained = model.log_likelihood - model.log_likelihood_null
        likelihood = f" Log partial likelihood {model.log_likelihood:.2f}, {gained:.2f} above that of no input."
    words = {"likelihood_ratio": "likelihood ratio", "score": "score", "wald": "Wald"}
    told = [f"{words[name]} {t.chi2:.2f}, p {_p(t.p)}" for name, t in model.tests.items() if t.chi2 is not None]
    if told:
        likelihood += f" No input matters, {model.tests['wald'].degrees} degrees of freedom: {'; '.join(told)}."
    counted = ""
    if model.ecgs is not None and model.events is not None:
        counted = f"{model.ecgs:.0f} ECGs, {model.events:.0f} with the event, "
    tested = "Proportional hazards of a subdistribution are not tested. "
    if r.hazard == "cause_specific":
        tested = (
            f"Proportional hazards{all_of}: score test against time in years, as R's cox.zph(transform = "
            '"identity"); a small p says that a hazard ratio changes over time. '
        )
    return Table(
        f"Coefficients, {name}",
        ["input", "log hazard ratio", "SE", "hazard ratio (95% CI)", "per SD", "p", "p, proportional hazards", "I2"],
        rows,
        note=f"{counted}{len(model.sites)} sites, {model.rounds} rounds. Standard errors {errors}.{likelihood} "
        f"{tested}I2: share of the spread between the sites' own fits that is not chance.",
    )


def _p(p: Number) -> str:
    return "unknown" if p is None else "below 0.001" if p < 0.001 else f"{p:.3f}"


def _ratio_span(c: Coefficient, per: float) -> str | None:
    if c.coef is None or c.low is None or c.high is None:
        return None if c.coef is None else f"{math.exp(c.coef * per):.3f}"
    middle, low, high = (math.exp(b * per) for b in (c.coef, c.low, c.high))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _forest(model: CoxModel, column: str, sd: float | None, labels: Labels) -> Forest:
    """The sites' own fits of one input, their combinations, and the model over sites."""
    per = 1.0 if column in FLAGS or sd is None else sd
    f, pooled = model.forest[column], model.coefficients[column]
    rows = []
    for site, s in f.sites.items():
        rows.append(_row(labels.site(site), s.coef, s.se, per, site=site, weight=s.se**-2 if s.se else None))
    for label, together in (("fixed effect", f.fixed), ("random effects", f.random)):
        rows.append(_span_row(label, together.value, together.low, together.high, per))
    if None not in f.prediction:
        further = _span_row("prediction interval", f.random.value, *f.prediction, per)
        rows.append(replace(further, pooled=False, interval_only=True))
    rows.append(_span_row("the model over sites", pooled.coef, pooled.low, pooled.high, per))
    unit = "yes against no" if column in FLAGS else "per standard deviation" if per != 1.0 else "per unit"
    return forest(
        f"Hazard ratio of {labels.column(column)}",
        rows,
        f"hazard ratio, {unit}",
        reference=1.0,
        log=True,
        caption="Sites' own fits and their combination; random effects with Hartung and Knapp's interval, and where "
        f"a further site's value is expected. {_spread(f, per)}",
    )


def _span_row(label: str, value: Number, low: Number, high: Number, per: float) -> ForestRow:
    middle, lower, upper = (None if v is None else math.exp(v * per) for v in (value, low, high))
    return ForestRow(label, middle, lower, upper, pooled=True)


def _row(label: str, value: Number, se: Number, per: float, **keys: Any) -> ForestRow:
    if value is None:
        return ForestRow(label, None, None, None, **keys)
    half = None if se is None else 1.959964 * se
    if half is None:
        return ForestRow(label, math.exp(value * per), None, None, **keys)
    middle, low, high = (math.exp(v * per) for v in (value, value - half, value + half))
    return ForestRow(label, middle, low, high, **keys)


def _spread(h: ForestResult, per: float) -> str:
    if h.q is None or h.p is None or h.i2 is None or h.tau2 is None:
        return "One site has no heterogeneity."
    return f"Heterogeneity: Q {h.q:.2f} (p {h.p:.2f}), I2 {100 * h.i2:.0f}%, tau2 {h.tau2 * per**2:.3f}."
