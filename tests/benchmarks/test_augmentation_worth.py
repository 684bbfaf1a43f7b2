"""What each way of varying training ECGs is worth: AUC of real sex on another continent, beside training without any.

Trained on some 400 ECGs of PTB-XL under one roof, judged on all of two hospitals of CODE-15%; the small residual
net. ``ECGFED_WORTH_STEPS`` (400) and ``ECGFED_WORTH_SEEDS`` (3) say how long and how often, ``ECGFED_WORTH_OUT`` names
a folder for the figures as JSON.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from one_roof import USUAL, Training, auc, difference, real_task, rounded, scores

from ecgshared.learning.plan import AugmentConfig
from ecgshared.service.processes import in_processes

STEPS = int(os.environ.get("ECGFED_WORTH_STEPS", "400"))
SEEDS = int(os.environ.get("ECGFED_WORTH_SEEDS", "3"))
WORKERS = int(os.environ.get("ECGFED_WORTH_WORKERS", "0")) or os.cpu_count() or 1
NET = {"name": "resnet1d", "preset": "small", "dropout": 0.2}
EACH = {
    "nothing": AugmentConfig(),
    "shift 0.5 s": AugmentConfig(shift_seconds=0.5),
    "amplitude 10%": AugmentConfig(scale=0.1),
    "amplitude 30%": AugmentConfig(scale=0.3),
    "white noise 0.01 mV": AugmentConfig(noise_mv=0.01),
    "baseline 0.1 mV": AugmentConfig(wander_mv=0.1),
    "muscle bursts 0.1 mV": AugmentConfig(muscle_mv=0.1),
    "electrodes 1 cm": AugmentConfig(electrode_cm=1.0),
    "a lead in ten missing": AugmentConfig(lead_dropout=0.1),
    "shift, amplitude, noise": USUAL,
    "these and electrodes": USUAL.model_copy(update={"electrode_cm": 1.0}),
}
"""Mains hum is left out: at 100 samples a second there is none."""


@pytest.mark.benchmark
def test_each_change_beside_none(shared_data, tmp_path):
    task = real_task("sex.yaml", "male", tmp_path)
    keys = [(name, seed) for name in EACH for seed in range(SEEDS)]
    work = [Training(task, NET, seed, steps=STEPS, changes=EACH[name]) for name, seed in keys]
    done = [d for _, d in in_processes(scores, work, WORKERS)] if WORKERS > 1 else [scores(w) for w in work]
    by_key = dict(zip(keys, done, strict=True))
    told = {name: np.stack([by_key[name, seed][0] for seed in range(SEEDS)]) for name in EACH}
    label = task.label[task.judge]
    figures = {
        name: {
            "AUC": rounded(auc(label, score)),
            "more than without": rounded(difference(label, score, told["nothing"])),
        }
        for name, score in told.items()
    }
    print(json.dumps({"trained on": len(task.train), "judged": len(label), **figures}, indent=1))
    if out := os.environ.get("ECGFED_WORTH_OUT"):
        (Path(out) / "augmentation.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    assert figures["nothing"]["more than without"] == [0, 0, 0]
    assert all(min(one["AUC"]) > 0.5 for one in figures.values())
