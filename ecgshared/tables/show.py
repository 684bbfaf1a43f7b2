"""The tables of ``ecgfed survival`` on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

_MEANING = {
    "exact": "one baseline hazard for all sites",
    "stratified": "a baseline hazard for each site",
    "local": "each site by itself, with lifelines",
}
_SCALE = {"rank": "the rank of the time", "km": "1 - Kaplan-Meier", "identity": "the time", "log": "the log time"}
_TESTS = {"likelihood_ratio": "likelihood ratio", "score": "score", "wald": "Wald"}


def show_fit(facts: dict[str, Any]) -> None:
    """Print a fit."""
    console = Console()
    _show_sites(console, facts)
    errors = "robust errors" if facts["robust"] else "errors from the information"
    penalty = f", penalizer {facts['penalizer']:g} (l1_ratio {facts['l1_ratio']:g})" if facts["penalizer"] else ""
    name = "Fine and Gray's model of the subdistribution" if facts["model"] == "fine-gray" else "Cox model"
    console.print(f"{name}, {_MEANING[facts['mode']]}; {facts['ties'].title()} ties, {errors}{penalty}.")
    for row in facts["sites"] if facts["mode"] == "local" else [facts]:
        _show_model(console, row, facts)
    _show_together(console, facts.get("random_effects", []))
    for note in facts["notes"]:
        console.print(f"note: {escape(note)}")


def _show_together(console: Console, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    columns = ("covariate", "sites", "HR", "95% interval", "p", "another site", "I2")
    table = Table(*columns, title="The sites together: random effects, with Hartung and Knapp's interval")
    for row in rows:
        span, another = (
            "-" if None in ends else f"{figure(ends[0])} to {figure(ends[1])}"
            for ends in ([row["hazard_ratio_low"], row["hazard_ratio_high"]], row["prediction"])
        )
        share = "-" if row["i2"] is None else f"{row['i2']:.0%}"
        name, count = escape(row["covariate"]), str(len(row["sites"]))
        table.add_row(name, count, figure(row["hazard_ratio"]), span, p_value(row["p"]), another, share)
    console.print(table)


def _show_sites(console: Console, facts: dict[str, Any]) -> None:
    keys = ["rows", "patients", "events", *(["competing"] if any(r["competing"] for r in facts["sites"]) else [])]
    sites = Table("site", *keys, "dropped", title="Sites")
    for row in facts["sites"]:
        sites.add_row(escape(row["site"]), *(str(row[key]) for key in [*keys, "dropped"]))
    console.print(sites)
    for name, found in facts["levels"].items():
        table = Table(escape(name), *(escape(row["site"]) for row in facts["sites"]), title="Rows by level")
        for label, rows in found.items():
            table.add_row(escape(label), *(str(rows[row["site"]]) for row in facts["sites"]))
        console.print(table)


def _show_model(console: Console, model: dict[str, Any], facts: dict[str, Any]) -> None:
    if "error" in model:
        console.print(f"[bold]{escape(model['site'])}[/bold]: {escape(model['error'])}")
        return
    ratio = "sHR" if facts["model"] == "fine-gray" else "HR"
    table = Table(Column("covariate", overflow="fold"), f"log {ratio}", "SE", ratio, "95% interval", "p")
    table.title = escape(model["site"]) if "site" in model else None
    for row in model["covariates"]:
        low, high = figure(row["hazard_ratio_low"]), figure(row["hazard_ratio_high"])
        table.add_row(
            escape(row["covariate"]),
            f"{row['log_hazard_ratio']:.4f}",
            figure(row["standard_error"], 4),
            figure(row["hazard_ratio"]),
            "-" if row["standard_error"] is None else f"{low} to {high}",
            p_value(row["p"]),
        )
    console.print(table)
    rounds = f" in {model['rounds']} rounds" if facts["mode"] != "local" else ""
    console.print(
        f"log partial likelihood {model['log_likelihood']:.4f}{rounds}, "
        f"without covariates {model['log_likelihood_null']:.4f}"
    )
    if any(row["standard_error"] is None for row in model["covariates"]):
        console.print("-: the l1 penalty holds the coefficient at 0, so it has no standard error")
    _show_tests(console, model)


def _show_tests(console: Console, model: dict[str, Any]) -> None:
    tests = {_TESTS[name]: test for name, test in model.get("tests", {}).items()} | {
        f"Wald, {name}": test for name, test in model.get("terms", {}).items()
    }
    said = [
        f"{name} {test['chi_squared']:.2f} on {test['degrees']} (p {p_value(test['p'])})"
        for name, test in tests.items()
        if test["chi_squared"] is not None
    ]
    if said:
        console.print("tests: " + escape("; ".join(said)))
    if model.get("concordance"):
        c = model["concordance"]
        within = "no interval: few events" if c["low"] is None else f"{c['low']:.3f} to {c['high']:.3f}"
        console.print(f"concordance on the fitted rows {c['value']:.3f} ({within})")
    lines = model.get("proportional_hazards", {"lines": []})["lines"]
    if not lines:
        return
    scale = _SCALE[model["proportional_hazards"]["transform"]]
    table = Table("", "chi-squared", "df", "p", title=f"Proportional hazards, against {scale}")
    for row in lines:
        chi = "-" if row["chi_squared"] is None else f"{row['chi_squared']:.3f}"
        table.add_row(escape(row["covariate"]), chi, str(row["degrees"]), p_value(row["p"]))
    console.print(table)


def show_curves(facts: dict[str, Any]) -> None:
    """Print the curves of ``ecgfed survival km``."""
    console = Console()
    _show_sites(console, facts)
    what = "cumulative incidence" if facts["incidence"] else "free of the event"
    for group in facts["groups"]:
        name = group["group"] or "all"
        table = Table("time", "at risk", what, "95% interval", title=f"{escape(name)}: {group['events']} events")
        for row in group["at"]:
            low, high = figure(row["low"]), figure(row["high"])
            span = "-" if row["low"] is None else f"{low} to {high}"
            table.add_row(f"{row['time']:g}", f"{row['at_risk']:g}", figure(row["value"]), span)
        console.print(table)
        if group["median"] is not None:
            low, high = figure(group["median_low"]), figure(group["median_high"])
            console.print(f"median {group['median']:g} ({low} to {high})")
    for row in facts["restricted_means"]:
        own = row["mean"]
        line = f"mean time up to {facts['rmst']:g}, {row['group'] or 'all'}: {own['value']:.4g} "
        line += f"({own['low']:.4g} to {own['high']:.4g})"
        if row["difference"]:
            d = row["difference"]
            line += f"; difference {d['value']:.4g} ({d['low']:.4g} to {d['high']:.4g}), p {p_value(row['p'])}"
        console.print(escape(line))
    for note in facts["notes"]:
        console.print(f"note: {escape(note)}")


_GROUP_TESTS = {"log_rank": "Log-rank test", "gray": "Gray's test of cumulative incidence"}


def show_comparison(facts: dict[str, Any]) -> None:
    """Print the test of ``ecgfed survival logrank`` or ``gray``."""
    console = Console()
    _show_sites(console, facts)
    table = Table("group", "rows", "observed", "expected", title=_GROUP_TESTS[facts["test"]])
    for row in facts["groups"]:
        table.add_row(escape(row["group"]), str(row["rows"]), f"{row['observed']:g}", f"{row['expected']:.2f}")
    console.print(table)
    within = " and ".join(facts["within"])
    console.print(
        f"chi-squared {facts['chi_squared']:.3f} on {facts['degrees']}, p {p_value(facts['p'])}"
        + (f"; within each {within}" if within else "")
    )
    for note in facts["notes"]:
        console.print(f"note: {escape(note)}")


def figure(value: float | None, digits: int = 3) -> str:
    """Return a number as it is shown."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.2g}"


def p_value(value: float | None) -> str:
    """Return a p-value as it is shown."""
    if value is None:
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"
