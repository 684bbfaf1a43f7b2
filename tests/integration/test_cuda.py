"""Training and judging on a CUDA card give what a processor gives; skipped, by name, where there is no card."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecgshared.learning.loop import place, predict
from ecgshared.models import HeadSpec, build, config_class
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card on this machine")

SMALL = {
    "resnet1d": {"blocks": 1, "width": 8, "groups": 2},
    "crnn": {"widths": [8, 8], "groups": 2, "units": 4},
    "s4": {"blocks": 2, "width": 8, "state": 4},
    "attia_cnn": {"groups": 4},
    "waves": {},
}


def trained(federation, name, device, folder, **changes):
    """Weights and pooled AUC of two rounds on a device."""
    model = {"name": name, **SMALL[name], "covariates": [], **({} if name == "waves" else {"dropout": 0.0})}
    net = federation.train(
        **{"id": "net", "heads": ["male"], "model": model, "rounds": 2, "local": {"steps": 3, "batch_size": 16}},
        **{"optimiser": {"name": "sgd", "lr": 0.05}, **changes},
    )
    judged = {"id": "judged", "stage": "evaluate", "uses": ["net"], "score": "net.male"}
    study = federation.study(
        endpoints={"male": {"kind": "binary", "column": "male"}},
        steps=[{"id": "cohorts", "stage": "describe"}, net, judged],
    )
    precision = "fp64" if changes.get("precision") == "fp64" else "fp32"
    sites = federation.sites(compute={"device": device, "precision": precision})
    run = RunFolder.reopen(simulate(study, sites, federation.folder / folder))
    try:
        return run.artefact("net").arrays["weights"]
    finally:
        run.close()


@pytest.mark.parametrize("name", SMALL)
def test_two_rounds_on_a_card_are_those_of_a_processor(federation, name):
    """In float64, where no kernel rounds to TF32: to 1e-9."""
    there, here = (trained(federation, name, d, d, precision="fp64") for d in ("cuda", "cpu"))
    assert np.abs(here).max() > 0
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SMALL)
def test_a_net_with_draws_and_changed_ecgs_trains_on_a_card(federation, name):
    weights = trained(federation, name, "auto", "run", augment={"shift_seconds": 0.2, "scale": 0.1, "noise_mv": 0.01})
    assert np.isfinite(weights).all()


@pytest.mark.parametrize("name", SMALL)
def test_logits_of_a_card_are_those_of_a_processor(name):
    """In float32, convolutions by TF32: to 0.01 of a logit's spread."""

    class Rows:
        patient = np.arange(40)

        def fetch(self, rows):
            x = np.random.default_rng(0).normal(size=(40, 12, 1000)).astype(np.float32)
            return x[rows], np.zeros((len(rows), 0)), np.zeros((len(rows), 1))

    net = build(config_class(name)(name=name, covariates=()), [HeadSpec("male")], 1000, 1).eval()
    if name == "waves":
        torch.nn.init.normal_(net.output.weight, generator=torch.Generator().manual_seed(0))
    here = predict(net, Rows(), np.arange(40))
    there = predict(place(net, device="cuda", precision="fp32"), Rows(), np.arange(40))
    np.testing.assert_allclose(there, here, rtol=0, atol=0.01 * here.std() + 1e-3)
