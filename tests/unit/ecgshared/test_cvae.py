"""The conditional VAE: lead algebra, masks, its objective, federated and private steps, what it learns."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ecgshared.ecg.dipole import LIMB
from ecgshared.errors import ModelError
from ecgshared.learning.layout import Layout
from ecgshared.learning.loop import PlainStep, predict, train
from ecgshared.learning.optimiser import make_optimiser
from ecgshared.learning.plan import LocalWork, OptimiserConfig
from ecgshared.models import HeadSpec, build
from ecgshared.models.config import BEAT_WINDOW_S
from ecgshared.models.cvae import CvaeConfig
from ecgshared.models.decode import decode_beats
from ecgshared.models.leads import time_basis, usual_directions
from ecgshared.privacy.accounting import PrivacyPlan
from ecgshared.privacy.patient_sgd import PrivateStep
from ecgshared.stages.train import Config as TrainConfig

SMALL = CvaeConfig(name="cvae", latent=3, hidden=16, sources=3)
PUBLISHED = CvaeConfig(name="cvae", paper_faithful=True, norm="group")
SAMPLES = 80  # at 100 Hz
PLAN = PrivacyPlan(
    sample_rate=1.0,
    noise_multiplier=0.0,
    max_grad_norm=0.3,
    expected_batch_size=8,
    steps_total=1,
    epsilon=float("inf"),
    delta=1e-5,
    accountant="rdp",
)


def lead_fields(turn):
    """Eight leads of a two-dimensional dipole that is turned; shape (n, 8, 2)."""
    angles = np.linspace(0, 2.5, 8)[None] + 0.3 * turn[:, None]
    return np.stack([np.cos(angles), np.sin(angles)], axis=2)


class Beats:
    """People with a two-dimensional dipole of their own, seen by leads that a condition turns."""

    def __init__(self, n, seed, samples=SAMPLES):
        rng = np.random.default_rng(seed)
        self.patient = np.arange(n)
        t = np.linspace(-0.3, 0.5, samples)
        size = np.exp(0.3 * rng.normal(size=(n, 2)))
        dipole = np.stack(
            [size[:, :1] * np.exp(-((t / 0.02) ** 2)), 0.5 * size[:, 1:] * np.exp(-(((t - 0.25) / 0.05) ** 2))], axis=1
        )
        turn = rng.normal(size=n)
        self.dipole, self.turn = dipole, turn
        self.x = self.seen(turn)
        self.covariates = np.stack([turn, rng.integers(0, 2, n)], axis=1)
        self.covariates[rng.random(n) < 0.2, 1] = np.nan

    def seen(self, turn):
        eight = lead_fields(turn) @ self.dipole
        return np.concatenate([LIMB @ eight[:, :2], eight[:, 2:]], axis=1)

    def fetch(self, rows):
        return self.x[rows], self.covariates[rows], np.zeros((len(rows), 0))


class Pooled(Beats):
    def __init__(self, sites):
        self.x, self.covariates = (np.concatenate([getattr(s, n) for s in sites]) for n in ("x", "covariates"))
        self.patient = np.arange(len(self.x))


def local(model, data, *, work=None, lr=0.05, optimiser="sgd", seed=0):
    work = work or LocalWork(steps=1, batch_size=None)
    opt = make_optimiser(OptimiserConfig(name=optimiser, lr=lr), model.parameters(), lr=lr)
    step = PlainStep(model, opt, [1 / len(data.patient)], site_items=len(data.patient), work=work)
    return train(model, data, step, work, np.random.default_rng(seed))


def without_draws(model):
    """The latent is its mean: only then are a site's and the pooled step the same numbers."""
    model.draw.forward = lambda mean, log_variance: mean
    return model


