"""What federation costs beside a bare PyTorch FedAvg loop of the same steps, and how soon a run begins.

Both loops train the same net from the same weights on the same int16 arrays (memory maps, as a site's cache is), with
one thread, in turn in one process. Both include the pass over validation ECGs (loss and AUC of each head) that a site
folds into its reply, and one after the last round. The federated run has in addition all that makes it one: describe,
requests and replies as bytes, the egress gate, the outbox and logs synced to disk, and a checkpoint every round.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from client.answer import Sites
from client.app import make_app
from client.cache.entries import UNITS_PER_MV
from client.dataset.data import CachedSignals, SiteData
from ecgshared.models import build
from ecgshared.stages.train import Config
from ecgshared.stages.train_net import head_specs
from ecgshared.stats.roc import auc
from ecgshared.study.study import Study, load_study
from ecgshared.wire.protocol import SPLITS
from server.rounds.run_folder import RunFolder
from server.rounds.study_run import run_study
from simulations.federation.grid import InProcessGrid

pytestmark = pytest.mark.benchmark

SITES, TRAIN, VALIDATION, BATCH, ROUNDS, REPEATS = ("a", "b", "c"), 1024, 320, 64, 4, 3
GOAL_RATIO, GOAL_START_SECONDS = 1.15, 3.0
HEADS = ("first", "second", "third")

STUDY = {
    "name": "speed",
    "seed": 3,
    "sites": {"train": list(SITES)},
    "input": {"fs_hz": 100, "seconds": 10},
    "endpoints": {head: {"kind": "binary", "column": head} for head in HEADS},
    "split": {"train": 0.6, "validation": 0.2, "lockbox": 0.2},
    "steps": [
        {"id": "cohorts", "stage": "describe"},
        {
            "id": "net", "stage": "train", "uses": ["cohorts"], "heads": list(HEADS), "model": {"preset": "small"},
            "rounds": ROUNDS, "local": {"epochs": 1, "batch_size": BATCH}, "optimiser": {"name": "adam", "lr": 1e-3},
        },
    ],
}  # fmt: skip


def made_site(folder: Path, seed: int) -> SiteData:
    """One ECG a patient; the signals lie in a memory map."""
    rng, n = np.random.default_rng(seed), TRAIN + VALIDATION
    np.save(folder / f"{seed}.npy", rng.normal(0, 200, (n, 12, 1000)).astype(np.int16))
    return SiteData(
        signals=CachedSignals(np.load(folder / f"{seed}.npy", mmap_mode="r"), rng.permutation(n)),
        patient=np.arange(n),
        split=np.repeat([SPLITS.index("train"), SPLITS.index("validation")], [TRAIN, VALIDATION]).astype(np.int8),
        heads=HEADS,
        labels=(rng.random((n, len(HEADS))) < 0.2).astype(np.float32),
        age=rng.normal(60, 12, n).astype(np.float32),
        male=(rng.random(n) < 0.5).astype(np.float32),
        covariates={},
        fs_hz=100.0,
        patients_known=True,
        flow=(("made", n, n),),
        descriptions={},
        follow_up_years=np.full(n, np.nan, dtype=np.float32),
    )


def bare_fedavg(study: Study, data: list[SiteData]) -> list[float]:
    """FedAvg as one would write it in a page of PyTorch; return the mean validation losses."""
    step = study.step("net")
    assert isinstance(step, Config)
    model = build(step.model, head_specs(step, study), study.input.samples, study.seed)
    glob = copy.deepcopy(model.state_dict())
    rng, losses = np.random.default_rng(0), []

    def batch(site: SiteData, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = torch.from_numpy(site.signals[rows].astype(np.float32) / np.float32(UNITS_PER_MV))
        late = np.stack([(site.age[rows] - 60) / 12, (site.male[rows] - 0.5) / 0.5], axis=1)
        return x, torch.from_numpy(late), torch.from_numpy(site.labels[rows])

    def judge(site: SiteData) -> float:
        model.eval()
        rows = site.rows("validation")
        with torch.no_grad():
            parts = [model(*batch(site, rows[i : i + 256])[:2]) for i in range(0, len(rows), 256)]
        logits, labels = torch.cat(parts), torch.from_numpy(site.labels[rows])
        for h in range(len(HEADS)):
            auc(logits[:, h].double().numpy(), site.labels[rows, h])
        return float(F.binary_cross_entropy_with_logits(logits, labels))

    for _ in range(ROUNDS):
        local = []
        for site in data:
            model.load_state_dict(glob)
            losses.append(judge(site))
            model.train()
            optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
            rows = rng.permutation(site.rows("train"))
            for start in range(0, len(rows), BATCH):
                x, late, labels = batch(site, rows[start : start + BATCH])
                optimiser.zero_grad(set_to_none=True)
                F.binary_cross_entropy_with_logits(model(x, late), labels).backward()
                optimiser.step()
            local.append(copy.deepcopy(model.state_dict()))
        glob = {name: torch.stack([state[name] for state in local]).mean(0) for name in glob}
    model.load_state_dict(glob)
    return losses + [judge(site) for site in data]


def federated(study_file: Path, cohorts: dict[Path, SiteData], out: Path) -> RunFolder:
    """The same, through coordinator, messages, site apps and gate."""
    logging.getLogger("flwr").setLevel(logging.ERROR)  # as `ecgfed simulate` does
    folder = RunFolder.create(out, study_file, backend="inprocess")
    try:
        run_study(InProcessGrid(make_app(Sites(cohorts)), cohorts), folder, lambda *_: None)
    finally:
        folder.close()
    return folder


def test_federated_run_beside_a_bare_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study_file = tmp_path / "study.yaml"
    study_file.write_text(yaml.safe_dump(STUDY, sort_keys=False), encoding="utf-8")
    study = load_study(study_file)
    data = [made_site(tmp_path, seed) for seed in range(len(SITES))]
    cohorts: dict[Path, SiteData] = {}
    site_files = []
    for site, held in zip(SITES, data, strict=True):
        content = {
            "site": site,
            "records": {"folder": "."},
            "table": {"path": "none.csv", "columns": {"file": "file"}},
            "state": f"state/{site}",
            "studies": ["study.yaml"],
            "compute": {"threads": 1},
            "seed": 1,
        }
        site_files.append(tmp_path / f"{site}.yaml")
        site_files[-1].write_text(yaml.safe_dump(content), encoding="utf-8")
        cohorts[site_files[-1]] = held

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        federated(study_file, cohorts, tmp_path / "warm")
        bare_fedavg(study, data)
        wall: dict[str, list[float]] = {"federated": [], "bare": []}
        cpu: dict[str, list[float]] = {"federated": [], "bare": []}
        for number in range(REPEATS):
            for name in ("federated", "bare") if number % 2 == 0 else ("bare", "federated"):
                start, start_cpu = time.perf_counter(), time.process_time()
                if name == "federated":
                    folder = federated(study_file, cohorts, tmp_path / f"run{number}")
                else:
                    losses = bare_fedavg(study, data)
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - start_cpu)
    finally:
        torch.set_num_threads(threads)

    trained = folder.artefact("net")
    assert trained is not None
    assert trained.result["rounds"] == ROUNDS
    assert not trained.result["absent"]
    # The same work: both begin with the same loss on the same validation ECGs, as far as age is scaled alike.
    assert trained.result["validation"][0]["loss"] == pytest.approx(np.mean(losses[: len(SITES)]), rel=0.02)
    times = {name: (statistics.median(wall[name]), statistics.median(cpu[name])) for name in wall}
    ratios = [times["federated"][i] / times["bare"][i] for i in (0, 1)]
    over = [(times["federated"][i] - times["bare"][i]) / (ROUNDS * len(SITES)) * 1e3 for i in (0, 1)]
    with capsys.disabled():
        print(
            f"\nfederated run beside a bare FedAvg loop ({len(SITES)} sites x {ROUNDS} rounds x {TRAIN // BATCH} steps "
            f"of {BATCH} ECGs, validation in both; medians of {REPEATS}):"
            f"\n  wall {times['federated'][0]:.2f} s and {times['bare'][0]:.2f} s: {ratios[0]:.3f} x"
            f"\n  CPU  {times['federated'][1]:.2f} s and {times['bare'][1]:.2f} s: {ratios[1]:.3f} x"
            f"   (goal {GOAL_RATIO}); {over[0]:.0f} ms wall, {over[1]:.0f} ms CPU more a site and round"
        )


def run_command(*arguments: str, cwd: Path) -> tuple[float, float]:
    """Run the command to its end; return wall and CPU seconds."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "ecgshared", *arguments], check=True, capture_output=True, cwd=cwd)
    wall, after = time.perf_counter() - start, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, spent


