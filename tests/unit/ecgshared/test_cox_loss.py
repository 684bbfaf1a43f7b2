"""The Cox loss of a batch against lifelines and against its definition, and what the published form leaves out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter

from ecgshared.learning.cox_loss import cox_items, published_cox_items
from ecgshared.models import build
from ecgshared.models.cvae import CvaeConfig


def people(n=60, ties=True, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    years = rng.exponential(np.exp(-0.7 * x))
    return x, np.ceil(years * 4) / 4 if ties else years, (rng.random(n) < 0.7).astype(float)


def tensors(*arrays):
    return [torch.tensor(a, dtype=torch.float64) for a in arrays]


@pytest.mark.parametrize("ties", [True, False])
def test_the_sum_over_items_is_lifelines_log_likelihood(ties):
    x, years, observed = people(ties=ties)
    fit = CoxPHFitter().fit(pd.DataFrame({"x": x, "t": years, "e": observed}), "t", "e")
    eta = torch.tensor(fit.params_["x"] * x)
    items = cox_items(eta, *tensors(years, observed))
    assert (items[observed == 0] == 0).all()
    total = -items.sum() * observed.sum() / len(x)
    assert float(total) == pytest.approx(fit.log_likelihood_, abs=1e-6)


def test_its_slope_vanishes_where_lifelines_ends():
    x, years, observed = people()
    fit = CoxPHFitter().fit(pd.DataFrame({"x": x, "t": years, "e": observed}), "t", "e")
    beta = torch.tensor(float(fit.params_["x"]), dtype=torch.float64, requires_grad=True)
    cox_items(beta * torch.tensor(x), *tensors(years, observed)).mean().backward()
    assert abs(float(beta.grad)) < 1e-5


def test_an_item_of_unknown_time_is_in_no_risk_set_and_no_event_is_no_loss():
    x, years, observed = people(20)
    eta, years, observed = tensors(x, years, observed)
    full = cox_items(eta, years, observed)
    wider = cox_items(
        torch.cat([eta, torch.tensor([50.0])]),
        torch.cat([years, torch.tensor([torch.nan])]),
        torch.cat([observed, torch.tensor([torch.nan])]),
    )
    torch.testing.assert_close(wider[:20] * 20 / 21, full)
    assert wider[20] == 0
    for form in (cox_items, published_cox_items):
        assert (form(eta, years, torch.zeros_like(observed)) == 0).all()


def test_the_published_form_is_the_same_without_ties_and_not_with_them():
    x, years, observed = people(ties=False)
    eta = torch.tensor(x)
    torch.testing.assert_close(
        published_cox_items(eta, *tensors(years, observed)), cox_items(eta, *tensors(years, observed))
    )
    x, years, observed = people(ties=True)
    order = np.random.default_rng(3).permutation(len(x))
    one = published_cox_items(torch.tensor(x), *tensors(years, observed)).sum()
    other = published_cox_items(torch.tensor(x[order]), *tensors(years[order], observed[order])).sum()
    ours = [
        cox_items(torch.tensor(a), *tensors(b, c)).sum()
        for a, b, c in ((x, years, observed), (x[order], years[order], observed[order]))
    ]
    assert abs(one - other) > 1e-3, "the fault: the likelihood depends on the order of rows"
    torch.testing.assert_close(*ours)


@pytest.mark.parametrize("published", [False, True])
def test_a_joint_head_learns_the_hazard(published):
    """Beats whose size tells the hazard: the latent that is trained with it orders people."""
    rng = np.random.default_rng(0)
    n = 300
    size = rng.normal(size=n)
    t = np.linspace(-0.3, 0.5, 80)
    x = (0.5 + 0.1 * size)[:, None, None] * np.ones((1, 12, 1)) * np.exp(-((t / 0.02) ** 2))
    years = rng.exponential(np.exp(-1.5 * size))
    head = {"event": "death", "paper_faithful": published}
    config = CvaeConfig(name="cvae", conditions=(), latent=2, hidden=16, survival=head)
    assert config.survival.weight == (50 if published else 1)
    model = build(config, (), 80, 0).train()
    assert (model.hazard.bias is not None) == published
    labels = torch.tensor(np.stack([years, np.ones(n)], 1), dtype=torch.float32)
    beats, none = torch.tensor(x, dtype=torch.float32), torch.zeros(n, 0)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    torch.manual_seed(0)
    for _ in range(150):
        optimiser.zero_grad()
        model.item_losses(beats, none, labels).mean().backward()
        optimiser.step()
    risk = model.eval().hazard(model(beats, none))[:, 0].detach().numpy()
    assert np.corrcoef(risk, size)[0, 1] > 0.8
