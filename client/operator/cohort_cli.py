"""``ecgfed site cohort``: the cohort table drawn from a database, and frozen."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from client.approval.register import federations, in_force, record
from client.site.settings import SiteSettings, load_site
from client.site.table_settings import SHIPPED_SQL
from ecgshared.errors import ConfigError


def cohort(
    site_file: Annotated[Path | None, typer.Argument(metavar="SITE.yaml", help="the site's file")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="ask nothing")] = False,
    show: Annotated[
        str | None, typer.Option("--show-sql", metavar="NAME", help=f"print a shipped query: {', '.join(SHIPPED_SQL)}")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON; what an approval ends stands in it")] = False,
) -> None:
    """Run the site file's query and freeze the cohort it gives; nothing else ever reads the database.

    A cohort that differs from the one before is another question: the studies approved for that one must be approved
    again.
    """
    from client.cohort.frozen import compare, draw, freeze
    from client.cohort.query import shipped

    if show is not None:
        if show not in SHIPPED_SQL:
            raise ConfigError("no query of this name is shipped", value=show, allowed=", ".join(SHIPPED_SQL))
        typer.echo(shipped(show), nl=False)
        return
    if site_file is None:
        raise ConfigError("which site's cohort?", allowed="ecgfed site cohort SITE.yaml, or --show-sql NAME")
    settings = load_site(site_file)
    config = settings.table
    if config.query is None:
        raise ConfigError("the site file has no table.query: its table is read as it lies there", where=site_file)
    content = draw(config.query, lambda text: typer.echo(text, err=True))
    change = compare(config.path, content)
    ending = [] if change is None or change.same else _studies(settings)
    if change is not None and not as_json:
        told = (
            "as it was" if change.same else f"{change.added:,} row(s) new or changed, {change.gone:,} gone or changed"
        )
        typer.echo(f"against the cohort frozen before: {told}")
    for _, _, name in ending:
        typer.echo(f"approved for that cohort, and to be approved again: {name}", err=as_json)
    if ending and not yes:
        typer.confirm("freeze the new cohort?", abort=True)
    # First the approvals: where the machine stops between, a study is asked for again, and not run on other people.
    for federation, sha256, name in ending:
        record(settings.state, "study", sha256, name, withdrawn=True, federation=federation)
    frozen = freeze(config, content)
    if as_json:
        told_all = {"path": str(config.path), **asdict(frozen), "change": None if change is None else asdict(change)}
        typer.echo(json.dumps(told_all | {"to_approve_again": [name for _, _, name in ending]}, indent=2))
        return
    typer.echo(
        f"frozen: {config.path}, {frozen.rows:,} rows, {len(frozen.columns)} columns, sha256 {frozen.sha256[:16]}"
    )
    typer.echo(f"next: ecgfed site check {site_file}")


def _studies(settings: SiteSettings) -> list[tuple[str, str, str]]:
    """Return federation, hash and name of the studies approved here, by anybody: a first of two signatures ends too."""
    return [
        (federation, sha256, approval.what)
        for federation in federations(settings.state)
        for (kind, sha256), approval in in_force(settings.state, federation).items()
        if kind == "study"
    ]
