"""A coordinator and hospital daemons on this machine: each part a process of its own, TLS on loopback.

Enrolment goes by the functions behind an operator's commands, and the processes are those commands, so that what is
tried here is what is deployed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from client.approval import register as approvals
from client.network import enrol
from client.site.settings import load_site, network_of
from ecgshared.errors import RunError
from ecgshared.service.fingerprint import code_sha256
from server.coordinator import background
from server.coordinator.home import Home

_WAIT_SECONDS = 60.0


class LocalNetwork:
    """Enrols sites at a new coordinator, and starts and ends the processes.

    Parameters
    ----------
    folder : where the coordinator's home is made.
    site_files : by site; each gets a ``network:`` section, key and certificate beside it.
    """

    def __init__(self, folder: Path, site_files: Mapping[str, Path]) -> None:
        self.folder, self.site_files = folder, dict(site_files)
        self.port = free_port()
        self.home = Home.create(
            folder / "coordinator",
            address=f"127.0.0.1:{self.port}",
            listen=f"127.0.0.1:{self.port}",
            name="ecgfed",
            superlink_port=free_port(),
        )
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._environment: dict[str, dict[str, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def enrol(self, studies: Iterable[Path]) -> None:
        """Invite and admit every site, and have it approve code, envelope and ``studies``."""
        for site, file in self.site_files.items():
            enrolled = enrol.start(self.home.invite(site), file)
            _, certificate = self.home.admit(enrolled.request)
            settings = load_site(file)
            enrol.install_certificate(settings, certificate)
            approvals.record(settings.state, "code", code_sha256(), "local network")
            approvals.record(settings.state, "envelope", network_of(settings).envelope, "local network")
            for study in studies:
                approvals.approve_study(settings.state, study)

    def up(self) -> None:
        """Start the coordinator, and wait until it is ready."""
        background.start(self.home)

    def start(self, site: str, **environment: str) -> None:
        """Start a site's daemon; ``environment`` lasts for its later starts too."""
        self._environment.setdefault(site, {}).update(environment)
        log = self.folder / f"{site}.log"
        with log.open("ab") as output:
            self.daemons[site] = subprocess.Popen(
                [sys.executable, "-P", "-m", "ecgshared", "site", "start", str(self.site_files[site])],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | self._environment[site],
                start_new_session=True,
            )

    def start_all(self) -> None:
        """Start the coordinator and all daemons, and wait until every site is connected."""
        self.up()
        for site in self.site_files:
            self.start(site)
        self.wait_connected(self.site_files)

    def wait_connected(self, sites: Iterable[str], seconds: float = _WAIT_SECONDS) -> None:
        """Wait until the coordinator sees ``sites``; raise :class:`RunError` with a daemon's last words if it ends."""
        end = time.monotonic() + seconds
        while True:
            seen = background.read_status(self.home).get("sites", {})
            missing = [site for site in sites if seen.get(site) != "online"]
            if not missing:
                return
            for site in missing:
                daemon = self.daemons.get(site)
                if daemon is not None and daemon.poll() is not None:
                    raise RunError(f"the daemon of {site} ended", value=self.last_words(site))
            if time.monotonic() > end:
                raise RunError("sites did not connect", value=", ".join(missing), where=self.folder)
            time.sleep(0.1)

    def run(self, study: Path, name: str) -> Path:
        """Queue a run and return its folder at once."""
        background.queue_run(self.home, study, name)
        return self.home.path / "runs" / name

    def last_words(self, site: str) -> str:
        """Return the end of a daemon's log."""
        return "\n".join((self.folder / f"{site}.log").read_text(errors="replace").splitlines()[-8:])

    def end(self, site: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to a daemon and wait for its end; with SIGTERM it says goodbye."""
        daemon = self.daemons.pop(site, None)
        if daemon is None or daemon.poll() is not None:
            return
        daemon.send_signal(number)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def close(self) -> None:
        """End everything that was started."""
        for daemon in self.daemons.values():
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGCONT)
                daemon.terminate()
        for site in list(self.daemons):
            self.end(site)
        background.stop(self.home)


def free_port() -> int:
    """Return a port of the loopback that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
