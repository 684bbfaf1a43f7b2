"""``ecgfed survival``: models and curves over the tables of several sites, as if they were one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecgshared.tables.options import (
    ascending_times,
    covariate_pair,
    grid_ends,
    reference_levels,
    spline_knots,
    words,
)

if TYPE_CHECKING:
    from ecgshared.tables.fit import Pooling
    from ecgshared.tables.tables import Columns, Tables

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Survival models over the tables of several sites.")

Sites = Annotated[list[Path], typer.Option("--site", help="A CSV file of one site; once for each site.")]
Time = Annotated[str, typer.Option(help="Column: time to the event or to the end of follow-up.")]
EventColumn = Annotated[str, typer.Option(help="Column: 1 where the event happened, else 0; with --cause, a code.")]
Cause = Annotated[
    int | None, typer.Option(help="The event column's code of interest; 0 is censored, other codes are competing.")
]
Entry = Annotated[str | None, typer.Option(help="Column: each row is at risk after this time (start of a row).")]
Weight = Annotated[str | None, typer.Option(help="Column: what a row counts, above 0.")]
Cluster = Annotated[str | None, typer.Option(help="Column: rows of one patient share its value; makes errors robust.")]
Shared = Annotated[bool, typer.Option("--patients-shared", help="One value of --cluster at two sites is one patient.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.callback()
def survival() -> None:
    """Survival models and curves over the tables of several sites.

    The files are read on this machine, so no disclosure rule applies. The sums are those of a federated study.
    """


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


class CensoringOf(StrEnum):
    """Whose curve of censoring Fine and Gray's weights take."""

    pooled = "pooled"
    site = "site"


Gaps = Annotated[Missing, typer.Option(help="Rows with a missing value.")]


@app.command()
def fit(
    site: Sites,
    time: Time,
    event: EventColumn,
    covariates: Annotated[str, typer.Option(help='Columns, separated by commas: age,"stage, N1".')],
    mode: Annotated[Mode, typer.Option(help="One baseline hazard, one a site, or one model a site.")] = Mode.stratified,
    ties: Annotated[
        TieRule | None, typer.Option(help="Tied deaths: efron; of --fine-gray breslow, as in R's cmprsk.")
    ] = None,
    penalizer: Annotated[float, typer.Option(help="Strength of the penalty, as in lifelines.")] = 0.0,
    l1_ratio: Annotated[float, typer.Option("--l1-ratio", help="0: ridge, 1: lasso.")] = 0.0,
    categorical: Annotated[str, typer.Option(help="Covariates made into 0/1 columns of their levels.")] = "",
    reference: Annotated[str, typer.Option(help="Reference levels: stage=II,sex=F; else the first.")] = "",
    spline: Annotated[
        list[str] | None,
        typer.Option(help="A natural cubic spline: age=4 (knots at quantiles), or its knots, age=50,62,75,88."),
    ] = None,
    interaction: Annotated[list[str] | None, typer.Option(help="Products of two covariates: age:sex.")] = None,
    strata: Annotated[str | None, typer.Option(help="Column: a baseline hazard for each of its values.")] = None,
    cluster: Cluster = None,
    patients_shared: Shared = False,
    entry: Entry = None,
    weight: Weight = None,
    cause: Cause = None,
    fine_gray: Annotated[
        bool, typer.Option("--fine-gray", help="The hazard of the subdistribution, not the cause-specific one.")
    ] = False,
    censoring: Annotated[
        CensoringOf, typer.Option(help="Fine and Gray's weights: one curve of censoring for all, or each site's.")
    ] = CensoringOf.pooled,
    robust: Annotated[bool, typer.Option("--robust", help="Robust (sandwich) errors.")] = False,
    grid: Annotated[
        str, typer.Option(help="Coarse times: a width (30), or the ends of intervals (30,90,365), in the time's unit.")
    ] = "",
    ph_transform: Annotated[
        TimeScale, typer.Option(help="Time scale of the test of proportional hazards, as in R's cox.zph.")
    ] = TimeScale.rank,
    missing: Gaps = Missing.refuse,
    save: Annotated[Path | None, typer.Option(help="Write the model here (JSON), for survival predict.")] = None,
    forest: Annotated[Path | None, typer.Option(help="Draw the hazard ratios here (.svg or .png).")] = None,
    ph_plot: Annotated[Path | None, typer.Option(help="Draw the residuals over time here (.svg or .png).")] = None,
    as_json: AsJson = False,
) -> None:
    """Fit a Cox model, or Fine and Gray's, to the tables of several sites."""
    from ecgshared.errors import ConfigError
    from ecgshared.stats.cox_fit import Penalty
    from ecgshared.tables import facts as told
    from ecgshared.tables.fit import Options, fit_sites
    from ecgshared.tables.plots import require_picture
    from ecgshared.tables.show import show_fit
    from ecgshared.tables.subdistribution import fit_subdistribution
    from ecgshared.tables.tables import Columns, read_tables

    columns = Columns(
        time,
        event,
        words(covariates),
        words(categorical),
        strata,
        cluster,
        entry,
        weight,
        reference_levels(reference),
        dict(spline_knots(text) for text in spline or []),
        tuple(covariate_pair(text) for text in interaction or []),
        cause,
        patients_shared,
    )
    if not columns.covariates:
        raise ConfigError("no covariates were named", remedy="name one or more: --covariates age,sex")
    rule = ties or (TieRule.breslow if fine_gray else TieRule.efron)
    penalty = Penalty(penalizer, l1_ratio)
    _require_meaning(columns, mode, rule, penalty, fine_gray=fine_gray, made=save or ph_plot, grid=grid)
    for picture in (forest, ph_plot):
        if picture is not None:
            require_picture(picture)
    tables = read_tables(site, columns, missing.value)
    options = Options(
        rule.value,
        penalty,
        robust or cluster is not None or fine_gray,
        grid_ends(grid, tables),
        transform=ph_transform.value,
        terms=tables.design.terms,
    )
    facts = told.of_tables(tables, options, mode.value, "fine-gray" if fine_gray else "cox")
    if mode is Mode.local:
        told.of_sites(tables, options, facts)
    else:
        pooling: Pooling = "exact" if mode is Mode.exact else "stratified"
        if fine_gray:
            fitted = fit_subdistribution(tables.sites, tables.names, pooling, options, censoring.value)
            facts["censoring"] = censoring.value
        else:
            fitted = fit_sites(tables.sites, tables.names, pooling, options)
        facts |= told.of_pooled(tables, fitted, options, pooling)
        _write_beside(tables, fitted, options, pooling, columns, save, ph_plot)
    if forest is not None:
        from ecgshared.tables import plots

        named = [
            {**row, "covariate": f"{model['site']}: {row['covariate']}" if "site" in model else row["covariate"]}
            for model in (facts["sites"] if mode is Mode.local else [facts])
            for row in model.get("covariates", [])
        ]
        plots.forest(named, forest)
    _print(facts, as_json, show_fit)


