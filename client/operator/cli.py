"""``ecgfed site``: what an operator at a hospital does. Values of patients show on this terminal only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.operator.cohort_cli import cohort
from client.operator.ingest_cli import ingest
from client.operator.lists_cli import codes, columns, formats
from client.operator.morph_cli import morph
from client.operator.network_cli import COMMANDS
from client.operator.start_cli import init

app = typer.Typer(no_args_is_help=True, add_completion=False)
for command in (init, columns, codes, formats, cohort, ingest, morph, *COMMANDS):
    app.command()(command)

SiteFile = Annotated[Path, typer.Argument(metavar="SITE.yaml", help="the site's file")]


@app.callback()
def site() -> None:
    """At a hospital: check files and table, read the recordings, see what would leave, forget a patient."""


@app.command()
def check(
    site_file: SiteFile,
    study: Annotated[
        list[Path] | None, typer.Option(help="study file to check against; default: those the site names")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="leave the way to the coordinator out")] = False,
    sample: Annotated[
        int, typer.Option(min=0, help="recordings of each kind (folder and ending) that are read; 0 reads none")
    ] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="faults, doubts and notes as JSON")] = False,
) -> None:
    """Say everything that is wrong with a site's file, data, keys and connection; exit 2 if anything is."""
    import json

    from client.operator.check import check_site

    found = check_site(site_file, tuple(study or ()), offline=offline, sample=sample)
    if as_json:
        typer.echo(json.dumps({"faults": found.faults, "doubts": found.doubts, "notes": found.notes}, indent=2))
        raise SystemExit(2 if found.faults else 0)
    for mark, texts in (("", found.notes), ("LOOK ", found.doubts), ("WRONG ", found.faults)):
        for text in texts:
            typer.echo(f"{mark}{text}")
    if found.faults:
        typer.echo(f"{len(found.faults)} thing(s) to mend in {site_file} and what it names")
        raise SystemExit(2)
    tried = f", {len(found.doubts)} thing(s) to look at" if found.doubts else ""
    typer.echo(f"all is well{tried}" + ("" if sample else "; no recording was tried"))


@app.command()
def preview(
    site_file: SiteFile,
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="one of the studies the site holds")],
    as_json: Annotated[bool, typer.Option("--json", help="every value, as JSON")] = False,
) -> None:
    """Show the exact payloads a study would make this site send. Nothing is sent."""
    from client.operator.preview import as_lines, preview_json, preview_study
    from client.site.settings import load_site
    from ecgshared.study.study import load_study

    messages = preview_study(site_file, load_site(site_file), load_study(study))
    typer.echo(preview_json(messages) if as_json else "\n".join(as_lines(messages)))


@app.command()
def forget(
    site_file: SiteFile,
    patient: Annotated[str, typer.Argument(metavar="PATIENT", help="the patient id, as in the table")],
    yes: Annotated[bool, typer.Option("--yes", help="ask nothing")] = False,
) -> None:
    """Remove a patient from every cache and index of this site, and from all cohorts to come."""
    from client.operator.forget import answers_with, find_person, forget_patient, in_words
    from client.site.settings import load_site

    settings, told = load_site(site_file), list[bool]()

    def waiting() -> None:
        if not told:
            typer.echo("on the opt-out list; waiting for another command of this site to leave its cache", err=True)
        told.append(True)

    person = find_person(settings, patient)
    for line in in_words(settings, person, answers_with(settings, person)):
        typer.echo(line)
    if not yes:
        typer.confirm("forget this person?", abort=True)
    done = forget_patient(settings, patient, waiting=waiting)
    typer.echo(f"{done.ecgs} ECG(s) overwritten and removed from {done.caches} cache(s) of {settings.site}")
    typer.echo("was on the opt-out list already" if done.known_before else "added to the opt-out list")
    typer.echo("a running daemon leaves the person out of its next answer, and of the one it is computing")
