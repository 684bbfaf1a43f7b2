"""``ecgfed schema``: what an editor needs to complete and check a study, a site file or a scenario."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


class File(StrEnum):
    """The three files that people write."""

    study = "study"
    site = "site"
    scenario = "scenario"


@app.command()
def schema(
    file: Annotated[File, typer.Argument(help="which file's keys")],
    markdown: Annotated[bool, typer.Option("--markdown", help="a page for people instead of JSON Schema")] = False,
) -> None:
    """Print the keys of a study, a site file or a scenario, as JSON Schema for editors or as a page to read."""
    from ecgfed._schema import reference
    from ecgfed._schema import schema as made

    typer.echo(reference(file.value) if markdown else json.dumps(made(file.value), indent=1), nl=not markdown)