def _write_beside(
    tables: Tables, fitted: Any, options: Any, pooling: Any, columns: Columns, save: Path | None, ph_plot: Path | None
) -> None:
    """Write the model and the picture of its residuals, where they are wanted."""
    if save is not None:
        from ecgshared.tables.after import baselines
        from ecgshared.tables.saved import saved, write_model

        found = baselines(tables.sites, fitted, pooling, options)
        write_model(saved(tables, fitted, found, pooling, columns.strata), save)
    if ph_plot is not None:
        from ecgshared.tables import plots
        from ecgshared.tables.fit import scaled_residuals

        residuals = scaled_residuals(tables.sites, fitted, pooling, options)
        plots.hazards(tables.names, residuals.g, residuals.scaled, options.transform, ph_plot)


@app.command()
def predict(
    model: Annotated[Path, typer.Option(help="A model that survival fit --save wrote.")],
    rows: Annotated[Path, typer.Option(help="A CSV file of new rows with the model's columns.")],
    at: Annotated[str, typer.Option(help="Times at which survival is wanted: 365,730.")],
    baseline: Annotated[str | None, typer.Option(help="Site whose baseline hazard the rows take.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the rows here (CSV) instead of printing them.")] = None,
) -> None:
    """Predict survival of new rows by a saved model, with 95% intervals."""
    from ecgshared.tables.saved import predict as predicted
    from ecgshared.tables.saved import read_model, write_beside

    found = predicted(read_model(model), rows, ascending_times(at, "--at"), baseline)
    if out is None:
        typer.echo(found.to_csv(index=False), nl=False)
    else:
        write_beside(out, found.to_csv(index=False).encode())


