"""``ecgfed survival fit``: a Cox model over the tables of several sites, as if they were one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np

    from ecgshared.stats.cox_fit import CoxFit
    from ecgshared.tables.fit import Fitted, Options
    from ecgshared.tables.tables import SiteTable, Tables

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Survival models over the tables of several sites.")


@app.callback()
def survival() -> None:
    """Survival models over the tables of several sites."""


class Mode(StrEnum):
    """One baseline hazard for all sites, one for each, or a model for each site."""

    exact = "exact"
    stratified = "stratified"
    local = "local"


class TieRule(StrEnum):
    """How tied deaths share a risk set."""

    efron = "efron"
    breslow = "breslow"


class TimeScale(StrEnum):
    """Against what the test of proportional hazards is: one scale over all sites."""

    rank = "rank"
    km = "km"
    identity = "identity"
    log = "log"


class Missing(StrEnum):
    """What to do with rows in which a value is missing."""

    refuse = "refuse"
    drop = "drop"


@app.command()
def fit(
    site: Annotated[list[Path], typer.Option(help="A CSV file of one site; once for each site.")],
    time: Annotated[str, typer.Option(help="Column: time to the event or to the end of follow-up.")],
    event: Annotated[str, typer.Option(help="Column: 1 where the event happened, else 0.")],
    covariates: Annotated[str, typer.Option(help='Columns, separated by commas: age,"stage, N1".')],
    mode: Annotated[Mode, typer.Option(help="One baseline hazard, one a site, or one model a site.")] = Mode.stratified,
    ties: Annotated[TieRule, typer.Option(help="Tied deaths.")] = TieRule.efron,
    penalizer: Annotated[float, typer.Option(help="Strength of the penalty, as in lifelines.")] = 0.0,
    l1_ratio: Annotated[float, typer.Option("--l1-ratio", help="0: ridge, 1: lasso.")] = 0.0,
    categorical: Annotated[str, typer.Option(help="Covariates made into 0/1 columns of their words.")] = "",
    strata: Annotated[str | None, typer.Option(help="Column: a baseline hazard for each of its values.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Column: rows of one patient share its value; makes errors robust.")
    ] = None,
    robust: Annotated[bool, typer.Option("--robust", help="Robust (sandwich) errors.")] = False,
    grid: Annotated[
        str, typer.Option(help="Coarse times: a width (30), or the ends of intervals (30,90,365), in the time's unit.")
    ] = "",
    ph_transform: Annotated[
        TimeScale, typer.Option(help="Time scale of the test of proportional hazards, as in R's cox.zph.")
    ] = TimeScale.rank,
    missing: Annotated[Missing, typer.Option(help="Rows with a missing value.")] = Missing.refuse,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Fit a Cox model to the tables of several sites.

    The files are read on this machine, so no disclosure rule applies. The sums are those of a federated study.
    """
    import json

    from ecgshared.stats.cox_fit import Penalty
    from ecgshared.tables.fit import Options
    from ecgshared.tables.tables import Columns, read_tables

    columns = Columns(time, event, _list(covariates), _list(categorical), strata, cluster)
    penalty = Penalty(penalizer, l1_ratio)
    _require_meaning(mode, ties, penalty)
    tables = read_tables(site, columns, missing.value)
    terms = {name: [j] for j, name in enumerate(tables.names)}
    options = Options(
        ties.value,
        penalty,
        robust or cluster is not None,
        _grid(grid, tables),
        transform=ph_transform.value,
        terms=terms,
    )
    facts = _facts(tables, options, mode)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, allow_nan=False))
    else:
        _show(facts)


def _list(text: str) -> tuple[str, ...]:
    import csv

    # As in the files: a name with a comma in it stands in quotes.
    words = next(csv.reader([text], skipinitialspace=True), [])
    return tuple(word.strip() for word in words if word.strip())


def _require_meaning(mode: Mode, ties: TieRule, penalty: Any) -> None:
    from ecgshared.errors import ConfigError

    if mode is Mode.local and ties is TieRule.breslow:
        raise ConfigError("a local fit is made by lifelines, which has Efron's rule only", remedy="--ties efron")
    if penalty.l1_ratio and not penalty.penalizer:
        raise ConfigError("--l1-ratio has no meaning without a penalty", remedy="set --penalizer above 0")


def _grid(text: str, tables: Tables) -> np.ndarray | None:
    import numpy as np

    from ecgshared.errors import ConfigError

    if not text.strip():
        return None
    try:
        ends = np.array([float(word) for word in text.split(",")])
    except ValueError as error:
        raise ConfigError(
            "--grid is not valid", value=text, allowed="a width, or ends of intervals: 30,90,365"
        ) from error
    if not (np.isfinite(ends).all() and (ends > 0).all() and (np.diff(ends) > 0).all()):
        raise ConfigError("--grid is not valid", value=text, allowed="ascending numbers above 0")
    if len(ends) > 1:
        return ends
    last = max(float(site.time.max()) for site in tables.sites)
    steps = int(np.ceil(last / ends[0]))
    if steps > 1_000_000:
        raise ConfigError("--grid makes more than a million intervals", value=text, remedy="a larger width")
    return np.asarray(ends[0] * np.arange(1, max(steps, 1) + 1))


