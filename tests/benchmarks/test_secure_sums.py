"""What hiding the weights costs: a round of 17.5 million of them at ten hospitals, of which three are lost with their
words on the way, beside the same round in the clear. Turn about, in one process, one thread; seconds of the processor
decide, since a machine may have other work.

Run with ``pytest -m benchmark -s tests/benchmarks/test_secure_sums.py``; ECGFED_TABLE names a file for the table.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import client.app
from client.dataset.data import SiteData
from ecgshared.errors import RefusalCode, Refused
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

pytestmark = pytest.mark.benchmark

SITES, LOST, REPEATS = tuple(f"site{i}" for i in range(10)), 3, 3
GOAL = 2.0
PATIENTS, SAMPLES = 16, 1000


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def hospital(number: int) -> SiteData:
    """Eight patients to train on, eight to validate on, one ECG each."""
    draw = np.random.default_rng([7, number])
    return SiteData(
        signals=draw.normal(0, 200, (PATIENTS, 12, SAMPLES)).astype(np.int16),
        patient=np.arange(PATIENTS),
        split=np.repeat([0, 1], PATIENTS // 2).astype(np.int8),
        heads=("tall",),
        labels=np.tile([0.0, 1.0], PATIENTS // 2).astype(np.float32)[:, None],
        age=draw.normal(60, 10, PATIENTS).astype(np.float32),
        male=np.tile([1.0, 0.0], PATIENTS // 2).astype(np.float32),
        covariates={},
        fs_hz=100.0,
        patients_known=True,
        flow=(("made", PATIENTS, PATIENTS),),
        descriptions={},
        follow_up_years=np.full(PATIENTS, np.nan, dtype=np.float32),
        event_times={},
    )


def ran(folder: Path, *, secure: bool) -> tuple[RunFolder, float, float, float]:
    """Run one round; return the run, the seconds of the round, those of the processor, and the bytes both ways."""
    folder.mkdir(parents=True)
    study = {
        "name": "bench",
        "sites": {"train": list(SITES)},
        "input": {"fs_hz": 100, "seconds": 10},
        "endpoints": {"tall": {"kind": "binary", "column": "tall"}},
        "federation": {"quorum": len(SITES) - LOST, "retries": 0},
        "steps": [
            {"id": "cohorts", "stage": "describe"},
            {
                "id": "net", "stage": "train", "uses": ["cohorts"], "heads": ["tall"],
                "model": {"preset": "paper64", "dropout": 0.0}, "rounds": 1,
                "local": {"steps": 1, "batch_size": None}, "optimiser": {"name": "sgd", "lr": 1e-3},
            },
        ],
    } | ({"secure_sum": {}} if secure else {})  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    held = {}
    for number, name in enumerate(SITES):
        content = {
            "site": name,
            "records": {"folder": "."},
            "table": {"path": "none.csv", "columns": {"file": "file"}},
            "state": str(folder / "state" / name),
            "studies": ["study.yaml"],
            "seed": 7,
            "limits": {"min_patients": 1, "min_events": 0},
            "privacy": {"weights": "plain"},
        }
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content))
        held[file] = hospital(number)
    begun = time.process_time()
    run = RunFolder.reopen(simulate(folder / "study.yaml", list(held), folder / "run", held=held))
    spent = time.process_time() - begun
    run.close()
    lines = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    parts = [line for line in lines if line["step"] == "net" and not line["phase"].startswith("validate")]
    seconds = sum(line.get("seconds", 0.0) for line in parts)
    moved = sum(sum(line.get(way, {}).values()) for line in parts for way in ("bytes_in", "bytes_out"))
    return run, seconds, spent, moved


@pytest.mark.timeout(1800)
def test_a_round_under_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = client.app.answer_bytes

    def answer_bytes(site: Any, study: Any, request: Any) -> bytes:
        body = honest(site, study, request)
        # Lost after all was computed: the work of a round in the clear, and of one under masks, is done.
        if request.phase in ("fit", "fit+hidden") and site.settings().site in SITES[-LOST:]:
            raise Refused(RefusalCode.INTERNAL, "lost on the way")
        return body

    monkeypatch.setattr(client.app, "answer_bytes", answer_bytes)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    spent: dict[bool, list[float]] = {False: [], True: []}
    moved: dict[bool, float] = {}
    weights: dict[bool, np.ndarray] = {}
    for turn in range(REPEATS):
        for secure in (False, True):
            run, took, cpu, moved[secure] = ran(tmp_path / f"{turn}-{secure}", secure=secure)
            seconds[secure].append(took)
            spent[secure].append(cpu)
            print(
                f"turn {turn}, {'under masks' if secure else 'in the clear'}: {took:.1f} s, {cpu:.1f} of the CPU",
                flush=True,
            )
            artefact = run.artefact("net")
            assert artefact is not None
            weights[secure] = artefact.arrays["weights"]
            assert set(artefact.result.absent) == set(SITES[-LOST:])
    ratios = [masked / plain for plain, masked in zip(spent[False], spent[True], strict=True)]
    error = float(np.abs(weights[True].astype(np.float64) - weights[False]).max())
    table = [
        f"{weights[True].size} parameters, {len(SITES)} sites, {LOST} lost with their words on the way",
        *(
            f"{'under masks' if secure else 'in the clear':<13} {statistics.median(seconds[secure]):7.1f} s a round "
            f"({min(seconds[secure]):.1f} to {max(seconds[secure]):.1f}), of the CPU "
            f"{statistics.median(spent[secure]):7.1f}  {moved[secure] / 2**20:8.0f} MiB both ways"
            for secure in (False, True)
        ),
        f"ratio of the CPU {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), wanted {GOAL}; "
        f"largest difference of a weight {error:.1e}",
    ]
    print("\n" + "\n".join(table))
    if os.environ.get("ECGFED_TABLE"):
        Path(os.environ["ECGFED_TABLE"]).write_text("\n".join(table) + "\n")
    assert error < 1e-6
    assert statistics.median(ratios) <= GOAL
