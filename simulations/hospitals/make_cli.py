"""`ecgfed simulate make`: hospitals of a scenario, on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

NAMES = (
    "demo, many_sites, normals, null, three_countries, uk_biobank_like; with hearts of tissue demo_activation, morph, "
    "morph_null, normals_activation, pretraining_activation, three_countries_activation, uk_biobank_like_activation"
)


def make(
    scenario: Annotated[str, typer.Argument(help=f"{NAMES}; or the path of a scenario's YAML file")],
    out: Annotated[Path, typer.Option(help="folder to write sites/ and truth/ into")],
    patients: Annotated[int | None, typer.Option(min=1, help="patients in all hospitals together")] = None,
    ecgs: Annotated[int | None, typer.Option(min=1, help="about how many ECGs instead (1,000 to 1,000,000)")] = None,
    scale: Annotated[
        float | None, typer.Option(help="of the scenario's size: 0.1 for a laptop, 6 for the paper's")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="instead of the scenario's own")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="that make ECGs; all cores unless told")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="what was made, as JSON")] = False,
) -> None:
    """Make the hospitals of a scenario: recordings, cohort tables, site files and its study; the truth lies apart."""
    from rich.console import Console

    from ecgshared.errors import ConfigError
    from ecgshared.service.progress import Bars, Moved
    from simulations.hospitals.make import make_hospitals, true_hazard_auc, truth_table
    from simulations.patients.scenario import load_scenario, study_of

    console = Console()
    chosen = load_scenario(scenario)
    if sum(given is not None for given in (patients, ecgs, scale)) > 1:
        raise ConfigError("--patients, --ecgs and --scale all set the size", remedy="give one of them")
    populations = [hospital.population for hospital in chosen.hospitals.values()]
    if patients is not None:
        scale = patients / sum(p.patients for p in populations)
    elif ecgs is not None:
        # Deaths and the end of the ECG period cut some follow-up ECGs short: about a fifth of the further ones.
        scale = ecgs / sum(p.patients * (1 + 0.8 * (p.ecgs_per_patient - 1)) for p in populations)
    with Bars() as bars:
        tasks: dict[str, Moved] = {}

        def advance(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add(f"make {name}")
            tasks[name](done, total)

        made = make_hospitals(chosen, out, seed, scale, advance, processes)
    study, text = out / "study.yaml", study_of(scenario)
    if text is not None:
        study.write_text(text, encoding="utf-8")
    if as_json:
        hospitals = {
            name: {
                "site_file": str(out / "sites" / name / "site.yaml"), "patients": made.patients[name], "ecgs": ecgs,
                "events": made.events[name],
            }
            for name, ecgs in made.ecgs.items()
        }  # fmt: skip
        typer.echo(json.dumps({"hospitals": hospitals, "study": None if text is None else str(study)}, indent=2))
        return
    truth = truth_table(out)
    for name, ecgs in made.ecgs.items():
        events = made.events[name]
        line = f"{name}: {made.patients[name]} patients, {ecgs} ECGs, {events} followed by the event"
        if 0 < events < ecgs:
            line += f", AUC of the true hazard {true_hazard_auc(truth[truth['site'] == name]):.3f}"
        console.print(line, highlight=False)
    console.print(f"sites: {out / 'sites'}\ntruth: {out / 'truth'} (no hospital sees it)", highlight=False)
    if text is not None:
        run = f"ecgfed simulate run {study} {out / 'sites'}/*/site.yaml --out RUN"
        typer.echo(f"study: {study}, the one the site files approve\nto run it: {run}")
    else:
        typer.echo(f"study: none comes with this scenario; lay yours at {study}, the one the site files approve")