def _facts(tables: Tables, options: Options, mode: Mode) -> dict[str, Any]:
    """Return all that the command says, as plain values."""
    from ecgshared.errors import StatisticsError
    from ecgshared.tables.fit import fit_local, fit_sites

    facts: dict[str, Any] = {
        "mode": mode.value,
        "engine": "lifelines, each site by itself" if mode is Mode.local else "federated Newton",
        "ties": options.ties,
        "penalizer": options.penalty.penalizer,
        "l1_ratio": options.penalty.l1_ratio,
        "robust": options.robust,
        "grid": None if options.grid is None else options.grid.tolist(),
        "sites": [_counts(site) for site in tables.sites],
        "notes": list(tables.notes),
    }
    if mode is not Mode.local:
        fitted = fit_sites(tables.sites, tables.names, "exact" if mode is Mode.exact else "stratified", options)
        tested = {"proportional_hazards": _proportional(fitted, options.transform)}
        return facts | _model(fitted.fit, tables.names) | tested
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
    return facts


def _counts(site: SiteTable) -> dict[str, Any]:
    import numpy as np

    patients = len(site.event) if site.cluster is None else len(np.unique(site.cluster))
    return {
        "site": site.name,
        "rows": len(site.event),
        "patients": patients,
        "events": int(site.event.sum()),
        "dropped": site.dropped,
    }


def _model(fit: CoxFit, names: tuple[str, ...]) -> dict[str, Any]:
    import numpy as np
    from scipy.stats import norm

    z = float(norm.ppf(0.975))
    rows = []
    for name, beta, se in zip(names, fit.beta, fit.standard_errors, strict=True):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            values = np.exp([beta, beta - z * se, beta + z * se])
            p = 2 * norm.sf(abs(beta) / se)
        shown = [_number(v) for v in (beta, se, *values, p)]
        keys = ("log_hazard_ratio", "standard_error", "hazard_ratio", "hazard_ratio_low", "hazard_ratio_high", "p")
        rows.append({"covariate": name, **dict(zip(keys, shown, strict=True))})
    return {
        "covariates": rows,
        "covariance": [[_number(v) for v in row] for row in fit.covariance],
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
            {"covariate": name, "chi_squared": _number(statistic), "degrees": int(degrees), "p": _number(p)}
            for name, statistic, degrees, p in lines
        ],
    }


def _number(value: float) -> float | None:
    import math

    return float(value) if math.isfinite(value) else None


def _show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    sites = Table("site", *("rows", "patients", "events", "dropped"), title="Sites")
    for row in facts["sites"]:
        sites.add_row(escape(row["site"]), *(str(row[key]) for key in ("rows", "patients", "events", "dropped")))
    console.print(sites)
    meaning = {
        "exact": "one baseline hazard for all sites",
        "stratified": "a baseline hazard for each site",
        "local": "each site by itself, with lifelines",
    }[facts["mode"]]
    errors = "robust errors" if facts["robust"] else "errors from the information"
    penalty = f", penalizer {facts['penalizer']:g} (l1_ratio {facts['l1_ratio']:g})" if facts["penalizer"] else ""
    console.print(f"Cox model, {meaning}; {facts['ties'].title()} ties, {errors}{penalty}.")
    for row in facts["sites"] if facts["mode"] == "local" else [facts]:
        _show_model(console, row, facts)
    for note in facts["notes"]:
        console.print(f"note: {escape(note)}")


def _show_model(console: Any, model: dict[str, Any], facts: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    if "error" in model:
        console.print(f"[bold]{escape(model['site'])}[/bold]: {escape(model['error'])}")
        return
    table = Table(Column("covariate", overflow="fold"), "log HR", "SE", "HR", "95% interval", "p")
    table.title = escape(model["site"]) if "site" in model else None
    for row in model["covariates"]:
        low, high = _figure(row["hazard_ratio_low"]), _figure(row["hazard_ratio_high"])
        cells = [
            escape(row["covariate"]),
            f"{row['log_hazard_ratio']:.4f}",
            _figure(row["standard_error"], 4),
            _figure(row["hazard_ratio"]),
            "-" if row["standard_error"] is None else f"{low} to {high}",
            _p(row["p"]),
        ]
        table.add_row(*cells)
    console.print(table)
    rounds = f" in {model['rounds']} rounds" if facts["mode"] != "local" else ""
    console.print(
        f"log partial likelihood {model['log_likelihood']:.4f}{rounds}, "
        f"without covariates {model['log_likelihood_null']:.4f}"
    )
    if any(row["standard_error"] is None for row in model["covariates"]):
        console.print("-: the l1 penalty holds the coefficient at 0, so it has no standard error")
    _show_proportional(console, model.get("proportional_hazards", {"lines": []}))


def _show_proportional(console: Any, tested: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not tested["lines"]:
        return
    scale = {"rank": "the rank of the time", "km": "1 - Kaplan-Meier", "identity": "the time", "log": "the log time"}
    table = Table("", "chi-squared", "df", "p", title=f"Proportional hazards, against {scale[tested['transform']]}")
    for row in tested["lines"]:
        chi = "-" if row["chi_squared"] is None else f"{row['chi_squared']:.3f}"
        table.add_row(escape(row["covariate"]), chi, str(row["degrees"]), _p(row["p"]))
    console.print(table)


def _figure(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.2g}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"
