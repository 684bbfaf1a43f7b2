"""The privacy ledger under real training: charged before, closed before release, and by nothing that does not leave."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import yaml

from client.egress.ledger import Ledger
from client.operator.preview import preview_study
from client.site.settings import load_site
from ecgshared.errors import RunError
from ecgshared.study.study import load_study
from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate

PRIVACY = {"epsilon": 8.0, "delta": 1e-3, "max_grad_norm": 1.0, "expected_batch_size": 16}


def private_study(small, **changes):
    step = small.train(local={"steps": 3, "batch_size": None}, privacy=PRIVACY)
    return small.study(steps=[{"id": "cohorts", "stage": "describe"}, step], **changes)


def ledger_of(site):
    return Ledger(load_site(site).state)


def test_every_round_is_charged_once_and_a_second_run_only_while_the_cap_lasts(federation):
    study, sites = private_study(federation, federation={"quorum": 3, "retries": 0}), federation.sites()
    simulate(study, sites, federation.folder / "one")
    folder = RunFolder.reopen(federation.folder / "one")
    folder.close()
    told = folder.artefact("risk").result.privacy.sites
    trained = [site for site in sites if ledger_of(site).entries()]
    assert len(trained) == len(told) > 0
    for site in trained:
        entries = ledger_of(site).entries()
        assert [(c.step, c.round, c.answered) for c in entries] == [("risk", 1, True), ("risk", 2, True)]
        assert entries[-1].epsilon == pytest.approx(told[yaml.safe_load(site.read_text())["site"]].epsilon_spent)
    with pytest.raises(RunError, match="budget-spent"):
        simulate(study, sites, federation.folder / "two")
    assert all(ledger_of(site).entries()[-1].epsilon <= 10.0 for site in trained)


def test_a_preview_costs_nothing(federation):
    study, sites = private_study(federation), federation.sites()
    messages = preview_study(sites[0], load_site(sites[0]), load_study(study))
    assert any(message.phase == "fit" and message.computed for message in messages)
    assert ledger_of(sites[0]).entries() == []


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import {module} as module
    from simulations.federation.run import simulate

    def armed(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    module.{name} = armed
    simulate(Path(sys.argv[1]), [Path(p) for p in sys.argv[3:]], Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("module", "name", "charges"),
    [
        pytest.param("client.stages.train", "train_locally", 2, marks=pytest.mark.slow),
        # The answer may have left for all the ledger knows: counted again, rather than not.
        ("client.answer", "Outbox.keep", 3),
    ],
)
def test_killed_and_resumed(federation, module, name, charges):
    study, sites, out = (
        private_study(federation),
        federation.sites(privacy={"max_epsilon": 50, "max_delta": 1e-3}),
        federation.folder,
    )
    script = textwrap.dedent(KILLED).format(module=module, name=name)
    if name == "Outbox.keep":
        script = script.replace(
            "def armed(*args, **kwargs):",
            "KEEP = module.Outbox.keep\n\ndef armed(self, request, release, **how):\n"
            "    if request.phase != 'fit':\n        return KEEP(self, request, release, **how)",
        )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(study), str(out / "run"), *map(str, sites)], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    simulate(study, sites, out / "run", resume=True)
    counted = [len(ledger_of(site).entries()) for site in sites if ledger_of(site).entries()]
    assert sorted(counted)[-1] == charges
    assert set(counted) <= {2, charges}


@pytest.mark.slow
def test_a_lost_outbox_is_paid_for(federation):
    study, sites = private_study(federation), federation.sites(privacy={"max_epsilon": 50, "max_delta": 1e-3})
    simulate(study, sites, federation.folder / "run")
    before = {site: len(ledger_of(site).entries()) for site in sites}
    for site in sites:
        shutil.rmtree(load_site(site).state / "outbox")
    shutil.rmtree(federation.folder / "run")
    simulate(study, sites, federation.folder / "run")
    assert {site: len(ledger_of(site).entries()) for site in sites} == {site: 2 * n for site, n in before.items()}
