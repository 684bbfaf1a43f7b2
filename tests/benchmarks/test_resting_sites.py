"""What a hundred sites at rest cost the SuperLink's one process: ``pytest -m benchmark -s`` prints it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from proxied import free_port, request_of

from client.network.fleet import FleetLink
from client.network.fleet_failures import LinkError
from client.site.settings import NetworkConfig
from server.coordinator.flower import Control, environment, superlink_command
from server.coordinator.home import Home

SITES, SECONDS, BEATS = 100, 40.0, 3


@pytest.mark.benchmark
def test_a_hundred_sites_at_rest_cost_the_superlink_little(tmp_path: Path) -> None:
    home = Home.create(
        tmp_path / "home", address="127.0.0.1:1", listen="127.0.0.1:1", name="rest", superlink_port=free_port()
    )
    with (tmp_path / "superlink.log").open("wb") as log:
        process = subprocess.Popen(superlink_command(home), env=environment(home), stdout=log, stderr=log)
    control = Control(home)
    stop = threading.Event()
    threads: list[threading.Thread] = []
    links: list[FleetLink] = []
    try:
        end = time.monotonic() + 90
        while not control.answers():
            assert time.monotonic() < end, (tmp_path / "superlink.log").read_text()
            time.sleep(0.2)
        links = [_admitted(home, control, tmp_path / "sites", f"s{i}") for i in range(SITES)]
        for link in links:
            link.activate(None)
            for work in (_poll, _beat):
                threads.append(threading.Thread(target=work, args=(link, stop), daemon=True))
        for thread in threads:
            thread.start()
        time.sleep(10)
        before, begun = _cpu_seconds(process.pid), time.monotonic()
        time.sleep(SECONDS)
        share = (_cpu_seconds(process.pid) - before) / (time.monotonic() - begun)
        print(f"\n{SITES} sites at rest: {100 * share:.1f}% of a core")
        # A machine that is busy counts more; without holding polls it is beyond half a core.
        assert share < 0.2
    finally:
        stop.set()
        control.close()
        process.kill()
        process.wait()
        for thread in threads:
            thread.join(30)
        for link in links:
            link.close()


def _admitted(home: Home, control: Control, folder: Path, name: str) -> FleetLink:
    home.invite(name)
    request, _ = request_of(folder, name)
    entry, certificate = home.admit(request)
    (folder / f"{name}.key").chmod(0o600)
    control.register(entry.node_key, name)
    return FleetLink(
        NetworkConfig(
            coordinator=f"127.0.0.1:{home.config.superlink_port}", ca=home.authority.certificate_file,
            certificate=certificate, key=folder / f"{name}.key", envelope="a" * 64,
        )
    )  # fmt: skip


def _poll(link: FleetLink, stop: threading.Event) -> None:
    with suppress(LinkError):  # it is ended under us
        while not stop.wait(1.0):
            link.pull()


def _beat(link: FleetLink, stop: threading.Event) -> None:
    with suppress(LinkError):
        while not stop.wait(0.8 * 10 * BEATS):
            link.heartbeat(BEATS)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
