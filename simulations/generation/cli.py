"""``ecgfed generate``: beats for a person's conditions, a condition swept, a recording edited; are they physical?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from simulations.generation.checkpoint import Checkpoint
    from simulations.generation.conditions import Change

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    help="Make ECG beats with a trained conditional VAE. Moves of heart and electrodes count from the usual place.",
)

_STEP = typer.Option(help="the train step, where the run holds several cvaes")


@app.callback()
def generate(
    context: typer.Context,
    checkpoint: Annotated[Path | None, typer.Option(help="run folder, or artefacts/STEP.json of one")] = None,
    step: Annotated[str | None, _STEP] = None,
    age: Annotated[float | None, typer.Option(help="years")] = None,
    sex: Annotated[str | None, typer.Option(help="F or M")] = None,
    bmi: Annotated[float | None, typer.Option(help="kg/m2")] = None,
    heart_rotation: Annotated[str | None, typer.Option(help="about the vertical, deg; +: apex to the back")] = None,
    heart_frontal: Annotated[str | None, typer.Option(help="in the frontal plane, deg; +: apex down")] = None,
    heart_tilt: Annotated[str | None, typer.Option(help="about the left-right axis, deg")] = None,
    heart_left: Annotated[str | None, typer.Option(help="heart to the left, e.g. 1cm")] = None,
    heart_up: Annotated[str | None, typer.Option(help="heart upwards, e.g. 1cm")] = None,
    heart_back: Annotated[str | None, typer.Option(help="heart to the back, e.g. -1cm")] = None,
    v1_v2_up: Annotated[str | None, typer.Option("--v1-v2-up", help="V1 and V2 upwards, e.g. 2cm")] = None,
    electrode: Annotated[list[str] | None, typer.Option(help="NAME=LEFT,BACK,UP, e.g. V3=+1,0,0cm")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="COLUMN=VALUE, absolute, e.g. lv_mass_g=140")] = None,
    n: Annotated[int, typer.Option(min=1, max=100_000, help="beats to make, each with a latent of its own")] = 1,
    sweep: Annotated[str | None, typer.Option(help="NAME=FROM:TO:COUNT, all else held")] = None,
    reconstruct: Annotated[Path | None, typer.Option(help="a recording, decoded from its own latent")] = None,
    edit: Annotated[list[str] | None, typer.Option(help="with --reconstruct: NAME=VALUE, e.g. v1-v2-up=2cm")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the latents")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for WFDB records and the figure")] = None,
    plot: Annotated[bool, typer.Option("--plot", help="draw the beats as beats.png")] = False,
) -> None:
    """Make beats for a person. What is not given is that of the average person the model was trained on."""
    if context.invoked_subcommand is not None:
        return
    from ecgshared.errors import ConfigError
    from simulations.generation.checkpoint import load_checkpoint
    from simulations.generation.conditions import change_of, edit_of, electrode_change

    if checkpoint is None or out is None:
        raise ConfigError("--checkpoint and --out are needed", remedy="see ecgfed generate --help")
    if sum((sweep is not None, reconstruct is not None)) > 1:
        raise ConfigError("--sweep and --reconstruct exclude each other")
    if edit and reconstruct is None:
        raise ConfigError("--edit needs --reconstruct RECORD", remedy="or give the condition itself, or --sweep")
    if n > 1 and (sweep is not None or reconstruct is not None):
        raise ConfigError("--n is for beats drawn anew", remedy="leave it out")
    trained = load_checkpoint(checkpoint, step)
    moves = {
        "heart-rotation": heart_rotation,
        "heart-frontal": heart_frontal,
        "heart-tilt": heart_tilt,
        "heart-left": heart_left,
        "heart-up": heart_up,
        "heart-back": heart_back,
        "v1-v2-up": v1_v2_up,
    }
    changes = [edit_of(text) for text in set_ or []]
    changes += [change_of(name, str(v)) for name, v in {"age": age, "sex": sex, "bmi": bmi}.items() if v is not None]
    changes += [change_of(name, text) for name, text in moves.items() if text is not None]
    changes += [change for text in electrode or [] for change in electrode_change(text)]
    job = _Job(trained, changes, seed, out, plot)
    if reconstruct is not None:
        job = replace(job, otherwise="age and sex are the recording's where it has them, the rest those of the average")
    if reconstruct is not None:
        _edit(job, reconstruct, edit or [])
    elif sweep is not None:
        _sweep(job, sweep)
    else:
        _draw(job, n)


@dataclass(frozen=True)
class _Job:
    """What every way of making beats needs."""

    checkpoint: Checkpoint
    changes: list[Change]
    seed: int
    out: Path
    plot: bool
    otherwise: str = "they are those of the average person trained on"

    def latent(self, count: int) -> Any:
        import numpy as np

        return np.random.default_rng(self.seed).standard_normal((count, self.checkpoint.config.latent_size))


def _draw(job: _Job, n: int) -> None:
    import numpy as np

    from simulations.generation.conditions import applied
    from simulations.generation.output import Curve

    person = applied(job.checkpoint, job.checkpoint.mean, job.changes)
    values = np.repeat(person[None], n, axis=0)
    beats = job.checkpoint.decode(job.latent(n), values)
    names = [f"synthetic_{i + 1:05d}" for i in range(n)]
    curves = [Curve(beat, "" if n > 1 else "made", "#8fa8c8" if n > 1 else "#1f3d7a") for beat in beats[:200]]
    if n > 1:
        curves.append(Curve(beats.mean(axis=0), f"mean of {n}", "#1f3d7a"))
    _finish(job, names, beats, values, f"drawn from the prior, seed {job.seed}", curves, "Beats made for one person")


def _sweep(job: _Job, text: str) -> None:
    import numpy as np

    from simulations.generation.conditions import applied, sweep_of
    from simulations.generation.output import Curve

    name, steps = sweep_of(text)
    person = applied(job.checkpoint, job.checkpoint.mean, job.changes)
    values = np.stack([applied(job.checkpoint, person, [step]) for step in steps])
    beats = job.checkpoint.decode(np.repeat(job.latent(1), len(steps), axis=0), values)
    names = [f"synthetic_{i + 1:05d}" for i in range(len(steps))]
    curves = [Curve(beat, "", i / (len(steps) - 1)) for i, beat in enumerate(beats)]
    note = f"sweep of {name}, one latent, seed {job.seed}"
    scale = (steps[0].value, steps[-1].value, name)
    _finish(job, names, beats, values, note, curves, f"The same beat, {name} changed", scale)


def _edit(job: _Job, record: Path, edits: list[str]) -> None:
    import numpy as np

    from simulations.generation.conditions import applied, edit_of
    from simulations.generation.output import Curve
    from simulations.generation.record import person_of, recorded_beat

    beat, read = recorded_beat(record, job.checkpoint.input)
    person = applied(job.checkpoint, person_of(job.checkpoint, read), job.changes)
    moved = applied(job.checkpoint, person, [edit_of(text) for text in edits])
    z = job.checkpoint.encode(beat[None], person[None])
    values = np.stack([person, moved]) if edits else person[None]
    beats = job.checkpoint.decode(np.repeat(z, len(values), axis=0), values)
    curves = [Curve(beat, "recorded", "#9a9a9a"), Curve(beats[0], "reconstructed", "#1f3d7a")]
    names = ["synthetic_reconstructed"]
    if edits:
        names.append("synthetic_edited")
        curves.append(Curve(beats[1], f"edited: {', '.join(edits)}", "#c0392b"))
    error = 1000 * float(np.abs(beats[0] - beat).mean())
    typer.echo(f"reconstruction: mean absolute error {error:.1f} uV")
    note = f"from a recording's own latent{'; edited: ' + ', '.join(edits) if edits else ''}"
    _finish(job, names, beats, values, note, curves, "A recording reconstructed" + (" and edited" if edits else ""))


def _finish(
    job: _Job,
    names: list[str],
    beats: Any,
    values: Any,
    note: str,
    curves: list[Any],
    title: str,
    scale: tuple[float, float, str] | None = None,
) -> None:
    """Warn, write the records, draw."""
    from simulations.generation.conditions import outside
    from simulations.generation.output import twelve_panels, write_beats

    for warning in dict.fromkeys(text for row in values for text in outside(job.checkpoint, row)):
        typer.echo(f"warning: {warning}", err=True)
    given = {column for change in job.changes for column in change.columns}
    usual = sum(name not in given for name in job.checkpoint.conditions)
    if usual:
        typer.echo(f"{usual} of {len(job.checkpoint.conditions)} conditions were not given: {job.otherwise}")
    write_beats(job.out, job.checkpoint, names, beats, values, note)
    typer.echo(f"wrote {len(names)} synthetic record{'s' if len(names) > 1 else ''} to {job.out}")
    if job.plot:
        path = job.out / "beats.png"
        twelve_panels(curves, job.checkpoint.input.fs_hz, title, scale).savefig(path)
        typer.echo(f"wrote {path}")


@app.command()
def consistency(
    run: Annotated[Path, typer.Option(help="run folder, or artefacts/STEP.json of one")],
    scenario: Annotated[
        str, typer.Option(help="the in-silico population the model was trained on")
    ] = "uk_biobank_like",
    step: Annotated[str | None, _STEP] = None,
    people: Annotated[int, typer.Option(min=20, max=5000, help="new persons of that population")] = 200,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    out: Annotated[Path | None, typer.Option(help="folder for consistency.json and its figure")] = None,
) -> None:
    """Change heart and electrodes in the model and in the physics: does every lead change alike?"""
    from simulations.generation.consistency import compare

    compare(run, scenario, step=step, people=people, seed=seed, out=out)
