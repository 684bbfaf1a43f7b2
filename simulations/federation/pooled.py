"""The pooled twin of a study: the same steps, with all training sites' records under one roof.

What federation must equal. Possible only in simulation, where one process may open every site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from client.dataset.data import SiteData
from client.dataset.opening import open_site
from client.site.settings import load_site
from ecgshared.config import load_yaml
from ecgshared.study.endpoints import EventTimes
from ecgshared.study.study import load_study
from simulations.federation.run import check_sites, simulate

POOLED = "pooled"


@dataclass(frozen=True)
class PooledTwin:
    """What :func:`~simulations.federation.run.simulate` takes to run the twin.

    Attributes
    ----------
    study : the twin's study file.
    sites : the pooled site's file, and the zero-shot sites' behind it.
    held : the pooled cohort, by the pooled site's file.
    """

    study: Path
    sites: list[Path]
    held: Mapping[Path, SiteData]


def pooled_twin(
    study_file: Path, site_files: list[Path], folder: Path, of: Sequence[SiteData] | None = None
) -> PooledTwin:
    """Write the twin's study and site file into ``folder``, and pool the training sites' cohorts in memory.

    Every patient keeps the split their own site drew. The zero-shot sites are the study's own: their site files must
    name the twin's study under ``studies``, as copies of :func:`approving` do. Steps about one training hospital are
    left out. A study that counts its local steps takes as many here, each with all that its sites' steps saw together.

    Parameters
    ----------
    of : the training sites' cohorts in the study's order; opened from their files where None.
    """
    study = load_study(study_file)
    given = {load_site(path).site: path for path in site_files}
    content = study.model_dump(mode="json", by_alias=True)
    sites = study.sites.model_dump(mode="json") | {"train": [POOLED]}
    content |= {"name": f"{study.name}-pooled"[:40], "sites": sites}
    if "labels" in content:  # no part of a study that gives none
        content["labels"] = {name: text for name, text in content["labels"].items() if name not in study.sites.train}
    content["steps"] = _under_one_roof(content["steps"], study.sites.train)
    for step in content["steps"]:
        local = step.get("local") or {}
        if local.get("steps") is not None and local.get("batch_size") is not None:
            members = step["sites"] if isinstance(step["sites"], list) else study.sites.train
            local["batch_size"] *= len(set(members) & set(study.sites.train))
        if isinstance(step["sites"], list):
            step["sites"] = list(dict.fromkeys(POOLED if s in study.sites.train else s for s in step["sites"]))
    folder.mkdir(parents=True, exist_ok=True)
    twin_file, site_file = folder / "study.yaml", folder / "pooled.yaml"
    twin_file.write_text(yaml.safe_dump(_plain(content), sort_keys=False), encoding="utf-8")
    first = load_site(given[study.sites.train[0]])
    site_file.write_text(
        yaml.safe_dump(
            {
                "site": POOLED,
                "records": {"folder": "."},
                "table": {"path": "none.csv", "columns": {"file": "file"}},
                "limits": first.limits.model_dump(),
                "compute": first.compute.model_dump(),
                "seed": first.seed,
                "studies": ["study.yaml"],
            }
        ),
        encoding="utf-8",
    )
    twin = load_study(twin_file)
    opened = of or [open_site(load_site(given[site]), study) for site in study.sites.train]
    files = [site_file, *(given[site] for site in (*twin.sites.zero_shot, *twin.sites.case_control))]
    return PooledTwin(twin_file, files, {site_file: pool(opened)})


def _under_one_roof(steps: list[dict[str, Any]], train: Sequence[str]) -> list[dict[str, Any]]:
    """Leave out what is about single training hospitals (a block's steps are) and all that uses it."""
    left: list[dict[str, Any]] = []
    for step in steps:
        members = set(step["sites"]) & set(train) if isinstance(step["sites"], list) else set(train)
        alone = len(members) == 1 and len(train) > 1 and not set(step["sites"]) - members
        known = {one["id"] for one in left}
        if "block" not in step and not alone and known.issuperset(step.get("uses", ())):
            left.append(step)
    return left


def approving(path: Path, study: Path, folder: Path) -> Path:
    """Write a copy of a site file into ``folder`` that names ``study``, with the original's data; return its path."""
    settings, content = load_site(path), load_yaml(path)
    content["records"]["folder"] = str(settings.records.folder)
    content["table"]["path"] = str(settings.table.path)
    if settings.exclude is not None:
        content["exclude"] = str(settings.exclude)
    content |= {"state": str(folder / "state" / settings.site), "studies": [str(study.resolve())]}
    content.pop("network", None)
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"{settings.site}.yaml"
    copy.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return copy


def run_pooled(study_file: Path, site_files: list[Path], out: Path) -> Path:
    """Run a study as if its training hospitals' ECGs lay under one roof; return the run folder."""
    study, beside = load_study(study_file), out.with_name(f"{out.name}-twin")
    check_sites(study, site_files)
    given = {load_site(path).site: path for path in site_files}
    files = [
        path if site in study.sites.train else approving(path, beside / "study.yaml", beside)
        for site, path in given.items()
    ]
    twin = pooled_twin(study_file, files, beside)
    return simulate(twin.study, twin.sites, out, held=twin.held)


def pool(sites: Sequence[SiteData]) -> SiteData:
    """Return all sites' rows as one cohort; patients of different sites stay different."""
    first = sites[0]
    offsets = np.cumsum([0, *(site.n_patients for site in sites)])
    covariates = {name: np.concatenate([s.covariates[name] for s in sites]) for name in first.covariates}
    ecgs, patients = sum(s.flow[-1][1] for s in sites), sum(s.flow[-1][2] for s in sites)
    return SiteData(
        signals=np.concatenate([np.asarray(s.signals) for s in sites]),
        patient=np.concatenate([s.patient + offset for s, offset in zip(sites, offsets, strict=False)]),
        split=np.concatenate([s.split for s in sites]),
        heads=first.heads,
        labels=np.concatenate([s.labels for s in sites]),
        age=np.concatenate([s.age for s in sites]),
        male=np.concatenate([s.male for s in sites]),
        covariates=covariates,
        fs_hz=first.fs_hz,
        patients_known=all(s.patients_known for s in sites),
        flow=(("pooled from all sites", ecgs, patients),),
        descriptions={},
        follow_up_years=np.concatenate([s.follow_up_years for s in sites]),
        event_times={
            event: EventTimes(
                np.concatenate([s.event_times[event].years for s in sites]),
                np.concatenate([s.event_times[event].observed for s in sites]),
                np.concatenate([s.event_times[event].cause == 2 for s in sites]),
            )
            for event in first.event_times
        },
        populations={name: np.concatenate([s.populations[name] for s in sites]) for name in first.populations},
        columns={name: np.concatenate([s.columns[name] for s in sites]) for name in first.columns},
        chronology=None if first.chronology is None else np.concatenate([s.chronology for s in sites]),
    )


def _plain(value: object) -> object:
    """Turn tuples into lists: safe YAML knows no tuples."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
