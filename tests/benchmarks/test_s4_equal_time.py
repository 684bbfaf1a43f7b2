"""The state-space net beside the residual one at equal processor seconds: AUC on people neither was trained on.

Four made tasks (sex, age of 60 and more, heart failure, fibrosis above the usual), and two real ones where the public
ECGs lie beside the checkout. Each training has one core and the same seconds of it, whatever it gets done in them; the
AUC's difference is the mean over seeds, its interval a bootstrap over the judging ECGs.

``ECGFED_EQUAL_SECONDS`` (30) is the budget of one training, ``ECGFED_EQUAL_OUT`` a folder for the figures as JSON.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ecgshared.ecg.input import InputConfig
from ecgshared.learning.augment import augment
from ecgshared.learning.losses import cell_losses
from ecgshared.learning.plan import AugmentConfig
from ecgshared.models import HeadSpec, build, config_class
from ecgshared.service.processes import in_processes

SECONDS = float(os.environ.get("ECGFED_EQUAL_SECONDS", "30"))
MADE = int(os.environ.get("ECGFED_EQUAL_ECGS", "6000"))
SEEDS = 3
NETS = {"s4": {"name": "s4"}, "resnet1d": {"name": "resnet1d", "preset": "small"}}
REAL = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "real"
EVERY = 8
"""Validation is looked at so many times in a training; the best look's weights judge."""


@dataclass(frozen=True)
class Task:
    """ECGs (n, 12, T) float32 mV in a file of numpy, one label each, and which train, choose and judge."""

    name: str
    signals: Path
    label: np.ndarray
    train: np.ndarray
    choose: np.ndarray
    judge: np.ndarray


@dataclass(frozen=True)
class Training:
    """One net on one task."""

    task: Task
    net: str
    seed: int
    seconds: float


def scores(training: Training) -> tuple[np.ndarray, int]:
    """Train for the seconds of processor time; return logits of the judging ECGs, and how many ECGs were seen."""
    torch.set_num_threads(1)
    task = training.task
    x = np.load(task.signals, mmap_mode="r")
    config = config_class(training.net)(**NETS[training.net], covariates=())
    net = build(config, [HeadSpec(task.name)], x.shape[2], training.seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    draw = torch.Generator().manual_seed(training.seed)
    changes = AugmentConfig(shift_seconds=0.5, scale=0.1, noise_mv=0.01)
    best, kept, seen, looks = -1.0, {}, 0, 0
    start = time.process_time()
    while (used := time.process_time() - start) < training.seconds:
        # The rate falls with the budget, not with the steps: a slow net gets a whole schedule too.
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * used / training.seconds)))
        net.train()
        rows = task.train[torch.randint(len(task.train), (32,), generator=draw).numpy()]
        batch = augment(torch.from_numpy(np.asarray(x[rows])), changes, fs_hz=100, generator=draw)
        logits = net(batch, torch.zeros(len(rows), 0))
        loss = cell_losses(logits, torch.from_numpy(task.label[rows][:, None]).float()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen += len(rows)
        if used > training.seconds * (looks + 1) / (EVERY + 1):
            looks += 1
            before = time.process_time()
            found = roc_auc_score(task.label[task.choose], told(net, x, task.choose))
            if found > best:
                best, kept = found, {k: v.clone() for k, v in net.state_dict().items()}
            # Choosing costs both the same share: it is no part of the budget.
            start += time.process_time() - before
    if roc_auc_score(task.label[task.choose], told(net, x, task.choose)) < best:
        net.load_state_dict(kept)
    return told(net, x, task.judge), seen


@torch.no_grad()
def told(net, x, rows) -> np.ndarray:
    net.eval()
    parts = [
        net(torch.from_numpy(np.asarray(x[r])), torch.zeros(len(r), 0)) for r in np.array_split(rows, 16) if len(r)
    ]
    return torch.cat(parts)[:, 0].double().numpy()


def auc(label: np.ndarray, score: np.ndarray) -> np.ndarray:
    """AUC of each row of ``score``, shape = (k, n)."""
    order = np.argsort(score, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, score.shape[1] + 1)[None].repeat(len(score), 0), 1)
    cases = label == 1
    n1, n0 = cases.sum(), (~cases).sum()
    return (ranks[:, cases].sum(1) - n1 * (n1 + 1) / 2) / (n1 * n0)


