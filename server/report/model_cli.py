"""``ecgfed model``: what a step of a run gave, as a file that another study can import by its hash."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecgshared.errors import RunError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Models, calibrations and thresholds of finished runs, as files.",
)


@app.callback()
def _several() -> None:
    """Keep `export` a word to type."""


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run, such as runs/demo.")],
    step: Annotated[str, typer.Argument(help="The step whose model, calibration or threshold is wanted.")],
    out: Annotated[Path | None, typer.Option(help="The file; <run>-<step>.ecgfed where it is not given.")] = None,
    card: Annotated[
        Path | None, typer.Option(help="Write the model's card here, Markdown: data, performance, privacy, use.")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(help="Write one ONNX graph here: raw millivolts in, calibrated risk out.")
    ] = None,
    fs_hz: Annotated[float, typer.Option("--fs-hz", min=50, max=2000, help="Rate that the graph takes.")] = 500,
    seconds: Annotated[float, typer.Option(min=2, max=60, help="Length that the graph takes.")] = 10,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over a file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was written and its hash, as JSON.")] = False,
) -> None:
    """Write what STEP of RUN gave into one file, and print the lines a study imports it with."""
    import hashlib
    import json

    from ecgshared.applied.card import model_card
    from ecgshared.applied.file import read_model_file
    from ecgshared.service.files import write_atomically
    from server.rounds.export import run_model
    from server.rounds.run_folder import RunFolder

    folder = RunFolder.reopen(run)
    try:
        study, content = folder.study, run_model(folder, step)
        exportable = [s.id for s in study.steps if s.can_be_frozen]
    finally:
        folder.close()
    file = out or Path(f"{run.name}-{step}.ecgfed")
    for made in (file, card, onnx):
        if made is not None and made.exists() and not overwrite:
            raise RunError("a file is there already", where=made, remedy="choose another name, or give --overwrite")
    write_atomically(file, content)
    if card is not None:
        write_atomically(card, model_card(read_model_file(content, file)).encode("utf-8"))
    if onnx is not None:
        from ecgshared.applied.model import AppliedModel
        from ecgshared.applied.onnx import write_onnx

        write_onnx(AppliedModel(read_model_file(content, file), file), onnx, fs=fs_hz, seconds=seconds)
    config = study.step(step)
    if as_json:
        told = {"file": str(file), "sha256": hashlib.sha256(content).hexdigest(), "stage": config.stage}
        typer.echo(json.dumps(told | {"card": card and str(card), "onnx": onnx and str(onnx)}, indent=2))
        return
    typer.echo(f"{file}: {len(content):,} bytes\n")
    typer.echo("To import it, in another study's steps:\n")
    typer.echo(f"  - id: {step}\n    stage: {config.stage}")
    typer.echo(f"    import: {{file: {file.name}, sha256: {hashlib.sha256(content).hexdigest()}}}")
    values = config.model_dump(mode="json")
    # The steps it rests on are imported as well; what a model was weighed by (describe) is not asked again.
    if uses := [used for used in config.uses if used in exportable]:
        typer.echo(f"    uses: {json.dumps(uses)}")
    for key in (*config.read_later, "inputs"):
        if values.get(key) is not None:
            typer.echo(f"    {key}: {json.dumps(values[key])}")
