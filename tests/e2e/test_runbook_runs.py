"""The runbook's own commands, read from it and typed in its order, by a coordinator's and a site's operator.

Slow: about a minute and a half.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from federation import SmallFederation

from simulations.federation.network import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

RUNBOOK = Path(__file__).parents[2] / "deploy" / "README.md"
CHAPTERS = (
    "Enrol a site, step by step",
    "Run a study",
    "At the site: where to look",
    "Certificates end",
    "Paused",
    "What was done, and by whom",
)
"""Those whose commands one federation in good order can be given, one after the other."""


def commands(chapter: str) -> list[str]:
    """Return what a chapter has typed, in its order: blocks of code, and commands between backticks."""
    text = RUNBOOK.read_text(encoding="utf-8")
    (body,) = re.findall(rf"^###? {re.escape(chapter)}\n(.*?)(?=^###? |\Z)", text, re.MULTILINE | re.DOTALL)
    found = []
    for line in body.splitlines():
        if line.startswith("    "):
            found += [line.partition("#")[0].strip()]
        else:
            found += re.findall(r"`((?:ecgfed|python -m ecgshared\.health)[^`]*)`", line)
    return [command for command in found if command.startswith(("ecgfed ", "python "))]


class Typist:
    """Two operators with a folder each, and ``ecgfed`` on their path."""

    def __init__(self, folder: Path, hospitals: Path) -> None:
        self.coordinator, self.site = folder / "coordinator", folder / "site"
        for place in (self.coordinator, self.site, folder / "bin", folder / "twin"):
            place.mkdir()
        program = folder / "bin" / "ecgfed"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m ecgshared "$@"\n')
        program.chmod(0o755)
        home = self.coordinator / "home"
        path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = os.environ | {"PATH": path, "ECGFED_COORDINATOR": str(home)}
        self.home, self.port, self.health = home, free_port(), free_port()
        small = SmallFederation(hospitals, folder)
        train = small.train(rounds=3, local={"epochs": 6, "batch_size": 32})
        study = small.study(sites={"train": ["oslo"]}, steps=[{"id": "cohorts", "stage": "describe"}, train])
        self.known = yaml.safe_load(small.sites(("north",))[0].read_text())
        for place in (self.coordinator, self.site):
            shutil.copy(study, place / "study.yaml")
        self.daemon: subprocess.Popen[bytes] | None = None
        self.typed: list[str] = []

    def type(self, command: str) -> str:
        """Type a command where it is typed, and do around it what the runbook says; return what was said."""
        self.typed.append(command)
        words = command.split()
        if words[0] == "python":
            return self._run(f"{sys.executable} -m ecgshared.health {self.health}", self.site)
        getattr(self, "before_" + "_".join(words[1:3]), lambda: None)()
        if words[1:3] == ["site", "start"]:
            return self._start(command)
        ports = f"--address 127.0.0.1:{self.port} --superlink-port {free_port()}"
        line = {
            "coordinator init": f"ecgfed coordinator init {ports}",
            "coordinator up": "ecgfed coordinator up --detach",
            "coordinator run": f"{command} --detach --name first",
            "coordinator admit": f"ecgfed coordinator admit {self.coordinator}/oslo.csr",
            "site init": "ecgfed site init --kit oslo.kit.yaml --out site.yaml",
        }.get(" ".join(words[1:3]), command)
        if words[1:3] == ["site", "approve"]:
            line += " --yes"
        where = self.coordinator if words[1] == "coordinator" else self.site
        said = self._watched(line) if words[1:3] == ["coordinator", "watch"] else self._run(line, where)
        getattr(self, "after_" + "_".join(words[1:3]), lambda: None)()
        return said

    def after_coordinator_invite(self) -> None:
        shutil.copy(self.home / "kits" / "oslo.kit.yaml", self.site)

    def after_site_init(self) -> None:
        """Fill in what the operator knows, and send the request."""
        made = yaml.safe_load((self.site / "site.yaml").read_text())
        network = made["network"] | {"health_port": self.health}
        content = self.known | {"site": "oslo", "state": "state", "studies": [], "network": network}
        (self.site / "site.yaml").write_text(yaml.safe_dump(content))
        shutil.copy(self.site / "network" / "ecgfed" / "oslo.csr", self.coordinator)

    def after_coordinator_admit(self) -> None:
        shutil.copy(self.home / "admitted" / "oslo.crt", self.site)

    def before_coordinator_run(self) -> None:
        self._until(lambda: "oslo         admitted  online" in self._run("ecgfed coordinator status", self.coordinator))

    def after_coordinator_resume(self) -> None:
        self._until(lambda: "done" in self._run("ecgfed coordinator status", self.coordinator).split("first")[1])

    def _start(self, command: str) -> str:
        with (self.site / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                command.split(), cwd=self.site, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        return ""

    def _watched(self, line: str) -> str:
        """Watch for a while, then press Ctrl-C."""
        watching = subprocess.Popen(
            line.split(), cwd=self.coordinator, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        time.sleep(4)
        watching.send_signal(signal.SIGINT)
        said = watching.communicate(timeout=120)[0].decode()
        assert watching.returncode in (0, 130), said
        return said

    def _run(self, line: str, where: Path) -> str:
        done = subprocess.run(
            line.split(), cwd=where, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout

    def _until(self, condition: object, seconds: float = 400.0) -> None:
        assert callable(condition)
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.site / "daemon.log").read_text()
            time.sleep(0.5)

    def close(self) -> None:
        """End what was started."""
        if self.daemon is not None:
            self.daemon.terminate()
            self.daemon.wait(60)
        subprocess.run(
            ["ecgfed", "coordinator", "down"], env=self.environment, cwd=self.coordinator, check=False, timeout=60
        )


@pytest.fixture
def typist(nginx: None, hospitals: Path, tmp_path: Path) -> Iterator[Typist]:
    made = Typist(tmp_path, hospitals)
    yield made
    made.close()


def test_the_commands_of_the_runbook_in_their_order(typist: Typist) -> None:
    assert len(commands("Enrol a site, step by step")) >= 12
    said: dict[str, str] = {}
    for chapter in CHAPTERS:
        for command in commands(chapter):
            said[command] = typist.type(command)
    assert len(typist.typed) >= 28, typist.typed
    assert "connected" in said["ecgfed site status site.yaml"]
    assert "the log of actions is what was written" in said["ecgfed coordinator audit"]
    assert "every log is what was written" in said["ecgfed site audit site.yaml"]
    assert (typist.home / "runs" / "first" / "report.html").exists()
