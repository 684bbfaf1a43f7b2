"""Morphing: against a loop written out, batched as alone, up and down, arrived and not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ecgshared.errors import ModelError
from ecgshared.learning.morph import PATH_POINTS, morph
from ecgshared.models import HeadSpec, build, config_class

SAMPLES = 60


def nets(seed=0):
    vae = build(config_class("beat_vae")(name="beat_vae", preset="small", latent=5, hidden=8), (), SAMPLES, seed)
    config = config_class("beat_risk")(name="beat_risk", blocks=1, width=8, hidden=8)
    net = build(config, [HeadSpec("a"), HeadSpec("b")], SAMPLES, seed)
    return vae.double(), net.double()


def by_hand(vae, net, z, *, target, sign, steps, rate, prior):
    """One beat at a time, step by step."""
    vae.eval(), net.eval()
    z = torch.tensor(z[None])
    none = torch.zeros(1, 0, dtype=torch.float64)
    logits = []
    for _ in range(steps + 1):
        z = z.detach().requires_grad_(True)
        logit = net(vae.decode(z, none), none)[0, 1]
        logits.append(logit.item())
        if sign * logit.item() >= sign * target or len(logits) == steps + 1:
            break
        logit.backward()
        z = z + rate * (sign * z.grad - prior * z)
    return z.detach().numpy()[0], logits


@pytest.mark.parametrize(("up", "prior"), [(True, 0.0), (True, 0.05), (False, 0.0)])
def test_all_at_once_is_one_after_the_other(up, prior):
    vae, net = nets()
    z = np.random.default_rng(1).standard_normal((6, 5))
    none = torch.zeros(6, 0, dtype=torch.float64)
    with torch.no_grad():
        begin = net.eval()(vae.eval().decode(torch.tensor(z), none), none)[:, 1].numpy()
    sign = 1 if up else -1
    # Some are there at once, some arrive, some never do.
    target = np.median(begin) + sign * 0.05
    found = morph(vae, net, 1, z, target=target, up=up, steps=40, rate=0.5, prior=prior)
    for i in range(6):
        want, logits = by_hand(vae, net, z[i], target=target, sign=sign, steps=40, rate=0.5, prior=prior)
        np.testing.assert_allclose(found.z[i], want, atol=1e-10)
        assert found.steps[i] == len(logits) - 1
        assert found.path[i, 0] == pytest.approx(logits[0], abs=1e-10)
        assert found.path[i, -1] == pytest.approx(logits[-1], abs=1e-10)
        assert found.arrived[i] == (sign * logits[-1] >= sign * target)
    assert len(set(found.steps.tolist())) > 2
    assert found.path.shape == (6, PATH_POINTS)
    with torch.no_grad():
        np.testing.assert_allclose(found.end, vae.decode(torch.tensor(found.z)).numpy(), atol=1e-5)
        np.testing.assert_allclose(found.start, vae.decode(torch.tensor(z)).numpy(), atol=1e-5)


def test_weights_stay_as_they_are_and_can_be_trained_after():
    vae, net = nets()
    net.output.bias.requires_grad_(False)
    before = [p.clone() for m in (vae, net) for p in m.parameters()]
    morph(vae, net, 0, np.ones((2, 5)), target=100.0, up=True, steps=5, rate=0.1)
    assert all(torch.equal(a, p) for a, p in zip(before, [p for m in (vae, net) for p in m.parameters()], strict=True))
    assert all(p.grad is None for m in (vae, net) for p in m.parameters())
    assert net.output.weight.requires_grad
    assert not net.output.bias.requires_grad


class Straight(nn.Module):
    """Decodes a latent to a beat of its own numbers."""

    samples = 2

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def decode(self, z, conditions=None):
        return torch.cat([z[:, :, None]] * 12, 2).transpose(1, 2)


class Linear(Straight):
    def forward(self, x, covariates):
        return (x[:, 0] @ torch.tensor([3.0, 4.0], dtype=torch.float64))[:, None]


def test_the_way_up_a_linear_risk_is_known():
    """The gradient is (3, 4): each step of rate 0.01 adds 0.25 to the logit."""
    found = morph(Straight(), Linear(), 0, np.zeros((1, 2)), target=1.0, up=True, steps=2000, rate=0.01)
    assert found.steps.tolist() == [4]
    np.testing.assert_allclose(found.z, [[0.12, 0.16]])
    np.testing.assert_allclose(found.path[0], np.linspace(0, 1, PATH_POINTS), atol=1e-12)
    never = morph(Straight(), Linear(), 0, np.zeros((1, 2)), target=1e9, up=True, steps=7, rate=0.01)
    assert (never.steps.tolist(), never.arrived.tolist()) == ([7], [False])
    # A pull of 1 / 2 ends where it equals the gradient.
    held = morph(Straight(), Linear(), 0, np.zeros((1, 2)), target=1e9, up=True, steps=3000, rate=0.01, prior=0.5)
    np.testing.assert_allclose(held.z, [[6.0, 8.0]], rtol=1e-5)
    with pytest.raises(ModelError, match="positive rate"):
        morph(Straight(), Linear(), 0, np.zeros((1, 2)), target=1.0, up=True, steps=7, rate=0.0)


def test_nobody_to_move():
    found = morph(*nets(), 0, np.empty((0, 5)), target=1.0, up=True, steps=3, rate=0.1)
    assert found.start.shape == found.end.shape == (0, 12, SAMPLES)


def test_half_convolutions_go_nearly_the_same_way():
    vae, net = (model.float() for model in nets())
    z = np.random.default_rng(2).standard_normal((6, 5))
    whole, half = (morph(vae, net, 1, z, target=1e9, up=True, steps=20, rate=0.05, bf16=bf16) for bf16 in (False, True))
    assert not np.array_equal(whole.z, half.z)
    way = whole.z - z
    assert np.linalg.norm(half.z - whole.z) < 0.1 * np.linalg.norm(way)
    np.testing.assert_allclose(half.path[:, -1], whole.path[:, -1], atol=0.05)
