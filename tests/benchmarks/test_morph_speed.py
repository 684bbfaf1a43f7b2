"""56 beats moved 2,000 steps at once, beside one after the other; the published code takes hours for a beat.

pytest -m benchmark -s tests/benchmarks/test_morph_speed.py
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from ecgshared.learning.morph import morph
from ecgshared.models import HeadSpec, build, config_class

BEATS, STEPS, AT_500_HZ = 56, 2000, 300
FEW = 20
"""Steps that are measured; each costs as much as any other."""


def seconds_a_step(vae, net, beats, bf16=False):
    """Processor time of one step of so many beats, on one core."""
    z = np.random.default_rng(0).standard_normal((beats, vae.config.latent))
    torch.set_num_threads(1)
    took = []
    for steps in (FEW, 2 * FEW):
        begin = time.process_time()
        morph(vae, net, 0, z, target=1e9, up=True, steps=steps, rate=0.01, bf16=bf16)
        took.append(time.process_time() - begin)
    return (took[1] - took[0]) / FEW


@pytest.mark.benchmark
@pytest.mark.parametrize(("vae", "net", "ratio"), [("small", "small", 4.0), ("full", "paper", 2.0)])
def test_all_beats_at_once_beside_one_after_the_other(vae, net, ratio):
    models = (
        build(config_class("beat_vae")(name="beat_vae", preset=vae), (), AT_500_HZ, 0),
        build(config_class("beat_risk")(name="beat_risk", preset=net), [HeadSpec("a")], AT_500_HZ, 0),
    )
    together, alone = seconds_a_step(*models, BEATS), BEATS * seconds_a_step(*models, 1)
    halved = seconds_a_step(*models, BEATS, bf16=True)
    print(
        f"{vae} VAE, {net} net: {BEATS} beats x {STEPS} steps take {STEPS * together:.0f} s of one core at once, "
        f"{STEPS * alone:.0f} s one after the other: {alone / together:.1f} x; "
        f"in bfloat16 {STEPS * halved:.0f} s at once"
    )
    assert alone > ratio * together
