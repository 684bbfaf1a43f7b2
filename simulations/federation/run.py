"""Run a study over site files on this machine: in this process, or on Ray workers. The apps are the hospitals' own."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from client.answer import Sites
from client.approval.required import readable_studies
from client.dataset.data import SiteData
from client.site.settings import load_site
from ecgshared.errors import ConfigError, RunError
from ecgshared.service.progress import Bars
from ecgshared.study.study import Study, load_study
from server.rounds.run_folder import RunFolder
from server.rounds.study_run import Progress as Report
from server.rounds.study_run import run_study

Backend = Literal["inprocess", "ray"]


def simulate(
    study_file: Path,
    site_files: list[Path],
    out: Path,
    *,
    backend: Backend = "inprocess",
    resume: bool = False,
    held: Mapping[Path, SiteData] | None = None,
) -> Path:
    """Run a study and return its run folder.

    Parameters
    ----------
    resume : go on after the last checkpoint of the run in ``out``; raises RunError where none stands there.
    held : cohorts in memory, by the site file whose cohort they stand for; in this process only.
    """
    if held and backend != "inprocess":
        raise RunError("a cohort in memory stays in its process", value=backend, allowed="backend inprocess")
    # Silence what Flower would send and print of its own accord, before it is imported anywhere.
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    study = load_study(study_file) if not resume else load_study(out / "study.yaml")
    check_sites(study, site_files)
    folder = RunFolder.reopen(out) if resume else RunFolder.create(out, study_file, backend=backend)
    try:
        sites = Sites(held)
        read_recordings(study, site_files, sites)
        with progress_bars(study) as report:
            if backend == "ray":
                _on_ray(folder, site_files, report)
            else:
                from client.app import make_app
                from simulations.federation.grid import InProcessGrid

                run_study(InProcessGrid(make_app(sites), site_files), folder, report)
    finally:
        folder.close()
    return out


def check_sites(study: Study, site_files: list[Path]) -> None:
    """Raise :class:`ConfigError` where the site files are not exactly the study's sites, each approving the study."""
    given: dict[str, Path] = {}
    for path in site_files:
        settings = load_site(path)
        if settings.site in given:
            raise ConfigError("two site files are of one site", where=path, value=settings.site)
        given[settings.site] = path
        approved = readable_studies(settings)
        if settings.site in study.sites.all and study.sha256 not in [one.sha256 for one in approved]:
            namesake = any(one.name == study.name for one in approved)
            raise ConfigError(
                f"site {settings.site!r} has not approved study {study.name!r}"
                + (" as it is now; the one it names has this name and other content" if namesake else ""),
                where=path,
                value=", ".join(map(str, settings.studies)) or "no study",
                allowed="a file of exactly this study",
                remedy="name the study's file under `studies:` in the site file, or lay it where that points",
            )
    missing = sorted(set(study.sites.all) - set(given))
    if missing:
        raise ConfigError(
            "site files are missing for sites of the study",
            value=", ".join(missing),
            remedy="give one site file for each: ecgfed simulate run STUDY SITE.yaml SITE.yaml ...",
        )


def read_recordings(study: Study, site_files: list[Path], sites: Sites) -> None:
    """Fill the sites' caches before the first round, where progress and faults can be shown in full."""
    with Bars() as bars:
        for path in site_files:
            settings = load_site(path)
            if settings.site not in study.sites.all:
                continue
            moved = bars.add(f"read {settings.site}")
            data = sites[path].cohort(study, progress=moved)
            moved(len(data), len(data), "in its cohort")


@contextmanager
def progress_bars(study: Study) -> Iterator[Report]:
    """Show one bar a step; yield the function that moves them."""
    with Bars() as bars:
        tasks = {step.id: bars.add(step.id, started=False) for step in study.steps}

        def report(step: str, done: int, total: int, text: str) -> None:
            tasks[step](done, total, text)

        yield report


def _on_ray(folder: RunFolder, site_files: list[Path], report: Report) -> None:
    """Give the same two apps to Flower's simulation engine; a worker finds its site file by partition number."""
    try:
        import ray  # noqa: F401
    except ImportError:
        raise RunError("Ray is not installed", remedy="pip install 'ecgfed[ray]', or leave --backend out") from None
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp

    from client.app import SITE_FILES, app
    from server.rounds.flower_insides import run_on_ray

    os.environ[SITE_FILES] = json.dumps([str(path.resolve()) for path in site_files])
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        run_study(grid, folder, report)

    run_on_ray(server_app=server, client_app=app, num_supernodes=len(site_files))
