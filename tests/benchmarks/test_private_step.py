"""What a private step of the paper's net costs beside a plain one, and Opacus' ways in the same run.

Each way runs in a process of its own, on one thread, so that its peak of memory is its own: the growth of the process
over what it was before the first step. ``private`` is the whole step of the product (clipping, secure noise, SGD),
``clipping`` the same without noise; the plain step and Opacus' are bare PyTorch, without noise, with SGD.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest

pytestmark = pytest.mark.benchmark

SHAPES = ((1000, 8), (1000, 32), (5000, 8))
GOAL_TIME, GOAL_MEMORY = 1.35, 1.3

STEP = """
import json, resource, sys, time
import numpy as np
import torch
from ecgshared.learning.losses import item_losses
from ecgshared.learning.plan import LocalWork
from ecgshared.models import HeadSpec, build
from ecgshared.models.resnet1d import Resnet1dConfig
from ecgshared.privacy.accounting import PrivacyPlan
from ecgshared.privacy.patient_sgd import PrivateStep

way, samples, batch, repeats = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
torch.manual_seed(0)
model = build(Resnet1dConfig(preset="paper64", dropout=0.0, covariates=()), [HeadSpec("a")], samples, 0)
x, beside, y = torch.randn(batch, 12, samples), torch.zeros(batch, 0), torch.ones(batch, 1)
optimiser = torch.optim.SGD(model.parameters(), lr=1e-9)

def losses(net):
    return item_losses(net(x.requires_grad_(way.startswith("opacus")), beside), y, torch.ones(1))

def plain():
    optimiser.zero_grad(set_to_none=True)
    losses(model).sum().backward()
    optimiser.step()

if way.startswith("opacus"):
    from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizer
    ghost = way == "opacus ghost"
    kind = GradSampleModuleFastGradientClipping if ghost else GradSampleModule
    more = {"max_grad_norm": 1.0, "use_ghost_clipping": True} if ghost else {}
    wrapped = kind(model, loss_reduction="sum", **more)
    private = DPOptimizer(optimiser, noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=batch)

def opacus():
    private.zero_grad(set_to_none=True)
    losses(wrapped).sum().backward()
    private.step()

def opacus_ghost():
    optimiser.zero_grad(set_to_none=True)
    items = losses(wrapped)
    items.sum().backward(retain_graph=True)
    factor = wrapped.get_clipping_coef()
    optimiser.zero_grad(set_to_none=True)
    wrapped.disable_hooks()
    (factor * items).sum().backward()
    wrapped.enable_hooks()
    optimiser.step()

def ours():
    step.update(x, beside, y)

step = None
if way in ("private", "clipping"):
    plan = PrivacyPlan(1.0, 1.0 if way == "private" else 0.0, 1.0, batch, repeats, 1.0, 1e-5, "rdp")
    step = PrivateStep(model, optimiser, np.ones(1), plan=plan, work=LocalWork(steps=repeats)).__enter__()
run = {"plain": plain, "opacus hooks": opacus, "opacus ghost": opacus_ghost, "private": ours, "clipping": ours}[way]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run()
times = []
for _ in range(repeats):
    start = time.process_time()
    run()
    times.append(time.process_time() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": sorted(times)[len(times) // 2], "mb": (peak - before) / 1024, "peak": peak / 1024}))
"""


def measured(way: str, samples: int, batch: int, repeats: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", STEP, way, str(samples), str(batch), str(repeats)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("samples", "batch"), SHAPES)
def test_private_step_of_the_papers_net(samples, batch):
    ways, turns = ("plain", "clipping", "private", "opacus hooks", "opacus ghost"), 2
    found = {way: [measured(way, samples, batch, 3) for _ in range(turns)] for way in ways}
    best = {way: min(one["seconds"] for one in runs) for way, runs in found.items()}
    peak = {way: statistics.median(one["peak"] for one in runs) for way, runs in found.items()}
    for way in ways:
        print(
            f"12 x {samples}, batch {batch}, {way}: {best[way]:.2f} s of CPU, {best[way] / best['plain']:.2f} x plain; "
            f"peak {peak[way]:.0f} MB, {peak[way] / peak['plain']:.2f} x"
        )
    assert all(best[way] > 0 for way in ways)
    print(f"asked: at most {GOAL_TIME} x in time, {GOAL_MEMORY} x in memory")