def compared(tasks: list[Task], workers: int) -> dict[str, dict[str, object]]:
    """Return, for each task, AUCs of both nets and the difference with its 95% interval."""
    work = [Training(task, net, seed, SECONDS) for task in tasks for net in NETS for seed in range(SEEDS)]
    told_all = [done for _, done in in_processes(scores, work, workers)] if workers > 1 else [scores(w) for w in work]
    found: dict[str, dict[str, object]] = {}
    for task in tasks:
        by_net = {
            net: np.stack(
                [d[0] for w, d in zip(work, told_all, strict=True) if (w.task.name, w.net) == (task.name, net)]
            )
            for net in NETS
        }
        seen = {
            net: [d[1] for w, d in zip(work, told_all, strict=True) if (w.task.name, w.net) == (task.name, net)]
            for net in NETS
        }
        label = task.label[task.judge]
        rng = np.random.default_rng(0)
        draws = []
        for _ in range(1000):
            rows = rng.integers(len(label), size=len(label))
            if 0 < label[rows].sum() < len(rows):
                draws.append(
                    (auc(label[rows], by_net["s4"][:, rows]) - auc(label[rows], by_net["resnet1d"][:, rows])).mean()
                )
        each = {net: auc(label, s) for net, s in by_net.items()}
        found[task.name] = {
            "judged": len(label),
            "cases": int(label.sum()),
            **{net: [round(float(v), 4) for v in each[net]] for net in NETS},
            "difference": round(float((each["s4"] - each["resnet1d"]).mean()), 4),
            "interval": [round(float(v), 4) for v in np.quantile(draws, [0.025, 0.975])],
            "ECGs seen": {net: int(np.mean(seen[net])) for net in NETS},
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
    heads = (("male", "male"), ("years", "age"), ("failure", "heart_failure"), ("fibrosis", "fibrosis"))
    data = made_site(load_scenario("pretraining"), MADE, config, 5, None, heads)
    np.save(tmp_path / "x.npy", data.batch(np.arange(len(data))))
    order = np.random.default_rng(1).permutation(len(data))
    train, choose, judge = np.split(order, [int(0.6 * len(order)), int(0.7 * len(order))])
    cuts = (0.5, 60.0, 0.5, float(np.median(data.labels[:, 3])))
    tasks = [
        Task(name, tmp_path / "x.npy", (data.labels[:, k] >= cuts[k]).astype(int), train, choose, judge)
        for k, (name, _) in enumerate(heads)
    ]
    told_and_kept(compared(tasks, os.cpu_count() or 1), "s4_made")


@pytest.mark.benchmark
def test_real_tasks(shared_data, tmp_path):
    """Sex, trained at PTB-XL and judged in Brazil; NORM, trained at three sites of PTB-XL and judged at the fourth."""
    tasks = [_real("sex.yaml", "male", tmp_path), _real("superclass.yaml", "norm", tmp_path)]
    told_and_kept(compared(tasks, 1), "s4_real")


def _real(study_name: str, head: str, folder: Path) -> Task:
    from client.dataset.opening import open_site
    from client.site.settings import load_site
    from ecgshared.study.study import load_study

    study = load_study(REAL / study_name)
    x, y, part = [], [], []
    for site in study.sites.all:
        settings = load_site(REAL / f"{site}.yaml").model_copy(update={"state": folder / f"{head}_{site}"})
        data = open_site(settings, study)
        x.append(data.batch(np.arange(len(data))))
        y.append(data.labels[:, list(study.endpoints).index(head)])
        place = np.where(np.isin(np.arange(len(data)), data.rows("validation")), 1, 0)
        part.append(place if site in study.sites.train else np.full(len(data), 2))
    np.save(folder / f"{head}.npy", np.concatenate(x))
    label, of = np.concatenate(y), np.concatenate(part)
    known = ~np.isnan(label)
    rows = [np.flatnonzero(known & (of == k)) for k in range(3)]
    return Task(head, folder / f"{head}.npy", np.nan_to_num(label).astype(int), *rows)
