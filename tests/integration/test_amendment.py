"""A site leaves for good: the run pauses, and goes on without it once every other site approved that it does."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from federation import SITES, SmallFederation
from safetensors.numpy import load_file
from typer.testing import CliRunner

from client.answer import Sites
from client.app import make_app
from client.approval.required import _code
from client.operator.cli import app as site_cli
from ecgshared.errors import ConfigError, RunError
from ecgshared.study.amendment import load_amendment
from server.coordinator.amending import amend_run
from server.coordinator.cli import app as coordinator_cli
from server.coordinator.trail import read_trail
from server.rounds.patience import WaitingPolicy
from server.rounds.run_folder import RunFolder
from server.rounds.study_run import run_study
from simulations.federation.grid import InProcessGrid
from simulations.federation.network import LocalNetwork

GONE, STAY = "coast", ("north", "valley", "island")
ROUNDS = 4
FULL_BATCH = {"epochs": 2, "batch_size": None}
"""Nothing random: who takes part is all that weights depend on."""


class Leaving(InProcessGrid):
    """Sites by their own approvals; one is not there any more once it was asked so many questions."""

    def __init__(self, files: list[Path], gone: str, rounds: int) -> None:
        super().__init__(make_app(Sites()), files)
        self._node = 2 + [file.stem for file in files].index(gone)
        self._left = rounds

    @property
    def has_left(self) -> bool:
        return self._left <= 0

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in super().get_node_ids() if node != self._node or not self.has_left]

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        ids = []
        for message in messages:
            mine = message.metadata.dst_node_id == self._node
            if mine and self.has_left:
                ids.append("")
                continue
            self._left -= mine and message.metadata.message_type == "query.ask"
            ids.extend(super().push_messages([message]))
        return ids


class Run:
    """A study over four sites that are enrolled and have approved it, run in this process.

    Parameters
    ----------
    like : another run's folder, whose sites split their patients as these do.
    """

    def __init__(
        self, hospitals: Path, folder: Path, *, quorum: Any = "all", like: Path | None = None, **content: Any
    ) -> None:
        (folder / "twin").mkdir(parents=True)
        for site in SITES if like is not None else ():
            # Not the anchors of the logs: a log that its anchor knows and that is gone closes the gate.
            keys = Path("state") / site / "keys"
            shutil.copytree(like / keys, folder / keys, ignore=shutil.ignore_patterns("*.anchor"))
        small = SmallFederation(hospitals, folder)
        train = small.train(rounds=ROUNDS, local=FULL_BATCH)
        self.study = small.study(
            sites={"train": list(SITES)},
            federation={"quorum": quorum, "deadline_seconds": 120, "retries": 1},
            **{"steps": [{"id": "cohorts", "stage": "describe"}, train], **content},
        )
        self.files = dict(zip(SITES, small.sites(), strict=True))
        self.network = LocalNetwork(folder, self.files)
        self.home = self.network.home
        _code.clear()
        self.network.enrol([self.study])
        self.path = self.home.path / "runs" / "r"
        RunFolder.create(self.path, self.study, backend="test", status="queued").close()

    def go_on(self, *, rounds: int) -> None:
        """Go on with the run; the leaving site is there for so many questions."""
        folder = RunFolder.reopen(self.path)
        try:
            grid = Leaving([self.files[site] for site in SITES], GONE, rounds)
            policy = WaitingPolicy(revoked=lambda site: grid.has_left and self.home.is_revoked(site))
            run_study(grid, folder, lambda *_: None, policy)
        finally:
            folder.close()

    @property
    def info(self) -> dict[str, Any]:
        folder = RunFolder.reopen(self.path)
        folder.close()
        return folder.info

    @property
    def weights(self) -> Any:
        return load_file(self.path / "artefacts" / "risk.safetensors")["weights"]

    def site(self, *words: object) -> str:
        """Run a command of a site; return what it said, or raise what it raised."""
        done = CliRunner().invoke(site_cli, [*map(str, words)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output


def amended(run: Run, *without: str) -> Path:
    words = [word for site in without for word in ("--without", site)]
    done = CliRunner().invoke(coordinator_cli, ["amend", "r", *words, "--why", "moved", "--home", str(run.home.path)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert "ecgfed site approve SITE.yaml 1.yaml" in done.output
    return run.path / "amendments" / "1.yaml"


@pytest.fixture
def run(hospitals: Path, tmp_path: Path) -> Run:
    return Run(hospitals, tmp_path / "run")


def paused(run: Run, *, rounds: int = 3) -> None:
    """Have the site leave after the cohorts and two rounds of training, and be revoked."""
    run.home.revoke(GONE)
    with pytest.raises(RunError, match="3 of 4 needed sites") as raised:
        run.go_on(rounds=rounds)
    assert f"{GONE}: revoked" in str(raised.value.value)
    assert f"ecgfed coordinator amend RUN --without {GONE}" in raised.value.remedy
    assert run.info["status"] == "paused"


def test_it_goes_on_from_its_checkpoint_once_all_others_approved(run: Run, hospitals: Path, tmp_path: Path):
    paused(run)
    file = amended(run, GONE)
    history = (run.path / "history.jsonl").read_text()
    for approved in range(len(STAY) + 1):
        if approved:
            site = STAY[approved - 1]
            shown = run.site("show", run.files[site], file)
            assert f"leaves:   {GONE}" in shown
            assert "why:      moved" in shown
            assert "approved: amendment 1" in run.site("approve", run.files[site], file, "--yes")
        if approved < len(STAY):
            with pytest.raises(RunError, match=f"{approved} of 3 needed sites") as raised:
                run.go_on(rounds=0)
            assert str(raised.value.value).count("amendment-not-approved") == 3 - approved
    run.go_on(rounds=0)
    assert run.info["status"] == "done"
    assert (run.path / "history.jsonl").read_text().startswith(history)
    result = RunFolder.reopen(run.path)
    found = result.artefact("risk").result
    result.close()
    assert found.absent == {GONE: {"left-the-run": 2}}
    assert found.sites == SITES
    assert any(e["log"] == "actions" and e["action"] == "amend" for e in read_trail(run.home.path)[0])
    assert f"amendment 1 of run {run.info['run']}" in run.site("show", run.files["north"], file)
    # What three of four give from the third round on, by a study that wants three only.
    other = Run(hospitals, tmp_path / "other", quorum=3, like=tmp_path / "run")
    other.go_on(rounds=3)
    np.testing.assert_allclose(run.weights, other.weights, rtol=0, atol=1e-6)


def test_sums_under_masks_go_on_among_those_that_approved_and_never_below_three(hospitals: Path, tmp_path: Path):
    run = Run(hospitals, tmp_path / "run", secure_sum={"threshold": 4})
    with pytest.raises(RunError, match=r"3 site\(s\) would be left, and a sum is of at least 4"):
        amend_stopped(run, [GONE])
    run = Run(hospitals, tmp_path / "again", secure_sum={"threshold": "majority"})
    run.home.revoke(GONE)
    # Cohorts, then keys, shares, hold, words and reveal of the first round: then all are asked for new keys.
    with pytest.raises(RunError, match="3 of 4 needed sites") as raised:
        run.go_on(rounds=6)
    assert f"{GONE}: revoked" in str(raised.value.value)
    with pytest.raises(RunError, match="would be left, and a sum is of at least 3"):
        amend_run(run.home, "r", [GONE, "north"], "")
    file = amended(run, GONE)
    for site in STAY:
        said = run.site("approve", run.files[site], file, "--yes")
        assert "risk: 3 of 4 sites; a sum is of at least 3 (it was 3)" in said
    run.go_on(rounds=0)
    found = RunFolder.reopen(run.path)
    assert found.artefact("risk").result.together == tuple(sorted(STAY))
    found.close()


def amend_stopped(run: Run, without: list[str]) -> Path:
    folder = RunFolder.reopen(run.path)
    folder.update(status="stopped")
    folder.close()
    return amend_run(run.home, "r", without, "").file


def test_a_running_run_strangers_and_everybody_are_not_taken_out(run: Run):
    with pytest.raises(RunError, match="run r is queued"):
        amend_run(run.home, "r", [GONE], "")
    for without, why in ((["atlantis"], "not a site of this run"), (list(SITES), "nobody would be left")):
        with pytest.raises(ConfigError, match=why):
            amend_stopped(run, without)
    amend_stopped(run, [GONE])
    with pytest.raises(ConfigError, match="not a site of this run, or it is out already"):
        amend_stopped(run, [GONE])


def test_only_what_the_coordinator_signed_for_this_site_is_approved(run: Run, tmp_path: Path):
    file = amend_stopped(run, [GONE])
    content = yaml.safe_load(file.read_text())
    forged = tmp_path / "forged.yaml"
    site_certificate = (run.home.path / "admitted" / "north.crt").read_text()
    for change in ({"without": ["valley"]}, {"run": "another"}, {"signature": ""}, {"certificate": site_certificate}):
        forged.write_text(yaml.safe_dump(content | change))
        with pytest.raises(ConfigError, match="is not signed by this site's coordinator"):
            run.site("approve", run.files["north"], forged, "--yes")
    with pytest.raises(ConfigError, match="takes this site itself out"):
        run.site("approve", run.files[GONE], file, "--yes")
    run.site("withdraw", run.files["north"], run.study)
    with pytest.raises(ConfigError, match="a study that this site has not approved"):
        run.site("approve", run.files["north"], file, "--yes")


def test_members_only_become_fewer_and_a_withdrawal_counts(run: Run):
    first = amend_stopped(run, [GONE])
    run.site("approve", run.files["north"], first, "--yes")
    second = amend_stopped(run, ["island"])
    assert load_amendment(second).without == (GONE, "island")
    run.site("approve", run.files["valley"], second, "--yes")
    with pytest.raises(ConfigError, match="does not follow the last amendment"):
        run.site("approve", run.files["valley"], first, "--yes")
    with pytest.raises(RunError) as raised:
        run.go_on(rounds=0)
    assert raised.value.value == "north: amendment-not-approved"
    run.site("approve", run.files["north"], second, "--yes")
    run.site("withdraw", run.files["valley"], second)
    with pytest.raises(RunError) as raised:
        run.go_on(rounds=0)
    assert raised.value.value == "valley: amendment-not-approved"
    run.site("approve", run.files["valley"], second, "--yes")
    run.go_on(rounds=0)
    assert run.info["status"] == "done"
