"""Private training: clipped sums against a loop over patients, sampling, noise, what a patient may weigh."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from opacus.grad_sample import compute_conv_grad_sample
from scipy import stats

from ecgshared.errors import PrivacyError
from ecgshared.learning.layout import Layout
from ecgshared.learning.loop import train
from ecgshared.learning.losses import item_losses, private_cell_weights
from ecgshared.learning.optimiser import make_optimiser
from ecgshared.learning.plan import LocalWork, OptimiserConfig
from ecgshared.models import HeadSpec, build
from ecgshared.models.attia_cnn import AttiaCnnConfig
from ecgshared.models.crnn import CrnnConfig
from ecgshared.models.resnet1d import Resnet1dConfig
from ecgshared.models.s4 import S4Config
from ecgshared.models.waves import WavesConfig
from ecgshared.privacy.accounting import PrivacyPlan
from ecgshared.privacy.layer_rules import conv1d_samples
from ecgshared.privacy.noise import secure_gaussian
from ecgshared.privacy.patient_sgd import PrivateStep
from ecgshared.privacy.sampling import PatientSampler, secure_below, secure_bernoulli

HEADS = [HeadSpec("a", "g", 0.5), HeadSpec("b", "g", 1.0), HeadSpec("c")]
TINY = Resnet1dConfig(blocks=1, width=8, kernel=4, groups=2, hidden=4, dropout=0.0)
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
WEIGHTS = private_cell_weights([1.0, 0.5, 2.0], [30, 20, 10])


class Arrays:
    def __init__(self, patient, seed=0, samples=64):
        rng = np.random.default_rng(seed)
        self.patient = np.asarray(patient)
        n = len(self.patient)
        self.x = rng.normal(size=(n, 12, samples))
        self.covariates = rng.normal(size=(n, 2))
        self.labels = rng.integers(0, 2, (n, 3)).astype(float)
        self.labels[rng.random((n, 3)) < 0.3] = np.nan

    def fetch(self, rows):
        return self.x[rows], self.covariates[rows], self.labels[rows]


def private_step(model, data, plan, *, steps=1, lr=1.0, physical=32, mu=0.0, optimiser="sgd"):
    work = LocalWork(steps=steps, prox_mu=mu)
    opt = make_optimiser(OptimiserConfig(name=optimiser, lr=lr), model.parameters(), lr=lr)
    step = PrivateStep(model, opt, WEIGHTS, plan=plan, work=work, physical_batch=physical)
    return train(model, data, step, work, np.random.default_rng(0))


def update_of(data, plan, *, start=None, **options):
    """The update of one step with learning rate 1: minus the gradient."""
    start = start if start is not None else build(TINY, HEADS, 64, 3, torch.float64)
    model = copy.deepcopy(start)
    private_step(model, data, plan, **options)
    return Layout.of(model).flatten(model) - Layout.of(start).flatten(start)


def clipped_sum_by_loop(model, data, bound):
    """One backward pass for each patient, clipped and added: the oracle."""
    total, clipped = 0.0, 0
    for row in range(len(data.patient)):
        model.zero_grad()
        x, covariates, labels = (torch.tensor(a) for a in data.fetch(np.array([row])))
        item_losses(model(x, covariates), labels, torch.tensor(WEIGHTS)).sum().backward()
        g = np.concatenate([p.grad.numpy().ravel() for p in model.parameters() if p.grad is not None])
        norm = np.linalg.norm(g)
        clipped += norm > bound
        total = total + g * min(1.0, bound / (norm + 1e-6))
    return total, clipped


@pytest.mark.parametrize("physical", [32, 5, 1])
@pytest.mark.parametrize(
    "config",
    [
        TINY,
        Resnet1dConfig(preset="paper64", blocks=2, width=4, groups=2, dropout=0.0, hidden=3),
        Resnet1dConfig(dropout=0.0, blocks=2, width=8),
        CrnnConfig(name="crnn", widths=(8, 8), units=5, dropout=0.0, hidden=3),
        AttiaCnnConfig(name="attia_cnn", dropout=0.0, hidden=3),
        S4Config(name="s4", width=6, state=3, blocks=2, dropout=0.0, hidden=3),
        WavesConfig(name="waves"),
    ],
    ids=["tiny", "paper-like", "small-like", "crnn", "attia_cnn", "s4", "waves"],
)
def test_clipped_sum_equals_a_loop_over_patients(config, physical):
    samples = 256 if config.name == "attia_cnn" else 64
    data, start = Arrays(np.arange(12), samples=samples), build(config, HEADS, samples, 3, torch.float64)
    expected, _ = clipped_sum_by_loop(copy.deepcopy(start), data, PLAN.max_grad_norm)
    update = update_of(data, PLAN, start=start, physical=physical)
    np.testing.assert_allclose(-update * PLAN.expected_batch_size, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("padding", [0, 3])
def test_the_convolution_rule_equals_opacus(stride, padding):
    layer = torch.nn.Conv1d(3, 4, 7, stride=stride, padding=padding).double()
    x = torch.randn(5, 3, 41, dtype=torch.float64)
    backprops = torch.randn_like(layer(x))
    with torch.no_grad():
        ours = conv1d_samples(layer, x, backprops)
        opacus = compute_conv_grad_sample(layer, [x], backprops)
    torch.testing.assert_close(ours, opacus[layer.weight], rtol=1e-10, atol=1e-12)


def test_the_oracle_clips_some_patients_and_not_others():
    data, bound = Arrays(np.arange(12)), 0.3
    _, clipped = clipped_sum_by_loop(build(TINY, HEADS, 64, 3, torch.float64), data, 4 * bound)
    assert 0 < clipped < 12


def test_a_patient_with_fifty_identical_ecgs_weighs_no_more_than_one():
    one = Arrays(np.arange(6))
    many = copy.deepcopy(one)
    again = np.concatenate([np.arange(6), np.zeros(49, int)])
    many.patient, many.x, many.covariates, many.labels = (
        getattr(one, name)[again] for name in ("patient", "x", "covariates", "labels")
    )
    np.testing.assert_allclose(update_of(many, PLAN), update_of(one, PLAN), rtol=0, atol=1e-12)


def test_no_patient_moves_the_sum_by_more_than_the_bound():
    data = Arrays(np.arange(7))
    data.x[6] *= 1e4
    without = copy.deepcopy(data)
    for name in ("patient", "x", "covariates", "labels"):
        setattr(without, name, getattr(data, name)[:6])
    moved = np.linalg.norm(update_of(data, PLAN) - update_of(without, PLAN)) * PLAN.expected_batch_size
    assert 0 < moved <= PLAN.max_grad_norm


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_patient_whose_gradient_is_not_finite_adds_nothing(bad):
    data = Arrays(np.arange(7))
    data.x[6, 3, 10] = bad
    without = copy.deepcopy(data)
    for name in ("patient", "x", "covariates", "labels"):
        setattr(without, name, getattr(data, name)[:6])
    moved = np.linalg.norm(update_of(data, PLAN) - update_of(without, PLAN)) * PLAN.expected_batch_size
    assert moved <= (PLAN.max_grad_norm if bad == 1e300 else 1e-12)


def test_empty_draws_are_noise_alone():
    plan = dataclasses.replace(PLAN, sample_rate=0.0, noise_multiplier=2.0)
    update = update_of(Arrays(np.arange(4)), plan)
    std = plan.noise_multiplier * plan.max_grad_norm / plan.expected_batch_size
    assert stats.kstest(update / std, "norm").pvalue > 1e-9
    assert not np.array_equal(update, update_of(Arrays(np.arange(4)), plan))


@pytest.mark.parametrize("physical", [32, 3])
def test_noise_is_added_once_whatever_the_physical_batch(physical):
    data = Arrays(np.arange(9))
    quiet = update_of(data, PLAN)
    noisy = update_of(data, dataclasses.replace(PLAN, noise_multiplier=1.5), physical=physical)
    std = 1.5 * PLAN.max_grad_norm / PLAN.expected_batch_size
    assert stats.kstest((noisy - quiet) / std, "norm").pvalue > 1e-9


@pytest.mark.parametrize("patients", [1, 6, 60])
def test_the_noise_of_an_update_does_not_tell_how_many_were_drawn(patients):
    """The average-after-noise flaw (arXiv:2605.15648): divided by the draw, noise of one were 60 times as large."""
    data, plan = Arrays(np.arange(patients)), dataclasses.replace(PLAN, noise_multiplier=1.5, max_grad_norm=1e-3)
    data.labels[:] = np.nan
    start = build(TINY, HEADS, 64, 3, torch.float64)
    update = update_of(data, plan, start=start)
    expected = plan.noise_multiplier * plan.max_grad_norm / plan.expected_batch_size
    assert len(update) > 1000
    assert update.std() == pytest.approx(expected, rel=6 / np.sqrt(2 * len(update)))
    # What everybody draws at a given rate, over many steps: one spread, whatever the draws were.
    rare = dataclasses.replace(plan, sample_rate=0.3)
    spreads = [update_of(data, rare, start=start).std() / expected for _ in range(12)]
    np.testing.assert_allclose(spreads, 1.0, atol=6 / np.sqrt(2 * len(update)))


def test_several_steps_leave_a_plain_model_and_tell_no_private_number():
    model = build(Resnet1dConfig(blocks=1, width=8, dropout=0.2), HEADS, 64, 3)
    result = private_step(
        model,
        Arrays(np.arange(20)),
        dataclasses.replace(PLAN, sample_rate=0.1, noise_multiplier=1.0),
        steps=12,
        lr=1e-3,
        mu=0.1,
        optimiser="adam",
    )
    assert (result.steps, result.examples) == (12, 12 * PLAN.expected_batch_size)
    assert np.isnan(result.mean_loss)
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    # a second round on the same module, as after an in-process reload
    private_step(model, Arrays(np.arange(5)), PLAN)


def test_private_training_refuses_what_cannot_be_private():
    model = build(TINY.model_copy(update={"norm": "batch"}), HEADS, 64, 3)
    opt = make_optimiser(OptimiserConfig(), model.parameters(), lr=1.0)
    with pytest.raises(PrivacyError, match="mixes patients"):
        PrivateStep(model, opt, WEIGHTS, plan=PLAN, work=LocalWork(steps=1))
    model = build(TINY, HEADS, 64, 3)
    with pytest.raises(PrivacyError, match="fixed number"):
        PrivateStep(model, opt, WEIGHTS, plan=PLAN, work=LocalWork(epochs=1))


def test_poisson_sampling_takes_patients_independently_and_one_ecg_of_each():
    patient = np.repeat([7, 3, 9, 1], [5, 1, 2, 8])
    sampler = PatientSampler(patient, 0.3)
    draws = [sampler.draw() for _ in range(4000)]
    taken = np.zeros((len(draws), 4))
    rows = np.zeros(len(patient))
    for i, drawn in enumerate(draws):
        assert len(set(patient[drawn])) == len(drawn)
        taken[i, np.searchsorted([1, 3, 7, 9], patient[drawn])] = 1
        rows[drawn] += 1
    assert any(len(drawn) == 0 for drawn in draws)
    np.testing.assert_allclose(taken.mean(0), 0.3, atol=6 * np.sqrt(0.21 / 4000))
    corr = np.corrcoef(taken.T) - np.eye(4)
    assert np.abs(corr).max() < 6 / np.sqrt(4000)
    for p in np.unique(patient):
        assert stats.chisquare(rows[patient == p]).pvalue > 1e-9 or (patient == p).sum() == 1


def test_secure_draws():
    assert secure_bernoulli(1000, 1.0).all()
    assert not secure_bernoulli(1000, 0.0).any()
    with pytest.raises(PrivacyError):
        secure_bernoulli(3, 1.5)
    limits = np.array([1, 2, 3, 2**62 + 1] * 3000)
    drawn = secure_below(limits)
    assert ((drawn >= 0) & (drawn < limits)).all()
    # 2^64 mod (2^62 + 1) is far from 0: taking the plain remainder would lean to small numbers
    assert stats.kstest(drawn[3::4] / limits[3], "uniform").pvalue > 1e-9
    assert stats.chisquare(np.bincount(drawn[2::4], minlength=3)).pvalue > 1e-9


def test_noise_is_gaussian_white_and_never_the_same():
    noise = secure_gaussian(200_001, std=3.0)
    assert noise.dtype == torch.float64
    values = noise.numpy() / 3.0
    assert stats.kstest(values, "norm").pvalue > 1e-9
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 6 / np.sqrt(2e5)
    half = len(values) // 2
    assert abs(np.corrcoef(values[:half], values[half : 2 * half])[0, 1]) < 6 / np.sqrt(1e5)
    assert not torch.equal(noise, secure_gaussian(200_001, std=3.0))
    assert secure_gaussian(5, std=0.0).abs().max() == 0
    assert secure_gaussian(0, std=1.0).shape == (0,)


def test_noise_does_not_come_from_seedable_generators():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    a = secure_gaussian(8, std=1.0)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    assert not torch.equal(a, secure_gaussian(8, std=1.0))
