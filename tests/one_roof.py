"""Nets trained under one roof and judged on people they were not trained on: what comparisons of recipes stand on.

A training ends after so many seconds of one core, or after so many steps. Validation is looked at eight times; the best
look's weights judge. Differences are means over seeds, their intervals a bootstrap over the judged ECGs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from ecgshared.learning.augment import augment
from ecgshared.learning.losses import cell_losses
from ecgshared.learning.plan import AugmentConfig
from ecgshared.models import HeadSpec, build, config_class
from ecgshared.service.processes import in_processes

REAL = Path(__file__).resolve().parents[1] / "deploy" / "examples" / "real"
USUAL = AugmentConfig(shift_seconds=0.5, scale=0.1, noise_mv=0.01)
FS_HZ, BATCH, RATE, LOOKS = 100, 32, 2e-3, 8


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
    """One net on one task; give ``seconds`` of processor time or ``steps``, infinite else."""

    task: Task
    net: Mapping[str, Any]
    seed: int
    seconds: float = float("inf")
    steps: float = float("inf")
    changes: AugmentConfig = USUAL

    def done(self, seconds: float, steps: int) -> float:
        """Return the share of the training that is over."""
        return max(seconds / self.seconds, steps / self.steps)


def scores(training: Training) -> tuple[np.ndarray, int]:
    """Train; return logits of the judging ECGs, and how many ECGs were seen."""
    torch.set_num_threads(1)
    task = training.task
    x = np.load(task.signals, mmap_mode="r")
    config = config_class(training.net["name"])(**training.net, covariates=())
    net = build(config, [HeadSpec(task.name)], x.shape[2], training.seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.05)
    draw = torch.Generator().manual_seed(training.seed)
    best, kept, steps, looks = -1.0, net.state_dict(), 0, 0
    start = time.process_time()
    while (over := training.done(time.process_time() - start, steps)) < 1:
        # The rate falls with the budget: a slow net gets a whole schedule too.
        for group in optimiser.param_groups:
            group["lr"] = RATE * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * over)))
        net.train()
        rows = task.train[torch.randint(len(task.train), (BATCH,), generator=draw).numpy()]
        batch = augment(torch.from_numpy(np.asarray(x[rows])), training.changes, fs_hz=FS_HZ, generator=draw)
        logits = net(batch, torch.zeros(len(rows), 0))
        loss = cell_losses(logits, torch.from_numpy(task.label[rows][:, None]).float()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        steps += 1
        if over > (looks + 1) / (LOOKS + 1):
            looks += 1
            before = time.process_time()
            found = roc_auc_score(task.label[task.choose], told(net, x, task.choose))
            if found > best:
                best, kept = found, {k: v.clone() for k, v in net.state_dict().items()}
            # Choosing costs every net the same share: it is no part of the budget.
            start += time.process_time() - before
    if roc_auc_score(task.label[task.choose], told(net, x, task.choose)) < best:
        net.load_state_dict(kept)
    return told(net, x, task.judge), steps * BATCH


def all_scores(work: Mapping[str, Training], folder: Path, workers: int) -> dict[str, tuple[np.ndarray, int]]:
    """Return :func:`scores` of each training by its name; what lies in ``folder`` from before isn't trained again."""
    files = {name: folder / f"{name}.npz" for name in work}
    missing = [name for name, file in files.items() if not file.exists()]
    trainings = [work[name] for name in missing]
    done = in_processes(scores, trainings, workers) if workers > 1 else ((t, scores(t)) for t in trainings)
    for name, (_, (logits, seen)) in zip(missing, done, strict=True):
        np.savez(files[name], logits=logits, seen=seen)
    found = {}
    for name, file in files.items():
        with np.load(file) as kept:
            found[name] = (kept["logits"], int(kept["seen"]))
    return found


@torch.no_grad()
def told(net: torch.nn.Module, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the net's logits of some rows."""
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
    found: np.ndarray = (ranks[:, cases].sum(1) - n1 * (n1 + 1) / 2) / (n1 * n0)
    return found


def difference(label: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Return how much higher the first's AUC is, mean over seeds, and its 95% interval; scores are (seeds, n)."""
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(1000):
        rows = rng.integers(len(label), size=len(label))
        if 0 < label[rows].sum() < len(rows):
            draws.append((auc(label[rows], first[:, rows]) - auc(label[rows], second[:, rows])).mean())
    low, high = np.quantile(draws, [0.025, 0.975])
    return float((auc(label, first) - auc(label, second)).mean()), float(low), float(high)


def real_task(study_name: str, name: str, folder: Path, label: Callable[[Any], np.ndarray] | None = None) -> Task:
    """Return a task of a study of the real sites: its training sites train and choose, those never seen judge.

    ``label`` takes a site's cohort; the endpoint ``name`` of the study is the label unless told.
    """
    from client.dataset.opening import open_site
    from client.site.settings import load_site
    from ecgshared.study.study import load_study

    study = load_study(REAL / study_name)
    x, y, part = [], [], []
    for site in study.sites.all:
        settings = load_site(REAL / f"{site}.yaml").model_copy(update={"state": folder / f"{name}_{site}"})
        data = open_site(settings, study)
        x.append(data.batch(np.arange(len(data))))
        y.append(data.labels[:, list(study.endpoints).index(name)] if label is None else label(data))
        place = np.where(np.isin(np.arange(len(data)), data.rows("validation")), 1, 0)
        part.append(place if site in study.sites.train else np.full(len(data), 2))
    np.save(folder / f"{name}.npy", np.concatenate(x))
    labels, of = np.concatenate(y), np.concatenate(part)
    known = ~np.isnan(labels)
    train, choose, judge = (np.flatnonzero(known & (of == k)) for k in range(3))
    return Task(name, folder / f"{name}.npy", np.nan_to_num(labels).astype(int), train, choose, judge)


def rounded(numbers: Sequence[float]) -> list[float]:
    """Return numbers as a report of figures has them."""
    return [round(float(number), 4) for number in numbers]
