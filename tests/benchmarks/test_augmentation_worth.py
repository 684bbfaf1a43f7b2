"""What each way of varying training ECGs is worth: AUC of real sex on another continent, beside training without any.

Trained on some 400 ECGs of PTB-XL under one roof, judged on all of two hospitals of CODE-15%; the small residual net.
``ECGFED_WORTH_STEPS`` (300) says how long, ``ECGFED_WORTH_SEEDS`` (0,1,2) which seeds, ``ECGFED_WORTH_OUT`` names a
folder where each training is kept, so that seeds can be run one by one, and the figures as JSON.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from one_roof import USUAL, Training, all_scores, auc, difference, real_task, rounded

from ecgshared.learning.plan import AugmentConfig

STEPS = int(os.environ.get("ECGFED_WORTH_STEPS", "300"))
SEEDS = [int(seed) for seed in os.environ.get("ECGFED_WORTH_SEEDS", "0,1,2").split(",")]
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
    out = Path(os.environ.get("ECGFED_WORTH_OUT", tmp_path))
    work = {
        f"worth {name} {seed}": Training(task, NET, seed, steps=STEPS, changes=changes)
        for name, changes in EACH.items()
        for seed in SEEDS
    }
    done = all_scores(work, out, WORKERS)
    told = {name: np.stack([done[f"worth {name} {seed}"][0] for seed in SEEDS]) for name in EACH}
    label = task.label[task.judge]
    figures = {
        name: {
            "AUC": rounded(auc(label, score)),
            "more than without": rounded(difference(label, score, told["nothing"])),
        }
        for name, score in told.items()
    }
    print(json.dumps({"trained on": len(task.train), "judged": len(label), **figures}, indent=1))
    (out / "augmentation.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    assert figures["nothing"]["more than without"] == [0, 0, 0]
    assert all(min(one["AUC"]) > 0.5 for one in figures.values())
