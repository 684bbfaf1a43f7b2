"""The loss: masks, weights by the global count, and the sum over sites equal to the pooled one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.errors import ModelError
from ecgshared.learning.losses import cell_losses, cell_weights, item_losses, private_cell_weights, site_loss

NAN = float("nan")


def test_known_cells_are_cross_entropies_and_the_others_are_zero_with_zero_gradient():
    logits = torch.tensor([[0.3, -2.0], [1.5, 40.0]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1.0, NAN], [NAN, 0.0]], dtype=torch.float64)
    losses = cell_losses(logits, labels)
    np.testing.assert_allclose(losses.detach(), [[np.log1p(np.exp(-0.3)), 0], [0, 40.0]], rtol=1e-12)
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    assert logits.grad[1, 0] == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_sites_add_up_to_the_pooled_objective(seed, sites):
    rng = np.random.default_rng(seed)
    heads = 3
    w = rng.uniform(0.2, 2, heads)
    share = rng.dirichlet(np.ones(sites) * 3)
    data = []
    for _ in range(sites):
        n = int(rng.integers(1, 9))
        labels = rng.integers(0, 2, (n, heads)).astype(float)
        labels[:, rng.random(heads) < 0.4] = NAN  # a site lacks whole heads
        labels[rng.random(labels.shape) < 0.2] = NAN
        data.append((torch.tensor(rng.normal(size=(n, heads))), torch.tensor(labels)))
    counts = sum((~torch.isnan(labels)).sum(0).double().numpy() for _, labels in data)

    def cells(a):
        return torch.tensor(cell_weights(w, counts, aggregation_weight=a))

    federated = sum(
        a * float(site_loss(item_losses(z, y, cells(a)), site_items=len(y)))
        for a, (z, y) in zip(share, data, strict=True)
    )
    z, y = (torch.cat(parts).numpy() for parts in zip(*data, strict=True))
    pooled = 0.0
    for h in range(heads):
        known = ~np.isnan(y[:, h])
        if known.any():
            p = 1 / (1 + np.exp(-z[known, h]))
            pooled += w[h] * np.mean(-np.where(y[known, h] == 1, np.log(p), np.log(1 - p)))
    assert federated == pytest.approx(pooled, rel=1e-12, abs=1e-14)


def test_batches_estimate_the_site_loss_without_bias():
    rng = np.random.default_rng(0)
    z, y = torch.tensor(rng.normal(size=(12, 2))), torch.tensor(rng.integers(0, 2, (12, 2)).astype(float))
    weights = torch.tensor([0.3, 0.7])
    whole = site_loss(item_losses(z, y, weights), site_items=12)
    parts = [site_loss(item_losses(z[i : i + 4], y[i : i + 4], weights), site_items=12) for i in (0, 4, 8)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    torch.testing.assert_close(item_losses(z, y, weights).sum(), whole)


def test_bfloat16_logits_are_taken_up_to_float32():
    losses = cell_losses(torch.zeros(2, 1, dtype=torch.bfloat16), torch.ones(2, 1))
    assert losses.dtype == torch.float32


def test_a_head_nobody_has_weighs_nothing():
    np.testing.assert_array_equal(cell_weights([1, 1], [0, 50], aggregation_weight=0.5), [0, 0.04])
    np.testing.assert_array_equal(private_cell_weights([1, 2], [0, 50]), [0, 2])
    np.testing.assert_array_equal(private_cell_weights([1, 1], [100, 50]), [1, 2])


@pytest.mark.parametrize(
    ("w", "n", "a"),
    [([1], [1, 2], 0.5), ([-1], [3], 0.5), ([1], [NAN], 0.5), ([1], [3], 0.0), ([1], [3], 1.1)],
)
def test_impossible_weights_are_refused(w, n, a):
    with pytest.raises(ModelError):
        cell_weights(w, n, aggregation_weight=a)


def test_a_continuous_head_learns_by_absolute_error_where_it_is_known():
    logits = torch.tensor([[0.3, 0.9], [-1.0, -0.2], [2.0, 0.4]], dtype=torch.float64)
    labels = torch.tensor([[1.0, 0.5], [0.0, torch.nan], [torch.nan, 0.39]], dtype=torch.float64)
    losses = cell_losses(logits, labels, [False, True])
    torch.testing.assert_close(losses[:, 0], cell_losses(logits[:, :1], labels[:, :1])[:, 0])
    # Huber's loss divided by its corner of 0.05: |e| - 0.025 beyond it, e^2 / 0.1 within.
    expected = torch.tensor([0.4 - 0.025, 0.0, 0.01**2 / 0.1], dtype=torch.float64)
    torch.testing.assert_close(losses[:, 1], expected, rtol=0, atol=1e-12)
    weights = torch.tensor([0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(item_losses(logits, labels, weights, [False, True]), losses @ weights)
