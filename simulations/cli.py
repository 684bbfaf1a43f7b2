"""``ecgfed simulate``: make in-silico hospitals, run a study over site files, or see it all in one go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from simulations.hospitals.make_cli import make

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="In-silico hospitals, and federations on one machine."
)
app.command()(make)


@app.command()
def realism(
    ptbxl: Annotated[Path, typer.Option(help="folder of PTB-XL: ptbxl_database.csv and records500")],
    scenario: Annotated[str, typer.Option(help="normals, or normals_activation")] = "normals",
    records: Annotated[int | None, typer.Option(min=40, help="only the first so many NORM records")] = None,
    copies: Annotated[int, typer.Option(min=1, help="made ECGs for each real one")] = 2,
    delineated: Annotated[int, typer.Option(min=0, help="recordings of each kind put to NeuroKit2")] = 100,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="draw six made sheets beside six real ones here; it then holds real ECGs")
    ] = None,
) -> None:
    """Compare made ECGs with PTB-XL's normal ones: distances, single features that tell them apart, and two judges.

    Hearts of normals_activation were fitted to patients with even numbers: they are judged on those with odd ones.
    """
    from simulations.judging.realism import compare

    compare(
        ptbxl,
        scenario=scenario,
        records=records,
        copies=copies,
        delineated=delineated,
        seed=seed,
        picture=picture,
    )


@app.command()
def sheets(
    out: Annotated[Path, typer.Option(help="PNG to draw")],
    scenario: Annotated[str, typer.Option(help="whose first hospital's people are recorded")] = "normals_activation",
    ptbxl: Annotated[Path | None, typer.Option(help="folder of PTB-XL: as many of its NORM sheets beside")] = None,
    count: Annotated[int, typer.Option(min=1, max=20, help="sheets of a kind")] = 6,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    blind: Annotated[bool, typer.Option("--blind", help="do not write which is which; it is printed")] = False,
) -> None:
    """Draw made ECGs on paper, beside real ones of the same ages and sexes, for a cardiologist to tell apart."""
    from ecgshared.errors import ConfigError
    from simulations.judging.realism import sheets as draw

    if blind and ptbxl is None:
        raise ConfigError("--blind needs real sheets beside the made ones", remedy="give --ptbxl PATH")
    typer.echo(draw(out, scenario=scenario, ptbxl=ptbxl, count=count, seed=seed, blind=blind))


@app.command()
def sheet(
    out: Annotated[Path, typer.Option(help="PNG or SVG to draw")],
    obstacles: Annotated[
        str, typer.Option(help="shares of cells that obstacles block, 0 to 0.45, divided by commas")
    ] = "0,0.1,0.2,0.3,0.4",
    seeds: Annotated[int, typer.Option(min=1, help="sheets of each share")] = 8,
) -> None:
    """Draw what obstacles do to a front that crosses a sheet of muscle, and to the end of the signal of a lead."""
    from simulations.judging.mechanism import draw_mechanism

    for line in draw_mechanism(out, tuple(float(part) for part in obstacles.split(",")), seeds):
        typer.echo(line)


@app.command()
def attack(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN | ATTACK...]", help="a finished run's folder; or attacks by name, else all"),
    ] = None,
    site: Annotated[
        list[Path] | None, typer.Option(help="of a run: the file of a hospital that trained in it; may be repeated")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the made hospital")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="what came out as JSON")] = False,
) -> None:
    """Play a coordinator who does not play fair: against one made hospital, without its protections and with them; or,
    given a run's folder and its hospitals' site files, against the nets that it released. The run's report tells of
    it."""
    import json
    from dataclasses import asdict

    if names and (Path(names[0]) / "run.json").exists():
        from ecgshared.errors import ConfigError
        from simulations.attacks.released import as_lines as run_lines
        from simulations.attacks.released import sites_beside, try_run

        if len(names) > 1:
            raise ConfigError("one run at a time", value=" ".join(names[1:]), allowed="RUN --site SITE.yaml ...")
        run_folder = Path(names[0])
        tried = try_run(run_folder, list(site or sites_beside(run_folder)))
        typer.echo(
            json.dumps([one.model_dump() for one in tried], indent=2) if as_json else "\n".join(run_lines(tried))
        )
        return
    from simulations.attacks.suite import as_lines, run

    found = run(names or [], seed)
    typer.echo(json.dumps([asdict(one) for one in found], indent=2) if as_json else "\n".join(as_lines(found)))


@app.command()
def omop(
    site_file: Annotated[Path, typer.Argument(metavar="SITE.yaml", help="of a made hospital")],
    out: Annotated[Path | None, typer.Option(help="folder for the tables as Parquet")] = None,
    database: Annotated[str | None, typer.Option(help="or a PostgreSQL: postgresql://user@host/name")] = None,
    schema: Annotated[str, typer.Option(help="of the database")] = "cdm",
) -> None:
    """Lay a made hospital's table out as an OMOP CDM 5.4 with the Waveform Extension, to try a query on."""
    from ecgshared.errors import ConfigError
    from simulations.hospitals.omop import make_cdm, write_folder, write_postgres

    if (out is None) == (database is None):
        raise ConfigError("where to?", allowed="--out FOLDER, or --database postgresql://...")
    cdm = make_cdm(site_file)
    if out is not None:
        write_folder(cdm, out)
    else:
        write_postgres(cdm, str(database), schema)
    typer.echo(f"{out or database}: {cdm.persons:,} persons, {cdm.ecgs:,} ECGs in {len(cdm.tables)} tables")


