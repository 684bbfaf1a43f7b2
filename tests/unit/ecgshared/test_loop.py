"""The loop: a federated step equals the pooled one; determinism, layout, optimisers, schedule, augmentation."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ecgshared.ecg.dipole import LIMB
from ecgshared.errors import ConfigError, ModelError
from ecgshared.learning.augment import augment
from ecgshared.learning.electrodes import PER_CM, move_chest_electrodes
from ecgshared.learning.layout import Layout
from ecgshared.learning.loop import PlainStep, place, predict, train
from ecgshared.learning.losses import cell_weights
from ecgshared.learning.optimiser import load_optimiser_state, make_optimiser, optimiser_state
from ecgshared.learning.plan import (
    AugmentConfig,
    LocalWork,
    OptimiserConfig,
    ScheduleConfig,
    learning_rate,
)
from ecgshared.models import HeadSpec, build
from ecgshared.models.resnet1d import Resnet1dConfig

HEADS = [HeadSpec("a", "g", 0.5), HeadSpec("b", "g", 1.0), HeadSpec("c")]
TINY = Resnet1dConfig(blocks=1, width=8, kernel=4, groups=2, hidden=4, dropout=0.0)


class Arrays:
    """A site in memory."""

    def __init__(self, n: int, seed: int, lacking: tuple[int, ...] = (), samples: int = 64) -> None:
        rng = np.random.default_rng(seed)
        self.patient = np.arange(n)
        self.x = rng.normal(size=(n, 12, samples)).astype(np.float32)
        self.covariates = rng.normal(size=(n, 2))
        self.labels = rng.integers(0, 2, (n, 3)).astype(float)
        self.labels[:, list(lacking)] = np.nan

    def fetch(self, rows):
        return self.x[rows], self.covariates[rows], self.labels[rows]


class Pooled(Arrays):
    def __init__(self, sites: list[Arrays]) -> None:
        self.patient = np.arange(sum(len(s.patient) for s in sites))
        self.x, self.covariates, self.labels = (
            np.concatenate([getattr(s, name) for s in sites]) for name in ("x", "covariates", "labels")
        )


def local(model, data, *, counts, share=1.0, work=None, optimiser=None, seed=0):
    work = work or LocalWork(steps=1, batch_size=None)
    config = optimiser or OptimiserConfig(name="sgd", lr=0.5)
    weights = cell_weights(np.array([1.0, 0.5, 2.0]), counts, aggregation_weight=share)
    opt = make_optimiser(config, model.parameters(), lr=config.lr)
    step = PlainStep(model, opt, weights, site_items=len(data.patient), work=work)
    return train(model, data, step, work, np.random.default_rng(seed)), opt


def test_one_federated_step_equals_the_pooled_step():
    """fp64, SGD, full batch, three sites that lack different heads: equal to the pooled step to 1e-10."""
    sites = [Arrays(9, 1, (2,), 160), Arrays(14, 2, (0, 1), 160), Arrays(5, 3, (), 160)]
    counts = sum((~np.isnan(s.labels)).sum(0) for s in sites)
    shares = np.array([9, 14, 5]) / 28
    start = build(Resnet1dConfig(dropout=0.0), HEADS, 160, 11, torch.float64)
    layout = Layout.of(start)
    updates = []
    for site, share in zip(sites, shares, strict=True):
        model = copy.deepcopy(start)
        local(model, site, counts=counts, share=share)
        updates.append(layout.flatten(model))
    pooled = copy.deepcopy(start)
    local(pooled, Pooled(sites), counts=counts)
    aggregate = np.einsum("k,kp->p", shares, np.array(updates))
    assert np.abs(aggregate - layout.flatten(start)).max() > 1e-3
    np.testing.assert_allclose(aggregate, layout.flatten(pooled), rtol=0, atol=1e-10)


def test_any_shares_give_the_same_step():
    """The aggregation weight cancels: equal shares for unequal sites still give the pooled step."""
    sites = [Arrays(9, 1, (2,)), Arrays(14, 2, (0, 1))]
    counts = sum((~np.isnan(s.labels)).sum(0) for s in sites)
    start = build(TINY, HEADS, 64, 11, torch.float64)
    layout = Layout.of(start)
    results = []
    for shares in ([0.5, 0.5], [0.9, 0.1]):
        updates = []
        for site, share in zip(sites, shares, strict=True):
            model = copy.deepcopy(start)
            local(model, site, counts=counts, share=share)
            updates.append(share * layout.flatten(model))
        results.append(sum(updates))
    np.testing.assert_allclose(*results, rtol=0, atol=1e-10)


def test_the_same_generator_gives_the_same_weights_and_another_does_not():
    config = TINY.model_copy(update={"dropout": 0.3})
    work = LocalWork(epochs=2, batch_size=8)
    flat = []
    for seed, disturb in ((5, 1), (5, 2), (6, 1)):
        model = build(config, HEADS, 64, 0)
        torch.manual_seed(disturb)  # whatever the rest of the process draws must not matter
        result, _ = local(model, Arrays(20, 4), counts=[20] * 3, work=work, seed=seed)
        flat.append(Layout.of(model).flatten(model))
        assert (result.steps, result.examples) == (6, 40)
    np.testing.assert_array_equal(flat[0], flat[1])
    assert not np.array_equal(flat[0], flat[2])


def test_training_learns_and_predict_sees_it():
    data = Arrays(60, 8)
    data.labels[:] = (data.x[:, 0].std(1) * (data.patient % 2 * 3 + 1) > 2)[:, None]
    data.x[:, 0] *= (data.patient % 2 * 3 + 1)[:, None]
    model = build(TINY, HEADS, 64, 0)
    local(
        model,
        data,
        counts=[60] * 3,
        work=LocalWork(epochs=15, batch_size=16),
        optimiser=OptimiserConfig(lr=0.02),
    )
    logits = predict(model, data, np.arange(60), batch_size=7)
    assert logits.shape == (60, 3)
    assert ((logits > 0) == data.labels).mean() > 0.95
    assert predict(model, data, np.arange(0)).shape == (0, 3)


def test_a_site_without_records_does_no_step():
    model = build(TINY, HEADS, 64, 0)
    before = Layout.of(model).flatten(model)
    result, _ = local(model, Arrays(0, 1), counts=[5] * 3, work=LocalWork(steps=4))
    assert (result.steps, result.examples) == (0, 0)
    assert np.isnan(result.mean_loss)
    np.testing.assert_array_equal(before, Layout.of(model).flatten(model))


def test_fedprox_pulls_towards_the_received_weights():
    far = []
    for mu in (0.0, 5.0):
        model = build(TINY, HEADS, 64, 0, torch.float64)
        before = Layout.of(model).flatten(model)
        local(
            model,
            Arrays(20, 4),
            counts=[20] * 3,
            work=LocalWork(steps=20, batch_size=None, prox_mu=mu),
            optimiser=OptimiserConfig(name="sgd", lr=0.1),
        )
        far.append(np.linalg.norm(Layout.of(model).flatten(model) - before))
    assert far[1] < 0.7 * far[0]


def test_clipping_bounds_the_step():
    model = build(TINY, HEADS, 64, 0, torch.float64)
    before = Layout.of(model).flatten(model)
    work = LocalWork(steps=1, batch_size=None, max_grad_norm=1e-3)
    local(model, Arrays(20, 4), counts=[20] * 3, work=work)
    assert np.linalg.norm(Layout.of(model).flatten(model) - before) == pytest.approx(0.5e-3, rel=1e-2)


def test_divergence_is_an_error_not_a_reply():
    with pytest.raises(ModelError, match="diverged"):
        local(
            build(TINY, HEADS, 64, 0),
            Arrays(20, 4),
            counts=[20] * 3,
            work=LocalWork(steps=30),
            optimiser=OptimiserConfig(name="sgd", lr=1e30),
        )


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_kept_optimiser_state_goes_on_as_if_uninterrupted(name):
    config = OptimiserConfig(name=name, lr=0.01, momentum=0.9 if name == "sgd" else 0.0, between_rounds="keep")
    data, weights = Arrays(16, 4), cell_weights(np.ones(3), [16] * 3, aggregation_weight=1.0)

    def run(model, opt, steps):
        work = LocalWork(steps=steps, batch_size=None)
        step = PlainStep(model, opt, weights, site_items=16, work=work)
        train(model, data, step, work, np.random.default_rng(0))

    whole = build(TINY, HEADS, 64, 0, torch.float64)
    run(whole, make_optimiser(config, whole.parameters(), lr=0.01), 4)
    halves = build(TINY, HEADS, 64, 0, torch.float64)
    first = make_optimiser(config, halves.parameters(), lr=0.01)
    run(halves, first, 2)
    second = make_optimiser(config, halves.parameters(), lr=0.01)
    load_optimiser_state(second, optimiser_state(first))
    run(halves, second, 2)
    layout = Layout.of(whole)
    np.testing.assert_allclose(layout.flatten(whole), layout.flatten(halves), rtol=0, atol=1e-9)
    with pytest.raises(ModelError, match="does not fit"):
        load_optimiser_state(second, {"0.exp_avg": torch.zeros(3)})


def test_layout_round_trip_order_and_refusals():
    model = build(TINY.model_copy(update={"norm": "batch"}), HEADS, 64, 0)
    layout = Layout.of(model)
    other = build(TINY.model_copy(update={"norm": "batch"}), HEADS, 64, 1)
    vector = layout.flatten(model)
    assert vector.dtype == np.float32
    assert vector.shape == (layout.size,)
    assert not any("num_batches_tracked" in name for name in layout.names)
    assert layout.parameters == sum(p.numel() for p in model.parameters())
    assert layout.size > layout.parameters  # running statistics follow
    Layout.of(other).load(other, vector)
    np.testing.assert_array_equal(Layout.of(other).flatten(other), vector)
    assert Layout.of(other).hash == layout.hash
    assert Layout.of(build(TINY, HEADS, 64, 0)).hash != layout.hash
    for bad in (vector[:-1], vector.astype(int), np.where(np.arange(layout.size) == 3, np.nan, vector)):
        with pytest.raises(ModelError):
            layout.load(model, bad)
    # flatten gives a copy: later training must not change what was already sent
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert not np.array_equal(layout.flatten(model), vector)


def test_layout_keeps_double_precision():
    model = build(TINY, HEADS, 64, 0, torch.float64)
    layout = Layout.of(model)
    exact = layout.flatten(model) + 1e-12
    layout.load(model, exact)
    assert layout.flatten(model).dtype == np.float64
    np.testing.assert_array_equal(layout.flatten(model), exact)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_fedbn_keeps_normalisation_at_the_site(norm):
    config = TINY.model_copy(update={"norm": norm})
    model, other = build(config, HEADS, 64, 0), build(config, HEADS, 64, 1)
    layout = Layout.of(model, "fedbn")
    assert layout.local
    assert all("norm" in name for name in layout.local)
    assert not any("norm" in name for name in layout.names)
    with torch.no_grad():
        model.norm.weight.fill_(3.0)
    layout.load(other, layout.flatten(model))
    assert other.norm.weight[0].item() == 1.0
    assert torch.equal(other.output.weight, model.output.weight)
    layout.load_local_state(other, layout.local_state(model))
    assert other.norm.weight[0].item() == 3.0
    with pytest.raises(ModelError):
        layout.load_local_state(other, {})


def test_learning_rates_follow_the_global_round():
    def rates(schedule, rounds=5):
        config = OptimiserConfig(lr=1.0, schedule=schedule)
        return [learning_rate(config, r, rounds) for r in range(1, rounds + 1)]

    assert rates(ScheduleConfig()) == [1.0] * 5
    assert rates(ScheduleConfig(kind="step", every=2)) == [1, 1, 0.5, 0.5, 0.25]
    cosine = rates(ScheduleConfig(kind="cosine", floor=0.0))
    assert cosine == pytest.approx([1, 0.5 + 0.5 / 2**0.5, 0.5, 0.5 - 0.5 / 2**0.5, 0])
    assert rates(ScheduleConfig(warmup_rounds=1)) == [0.5, 1, 1, 1, 1]


def test_local_work():
    assert LocalWork().epochs == 1
    assert LocalWork(epochs=2, batch_size=10).steps_for(25) == 6
    assert LocalWork(steps=7).steps_for(3) == 7
    assert LocalWork(steps=7).steps_for(0) == 0
    with pytest.raises(ValidationError, match="not both"):
        LocalWork(epochs=1, steps=1)
    with pytest.raises(ValidationError, match="momentum"):
        OptimiserConfig(name="adam", momentum=0.9)


def test_batches_cover_every_row_once_an_epoch_and_are_even():
    work = LocalWork(batch_size=10)
    model = build(TINY, HEADS, 64, 0)
    opt = make_optimiser(OptimiserConfig(), model.parameters(), lr=1e-3)
    draws = PlainStep(model, opt, np.ones(3), site_items=21, work=work).draw(np.arange(21), np.random.default_rng(0))
    epoch = [next(draws) for _ in range(3)]
    assert sorted(np.concatenate(epoch)) == list(range(21))
    assert {len(rows) for rows in epoch} == {7}


def test_augmentation_is_off_by_default_and_each_kind_does_what_it_says():
    x = torch.randn(6, 12, 200)
    generator = torch.Generator().manual_seed(0)
    assert augment(x, AugmentConfig(), fs_hz=100, generator=generator) is x

    def run(**kinds):
        return augment(x, AugmentConfig(**kinds), fs_hz=100, generator=torch.Generator().manual_seed(0))

    shifted = run(shift_seconds=0.2)
    for before, after in zip(x, shifted, strict=True):
        assert any(
            torch.equal(after[:, max(s, 0) : 200 + min(s, 0)], before[:, max(-s, 0) : 200 - max(s, 0)])
            for s in range(-20, 21)
        )
    ratio = run(scale=0.2) / x
    assert ((ratio > 0.799) & (ratio < 1.201)).all()
    assert (ratio.amax((1, 2)) - ratio.amin((1, 2))).max() < 1e-4  # alike on all leads
    assert (run(wander_mv=0.1) - x).abs().max() <= 0.1
    assert (run(noise_mv=0.05) - x).std() == pytest.approx(0.05, rel=0.1)
    dropped = (run(lead_dropout=0.5) == 0).all(2)
    assert 0.2 < dropped.float().mean() < 0.8
    assert torch.equal(run(scale=0.2, noise_mv=0.1), run(scale=0.2, noise_mv=0.1))


def test_hum_and_bursts_are_what_they_say():
    """Hum is one line of the spectrum at 50 or 60 Hz; a burst is short, fast, and each lead's own."""
    x, fs, generator = torch.zeros(40, 12, 2000), 500, torch.Generator().manual_seed(0)
    hum = augment(x, AugmentConfig(mains_mv=0.1), fs_hz=fs, generator=generator)
    assert hum.abs().max() <= 0.1
    peaks = np.abs(np.fft.rfft(hum.numpy())).argmax(-1) * fs / 2000
    assert set(np.unique(peaks)) == {50.0, 60.0}
    assert (peaks == peaks[:, :1]).all()
    slow = augment(x, AugmentConfig(mains_mv=0.1), fs_hz=110, generator=generator)
    peaks = np.abs(np.fft.rfft(slow.numpy())).argmax(-1) * 110 / 2000
    np.testing.assert_allclose(peaks, 50, rtol=0, atol=110 / 2000)
    with pytest.raises(ConfigError, match="no mains hum"):
        augment(x, AugmentConfig(mains_mv=0.1), fs_hz=100, generator=generator)

    burst = augment(x, AugmentConfig(muscle_mv=0.1), fs_hz=fs, generator=generator).numpy()
    lasting = (np.abs(burst) > 0).sum(-1) / fs
    assert lasting.max() <= 1.5 + 2 / fs
    assert 0.03 < burst[np.abs(burst) > 0].std() < 0.1
    power = np.square(np.abs(np.fft.rfft(burst))).mean((0, 1))
    assert power[: len(power) // 2].sum() < 0.25 * power.sum()


def test_moved_chest_electrodes_see_what_the_forward_model_says():
    """The table is the simulator's own derivative; limb leads stay; ECGs of a dipole change as the moved model's."""
    from simulations.physics import torso

    around = np.stack([-torso.REFERENCE_ELECTRODES_CM[4:, 1], torso.REFERENCE_ELECTRODES_CM[4:, 0]], 1)
    around /= np.linalg.norm(around, axis=1, keepdims=True)

    def field(shift_cm):
        at = torso.reference_electrodes()
        at[0, 4:, 2] += shift_cm[:, 0]
        at[0, 4:, :2] += shift_cm[:, 1:] * around
        return torso.calibrated(torso.lead_field(torso.reference_anatomy(), at))[0]

    for way in range(2):
        step = np.zeros((6, 2))
        step[:, way] = 1.0
        np.testing.assert_allclose(PER_CM[:, way], (field(step) - field(-step))[2:] / 2, rtol=0, atol=5.1e-4)
    rng = np.random.default_rng(0)
    dipole, shift = rng.normal(0, 0.5, (3, 50)), rng.normal(0, 0.5, (6, 2))
    eight, moved = (torch.as_tensor(field(s) @ dipole)[None] for s in (np.zeros((6, 2)), shift))
    limbs = torch.as_tensor(LIMB) @ eight[:, :2]
    x = torch.cat([limbs, eight[:, 2:]], 1)
    found = move_chest_electrodes(x, torch.as_tensor(shift)[None])
    assert torch.equal(found[:, :6], limbs)
    error = (found[:, 6:] - moved[:, 2:]).norm() / (moved[:, 2:] - eight[:, 2:]).norm()
    assert error < 0.15
    assert torch.equal(move_chest_electrodes(x, torch.zeros(1, 6, 2)), x)


def test_augmentation_needs_the_rate():
    model, work = build(TINY, HEADS, 64, 0), LocalWork()
    opt = make_optimiser(OptimiserConfig(), model.parameters(), lr=1e-3)
    step = PlainStep(model, opt, np.ones(3), site_items=8, work=work)
    with pytest.raises(ConfigError):
        train(model, Arrays(8, 0), step, work, np.random.default_rng(0), augmentation=AugmentConfig(scale=0.1))


def test_bf16_trains_with_float32_weights():
    model, work = build(TINY, HEADS, 64, 0), LocalWork(steps=2)
    place(model, device="auto" if not torch.cuda.is_available() else "cpu", precision="bf16")
    opt = make_optimiser(OptimiserConfig(), model.parameters(), lr=1e-3)
    step = PlainStep(
        model,
        opt,
        cell_weights(np.ones(3), [8] * 3, aggregation_weight=1),
        site_items=8,
        work=work,
        bf16=True,
    )
    result = train(model, Arrays(8, 0), step, work, np.random.default_rng(0))
    assert np.isfinite(result.mean_loss)
    assert next(model.parameters()).dtype == torch.float32


def test_a_batch_in_parts_is_the_same_step(monkeypatch):
    """fp64: gradients of parts add up to the batch's to 1e-12, whatever the parts."""
    flat = []
    for most in (10**9, 12 * 64 * 5, 1):
        monkeypatch.setattr("ecgshared.learning.loop.MOST_VALUES", most)
        monkeypatch.setattr("ecgshared.learning.loop.at_once.__defaults__", (most,))
        model = build(TINY, HEADS, 64, 3, torch.float64)
        result, _ = local(model, Arrays(23, 4, (1,)), counts=[23] * 3)
        flat.append(np.append(Layout.of(model).flatten(model), result.mean_loss))
    np.testing.assert_allclose(flat[1], flat[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(flat[2], flat[0], rtol=0, atol=1e-12)


def test_batch_normalisation_sees_its_whole_batch(monkeypatch):
    monkeypatch.setattr("ecgshared.learning.loop.at_once.__defaults__", (1,))
    seen = []
    model = build(TINY.model_copy(update={"norm": "batch"}), HEADS, 64, 3)
    model.stem.register_forward_hook(lambda *args: seen.append(len(args[1][0])))
    local(model, Arrays(6, 4), counts=[6] * 3)
    assert seen == [6]
