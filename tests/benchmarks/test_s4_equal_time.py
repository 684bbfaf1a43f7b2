"""The state-space net beside the residual one at equal processor seconds: AUC on people neither was trained on.

Five made tasks (sex, age of 60 and more, heart failure, fibrosis above the usual, atrial fibrillation), and three real
ones where the public ECGs lie beside the checkout: sex and age trained at PTB-XL and judged in Brazil, NORM trained at
three sites of PTB-XL and judged at the fourth. Of real fibrillation there are 13 ECGs: too few to train on. Each
training has one core and the same seconds of it, whatever it gets done in them.

``ECGFED_EQUAL_SECONDS`` (30) is the budget of one training, ``ECGFED_EQUAL_SEEDS`` (0,1,2) and ``ECGFED_EQUAL_TASKS``
(all) name what is trained, ``ECGFED_EQUAL_OUT`` a folder where each training is kept, so that they can be run one by
one, and the figures as JSON.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from one_roof import Task, Training, all_scores, auc, difference, real_task, rounded

from ecgshared.ecg.input import InputConfig

SECONDS = float(os.environ.get("ECGFED_EQUAL_SECONDS", "30"))
SEEDS = [int(seed) for seed in os.environ.get("ECGFED_EQUAL_SEEDS", "0,1,2").split(",")]
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
ASKED = set(os.environ.get("ECGFED_EQUAL_TASKS", ",".join(name for name, _ in HEADS) + ",sex,old,norm").split(","))


def compared(tasks: list[Task], out: Path, group: str) -> dict[str, dict[str, object]]:
    """Return, for each task, AUCs of both nets and the difference with its 95% interval."""
    work = {
        f"{group} {task.name} {net} {seed}": Training(task, config, seed, seconds=SECONDS)
        for task in tasks
        for net, config in NETS.items()
        for seed in SEEDS
    }
    done = all_scores(work, out, WORKERS)
    found: dict[str, dict[str, object]] = {}
    for task in tasks:
        told = {net: np.stack([done[f"{group} {task.name} {net} {seed}"][0] for seed in SEEDS]) for net in NETS}
        label = task.label[task.judge]
        value, *interval = difference(label, told["s4"], told["resnet1d"])
        found[task.name] = {
            "judged": len(label),
            "cases": int(label.sum()),
            **{net: rounded(auc(label, told[net])) for net in NETS},
            "difference": round(value, 4),
            "interval": rounded(interval),
            "ECGs seen": {
                net: int(np.mean([done[f"{group} {task.name} {net} {s}"][1] for s in SEEDS])) for net in NETS
            },
        }
    return found


def told_and_kept(tasks: list[Task], folder: Path, name: str) -> None:
    out = Path(os.environ.get("ECGFED_EQUAL_OUT", folder))
    found = compared(tasks, out, name)
    told = {"seconds": SECONDS, "seeds": SEEDS, "tasks": found}
    print(json.dumps(told, indent=1))
    (out / f"{name}.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    for one in found.values():
        assert one["interval"][0] <= one["difference"] <= one["interval"][1]
        assert min(*one["s4"], *one["resnet1d"]) > 0.5


@pytest.mark.benchmark
def test_made_tasks(tmp_path):
    from simulations.federation.pretrain import made_site
    from simulations.patients.scenario import load_scenario

    if not ASKED.intersection(name for name, _ in HEADS):
        pytest.skip("no made task was asked for")
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
    told_and_kept(tasks, tmp_path, "s4_made")


@pytest.mark.benchmark
def test_real_tasks(shared_data, tmp_path):
    def old(data):
        return np.where(np.isnan(data.age), np.nan, data.age >= 60)

    wanted = {
        "sex": lambda: real_task("sex.yaml", "male", tmp_path),
        "old": lambda: real_task("sex.yaml", "old", tmp_path, old),
        "norm": lambda: real_task("superclass.yaml", "norm", tmp_path),
    }
    told_and_kept([made() for name, made in wanted.items() if name in ASKED], tmp_path, "s4_real")