@app.command()
def km(
    site: Sites,
    time: Time,
    event: EventColumn,
    by: Annotated[str | None, typer.Option(help="Column: a curve for each of its values.")] = None,
    at: Annotated[str, typer.Option(help="Times at which curves are read; else ten over the follow-up.")] = "",
    rmst: Annotated[float | None, typer.Option(help="Mean time free of the event up to here, and differences.")] = None,
    cause: Cause = None,
    cluster: Cluster = None,
    patients_shared: Shared = False,
    entry: Entry = None,
    weight: Weight = None,
    missing: Gaps = Missing.refuse,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves here (.svg or .png).")] = None,
    as_json: AsJson = False,
) -> None:
    """Kaplan-Meier curves; with --cause the cumulative incidence where another event forestalls the one of interest."""
    from ecgshared.tables import plots
    from ecgshared.tables.curve_facts import curve_facts
    from ecgshared.tables.curves import curves, followed
    from ecgshared.tables.show import show_curves
    from ecgshared.tables.tables import Columns, read_tables

    if plot is not None:
        plots.require_picture(plot)
    columns = Columns(
        time,
        event,
        strata=by,
        cluster=cluster,
        entry=entry,
        weight=weight,
        cause=cause,
        patients_shared=patients_shared,
    )
    tables = read_tables(site, columns, missing.value)
    rows = followed(tables)
    groups = curves(rows)
    facts = curve_facts(
        tables, rows, groups, ascending_times(at, "--at") if at else None, rmst, incidence=cause is not None
    )
    if plot is not None:
        plots.curves(groups, rows.until, incidence=cause is not None, path=plot)
    _print(facts, as_json, show_curves)


@app.command()
def logrank(
    site: Sites,
    time: Time,
    event: EventColumn,
    by: Annotated[str, typer.Option(help="Column: the groups that are compared.")],
    pooled: Annotated[bool, typer.Option("--pooled", help="Compare across sites too, not only within each.")] = False,
    strata: Annotated[str | None, typer.Option(help="Column: compare within each of its values.")] = None,
    cause: Cause = None,
    missing: Gaps = Missing.refuse,
    as_json: AsJson = False,
) -> None:
    """Test whether groups differ in survival, within each site; with --cause in the cause-specific hazard."""
    _compare_groups(site, time, event, by, strata, cause, missing, pooled=pooled, incidence=False, as_json=as_json)


@app.command()
def gray(
    site: Sites,
    time: Time,
    event: EventColumn,
    by: Annotated[str, typer.Option(help="Column: the groups that are compared.")],
    cause: Annotated[int, typer.Option(help="Code of the event of interest; other codes but 0 forestall it.")],
    pooled: Annotated[bool, typer.Option("--pooled", help="Compare across sites too, not only within each.")] = False,
    strata: Annotated[str | None, typer.Option(help="Column: compare within each of its values.")] = None,
    missing: Gaps = Missing.refuse,
    as_json: AsJson = False,
) -> None:
    """Test whether groups differ in cumulative incidence (Gray), where another event forestalls the one of interest."""
    _compare_groups(site, time, event, by, strata, cause, missing, pooled=pooled, incidence=True, as_json=as_json)


def _compare_groups(
    site: list[Path],
    time: str,
    event: str,
    by: str,
    strata: str | None,
    cause: int | None,
    missing: Missing,
    *,
    pooled: bool,
    incidence: bool,
    as_json: bool,
) -> None:
    from ecgshared.tables.curve_facts import comparison_facts
    from ecgshared.tables.show import show_comparison
    from ecgshared.tables.tables import Columns, read_tables

    covariates = (by,) if strata is None else (by, strata)
    columns = Columns(time, event, covariates, categorical=covariates, cause=cause)
    tables = read_tables(site, columns, missing.value)
    _print(comparison_facts(tables, by, strata, by_site=not pooled, incidence=incidence), as_json, show_comparison)


def _print(facts: dict[str, Any], as_json: bool, show: Any) -> None:
    import json

    if as_json:
        typer.echo(json.dumps(facts, indent=2, allow_nan=False))
    else:
        show(facts)


def _require_meaning(
    columns: Columns, mode: Mode, ties: TieRule, penalty: Any, *, fine_gray: bool, made: Path | None, grid: str
) -> None:
    from ecgshared.errors import ConfigError

    if mode is Mode.local and ties is TieRule.breslow:
        raise ConfigError("a local fit is made by lifelines, which has Efron's rule only", remedy="--ties efron")
    if penalty.l1_ratio and not penalty.penalizer:
        raise ConfigError("--l1-ratio has no meaning without a penalty", remedy="set --penalizer above 0")
    if columns.patients_shared and columns.cluster is None:
        raise ConfigError("--patients-shared has no meaning without --cluster", remedy="name the patients' column")
    if mode is Mode.local and (made or columns.entry or columns.weight):
        raise ConfigError(
            "a local fit takes no entry times, weights, --save or --ph-plot", remedy="--mode stratified, or exact"
        )
    if fine_gray:
        if columns.cause is None:
            raise ConfigError(
                "--fine-gray needs competing events", remedy="--cause names the code of the one of interest"
            )
        if mode is Mode.local or columns.entry or columns.weight or columns.strata or made or grid:
            raise ConfigError(
                "--fine-gray takes no --entry, --weight, --strata, --grid, --save, --ph-plot or --mode local",
                remedy="--mode stratified gives each site a baseline of its own",
            )