@pytest.mark.parametrize(("samples", "within"), [(400, 0.005), (80, 0.05)])
def test_the_basis_is_orthonormal_and_holds_a_beat(samples, within):
    basis = time_basis(samples, BEAT_WINDOW_S)
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-10)
    assert basis.shape[1] < samples
    t = -0.3 + 0.8 * (np.arange(samples) + 0.5) / samples
    beat = (
        np.exp(-((t / 0.012) ** 2))
        - 0.3 * np.exp(-(((t - 0.03) / 0.012) ** 2))
        + 0.2 * np.exp(-(((t - 0.25) / 0.05) ** 2))
    )
    assert np.abs(basis @ (basis.T @ beat) - beat).max() < within


@pytest.mark.parametrize(
    "config", [SMALL, PUBLISHED, CvaeConfig(name="cvae", conditions=())], ids=["field", "cnn", "bare"]
)
def test_shapes_of_latents_beats_figures_and_losses(config):
    model = build(config, (), SAMPLES, 1)
    x = torch.randn(5, 12, SAMPLES)
    given = torch.randn(5, len(config.conditions))
    assert model(x, given).shape == (5, config.latent)
    assert model.decode(torch.randn(5, config.latent), given).shape == (5, 12, SAMPLES)
    assert model.judged(x, given).shape == (5, len(config.figures))
    assert model.item_losses(x, given, torch.zeros(5, 0)).shape == (5,)
    with pytest.raises(ModelError, match="do not fit"):
        model(x[:, :, 1:], given)
    with pytest.raises(ModelError, match="do not fit"):
        model(x, torch.randn(5, 7))


def test_decoded_limb_leads_obey_einthoven_and_goldberger():
    beats = build(SMALL, (), SAMPLES, 1).decode(torch.randn(4, 3), torch.randn(4, 2)).detach()
    one, two, three, avr, avl, avf = beats[:, :6].unbind(1)
    for left, right in (
        (three, two - one),
        (avr, -(one + two) / 2),
        (avl, (one - three) / 2),
        (avf, (two + three) / 2),
    ):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


def test_a_missing_condition_is_not_a_condition_of_zero():
    model = build(SMALL, (), SAMPLES, 1)
    z = torch.randn(1, 3)
    zero, missing = (model.decode(z, torch.tensor([[0.5, v]])).detach() for v in (0.0, float("nan")))
    assert torch.isfinite(missing).all()
    assert (zero - missing).abs().max() > 1e-4
    lost = CvaeConfig(name="cvae", latent=3, hidden=16, condition_dropout=0.5)
    model = build(lost, (), SAMPLES, 1).train()
    kept = model.masked(torch.ones(400, 2))[:, 1::2].mean(1)
    assert set(kept.tolist()) == {0.0, 1.0}
    assert 0.4 < kept.mean() < 0.6


def test_the_same_seed_builds_the_same_weights():
    a, b, c = (Layout.of(m).flatten(m) for m in (build(SMALL, (), SAMPLES, s) for s in (1, 1, 2)))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_training_is_repeatable_whatever_else_draws():
    flat = []
    for disturb, seed in ((1, 5), (2, 5), (1, 6)):
        model = build(SMALL, (), SAMPLES, 0)
        torch.manual_seed(disturb)
        local(model, Beats(20, 3), work=LocalWork(epochs=2, batch_size=8), lr=1e-3, optimiser="adam", seed=seed)
        flat.append(Layout.of(model).flatten(model))
    np.testing.assert_array_equal(flat[0], flat[1])
    assert not np.array_equal(flat[0], flat[2])


@pytest.mark.parametrize("config", [SMALL, PUBLISHED], ids=["field", "cnn"])
def test_one_federated_step_equals_the_pooled_step(config):
    sites = [Beats(9, 1), Beats(14, 2), Beats(5, 3)]
    shares = np.array([9, 14, 5]) / 28
    start = without_draws(build(config, (), SAMPLES, 11, torch.float64))
    layout = Layout.of(start)
    updates = []
    for site in sites:
        model = without_draws(copy.deepcopy(start))
        local(model, site, lr=1e-3)
        updates.append(layout.flatten(model))
    pooled = without_draws(copy.deepcopy(start))
    local(pooled, Pooled(sites), lr=1e-3)
    aggregate = np.einsum("k,kp->p", shares, np.array(updates))
    assert np.abs(aggregate - layout.flatten(start)).max() > 1e-6
    np.testing.assert_allclose(aggregate, layout.flatten(pooled), rtol=0, atol=1e-10)


