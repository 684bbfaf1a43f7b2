"""``ecgfed study``: begin a study from a template, check it, see its graph. It needs no hospital and no coordinator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Write a study: begin from a template, check it, see its graph."
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="the study's file")]


@app.command()
def init(
    template: Annotated[str | None, typer.Argument(help="which template; none lists them")] = None,
    out: Annotated[Path, typer.Option(help="the file to write")] = Path("study.yaml"),
    name: Annotated[str | None, typer.Option(help="name of the study; the file's where left out")] = None,
    site: Annotated[
        list[str] | None, typer.Option("--site", help="a hospital's name; repeat it, the one that only judges last")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="of training, instead of the template's")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="write over a study that is there")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the templates, or what was written, as JSON")] = False,
) -> None:
    """Write a commented study from a template, and the schema that lets an editor complete it."""
    from ecgfed._authoring import SCHEMA_FILE, begin, templates

    if template is None:
        if as_json:
            typer.echo(json.dumps(templates(), indent=2))
            return
        for known, words in templates().items():
            typer.echo(f"{known:<16} {words}")
        typer.echo("then: ecgfed study init TEMPLATE --out study.yaml --site NAME --site NAME")
        return
    made_up = begin(template, out, name or out.stem, tuple(site or ()), rounds, replace=replace)
    if as_json:
        typer.echo(json.dumps({"file": str(out), "schema": str(out.parent / SCHEMA_FILE), "made_up": made_up}))
        return
    typer.echo(f"wrote {out} and {out.parent / SCHEMA_FILE}")
    if made_up:
        typer.echo(f"its sites are called {', '.join(made_up)}: write your hospitals' names there")
    typer.echo(f"then: ecgfed study check {out}")


@app.command()
def check(
    study_file: StudyFile,
    as_json: Annotated[bool, typer.Option("--json", help="what sites must map, and the steps, as JSON")] = False,
) -> None:
    """Say everything that is wrong with a study, or what it would do, what sites must map, and what would leave."""
    from ecgfed._authoring import summary
    from ecgshared.study.needed import needed_columns
    from ecgshared.study.study import load_study

    study = load_study(study_file)
    if as_json:
        facts = {
            "name": study.name,
            "sha256": study.sha256,
            "columns": needed_columns(study),
            "steps": [
                {"id": s.id, "stage": s.stage, "uses": s.uses, "sites": study.members(s), "population": s.population}
                for s in study.steps
            ],
        }
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo("\n".join(summary(study)))
    typer.echo("all is well with the file; `ecgfed site check SITE.yaml --study ...` tells it of a hospital's data")


@app.command()
def graph(
    study_file: StudyFile,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="a flowchart for Markdown pages")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="steps and what each uses, as JSON")] = False,
) -> None:
    """Show the steps of a study and what each one uses."""
    from ecgfed._authoring import graph as drawn
    from ecgshared.study.study import load_study

    study = load_study(study_file)
    if as_json:
        typer.echo(json.dumps([{"id": s.id, "stage": s.stage, "uses": s.uses} for s in study.steps], indent=2))
        return
    typer.echo(drawn(study, mermaid=mermaid))
