"""Differential privacy through the real apps: what is released, what is not, and what a crash may not cost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest

from ecgshared.errors import RunError
from ecgshared.privacy.accounting import Spent, epsilon_spent
from server.report.cli import rebuild
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

PRIVACY = {"epsilon": 8.0, "delta": 1e-3, "max_grad_norm": 1.0, "expected_batch_size": 16}


def private_steps(federation, **changes):
    step = federation.train(local={"steps": 3, "batch_size": None}, privacy=PRIVACY, **changes)
    return [{"id": "cohorts", "stage": "describe"}, step]


def artefact(run, step="risk"):
    folder = RunFolder.reopen(run)
    folder.close()
    found = folder.artefact(step)
    assert found is not None
    # As a program reads it in results.json.
    return replace(found, result=found.result.model_dump(mode="json"))


def test_a_private_run_tells_epsilon_over_all_rounds_and_no_exact_figure_of_a_round(federation):
    run = simulate(federation.study(steps=private_steps(federation)), federation.sites(), federation.folder / "run")
    result = artefact(run).result
    assert all(v["loss"] is None and set(v["auc"].values()) == {None} for v in result["validation"])
    assert all(t["loss"] is None for t in result["training_loss"])
    counts = artefact(run, "cohorts").result["sites"]
    for site, account in result["privacy"]["sites"].items():
        rate = 16 / counts[site]["patients"]["train"]
        spent = epsilon_spent([Spent(account["noise_multiplier"], rate, 6)], delta=account["delta"])
        assert account["epsilon_spent"] == pytest.approx(spent, abs=1e-9)
        assert spent <= 8.0
        assert account["delta"] == 1e-4, "the site's cap is stricter than the study's 1e-3"
    assert "Covered:" in rebuild(run)[0].read_text()


def test_the_site_caps_epsilon(federation):
    sites = federation.sites(privacy={"max_epsilon": 2.0, "max_delta": 1e-3})
    result = artefact(
        simulate(federation.study(steps=private_steps(federation)), sites, federation.folder / "run")
    ).result
    assert all(account["epsilon_spent"] <= 2.0 for account in result["privacy"]["sites"].values())


def test_a_site_that_demands_privacy_refuses_plain_training(federation):
    sites = federation.sites(privacy={"required": True})
    with pytest.raises(RunError, match="privacy-required"):
        simulate(federation.study(federation={"quorum": 3, "retries": 0}), sites, federation.folder / "run")


KILLED_BEFORE_SENDING = """
    import os, signal, sys
    from pathlib import Path
    import client.answer as site
    from simulations.federation.run import simulate

    log = site.log_release

    def armed(state, line, *, replayed):
        # The update is noised and kept, and not yet sent.
        if line["phase"] == "fit":
            os.kill(os.getpid(), signal.SIGKILL)
        log(state, line, replayed=replayed)

    site.log_release = armed
    simulate(Path(sys.argv[1]), [Path(p) for p in sys.argv[3:]], Path(sys.argv[2]))
"""


def test_killed_between_noising_and_sending_a_site_sends_the_same_bytes_again(federation):
    study, sites, out = federation.study(steps=private_steps(federation)), federation.sites(), federation.folder / "run"
    command = [sys.executable, "-c", textwrap.dedent(KILLED_BEFORE_SENDING), str(study), str(out), *map(str, sites)]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    (answer,) = (federation.folder / "state" / "north" / "outbox").rglob("fit-1.answer")
    noised = answer.read_bytes().partition(b"\n")[2]
    simulate(study, sites, out, resume=True)
    log = [
        json.loads(line) for line in (federation.folder / "state" / "north" / "releases.jsonl").read_text().splitlines()
    ]
    first = next(line for line in log if line["phase"] == "fit")
    assert first["replayed"]
    assert answer.read_bytes().partition(b"\n")[2] == noised


def test_noise_is_never_the_same_in_two_runs_though_the_site_seed_is(federation):
    sites = federation.sites(privacy={"max_epsilon": 50})
    one = artefact(simulate(federation.study(steps=private_steps(federation)), sites, federation.folder / "one"))
    two = artefact(simulate(federation.study(steps=private_steps(federation)), sites, federation.folder / "two"))
    assert np.abs(one.arrays["weights"] - two.arrays["weights"]).max() > 1e-6
