"""The GRU against torch's module, the state space against its recurrence, and what each net of recordings can do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ecgshared.errors import ModelError
from ecgshared.models import HeadSpec, build, config_class
from ecgshared.models.crnn import CrnnConfig
from ecgshared.models.crnn_net import BiGru
from ecgshared.models.s4_net import DiagonalStateSpace

COUNTS = {"resnet1d": 77_250, "crnn": 56_786, "attia_cnn": 214_482, "s4": 56_290}
"""At 100 Hz and 10 s, two heads of their own; docs/models.md says so."""


def test_the_gru_is_torchs_and_its_steps_are_the_same():
    torch.manual_seed(0)
    ours, theirs = BiGru(5, 4).double(), torch.nn.GRU(5, 4, batch_first=True, bidirectional=True).double()
    for suffix, one in (("", ours.there), ("_reverse", ours.back)):
        weights = one.weights
        for name, part in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), weights, strict=True):
            getattr(theirs, f"{name}_l0{suffix}").data = part.data
    x = torch.randn(3, 9, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x)[0], rtol=0, atol=1e-14)
    stepped = torch.cat([ours.there.stepped(x, backwards=False), ours.back.stepped(x, backwards=True)], 2)
    torch.testing.assert_close(stepped, theirs(x)[0], rtol=0, atol=1e-14)


def trained_space():
    space = DiagonalStateSpace(3, 4).double()
    space.draw(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for p in (space.steps, space.poles):
            p.normal_(generator=torch.Generator().manual_seed(2))
    return space


def test_the_state_space_is_its_recurrence():
    """y_k = 2 Re(C x_k) + D u_k, x_k = exp(Delta A) x_(k-1) + (exp(Delta A) - 1) / A u_k, both ways: to 1e-11."""
    space, length = trained_space(), 37
    u = np.random.default_rng(0).normal(size=(2, 3, length))
    with torch.no_grad():
        y = space(torch.tensor(u)).numpy()
        step = np.exp(space._log_step.numpy() + 0.1 * space.steps.numpy())[:, None]
        a = -0.5 * np.exp(0.1 * space.poles[0].numpy()) + 1j * np.pi * (np.arange(4) + 0.1 * space.poles[1].numpy())
        c = space.mixing[:, 0].numpy() + 1j * space.mixing[:, 1].numpy()
        expected = space.skip.numpy()[:, None] * u
    for direction, order in ((0, range(length)), (1, range(length - 1, -1, -1))):
        state = np.zeros((2, 3, 4), dtype=complex)
        for k in order:
            state = np.exp(step * a) * state + (np.exp(step * a) - 1) / a * u[:, :, k, None]
            expected[:, :, k] += 2 * (c[direction] * state).real.sum(-1)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("length", [1, 2, 40])
def test_convolving_without_fft_is_the_same(length):
    space, u = trained_space(), torch.randn(2, 3, length, dtype=torch.float64)
    by_fft = space(u)
    space.direct = True
    torch.testing.assert_close(space(u), by_fft, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", COUNTS)
def test_nets_have_the_size_they_say_and_learn(name):
    model = build(config_class(name)(name=name, dropout=0.0), [HeadSpec("a"), HeadSpec("b")], 1000, 0)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]
    again = build(config_class(name)(name=name, dropout=0.0), [HeadSpec("a"), HeadSpec("b")], 1000, 0)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    # A slow wave or none, hidden in noise: every net tells them apart within a few steps.
    draw = torch.Generator().manual_seed(3)
    y = (torch.arange(24) % 2).float()
    wave = torch.sin(torch.arange(1000) / 40)[None, None] * 0.5 * y[:, None, None]
    x = 0.3 * torch.randn(24, 12, 1000, generator=draw) + wave
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(12):
        optimiser.zero_grad()
        logits = model(x, torch.zeros(24, 2))
        torch.nn.functional.binary_cross_entropy_with_logits(logits, y[:, None].expand(-1, 2)).backward()
        optimiser.step()
    assert ((model.eval()(x, torch.full((24, 2), torch.nan))[:, 0] > 0) == y.bool()).float().mean() > 0.9


def test_what_does_not_fit_is_said():
    with pytest.raises(ModelError, match="too short"):
        build(config_class("attia_cnn")(name="attia_cnn"), [HeadSpec("a")], 200, 0)
    with pytest.raises(ModelError, match="too short"):
        build(CrnnConfig(name="crnn", widths=(8,) * 8), [HeadSpec("a")], 100, 0)
    with pytest.raises(ValidationError, match="groups must divide"):
        CrnnConfig(name="crnn", widths=(12,))
    with pytest.raises(ValidationError, match="names one twice"):
        config_class("s4")(name="s4", covariates=("age", "age"))


def test_waves_are_scaled_by_made_hearts_and_begin_at_the_usual_rate():
    """Whitening undoes the correlation of what it was made of; a flat or a wild recording stays bounded."""
    from ecgshared.models.waves_net import made_scales

    scales = made_scales()
    mean, whitening = np.array(scales["mean"]), np.array(scales["whitening"])
    assert (mean.shape, whitening.shape) == ((36,), (36, 36))
    # Columns are eigenvectors over the root of their variance: orthogonal, and none blown up beyond 0.05 ** -0.5.
    product = whitening.T @ whitening
    np.testing.assert_allclose(product, np.diag(np.diag(product)), atol=2e-2)
    assert np.sqrt(np.diag(product)).max() < 0.05**-0.5 + 0.01
    net = build(config_class("waves")(name="waves", usual_rate=0.1), [HeadSpec("a")], 1000, 0)
    x = torch.stack([torch.zeros(12, 1000), 40 * torch.randn(12, 1000)])
    assert net.features(x).abs().max() <= 3
    torch.testing.assert_close(net(x, torch.zeros(2, 2)).sigmoid(), torch.full((2, 1), 0.1))
