"""``ecgfed predict MODEL FILE...``: what a trained model says of recordings in any format that a site can read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ecgshared.errors import ConfigError

if TYPE_CHECKING:
    from ecgfed._predict import Prediction

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A file that `ecgfed model export` wrote, or a run's folder.")],
    files: Annotated[
        list[Path], typer.Argument(help="Recordings, or folders of them; for WFDB the .hea or bare name.")
    ],
    step: Annotated[str | None, typer.Option(help="Of a run: the step whose model is wanted.")] = None,
    age: Annotated[float | None, typer.Option(min=0, max=130, help="Age, years, where a recording has none.")] = None,
    sex: Annotated[str | None, typer.Option(help="M or F, where a recording has none.")] = None,
    given: Annotated[
        list[str] | None, typer.Option("--given", help="A covariate the model takes, as lvef=0.4; may be repeated.")
    ] = None,
    site: Annotated[
        Path | None, typer.Option("--site", help="Site file, whose quality policy and `described:` count.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
    page: Annotated[Path | None, typer.Option("--page", help="Write an HTML page with each recording's sheet.")] = None,
) -> None:
    """Apply MODEL to recordings. Research software: no care of a patient may rest on it."""
    from client.site.settings import load_site
    from ecgfed._predict import load, predict
    from ecgshared.applied.model import NOT_FOR_CARE

    settings = None if site is None else load_site(site)
    applied = load(model, step)
    known = _given(age, sex, given or [], applied.needs)
    found = []
    for file in _recordings(files):
        one = predict(applied, file, settings=settings, given=known)
        found.append(one)
        if as_json:
            typer.echo(json.dumps({**one.as_json(), "note": NOT_FOR_CARE}, allow_nan=False))
        else:
            _show(one)
    if not as_json:
        typer.echo(NOT_FOR_CARE)
    if page is not None:
        from ecgfed._predict_page import write_page

        write_page(page, applied, found)
    if all(one.refused for one in found):
        raise typer.Exit(1)


def _given(age: float | None, sex: str | None, pairs: Sequence[str], needs: tuple[str, ...]) -> dict[str, float]:
    known: dict[str, float] = {}
    if age is not None:
        known["age"] = age
    if sex is not None:
        if sex not in ("M", "F"):
            raise ConfigError("a sex is M or F", where="--sex", value=sex)
        known["male"] = float(sex == "M")
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            known[name] = float(value)
        except ValueError:
            raise ConfigError("is no NAME=NUMBER", where="--given", value=pair) from None
        if not equals or name not in needs:
            raise ConfigError(
                "the model takes no such thing", where="--given", value=name, allowed=", ".join(needs) or "nothing"
            )
    return known


def _recordings(paths: Sequence[Path]) -> Iterator[Path]:
    """Return the files named, and of each folder those that hold a recording."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        # The samples beside a WFDB or MATLAB header belong to it.
        for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
            if not (file.suffix in (".dat", ".mat") and file.with_suffix(".hea").exists()):
                yield file


def _show(one: Prediction) -> None:
    from ecgfed._predict import in_words

    typer.echo(f"{one.file}")
    if one.refused:
        typer.echo(f"  {one.refused}")
        return
    if one.findings:
        typer.echo(f"  quality: {', '.join(one.findings)}{' (repaired)' if one.repaired else ''}")
    if one.known:
        typer.echo("  given: " + ", ".join(f"{name} {value:g}" for name, value in one.known.items()))
    for output in one.outputs:
        typer.echo(f"  {output.label} ({output.name}): {in_words(output)}")
