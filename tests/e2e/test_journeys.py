"""Four people at work, by the commands that they type: how many it takes them, and how often they are refused.

``pytest -s tests/e2e/test_journeys.py -m "slow or not slow"`` prints the counts.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from simulations.federation.network import free_port

ROOT = Path(__file__).parents[2]


class Journey:
    """One person's folder, and what was typed in it. A command that does not end with 0 is a refusal."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.commands, self.refusals = folder, 0, 0
        self._left: list[subprocess.Popen[str]] = []

    def types(self, line: str, answers: str = "") -> str:
        """Type a line, and the answers to what it asks; return what it prints."""
        self.commands += 1
        done = subprocess.run(
            self._words(line), cwd=self.folder, env=self._environment(), input=answers, capture_output=True, text=True
        )
        self.refusals += done.returncode != 0
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def leaves_running(self, line: str) -> None:
        """Type a line whose process stays until the journey ends."""
        self.commands += 1
        log = (self.folder / f"left-{len(self._left)}.log").open("w")
        with log:
            self._left.append(
                subprocess.Popen(
                    self._words(line), cwd=self.folder, env=self._environment(), stdout=log, stderr=log, text=True
                )
            )

    def end(self) -> None:
        """End what was left running."""
        for process in self._left:
            process.terminate()
        for process in self._left:
            process.wait(30)

    def _words(self, line: str) -> list[str]:
        assert line.startswith("ecgfed ")
        return [sys.executable, "-P", "-m", "ecgfed", *shlex.split(line)[1:]]

    @staticmethod
    def _environment() -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


@pytest.fixture
def journey(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Journey]:
    one = Journey(tmp_path)
    yield one
    one.end()
    print(f"\n{request.node.name}: {one.commands} commands, {one.refusals} refusals")


def test_a_statistician_from_tables_to_a_cox_model_with_plots(journey: Journey) -> None:
    rng = np.random.default_rng(4)
    for name, n in (("oslo", 400), ("bergen", 250), ("tromso", 180)):
        age, male = rng.normal(62, 11, n), rng.integers(0, 2, n)
        time_ = rng.exponential(1 / (0.08 * np.exp(0.05 * (age - 62) + 0.4 * male)))
        rows = pd.DataFrame({"years": np.minimum(time_, 6), "died": (time_ < 6).astype(int), "age": age, "male": male})
        rows.to_csv(journey.folder / f"{name}.csv", index=False)
    sites = "--site oslo.csv --site bergen.csv --site tromso.csv --time years --event died"
    told = journey.types(
        f"ecgfed survival fit {sites} --covariates age,male --forest forest.svg --save model.json --json"
    )
    ratios = {row["covariate"]: row["hazard_ratio"] for row in json.loads(told)["covariates"]}
    assert 1.03 < ratios["age"] < 1.07
    journey.types(f"ecgfed survival km {sites} --by male --plot curves.svg")
    journey.types("ecgfed survival predict --model model.json --rows oslo.csv --at 1,5 --baseline oslo")
    assert all((journey.folder / name).stat().st_size > 1000 for name in ("forest.svg", "curves.svg"))
    assert (journey.commands, journey.refusals) == (3, 0)


