"""``ecgfed site ingest``: the terminal of :mod:`client.ingest.run`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ecgshared.study.study import Study


def ingest(
    site_file: Annotated[Path, typer.Argument(metavar="SITE.yaml", help="the site's file")],
    study: Annotated[
        list[Path] | None, typer.Option(help="study file to ingest for; default: every study the site approved")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="read what the table names for no study: with 500 Hz, 10 s and no filter")
    ] = False,
    features: Annotated[bool, typer.Option("--features", help="also measure intervals, axes and amplitudes")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="what was read, left out and why, as JSON")] = False,
) -> None:
    """Read all recordings the studies need, once, into the cache; write a ledger of every file and a quality report.

    Interrupt it whenever you like and run it again: it goes on where it stopped.
    """
    from client.ingest.register import OUTCOMES
    from client.ingest.run import ingest_site
    from client.site.settings import load_site
    from ecgshared.errors import ConfigError
    from ecgshared.study.study import load_study

    settings = load_site(site_file)
    studies = [load_study(path) for path in study or settings.studies]
    if everything:
        studies.append(_of_everything(settings.site))
    for path, loaded in zip(study or settings.studies, studies, strict=False):
        if settings.site not in loaded.sites.all:
            raise ConfigError(
                "the study does not name this site",
                where=path,
                value=settings.site,
                allowed=", ".join(loaded.sites.all),
            )
    try:
        with _bar() as progress:
            done = ingest_site(settings, studies, features=features, progress=progress)
    except KeyboardInterrupt:
        typer.echo("interrupted; what was read is kept: run it again to go on", err=True)
        raise SystemExit(130) from None
    if as_json:
        typer.echo(json.dumps({**asdict(done), "usable": done.usable, "report": str(done.report)}, indent=2))
        raise SystemExit(0 if done.usable else 2)
    typer.echo(f"{done.read:,} recording(s) read now, {done.kept:,} read before")
    for outcome, meaning in OUTCOMES.items():
        if done.outcomes.get(outcome):
            typer.echo(f"{done.outcomes[outcome]:>10,}  {meaning}")
            for why, files, example in done.reasons.get(outcome, []):
                typer.echo(f"{'':10}  {files:>8,} x {why or 'the file is not there'}; e.g. {example}")
    if done.compared:
        typer.echo(f"{done.stand_out:>10,}  stand out among the recordings of their device:")
        for line in done.compared:
            typer.echo(f"{'':12}{line}")
    for doubt in done.doubts:
        typer.echo(f"LOOK {doubt}")
    typer.echo(f"quality report: {done.report}")
    if not done.usable:
        typer.echo("NOTHING can be used: no recording was stored; the reasons stand above", err=True)
        raise SystemExit(2)


def _of_everything(site: str) -> Study:
    """Return a study that asks for every recording, as a study that says nothing of its input would see them."""
    from ecgshared.study.study import Study

    return Study.model_validate(
        {
            "name": "everything",
            "sites": {"train": [site]},
            "endpoints": {"male": {"kind": "binary", "column": "male"}},
            "steps": [{"id": "describe", "stage": "describe"}],
        }
    )


@contextmanager
def _bar() -> Iterator[Callable[[int, int, str], None]]:
    from ecgshared.service.progress import Bars

    with Bars() as bars:
        moved = bars.add("ingest")
        moved(0, 0, "looking over the table")
        yield moved