def clipped_sum_by_loop(model, data, bound):
    """One backward pass for each patient, clipped and added: the oracle."""
    total, clipped = 0.0, 0
    for row in range(len(data.patient)):
        model.zero_grad()
        x, covariates, labels = (torch.tensor(a) for a in data.fetch(np.array([row])))
        loss = model.item_losses(x, covariates, labels)
        if torch.isfinite(loss).all():
            loss.sum().backward()
            g = np.concatenate(
                [p.grad.numpy().ravel() if p.grad is not None else np.zeros(p.numel()) for p in model.parameters()]
            )
            norm = np.linalg.norm(g)
            clipped += norm > bound
            total = total + g * min(1.0, bound / (norm + 1e-6))
    return total, clipped


@pytest.mark.parametrize("physical", [32, 5])
@pytest.mark.parametrize("config", [SMALL, PUBLISHED], ids=["field", "cnn"])
@pytest.mark.parametrize("lacking", [False, True], ids=["all", "one without a beat"])
def test_a_private_step_clips_and_adds_the_gradients_of_single_patients(config, physical, lacking):
    data = Beats(7, 5)
    if lacking:
        data.x[3] = np.nan
    start = without_draws(build(config, (), SAMPLES, 3, torch.float64)).train()
    bound = 40.0 if config is SMALL else 60.0
    expected, clipped = clipped_sum_by_loop(without_draws(copy.deepcopy(start)).train(), data, bound)
    assert 0 < clipped <= 7
    model = without_draws(copy.deepcopy(start))
    opt = make_optimiser(OptimiserConfig(name="sgd", lr=1.0), model.parameters(), lr=1.0)
    work = LocalWork(steps=1)
    plan = PrivacyPlan(**{**vars(PLAN), "max_grad_norm": bound})
    step = PrivateStep(model, opt, [1.0], plan=plan, work=work, physical_batch=physical)
    train(model, data, step, work, np.random.default_rng(0))
    update = Layout.of(model).flatten(model) - Layout.of(start).flatten(start)
    np.testing.assert_allclose(-update * PLAN.expected_batch_size, expected, rtol=1e-8, atol=1e-8)


def test_it_learns_beats_and_what_a_condition_does_to_each_person():
    """Turning the leads changes a person's beat as the physics does, though latents could have held the turn."""
    data, model = Beats(600, 8), build(SMALL, (), SAMPLES, 0)
    before = predict(model, data, np.arange(600), output=model.judged).mean()
    local(model, data, work=LocalWork(epochs=60, batch_size=64), lr=5e-3, optimiser="adam")
    after = predict(model, data, np.arange(600), output=model.judged).mean()
    assert after < 0.1 * before
    fresh = Beats(100, 9)
    z = predict(model, fresh, np.arange(100))
    assert abs(np.corrcoef(z.T, fresh.turn)[-1, :-1]).max() < 0.35
    moved = fresh.covariates + np.array([0.5, 0.0])
    made = decode_beats(model, z, moved) - decode_beats(model, z, fresh.covariates)
    true = fresh.seen(fresh.turn + 0.5) - fresh.x
    flat, wanted = made.reshape(100, -1), true.reshape(100, -1)
    assert np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(flat, wanted, strict=True)]) > 0.9
    assert 0.75 < np.median((flat * wanted).sum(1) / (wanted**2).sum(1)) < 1.25


def test_kl_rises_over_the_first_rounds():
    model = build(CvaeConfig(name="cvae", kl_weight=2.0, kl_warmup=0.5), (), SAMPLES, 0)
    weights = []
    for number in range(1, 11):
        model.begin_round(number, 10)
        weights.append(model.kl_weight)
    np.testing.assert_allclose(weights, [0.4, 0.8, 1.2, 1.6, *[2.0] * 6])