def test_an_operator_from_folder_and_table_to_an_approved_study(journey: Journey, hospitals: Path) -> None:
    shutil.copytree(hospitals / "sites" / "north", journey.folder / "mine")
    (journey.folder / "mine" / "site.yaml").unlink()
    journey.types("ecgfed study init risk --out study.yaml --site north --site coast --site island")  # sent to them
    journey.commands = 0
    told = journey.types(
        "ecgfed site init --folder mine --table mine/cohort.csv --site north --out mine/site.yaml --json"
    )
    assert json.loads(told)["open"] == []
    assert "all is well" in journey.types("ecgfed site check mine/site.yaml")
    journey.types("ecgfed site ingest mine/site.yaml --study study.yaml")
    told = journey.types("ecgfed site show mine/site.yaml study.yaml")
    assert "leaves" in told
    assert "not known yet" not in told
    assert "approved" in journey.types("ecgfed site approve mine/site.yaml study.yaml", "study\n")
    assert (journey.commands, journey.refusals) == (5, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_researcher_from_a_template_to_a_prediction(journey: Journey) -> None:
    journey.types("ecgfed simulate make demo --patients 500 --out hospitals")
    journey.types(
        "ecgfed study init risk --rounds 2 --replace --out hospitals/study.yaml --site north --site coast --site island"
    )
    journey.types("ecgfed study check hospitals/study.yaml")
    sites = " ".join(f"hospitals/sites/{name}/site.yaml" for name in ("north", "coast", "island"))
    told = journey.types(f"ecgfed simulate run hospitals/study.yaml {sites} --out run")
    assert "report.html" in told
    journey.types("ecgfed model export run risk --out risk.ecgfed")
    ecg = sorted((journey.folder / "hospitals" / "sites" / "island").rglob("*.hea"))[0].relative_to(journey.folder)
    told = journey.types(f"ecgfed predict risk.ecgfed {ecg} --age 60 --sex F --json")
    assert json.loads(told.splitlines()[0])["outputs"]
    assert (journey.commands, journey.refusals) == (6, 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_coordinator_from_an_authority_to_a_report(
    nginx: None, journey: Journey, hospitals: Path, tmp_path: Path
) -> None:
    """Two hospitals; what they type themselves is counted apart."""
    port, inner = free_port(), free_port()
    ours = 0

    def at_the_coordinator(line: str) -> str:
        nonlocal ours
        ours += 1
        return journey.types(f"{line} --home home")

    at_the_coordinator(
        f"ecgfed coordinator init --address 127.0.0.1:{port} --listen 127.0.0.1:{port} --superlink-port {inner}"
    )
    study = "\n".join(
        [
            "name: counted",
            "sites: {train: [north], zero_shot: [coast]}",
            "endpoints: {death_2y: {kind: time_to_event, event: death, horizon_years: 2}}",
            "steps: [{id: cohorts, stage: describe}]",
        ]
    )
    (tmp_path / "study.yaml").write_text(study + "\n", encoding="utf-8")
    journey.types("ecgfed study check study.yaml")
    ours += 1
    at_the_coordinator("ecgfed coordinator up --detach")
    try:
        for site in ("north", "coast"):
            shutil.copytree(hospitals / "sites" / site, tmp_path / site)
            at_the_coordinator(f"ecgfed coordinator invite {site}")
            journey.types(f"ecgfed site init --kit home/kits/{site}.kit.yaml --out {site}/site.yaml")
            at_the_coordinator(f"ecgfed coordinator admit {site}/network/ecgfed/{site}.csr")
            journey.types(f"ecgfed site certificate {site}/site.yaml home/admitted/{site}.crt")
            for what in ("code", "envelope", "study.yaml"):
                journey.types(f"ecgfed site approve {site}/site.yaml {what} --yes")
            journey.leaves_running(f"ecgfed site start {site}/site.yaml")
        _until(lambda: _online(journey) == {"north", "coast"}, 90)
        told = at_the_coordinator("ecgfed coordinator run study.yaml --name first")
        assert ": done" in told
        at_the_coordinator("ecgfed coordinator report")
        assert (tmp_path / "home" / "runs" / "first" / "report.html").stat().st_size > 5000
        assert "run" in at_the_coordinator("ecgfed coordinator audit")
    finally:
        journey.end()
        at_the_coordinator("ecgfed coordinator down")
    print(f"\nof these the coordinator's: {ours}; each hospital's: 6")
    assert journey.refusals == 0
    assert ours == 11


def _online(journey: Journey) -> set[str]:
    """Return whom `coordinator status` calls online; it is looked at, and not counted."""
    commands = journey.commands
    told = json.loads(journey.types("ecgfed coordinator status --home home --json"))
    journey.commands = commands
    return {name for name, state in told["sites"].items() if "online" in json.dumps(state)}


def _until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(1)
