"""The VAE of single beats: its loss by hand, leads, the frozen judge, private steps, what it learns."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from ecgshared.errors import ModelError
from ecgshared.learning.draws import seed_draws
from ecgshared.learning.layout import Layout
from ecgshared.learning.loop import PlainStep, predict, train
from ecgshared.learning.optimiser import make_optimiser
from ecgshared.learning.plan import LocalWork, OptimiserConfig
from ecgshared.models import HeadSpec, build, config_class
from ecgshared.privacy.accounting import PrivacyPlan
from ecgshared.privacy.patient_sgd import PrivateStep
from ecgshared.stages.train import Config as TrainConfig
from ecgshared.study.study import Study

SAMPLES = 60  # at 100 Hz
VAE, RISK = config_class("beat_vae"), config_class("beat_risk")
SMALL = VAE(name="beat_vae", preset="small", latent=4, hidden=8, robust_mv=0, varied=0)
PUBLISHED = VAE(name="beat_vae", paper_faithful=True, latent=6)


class Beats:
    """Beats with two free sizes: of QRS and T."""

    def __init__(self, n, seed):
        rng = np.random.default_rng(seed)
        t = np.linspace(-0.2, 0.4, SAMPLES)
        waves = np.stack([np.exp(-((t / 0.03) ** 2)), 0.4 * np.exp(-(((t - 0.25) / 0.06) ** 2))])
        size = np.exp(0.4 * rng.standard_normal((n, 1, 2)))
        leads = np.random.default_rng(9).standard_normal((8, 2))
        eight = (size * leads[None]) @ waves
        one, two = eight[:, :1], eight[:, 1:2]
        limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
        self.x = np.concatenate([*limb, eight[:, 2:]], axis=1).astype(np.float32)
        self.patient = np.arange(n)

    def fetch(self, rows):
        return self.x[rows], np.empty((len(rows), 0)), np.empty((len(rows), 0))


def judge_net(seed=3):
    config = RISK(name="beat_risk", blocks=1, width=8, hidden=0)
    return build(config, [HeadSpec("a"), HeadSpec("b")], SAMPLES, seed)


@pytest.mark.parametrize("config", [SMALL, PUBLISHED], ids=["splines", "published"])
def test_the_loss_is_error_divergence_and_change_of_risk(config):
    model = build(config, (), SAMPLES, 1).eval()
    x = torch.as_tensor(Beats(3, 0).x)
    none = torch.empty(3, 0)
    with torch.no_grad():
        mean, log_variance = model.encode(x)
        again = model.decode(mean, none)
        error = 0.5 * ((again - x) ** 2).sum(2).mean(1)
        variance = log_variance.exp()
        normal = torch.distributions.Normal
        kl = torch.distributions.kl_divergence(normal(mean, variance.sqrt()), normal(0.0, 1.0)).sum(1)
        torch.testing.assert_close(model.item_losses(x, none, none), error + config.kl_weight * kl)
        net = judge_net().eval()
        model.take_judge(net, 1)
        change = (torch.sigmoid(net(x, none)[:, 1]) - torch.sigmoid(net(again, none)[:, 1])) ** 2
        assert change.min() > 0
        torch.testing.assert_close(model.item_losses(x, none, none), error + config.kl_weight * kl + 0.01 * change)
        torch.testing.assert_close(model.judged(x, none)[:, 0], 1000 * (again - x).abs().mean((1, 2)))
    with pytest.raises(ModelError, match="do not fit"):
        model(x[:, :, 1:], none)
    assert PUBLISHED.kl_weight == 0.01


def test_the_divergence_rises_over_the_first_rounds():
    model = build(SMALL, (), SAMPLES, 1)
    weights = []
    for number in (1, 2, 4, 5, 16):
        model.begin_round(number, 16)
        weights.append(model.kl_weight / SMALL.kl_weight)
    assert weights == [0.25, 0.5, 1.0, 1.0, 1.0]


def test_the_judge_is_neither_trained_nor_sent():
    model = build(SMALL, (), SAMPLES, 1)
    alone = Layout.of(model)
    net = judge_net()
    before = [p.clone() for p in net.parameters()]
    model.take_judge(net, 0)
    assert Layout.of(model) == alone
    local(model, Beats(8, 1))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert not net.training


def test_decoded_limb_leads_obey_einthoven_and_goldberger_but_for_their_level():
    one, two, three, avr, avl, avf = build(SMALL, (), SAMPLES, 1).decode(torch.randn(4, 4))[:, :6].detach().unbind(1)
    for left, right in ((three, two - one), (avr, -(one + two) / 2), (avl, one - two / 2), (avf, two - one / 2)):
        missed = left - right
        torch.testing.assert_close(missed, missed.mean(1, keepdim=True).expand_as(missed), atol=1e-5, rtol=1e-5)


def test_it_begins_as_a_projection():
    """With as many latents as there are coefficients, what a spline holds comes back before anything is learned."""
    wide = VAE(name="beat_vae", preset="small", latent=1024)
    data = Beats(20, 5)
    model = build(wide, (), SAMPLES, 0)
    assert predict(model, data, np.arange(20), output=model.judged).mean() < 0.2 * 1000 * np.abs(data.x).mean()


def test_beats_are_varied_in_training_and_obey_einthoven_still():
    wide = VAE(name="beat_vae", preset="small", latent=4, hidden=8)
    model, x = build(wide, (), SAMPLES, 1), torch.as_tensor(Beats(200, 6).x)
    model.eval()
    assert torch.equal(model._given(x)[:, 6:], x[:, 6:])
    model.train()
    seed_draws(model, torch.Generator().manual_seed(3))
    given = model._given(x)
    torch.testing.assert_close(given[:, 2], given[:, 1] - given[:, 0], atol=1e-5, rtol=1e-5)
    changed = (given - x).abs().amax(2)
    assert (changed > 0.01).all()
    # R stays where it is, within a hundredth of a second, and sizes stay within a third and what turning adds.
    about = slice(15, 26)
    peak = x[:, 7, about].abs().argmax(1)
    assert ((given[:, 7, about].abs().argmax(1) - peak).abs() <= 1).float().mean() > 0.95
    ratio = given.square().sum((1, 2)).sqrt() / x.square().sum((1, 2)).sqrt()
    assert 0.5 < ratio.min() < 0.8
    assert 1.2 < ratio.max() < 2


def test_a_large_error_counts_as_itself():
    model = build(VAE(name="beat_vae", preset="small", latent=4, hidden=8, robust_mv=0.01), (), SAMPLES, 1)
    small, large = torch.tensor([1e-4]), torch.tensor([1.0, 2.0])
    torch.testing.assert_close(model._missed(small), 0.5 * small.square(), rtol=1e-3, atol=0)
    torch.testing.assert_close(model._missed(large), 0.01 * large - 1e-4, rtol=1e-3, atol=0)


def local(model, data, *, work=None, lr=0.01):
    work = work or LocalWork(steps=1, batch_size=None)
    opt = make_optimiser(OptimiserConfig(name="adam", lr=lr), model.parameters(), lr=lr)
    step = PlainStep(model, opt, [1 / len(data.patient)], site_items=len(data.patient), work=work)
    return train(model, data, step, work, np.random.default_rng(0))


def test_it_learns_what_varies():
    data, model = Beats(400, 2), build(SMALL, (), SAMPLES, 0)
    before = predict(model, data, np.arange(400), output=model.judged).mean()
    local(model, data, work=LocalWork(epochs=50, batch_size=64))
    fresh = Beats(100, 3)
    after = predict(model, fresh, np.arange(100), output=model.judged).mean()
    assert after < 0.15 * before
    spread = 1000 * np.abs(fresh.x - data.x.mean(axis=0)).mean()
    assert after < 0.4 * spread


@pytest.mark.parametrize("config", [SMALL, PUBLISHED], ids=["splines", "published"])
def test_a_private_step_sums_each_beats_clipped_gradient(config):
    """Against a loop over beats; draws are left out, and the frozen judge takes part."""
    start = build(config, (), SAMPLES, 1, torch.float64)
    start.draw.forward = lambda mean, log_variance: mean
    start.take_judge(judge_net().double(), 0)
    data, n, bound = Beats(6, 4), 6, 0.05
    expected = 0.0
    for row in range(n):
        model = copy.deepcopy(start)
        x, none, _ = (torch.as_tensor(a[[row]], dtype=torch.float64) for a in data.fetch(np.arange(n)))
        model.train().item_losses(x, none, none).sum().backward()
        grad = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
        expected = expected + (grad * min(1.0, bound / (grad.norm().item() + 1e-6))).numpy()
    plan = PrivacyPlan(
        sample_rate=1.0,
        noise_multiplier=0.0,
        max_grad_norm=bound,
        expected_batch_size=n,
        steps_total=1,
        epsilon=float("inf"),
        delta=1e-5,
        accountant="rdp",
    )
    work = LocalWork(steps=1, batch_size=None)
    model = copy.deepcopy(start)
    opt = make_optimiser(OptimiserConfig(name="sgd", lr=1.0), model.parameters(), lr=1.0)
    train(model, data, PrivateStep(model, opt, [1.0], plan=plan, work=work), work, np.random.default_rng(0))
    update = Layout.of(model).flatten(model) - Layout.of(start).flatten(start)
    np.testing.assert_allclose(-update * n, expected, rtol=1e-8, atol=1e-9)


def study(**model):
    return {
        "name": "s",
        "sites": {"train": ["a"]},
        "endpoints": {"norm": {"kind": "binary", "column": "norm"}},
        "steps": [
            {"id": "cohorts", "stage": "describe"},
            {
                "id": "net",
                "stage": "train",
                "uses": ["cohorts"],
                "heads": ["norm"],
                "model": {"name": "beat_risk"} | model,
            },
            {
                "id": "vae",
                "stage": "train",
                "uses": ["cohorts", "net"],
                "model": {"name": "beat_vae", "preset": "small", "risk": "net.norm"},
            },
        ],
    }


def test_the_judge_is_a_net_of_single_beats_that_the_step_uses():
    found = Study.model_validate(study())
    step = found.step("vae")
    assert isinstance(step, TrainConfig)
    assert step.model.judge == "net.norm"
    for model in ({"covariates": ["age"]}, {"name": "resnet1d"}):
        with pytest.raises(ValueError, match="single beats, without covariates"):
            Study.model_validate(study(**model))
    content = study()
    content["steps"][2]["uses"] = ["cohorts"]
    with pytest.raises(ValueError, match="no head of a train step it uses"):
        Study.model_validate(content)
