"""Records a second that each net trains on and judges in our loop, beside bare PyTorch; and a large batch's memory.

Bare: tensors ready in memory, forward, backward, an optimiser step, nothing else. Ours: rows fetched from a cohort's
microvolts, weighted and masked losses, parts of a batch, checks. Rounds of both take turns; the median counts.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ecgshared.learning.loop import PlainStep, predict, train
from ecgshared.learning.plan import LocalWork
from ecgshared.models import HeadSpec, build, config_class

NETS = ("resnet1d", "crnn", "s4", "attia_cnn", "waves")
BATCH, TURNS, STEPS = 32, 5, 2
MOST_GB = 4.0


class Rows:
    """A cohort of n made recordings, int16 microvolts as a site keeps them."""

    def __init__(self, n: int, samples: int) -> None:
        rng = np.random.default_rng(0)
        self.units = rng.integers(-800, 800, (n, 12, samples), dtype=np.int16)
        self.label = rng.integers(0, 2, (n, 1)).astype(np.float64)
        self.patient = np.arange(n)

    def fetch(self, rows):
        x = self.units[rows].astype(np.float32) / np.float32(1000)
        return x, np.zeros((len(rows), 0)), self.label[rows]


def net_of(name: str, samples: int, **changes):
    return build(config_class(name)(name=name, covariates=(), **changes), [HeadSpec("a")], samples, 0)


def timed(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@pytest.mark.benchmark
@pytest.mark.parametrize("name", NETS)
def test_records_a_second_beside_bare_torch(name):
    torch.set_num_threads(1)
    rows = Rows(BATCH * STEPS, 1000)
    ours, bare = net_of(name, 1000), net_of(name, 1000).train()
    mine, theirs = (torch.optim.Adam(net.parameters()) for net in (ours, bare))
    x, beside, label = (torch.as_tensor(a, dtype=torch.float32) for a in rows.fetch(np.arange(len(rows.patient))))
    work = LocalWork(steps=STEPS, batch_size=BATCH)
    generator = np.random.default_rng(1)

    def ours_trains():
        train(ours, rows, PlainStep(ours, mine, [1.0], site_items=BATCH * STEPS, work=work), work, generator)

    def bare_trains():
        bare.train()
        for part in range(STEPS):
            at = slice(part * BATCH, (part + 1) * BATCH)
            theirs.zero_grad()
            F.binary_cross_entropy_with_logits(bare(x[at], beside[at]), label[at]).backward()
            theirs.step()

    def bare_judges():
        with torch.no_grad():
            bare.eval()(x, beside)

    jobs = {
        "ours trains": ours_trains,
        "bare trains": bare_trains,
        "ours judges": lambda: predict(ours, rows, np.arange(len(rows.patient))),
        "bare judges": bare_judges,
    }
    took = {kind: [] for kind in jobs}
    for job in jobs.values():
        job()
    for _ in range(TURNS):
        for kind, job in jobs.items():
            took[kind].append(timed(job))
    rate = {kind: len(rows.patient) / float(np.median(each)) for kind, each in took.items()}
    trains, judges = (rate[f"ours {what}"] / rate[f"bare {what}"] for what in ("trains", "judges"))
    print(f"{name}: " + ", ".join(f"{kind} {r:.0f}/s" for kind, r in rate.items()) + f"; {trains:.2f}, {judges:.2f}")
    kept(name, {**rate, "trains, of bare": trains, "judges, of bare": judges})
    assert min(trains, judges) > 0.5


@pytest.mark.benchmark
@pytest.mark.parametrize("name", [*NETS, "paper64"])
def test_a_step_of_256_recordings_of_12_by_5000_stays_below_4_gb(name):
    """One optimiser step in a process of its own, whose peak of memory is told by the system."""
    command = [sys.executable, __file__, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    gigabytes = float(done.stdout.split()[-1])
    print(f"{name}: {gigabytes:.2f} GB")
    kept(f"{name}, 256 x 12 x 5000", {"peak, GB": gigabytes})
    assert gigabytes < MOST_GB


def kept(name: str, figures: dict[str, float]) -> None:
    if out := os.environ.get("ECGFED_SPEED_OUT"):
        with (Path(out) / "nets_speed.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"net": name, **{key: round(v, 3) for key, v in figures.items()}}) + "\n")


def one_large_step(name: str) -> None:
    """Train one step on 256 recordings of 12 x 5000, and print this process's peak of memory, GB."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    net = net_of("resnet1d", 5000, preset="paper64") if name == "paper64" else net_of(name, 5000)
    optimiser, work = torch.optim.Adam(net.parameters()), LocalWork(steps=1, batch_size=256)
    rows = Rows(256, 5000)
    train(net, rows, PlainStep(net, optimiser, [1.0], site_items=256, work=work), work, np.random.default_rng(0))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


if __name__ == "__main__":
    one_large_step(sys.argv[1])
