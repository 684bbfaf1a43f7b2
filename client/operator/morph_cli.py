"""``ecgfed site morph``: a single person's morph, shown at the site and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def morph(
    site_file: Annotated[Path, typer.Argument(metavar="SITE.yaml", help="the site's file")],
    run: Annotated[str, typer.Argument(metavar="RUN", help="name or folder of a run that moved beats here")],
    patient: Annotated[str, typer.Option(help="the patient id, as in the table")],
    direction: Annotated[str, typer.Option(help="up: to high risk; down: to low")] = "up",
    step: Annotated[str | None, typer.Option(help="the morph step, where the run has several")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the pictures; none are drawn without it")] = None,
) -> None:
    """Show what a person's own beats would look like at another risk. Nothing leaves: this terminal alone sees it."""
    from client.operator.single_morphs import draw, single_morphs
    from client.site.settings import load_site
    from ecgshared.errors import ConfigError

    if direction not in ("up", "down"):
        raise ConfigError("there is no such direction", where="--direction", value=direction, allowed="up, down")
    way = "up" if direction == "up" else "down"
    found = single_morphs(site_file, load_site(site_file), run, patient, direction=way, step=step)  # type: ignore[arg-type]
    if out is not None:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    for one in found:
        ended = f"arrived at {one.target:.2f}" if one.arrived else f"did not arrive at {one.target:.2f}"
        axis = one.change["qrs_axis_deg"]
        typer.echo(
            f"ECG {one.number + 1} ({one.split}): logit {one.logit:.2f}; its beat from {one.before:.2f} to "
            f"{one.after:.2f} in {one.steps} steps, {ended}; QRS axis {axis[0]:.0f} to {axis[1]:.0f} degrees"
        )
        if out is not None:
            draw(one, out / f"morph-{one.number + 1}.png")
    if out is not None:
        typer.echo(f"{len(found)} picture(s) in {out}, for your eyes only")
    typer.echo("nothing was sent")
