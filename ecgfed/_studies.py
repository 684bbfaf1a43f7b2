"""Studies and their runs on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ecgshared.errors import ConfigError
from ecgshared.study.study import Study as Study
from ecgshared.study.study import load_study

Name = str | PathLike[str]


@dataclass(frozen=True)
class Hospitals:
    """Hospitals that were made: their folder, their site files, and the study that comes with them.

    ``study``: None where the scenario has none; lay yours at ``folder / "study.yaml"``, which the site files name.
    ``patients``, ``ecgs``: by site. The truth lies in ``folder / "truth"``; no hospital reads it.
    """

    folder: Path
    sites: tuple[Path, ...]
    study: Path | None
    patients: dict[str, int]
    ecgs: dict[str, int]


@dataclass(frozen=True)
class Run:
    """A run on disk."""

    folder: Path

    @property
    def study(self) -> Study:
        """The study as it was run."""
        return load_study(self.folder / "study.yaml")

    @property
    def results(self) -> dict[str, Any]:
        """Everything that the hospitals gave, as ``ecgfed report --schema`` describes it."""
        found: dict[str, Any] = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))
        return found

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / "report.html"


def make_hospitals(scenario: Name, out: Name, *, patients: int | None = None, seed: int | None = None) -> Hospitals:
    """Make the hospitals of a scenario: recordings, cohort tables, site files.

    Parameters
    ----------
    scenario : demo, many_sites, normals, null, three_countries, uk_biobank_like, or a scenario's YAML file.
    out : the folder to write into.
    patients : in all hospitals together; None takes the scenario's.
    seed : instead of the scenario's own.

    Raises
    ------
    EcgFedError : there is no such scenario, or the folder is in use.
    """
    from simulations.hospitals.make import make_hospitals as make
    from simulations.patients.scenario import load_scenario, study_of

    chosen, folder = load_scenario(str(scenario)), Path(out)
    total = sum(hospital.population.patients for hospital in chosen.hospitals.values())
    made = make(chosen, folder, seed, None if patients is None else patients / total)
    study = folder / "study.yaml"
    if (text := study_of(str(scenario))) is not None:
        study.write_text(text, encoding="utf-8")
    sites = tuple(folder / "sites" / name / "site.yaml" for name in chosen.hospitals)
    return Hospitals(folder, sites, study if text is not None else None, dict(made.patients), dict(made.ecgs))


def new_study(template: str, path: Name, *, sites: Iterable[str] = (), rounds: int | None = None) -> Study:
    """Write a study from a template, as ``ecgfed study init`` does, and the schema by which editors complete it.

    Parameters
    ----------
    template : one that ``ecgfed study init`` lists: risk, survival, private, zero_shot and others.
    path : the file to write; its name without ending becomes the study's.
    sites : names of the hospitals, the one that only judges last.
    rounds : of every train step, instead of the template's.

    Raises
    ------
    EcgFedError : there is no such template, there is a file already, or a name is none.
    """
    from ecgfed._authoring import begin

    file = Path(path)
    begin(template, file, file.stem, tuple(sites), rounds)
    return load_study(file)


def simulate(study: Name | None, sites: Iterable[Name], out: Name, *, resume: bool = False) -> Run:
    """Run a study over site files on this machine, write its report, and return the run.

    Safe in a notebook and in a script without a ``__main__`` guard.

    Parameters
    ----------
    study : the study's file; each site file must name it under ``studies:``. With ``resume`` the run's own is taken.
    sites : one site file for each site of the study.
    out : the run folder, new; or, with ``resume``, that of a run that was cut short.

    Raises
    ------
    EcgFedError : a file is wrong, a site has not approved the study, or the run failed; the text says which.
    """
    from server.report.cli import rebuild
    from simulations.federation.run import simulate as run

    if study is None and not resume:
        raise ConfigError("there is no study to run", remedy="name its file, or resume=True for the run's own")
    folder = Path(out)
    run(folder / "study.yaml" if study is None else Path(study), [Path(site) for site in sites], folder, resume=resume)
    rebuild(folder)
    return Run(folder)


def open_run(folder: Name) -> Run:
    """Open a run that was made before, here or by a coordinator.

    Raises
    ------
    EcgFedError : the folder holds no run.
    """
    path = Path(folder)
    if not (path / "run.json").exists():
        raise ConfigError("the folder holds no run", where=path, remedy="name the folder that `--out` named")
    return Run(path)
