"""A head learnt privately on fixed features, by full-batch steps: what it costs, what is charged, what it learns."""

from __future__ import annotations

import numpy as np
import pytest
from opacus.accountants import RDPAccountant

from ecgshared.privacy.accounting import ALPHAS
from server.report.html import render
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

PRIVATE = {
    "heads": ["male"],
    "model": {"name": "waves", "covariates": ["age"]},
    "rounds": 15,
    "local": {"steps": 1},
    "optimiser": {"name": "sgd", "lr": 2.0, "schedule": {"kind": "constant"}},
    # At least as many as any site has: then everybody takes part in every step.
    "privacy": {"epsilon": 8, "delta": 1e-4, "max_grad_norm": 0.5, "expected_batch_size": 200},
}


def artefact(run, step):
    folder = RunFolder.reopen(run)
    folder.close()
    return folder.artefact(step)


def test_full_batch_steps_cost_what_composed_gaussians_cost(federation):
    """Epsilon of 15 steps at rate 1, by Opacus' accountant itself; it stands in the ledger and in the report."""
    study = federation.study(steps=[{"id": "cohorts", "stage": "describe"}, federation.train(**PRIVATE)])
    run = simulate(study, federation.sites(), federation.folder / "run")
    found = artefact(run, "risk")
    assert found.result.parameters == 3 * 12 + 1 + 1
    for spent in found.result.privacy.sites.values():
        accountant = RDPAccountant()
        accountant.history = [(spent.noise_multiplier, 1.0, 15)]
        assert spent.epsilon_spent == pytest.approx(accountant.get_epsilon(delta=1e-4, alphas=ALPHAS), rel=1e-6)
        assert 7.9 < spent.epsilon_spent <= 8
    assert np.isfinite(found.arrays["weights"]).all()
    assert np.abs(found.arrays["weights"]).max() > 0.01
    page = render(run).read_text(encoding="utf-8")
    assert "epsilon 8" in page
    assert "What was tried on it" in page
    assert "<b>membership by LiRA</b>" in page
    assert "<b>score made for one</b>" not in page
    assert all((federation.folder / "state" / site).exists() for site in ("north", "coast", "valley"))


def test_a_head_is_trained_privately_on_a_trunk_that_was_not(federation):
    """`start_from` with a frozen trunk: noise falls on the last layer alone, the rest is as it was."""
    first = federation.train(id="first", heads=["male"])
    private = federation.train(
        id="onward",
        uses=["cohorts", "first"],
        heads=["male"],
        start_from={"step": "first", "trainable": "last"},
        **{key: PRIVATE[key] for key in ("local", "privacy")},
    )
    for step in (first, private):
        step["model"] = {**step["model"], "covariates": ["age"]}
    study = federation.study(steps=[{"id": "cohorts", "stage": "describe"}, first, private])
    run = simulate(study, federation.sites(), federation.folder / "run")
    before, after = (artefact(run, name).arrays["weights"] for name in ("first", "onward"))
    assert (before != after).sum() == artefact(run, "onward").result.trained_parameters == 9
