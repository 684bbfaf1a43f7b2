"""The demo's hospitals and study, laid into a run folder."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

from ecgshared.service.progress import Bars, Moved
from simulations.hospitals.make import make_hospitals
from simulations.patients.scenario import load_scenario

STUDY = "demo_study.yaml"


def prepare(out: Path, seed: int | None) -> tuple[Path, list[Path]]:
    """Make the hospitals below ``out/hospitals`` unless they stand there; return the study's and the sites' files."""
    hospitals = out / "hospitals"
    study = hospitals / "study.yaml"
    scenario = load_scenario("demo")
    if not study.exists():
        # Made beside and renamed: an interrupted making leaves no half a hospital behind.
        draft = out / "hospitals.part"
        shutil.rmtree(draft, ignore_errors=True)
        with Bars() as bars:
            tasks: dict[str, Moved] = {}

            def advance(name: str, done: int, total: int) -> None:
                if name not in tasks:
                    tasks[name] = bars.add(f"make {name}")
                tasks[name](done, total)

            make_hospitals(scenario, draft, seed, None, advance)
        text = files("simulations").joinpath("scenarios", STUDY).read_text(encoding="utf-8")
        (draft / "study.yaml").write_text(text, encoding="utf-8")
        draft.rename(hospitals)
    return study, [hospitals / "sites" / name / "site.yaml" for name in scenario.hospitals]
