"""What befalls a federation in its third month, on real processes: certificates end, a site's state is copied."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from trial import TRAIN, Trial, events, read

from client.network.enrol import in_use, read_certificate
from client.site.settings import load_site
from server.coordinator import background

BY_ITSELF, BY_HAND, LAST = TRAIN
SHORT_DAYS = 0.003
"""Four minutes; with the ten by which a certificate is dated back, it is in its last third from the start."""


@pytest.fixture(scope="module")
def trial(nginx: None, hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Three hospitals whose certificates end in four minutes."""
    with Trial(hospitals, tmp_path_factory.mktemp("years")) as made:
        _edit(made.network.home.path / "coordinator.yaml", certificate_days=SHORT_DAYS)
        made.network.home = type(made.network.home)(made.network.home.path)
        made.network.enrol([made.folder / "first.yaml"])
        for site in (BY_HAND, LAST):
            file = made.network.site_files[site]
            _edit(file, network=yaml.safe_load(file.read_text())["network"] | {"renew": "ask"})
        _edit(made.network.home.path / "coordinator.yaml", certificate_days=365)
        made.network.home = type(made.network.home)(made.network.home.path)
        made.network.start_all()
        yield made


def test_certificates_roll_over_while_a_run_goes_on(trial: Trial) -> None:
    home = trial.network.home
    run = trial.network.run(trial.folder / "first.yaml", "rolling")
    trial.wait_training(run, 1)
    logs = {site: trial.state(site) / "network" / "daemon.log" for site in TRAIN}
    begun = {site: len(log.read_text()) for site, log in logs.items()}
    by_hand = load_site(trial.network.site_files[BY_HAND])
    assert by_hand.network is not None
    said = _command("coordinator", "admit", str(by_hand.network.key.with_suffix(".csr")), "--home", str(home.path))
    assert "its old certificate is let in until its end" in said
    trial.wait_training(run, 3)
    assert home.sites[BY_HAND].older, "not locked out, and the daemon was not started again"
    _command(
        "site", "certificate", str(trial.network.site_files[BY_HAND]), str(home.path / "admitted" / f"{BY_HAND}.crt")
    )
    assert trial.end_of(run) == "done", trial.words(run)
    assert not [what for what, _ in events(run) if what != "submitted"]
    trial.wait(lambda: _days_left(trial, BY_ITSELF) > 300, 60)
    trial.wait(lambda: _days_left(trial, BY_HAND) > 300)
    assert _days_left(trial, LAST) < 1, "its operator did not want that, and nobody mailed a certificate"
    told = {site: log.read_text() for site, log in logs.items()}
    assert '"certificate-renewed"' in told[BY_ITSELF]
    assert '"certificate-in-use"' in told[BY_HAND]
    assert '"certificate-ends"' in told[LAST]
    for site in TRAIN:
        # While all starts a daemon may come too early; once all train, nothing may shut it out.
        assert '"connection-lost"' not in told[site][begun[site] :]
    assert "CERTIFICATE: the certificate ends in 0 day(s)" in _command(
        "site", "status", str(trial.network.site_files[LAST])
    )


def test_the_authority_is_renewed_under_living_daemons(trial: Trial) -> None:
    """A renewed authority reaches a site with its own renewal; what was signed by either is accepted by both."""
    home = trial.network.home
    before = home.authority.certificate
    _command("coordinator", "renew", "--authority", "--home", str(home.path))
    assert home.authority.certificate != before
    trial.network.end(BY_ITSELF)
    trial.network.start(BY_ITSELF)
    settings = load_site(trial.network.site_files[BY_ITSELF])
    trial.wait(lambda: read_certificate(in_use(settings).ca) == home.authority.certificate)
    trial.network.wait_connected(TRAIN)
    run = trial.network.run(trial.folder / "first.yaml", "renewed")
    assert trial.end_of(run) == "done", trial.words(run)


def test_a_copy_of_a_sites_state_is_noticed_on_both_sides_and_not_let_in(trial: Trial) -> None:
    file = trial.network.site_files[BY_ITSELF]
    copied = trial.folder / "copied"
    shutil.copytree(trial.state(BY_ITSELF), copied, ignore=shutil.ignore_patterns("*.lock"))
    second = file.with_name("second.yaml")
    second.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"state": str(copied)}))
    trial.network.site_files["copy"] = second
    trial.network.start("copy")
    try:
        trial.wait(lambda: "is a copy" in str(read(copied / "network" / "status.json").get("last_error")), 40)
        assert "ecgfed coordinator accept" in trial.network.last_words("copy")
        content, lines = background.describe(trial.network.home)
        assert content["copies_refused"][BY_ITSELF]["times"] >= 1
        assert any("A COPY OF ITS STATE was refused" in line for line in lines)
        run = trial.network.run(trial.folder / "first.yaml", "beside-a-copy")
        assert trial.end_of(run) == "done", trial.words(run)
        assert not (copied / "releases.jsonl").exists() or run.name not in (copied / "releases.jsonl").read_text()
        # The SuperLink was started again for its own renewed certificate; that was the one thing the original met.
        assert "StateForked" not in _since_last_start(trial.state(BY_ITSELF) / "network" / "daemon.log")
    finally:
        trial.network.end("copy")
        del trial.network.site_files["copy"]


def _since_last_start(log: Path) -> str:
    return log.read_text().rpartition('"started"')[2]


def _days_left(trial: Trial, site: str) -> float:
    import time

    return (float(trial.site_status(site).get("certificate_not_after") or 0) - time.time()) / 86_400


def _command(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ecgshared", *words],
        capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _edit(file: Path, **changes: object) -> None:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def test_sessions_are_kept_by_the_coordinator(trial: Trial) -> None:
    held = json.loads((trial.network.home.path / "sessions.json").read_text())
    assert set(held) == set(TRAIN)