@app.command()
def fhir(
    site_file: Annotated[Path, typer.Argument(metavar="SITE.yaml", help="of a made hospital")],
    out: Annotated[Path, typer.Option(help="folder for the bundle and the NDJSON files")],
) -> None:
    """Lay a made hospital's table out as FHIR R4 resources, to try a cohort out of FHIR on."""
    from simulations.hospitals.fhir import write_bundles

    counts = write_bundles(site_file, out)
    typer.echo(f"{out}: " + ", ".join(f"{n:,} {kind}" for kind, n in counts.items()))


class Backend(StrEnum):
    """Where the sites of a simulated federation run."""

    inprocess = "inprocess"
    ray = "ray"


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="The study file.")],
    sites: Annotated[list[Path], typer.Argument(help="One site file for each site of the study.")],
    out: Annotated[Path, typer.Option(help="The run folder.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out after its last round.")] = False,
    backend: Annotated[
        Backend, typer.Option(help="In this process, or on Ray workers (pip install 'ecgfed\\[ray]').")
    ] = Backend.inprocess,
    as_json: Annotated[bool, typer.Option("--json", help="What was written and left out, as JSON.")] = False,
) -> None:
    """Run a study over site files on this machine, and write its report."""
    from simulations.federation.run import simulate

    files = " ".join(str(path) for path in (study, *sites))
    with resumable(out, f"ecgfed simulate run {files} --out {out} --resume"):
        finish(simulate(study, sites, out, backend=backend.value, resume=resume), as_json)


@app.command()
def pooled(
    study: Annotated[Path, typer.Argument(help="The study file.")],
    sites: Annotated[list[Path], typer.Argument(help="One site file for each site of the study.")],
    out: Annotated[Path, typer.Option(help="The run folder; the twin's study is laid in OUT-twin beside it.")],
) -> None:
    """Run a study as if its training hospitals' ECGs lay under one roof: what federation is measured against."""
    from simulations.federation.pooled import run_pooled

    finish(run_pooled(study, sites, out))


@app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="The run folder; its study is laid in OUT-study beside it.")],
    ecgs: Annotated[int, typer.Option(min=200, help="made ECGs, one of each person")] = 20_000,
    model: Annotated[
        Path | None, typer.Option(help="Study that will use the weights: its first net, and its input.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="of training, instead of 30")] = None,
    scenario: Annotated[str, typer.Option(help="whose people and electrocardiographs they have")] = "pretraining",
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train a net on made ECGs, from nobody's data: turn of the heart, intervals, rhythm, failure, age and sex.

    `ecgfed model export OUT made` makes a file of it, which a study imports and starts from.
    """
    from simulations.federation.pretrain import pretrain as train

    finish(train(out, ecgs=ecgs, scenario=scenario, model=model, rounds=rounds, device=device, seed=seed))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove an earlier demo in --out first.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the hospitals.")] = None,
) -> None:
    """Make four hospitals, train on three, evaluate zero-shot on the fourth, and report. About four minutes."""
    from simulations.federation.run import simulate
    from simulations.hospitals.demo import prepare

    if fresh and (out / "hospitals").is_dir():
        shutil.rmtree(out)
    with resumable(out, f"ecgfed simulate demo --out {out}"):
        study, sites = prepare(out, seed)
        finish(simulate(study, sites, out, resume=(out / "run.json").exists()))


@contextmanager
def resumable(out: Path, command: str) -> Iterator[None]:
    """Say how a run goes on that Ctrl-C cuts short, where it got as far as its folder."""
    try:
        yield
    except KeyboardInterrupt:
        if (out / "run.json").exists():
            typer.echo(f"\ncut short; it goes on where it stood with\n  {command}", err=True)
        raise


def finish(folder: Path, as_json: bool = False) -> None:
    """Write report, results and event files of a finished run, and say where they are."""
    from server.report.cli import rebuild
    from server.report.results import read_run_info

    info, written = read_run_info(folder), rebuild(folder)
    if as_json:
        names = ("report", "results", "events")
        told = {name: str(path) for name, path in zip(names, written, strict=True)}
        typer.echo(json.dumps({"run": str(folder), "status": info.status, "left_out": info.left_out, **told}, indent=2))
        return
    for step, why in info.left_out.items():
        typer.echo(f"step {step} was left out: {why}")
    for path in written:
        typer.echo(f"wrote {path}")
