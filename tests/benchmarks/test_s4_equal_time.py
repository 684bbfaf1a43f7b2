"""The state-space net beside the residual one at equal processor seconds: AUC on people neither was trained on.

Five made tasks (sex, age of 60 and more, heart failure, fibrosis above the usual, atrial fibrillation), and three real
ones where the public ECGs lie beside the checkout: sex and age trained at PTB-XL and judged in Brazil, NORM trained at
three sites of PTB-XL and judged at the fourth. Of real fibrillation there are 13 ECGs: too few to train on. Each
training has one core and the same seconds of it, whatever it gets done in them.

``ECGFED_EQUAL_SECONDS`` (30) is the budget of one training, ``ECGFED_EQUAL_SEEDS`` (3) how often each is trained,
``ECGFED_EQUAL_TASKS`` the made tasks to run (all), ``ECGFED_EQUAL_OUT`` a folder for the figures as JSON.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from one_roof import Task, Training, auc, difference, real_task, rounded, scores

from ecgshared.ecg.input import InputConfig
from ecgshared.service.processes import in_processes

SECONDS = float(os.environ.get("ECGFED_EQUAL_SECONDS", "30"))
SEEDS = int(os.environ.get("ECGFED_EQUAL_SEEDS", "3"))
MADE = int(os.environ.get("ECGFED_EQUAL_ECGS", "6000"))
WORKERS = int(os.environ.get("ECGFED_EQUAL_WORKERS", "0")) or os.cpu_count() or 1
NETS = {"s4": {"name": "s4"}, "resnet1d": {"name": "resnet1d", "preset": "small"}}
HEADS = (
    ("male", "male"),
    ("years", "age"),
    ("failure", "heart_failure"),
    ("fibrosis", "fibrosis"),
    ("fibrillation", "fibrillation"),
)
ASKED = os.environ.get("ECGFED_EQUAL_TASKS", ",".join(name for name, _ in HEADS)).split(",")


def compared(tasks: list[Task], workers: int) -> dict[str, dict[str, object]]:
    """Return, for each task, AUCs of both nets and the difference with its 95% interval."""
    keys = [(task.name, net, seed) for task in tasks for net in NETS for seed in range(SEEDS)]
    work = [Training(task, NETS[net], seed, seconds=SECONDS) for task in tasks for net in NETS for seed in range(SEEDS)]
    done = [d for _, d in in_processes(scores, work, workers)] if workers > 1 else [scores(w) for w in work]
    by_key = dict(zip(keys, done, strict=True))
    found: dict[str, dict[str, object]] = {}
    for task in tasks:
        told = {net: np.stack([by_key[task.name, net, seed][0] for seed in range(SEEDS)]) for net in NETS}
        label = task.label[task.judge]
        value, *interval = difference(label, told["s4"], told["resnet1d"])
        found[task.name] = {
            "judged": len(label),
            "cases": int(label.sum()),
            **{net: rounded(auc(label, told[net])) for net in NETS},
            "difference": round(value, 4),
            "interval": rounded(interval),
            "ECGs seen": {net: int(np.mean([by_key[task.name, net, s][1] for s in range(SEEDS)])) for net in NETS},
        }
    return found


def told_and_kept(found, name: str) -> None:
    print(json.dumps(found, indent=1))
    if out := os.environ.get("ECGFED_EQUAL_OUT"):
        told = {"seconds": SECONDS, "seeds": SEEDS, "tasks": found}
        (Path(out) / f"{name}.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    for one in found.values():
        assert one["interval"][0] <= one["difference"] <= one["interval"][1]
        assert min(*one["s4"], *one["resnet1d"]) > 0.5


@pytest.mark.benchmark
def test_made_tasks(tmp_path):
    from simulations.federation.pretrain import made_site
    from simulations.patients.scenario import load_scenario

    config = InputConfig(fs_hz=100, seconds=10, band_hz=(0.5, 40))
    data = made_site(load_scenario("pretraining"), MADE, config, 5, WORKERS, HEADS)
    np.save(tmp_path / "x.npy", data.batch(np.arange(len(data))))
    order = np.random.default_rng(1).permutation(len(data))
    train, choose, judge = np.split(order, [int(0.6 * len(order)), int(0.7 * len(order))])
    cuts = {"years": 60.0, "fibrosis": float(np.median(data.labels[:, 3]))}
    tasks = [
        Task(name, tmp_path / "x.npy", (data.labels[:, k] >= cuts.get(name, 0.5)).astype(int), train, choose, judge)
        for k, (name, _) in enumerate(HEADS)
        if name in ASKED
    ]
    told_and_kept(compared(tasks, WORKERS), "s4_made")


@pytest.mark.benchmark
def test_real_tasks(shared_data, tmp_path):
    def old(data):
        return np.where(np.isnan(data.age), np.nan, data.age >= 60)

    tasks = [
        real_task("sex.yaml", "male", tmp_path),
        real_task("sex.yaml", "old", tmp_path, old),
        real_task("superclass.yaml", "norm", tmp_path),
    ]
    told_and_kept(compared(tasks, WORKERS), "s4_real")