def test_the_published_net_has_the_published_layers():
    config = CvaeConfig(name="cvae", paper_faithful=True)
    assert (config.latent, config.norm) == (10, "batch")
    model = build(config, (), 400, 0)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["over_time.weight"] == (5, 1, 1, 40)
    assert shapes["over_leads.weight"] == (5, 5, 12, 1)
    assert shapes["posterior.weight"] == (20, 5 * 180 + 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conditions": ["shoe size"]}, "shoe size"),
        ({"conditions": ["age", "age"]}, "twice"),
        ({"latents": 3}, "latents"),
    ],
)
def test_a_bad_configuration_is_told(settings, message):
    with pytest.raises(ValidationError, match=message):
        CvaeConfig(name="cvae", **settings)


def test_the_train_step_knows_which_model_has_heads():
    base = {"id": "beats", "stage": "train", "uses": ("cohorts",)}
    step = TrainConfig(**base, model={"name": "cvae"})
    assert isinstance(step.model, CvaeConfig)
    assert step.judged == ("reconstruction_uv",)
    assert TrainConfig(**base, heads=("a",), model={"preset": "small"}).judged == ("a",)
    for settings, message in (
        ({"model": {"name": "cvae"}, "heads": ("a",)}, "no heads"),
        ({"model": {"preset": "small"}}, "at least one endpoint"),
        ({"model": {"name": "vae"}}, "resnet1d, cvae"),
        ({"model": {"name": "cvae"}, "augment": {"scale": 0.1}}, "augment"),
        (
            {
                "model": {"name": "cvae", "paper_faithful": True},
                "privacy": {"epsilon": 8, "delta": 1e-5},
                "local": {"steps": 5},
            },
            "batch",
        ),
    ):
        with pytest.raises(ValidationError, match=message):
            TrainConfig(**base, **settings)
    with pytest.raises(ModelError, match="no heads"):
        build(SMALL, (HeadSpec("a"),), SAMPLES, 0)
    assert SMALL.samples(500, 10) == 400


class TestFewBeatsAndFewConditions:
    WIDE = CvaeConfig(name="cvae", conditions=("age", "male"), latent=200, hidden=8, components=True, varied=1.0)

    def test_its_straight_way_begins_as_a_projection(self):
        model = build(self.WIDE, (), SAMPLES, 0)
        there, back = model.shortcut.weight, model.straight.weight[model.waves.out_features :]
        directions = torch.from_numpy(usual_directions(model.functions, 200)).float()
        torch.testing.assert_close(back @ there, directions.T @ directions, atol=0.1, rtol=0)
        assert torch.linalg.matrix_rank(directions.T @ directions) == min(200, 8 * model.functions)
        plain = build(self.WIDE.model_copy(update={"components": False}), (), SAMPLES, 0)
        assert (plain.straight.weight[plain.waves.out_features :] @ plain.shortcut.weight).abs().max() < 0.1
        assert (model.penalty, plain.penalty) == (0.0, 1.0)

    def test_beats_are_varied_in_training_alone(self):
        model, x = build(self.WIDE, (), SAMPLES, 0), torch.as_tensor(Beats(6, 5).x, dtype=torch.float32)
        given = model.masked(torch.zeros(6, 2))
        model.draw.forward = lambda mean, _: mean
        model.eval()
        once, again = (model.bound(x, given)[0] for _ in range(2))
        assert torch.equal(once, again)
        model.train()
        once, again = (model.bound(x, given)[0] for _ in range(2))
        assert not torch.equal(once, again)

    def test_conditions_of_anatomy_and_the_published_net_refuse_it(self):
        with pytest.raises(ValidationError, match="heart_vertical_deg"):
            CvaeConfig(name="cvae", conditions=("age", "heart_vertical_deg"), varied=1.0)
        with pytest.raises(ValidationError, match="published net"):
            CvaeConfig(name="cvae", paper_faithful=True, components=True)
