"""The conditional VAE on ``uk_biobank_like``: how well it rebuilds and makes beats, whether it follows the physics, and
what privacy costs. Prints the figures of the README; asserts what it must show, and no time.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import yaml

from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate
from simulations.generation.consistency import compare, summary
from simulations.hospitals.make import make_hospitals
from simulations.patients.scenario import SCENARIOS, load_scenario

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

PUBLISHED_MAE_UV = 15.7


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uk_biobank_like")
    make_hospitals(load_scenario("uk_biobank_like"), folder)
    return folder


def run_study(hospitals: Path, out: Path, changes) -> tuple[Path, float]:
    content = yaml.safe_load((SCENARIOS / "uk_biobank_like_study.yaml").read_text())
    step = next(step for step in content["steps"] if step["id"] == "beats")
    changes(step)
    (hospitals / "study.yaml").write_text(yaml.safe_dump(content))
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    return simulate(
        hospitals / "study.yaml", sorted(hospitals.glob("sites/*/site.yaml")), out
    ), time.perf_counter() - start


def figures(run: Path, *, moves: bool = True):
    folder = RunFolder.reopen(run)
    folder.close()
    judged = folder.artefact("judged").result["pooled"]["zero_shot"]
    moved = {way: summary(rows) for way, rows in compare(run, "uk_biobank_like").items()} if moves else {}
    return judged, moved


def test_the_default_net_rebuilds_makes_and_moves_beats(hospitals, tmp_path):
    run, seconds = run_study(hospitals, tmp_path / "run", lambda step: None)
    judged, moved = figures(run)
    print(f"\ndefault net, {seconds:.0f} s with reading: {json.dumps(judged)}\nmoves: {json.dumps(moved)}")
    assert judged["reconstruction_uv"] < PUBLISHED_MAE_UV
    assert judged["precision"] > 0.8 * judged["precision_real"]
    assert judged["recall"] > 0.8 * judged["recall_real"]
    for way in ("own", "drawn"):
        assert moved[way]["median_correlation"] >= 0.9
        assert 0.75 <= moved[way]["median_slope"] <= 1.25


def test_the_published_net_beside_it(hospitals, tmp_path):
    def published(step):
        step["model"] |= {"paper_faithful": True}
        step["optimiser"]["lr"] = 1e-3
        step["local"]["batch_size"] = 32

    run, seconds = run_study(hospitals, tmp_path / "run", published)
    judged, moved = figures(run)
    print(f"\npublished net, {seconds:.0f} s: {json.dumps(judged)}\nmoves: {json.dumps(moved)}")
    assert judged["reconstruction_uv"] > 0
    assert set(moved) == {"own", "drawn"}


def test_what_privacy_costs(hospitals, tmp_path):
    def private(step):
        step["model"] |= {"hidden": 24, "latent": 6}
        step["rounds"], step["local"] = 15, {"steps": 10}
        step["optimiser"]["lr"] = 5e-3
        step["privacy"] = {"epsilon": 8, "delta": 1e-4, "max_grad_norm": 1.0, "expected_batch_size": 512}

    def same_net(step):
        step["model"] |= {"hidden": 24, "latent": 6}

    for name, changes in (("epsilon 8", private), ("the same net without", same_net)):
        run, seconds = run_study(hospitals, tmp_path / name.replace(" ", "-"), changes)
        judged, _ = figures(run, moves=False)
        print(f"\n{name}, {seconds:.0f} s: {json.dumps(judged)}")
        assert judged["reconstruction_uv"] > 0, name
