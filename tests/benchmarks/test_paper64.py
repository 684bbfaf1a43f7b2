"""The published 64-layer net on ECGs of 12 x 5000: a step in bfloat16 convolutions beside the eager float32 step.

pytest -m benchmark -s tests/benchmarks/test_paper64.py

ECGS and STEPS in the environment set the batch and the length of the learning curves; a core takes about a second for
an ECG and step.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ecgshared.learning.draws import seed_draws
from ecgshared.learning.loop import PlainStep
from ecgshared.learning.losses import cell_weights
from ecgshared.learning.optimiser import OptimiserConfig, make_optimiser
from ecgshared.learning.plan import LocalWork
from ecgshared.models import HeadSpec, build, config_class
from simulations.patients.people import draw_people
from simulations.patients.recording import record_ecgs
from simulations.patients.scenario import load_scenario

BATCH, STEPS = int(os.environ.get("ECGS", "4")), int(os.environ.get("STEPS", "200"))
PEOPLE, WINDOW = 256, 25
HEADS = ("male", "old", "failing", "scarred")
RATIO = 0.65


def ecgs(n):
    """Made people, one ECG each: signals (n, 12, 5000) in mV, and what they are, (n, 4)."""
    scenario = load_scenario("three_countries")
    hospital = scenario.hospitals["sweden_university"]
    rng = np.random.default_rng(3)
    people = draw_people(rng, hospital.population, n)
    parts = [
        record_ecgs(
            rng, people.rows(rows, people.age[rows]), rows < 0, hospital, hospital.devices[0], scenario.waveform, 10
        )
        for rows in np.array_split(np.arange(n), max(1, n // 32))
    ]
    labels = [people.male, people.age > 65, people.heart_failure, people.fibrosis > np.median(people.fibrosis)]
    return torch.as_tensor(np.concatenate(parts)), torch.as_tensor(np.stack(labels, axis=1).astype(np.float32))


def trainer(bf16, batch):
    """A fresh net, and a function that takes a step of it."""
    net = build(
        config_class("resnet1d")(name="resnet1d", preset="paper64", covariates=()),
        [HeadSpec(h) for h in HEADS],
        5000,
        1,
    )
    net.train()
    work = LocalWork(batch_size=batch)
    weights = cell_weights(np.ones(len(HEADS)), [PEOPLE] * len(HEADS), aggregation_weight=1)
    optimiser = make_optimiser(OptimiserConfig(name="adam"), net.parameters(), lr=1e-4)
    step = PlainStep(net, optimiser, weights, site_items=PEOPLE, work=work, bf16=bf16)

    def take(x, y):
        return float(step.update(x, torch.zeros(len(x), 0), y))

    return net, take


def curve(bf16, draws, x, y):
    """Losses of all steps, and seconds a step."""
    net, take = trainer(bf16, BATCH)
    seed_draws(net, torch.Generator().manual_seed(draws))
    order = np.random.default_rng(5)
    losses = []
    for number in range(STEPS):
        rows = order.choice(len(x), BATCH, replace=False)
        if number == 1:  # the first one finds out how
            begin = time.perf_counter()
        losses.append(take(x[rows], y[rows]))
    return np.array(losses), (time.perf_counter() - begin) / (STEPS - 1)


def smooth(losses):
    return np.convolve(losses, np.ones(WINDOW) / WINDOW, "valid")


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
@pytest.mark.skipif("bf16" not in Path("/proc/cpuinfo").read_text(), reason="this processor has no bfloat16")
def test_a_step_beside_the_eager_one_at_the_same_learning_curve():
    x, y = ecgs(PEOPLE)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    (plain, eager), (half, ours), (other, _) = curve(False, 1, x, y), curve(True, 1, x, y), curve(False, 2, x, y)
    apart, by_chance = (float(np.abs(smooth(c) - smooth(plain)).max()) for c in (half, other))
    print(
        f"\npaper64, 12 x 5000, {BATCH} ECGs a step, {STEPS} steps, {torch.get_num_threads()} threads: "
        f"float32 {eager:.2f} s a step, bfloat16 convolutions {ours:.2f} s: {ours / eager:.2f} x\n"
        f"loss over the first and the last {WINDOW} steps: float32 {plain[:WINDOW].mean():.4f}, "
        f"{plain[-WINDOW:].mean():.4f}; bfloat16 {half[:WINDOW].mean():.4f}, {half[-WINDOW:].mean():.4f}; float32 with "
        f"another dropout {other[:WINDOW].mean():.4f}, {other[-WINDOW:].mean():.4f}\n"
        f"curves (means of {WINDOW} steps) apart at most: {apart:.4f}; by another dropout {by_chance:.4f}"
    )
    assert ours / eager < RATIO
    assert apart < max(by_chance, 0.02 * plain.mean())


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("bf16", [False, True])
def test_a_batch_of_256_in_less_than_4_gib(bf16):
    """In a process of its own: its peak is that of the step."""
    code = f"import test_paper64 as t; t.one_step({bf16})"
    where = Path(__file__).parent
    found = subprocess.run([sys.executable, "-c", code], cwd=where, capture_output=True, text=True, check=True)
    print(f"\n{found.stdout.strip()}")
    assert float(found.stdout.split()[-2]) < 4


def one_step(bf16):
    """A step of a batch of 256; print its seconds and the memory that it took."""
    x, y = ecgs(32)
    x, y = x.repeat(8, 1, 1), y.repeat(8, 1)
    _, take = trainer(bf16, 256)
    begin = time.perf_counter()
    take(x, y)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    what = "bfloat16" if bf16 else "float32"
    print(f"256 ECGs of 12 x 5000 in {what}: {time.perf_counter() - begin:.0f} s, at most {most:.2f} GiB")
