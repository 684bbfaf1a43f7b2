"""``ecgfed report``: rebuild what a run shows, from the run's own records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ecgshared.errors import RunError

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def report(
    run: Annotated[Path | None, typer.Argument(help="The folder of a run, such as runs/demo.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of results.json and stop.")] = False,
    crate: Annotated[
        Path | None, typer.Option(help="Also write the run as an RO-Crate: a folder, or a file that ends in .zip.")
    ] = None,
    with_models: Annotated[bool, typer.Option("--with-models", help="Put the weights into the crate too.")] = False,
    licence: Annotated[str | None, typer.Option(help="Of the crate, as a URL.")] = None,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="Also write the run to this MLflow server or store.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Event files and MLflow at every round, until the run is over; then all.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was written, as JSON.")] = False,
) -> None:
    """Rebuild report.html, results.json and the TensorBoard event files of RUN, complete or not."""
    if schema:
        from server.report.results import schema_text

        typer.echo(schema_text(), nl=False)
        return
    if run is None:
        raise RunError("which run? none was given", remedy="give its folder: ecgfed report runs/demo")
    if follow:
        from server.report.tracking import follow as following

        following(run, mlflow, lambda text: typer.echo(text, err=True))
    written = {name: str(path) for name, path in zip(("report", "results", "events"), rebuild(run), strict=True)}
    if crate is not None:
        from server.report.crate import write_crate

        write_crate(run, crate, models=with_models, licence=licence)
        written["crate"] = str(crate)
    if mlflow is not None:
        from server.report.tracking import track

        written["mlflow_run"] = track(run, mlflow)
    if as_json:
        typer.echo(json.dumps(written, indent=2))
        return
    for name, path in written.items():
        typer.echo(f"{path} ({name})" if name == "mlflow_run" else path)


def rebuild(run_folder: Path) -> tuple[Path, Path, Path]:
    """Write and return report.html, results.json and the folder of event files of a run."""
    from server.report.html import render
    from server.report.results import write_results
    from server.report.tensorboard import write_events

    return render(run_folder), write_results(run_folder), write_events(run_folder)