def seconds_to_first_request(study: Path, sites: list[Path], out: Path) -> float:
    """Start a run; return the seconds from there to its first request, which history.jsonl dates by its end."""
    command = [sys.executable, "-m", "ecgshared", "simulate", "run", str(study), *map(str, sites), "--out", str(out)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=out.parent) as process:
        history = out / "history.jsonl"
        while process.poll() is None and not (history.exists() and history.read_text(encoding="utf-8").count("\n")):
            time.sleep(0.005)
        seen = time.perf_counter() - start
    assert process.returncode == 0
    first = json.loads(history.read_text(encoding="utf-8").splitlines()[0])
    return seen - float(first["seconds"])


def test_start_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from simulations.hospitals.make import make_hospitals
    from simulations.patients.scenario import load_scenario

    make_hospitals(load_scenario("demo"), tmp_path, 1, 0.03, None)
    content: dict[str, Any] = {
        **STUDY,
        "name": "tiny",
        "sites": {"train": ["north", "coast"]},
        "endpoints": {"male": {"kind": "binary", "column": "male"}},
        "steps": [STUDY["steps"][0]],
    }
    # The made site files approve the study that lies beside their folder.
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    sites = [tmp_path / "sites" / name / "site.yaml" for name in ("north", "coast")]
    first, *warm = [seconds_to_first_request(study, sites, tmp_path / f"run{i}") for i in range(4)]
    helps = [run_command("--help", cwd=tmp_path) for _ in range(4)][1:]
    ended = [json.loads((tmp_path / f"run{i}" / "run.json").read_text(encoding="utf-8"))["status"] for i in range(4)]
    assert ended == ["done"] * 4
    with capsys.disabled():
        print(
            f"\nstart-up: `ecgfed --help` {statistics.median(h[0] for h in helps):.2f} s wall, "
            f"{statistics.median(h[1] for h in helps):.2f} s CPU"
            f"\n  `ecgfed simulate run` to its first request: {statistics.median(warm):.2f} s wall "
            f"(the first time {first:.2f} s; goal {GOAL_START_SECONDS:.0f})"
        )
