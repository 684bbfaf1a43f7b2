"""``ecgfed report``: rebuild what a run shows, from the run's own records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecgshared.errors import RunError

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def report(
    run: Annotated[Path | None, typer.Argument(help="The folder of a run, such as runs/demo.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of results.json and stop.")] = False,
) -> None:
    """Rebuild report.html, results.json and the TensorBoard event files of RUN, complete or not."""
    if schema:
        from server.report.results import schema_text

        typer.echo(schema_text(), nl=False)
        return
    if run is None:
        raise RunError("which run? none was given", remedy="give its folder: ecgfed report runs/demo")
    for path in rebuild(run):
        typer.echo(path)


def rebuild(run_folder: Path) -> tuple[Path, Path, Path]:
    """Write and return report.html, results.json and the folder of event files of a run."""
    from server.report.html import render
    from server.report.results import write_results
    from server.report.tensorboard import write_events

    return render(run_folder), write_results(run_folder), write_events(run_folder)
