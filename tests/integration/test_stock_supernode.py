"""Flower's stock SuperNode behind the site-side nginx of deploy/ answers a run beside a site with our own daemon."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client.network import enrol
from client.site.settings import load_site
from server.coordinator import proxy
from simulations.federation.network import LocalNetwork, free_port

TEMPLATE = Path(__file__).resolve().parents[2] / "deploy" / "site-nginx.conf"
SUPERNODE = Path(sys.executable).with_name("flower-supernode")
NGINX = proxy.find_nginx(None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
    pytest.mark.skipif(
        not (shutil.which("openssl") and shutil.which("ssh-keygen")), reason="openssl and ssh-keygen are not installed"
    ),
]


def documented(start: str) -> str:
    """Return one command of the template's comments, its lines joined."""
    text = "\n".join(line[1:].strip() for line in TEMPLATE.read_text().splitlines() if line.startswith("#"))
    found = re.search(rf"^(?:.* )?{re.escape(start)}(?:.*\\\n)*.*$", text, re.MULTILINE)
    assert found, start
    return found[0].replace("\\\n", " ")


@pytest.fixture
def network(federation, tmp_path):
    study = federation.study(
        sites={"train": ["north", "coast"]},
        steps=[{"id": "cohorts", "stage": "describe"}, federation.train(rounds=1)],
        federation={"quorum": "all", "deadline_seconds": 120},
    )
    made = LocalNetwork(tmp_path, dict(zip(("north", "coast"), federation.sites(("north", "coast")), strict=True)))
    tls = made.home.path / "tls"
    # nginx holds a server to a name, not to a number.
    made.home.authority.serve(tls / "server.key", tls / "server.crt", ["localhost", "127.0.0.1"], days=1)
    with made:
        made.enrol([study])
        made.up()
        yield made, study


def test_a_run_is_answered(network, tmp_path):
    made, study = network
    settings = load_site(made.site_files["north"])
    held = enrol.network_of(settings).key.parent
    local, runtime = free_port(), free_port()

    def filled(text: str) -> str:
        """Put this site's values in the place of the template's."""
        return (
            text.replace("/etc/ecgfed/network", str(held))
            .replace("/etc/ecgfed/site-nginx.conf", str(tmp_path / "site-nginx.conf"))
            .replace("/etc/ecgfed/site.yaml", str(made.site_files["north"]))
            .replace("/var/lib/ecgfed/nginx", str(tmp_path / "nginx"))
            .replace("server coordinator.example.org:443", f"server 127.0.0.1:{made.port}")
            .replace("coordinator.example.org", "localhost")
            .replace("127.0.0.1:8443", f"127.0.0.1:{local}")
            .replace("9094", str(runtime))
        )

    for command in ("openssl req -x509", "install -m 600"):
        subprocess.run(filled(documented(command)), shell=True, cwd=held, check=True, capture_output=True)
    (tmp_path / "site-nginx.conf").write_text(filled(TEMPLATE.read_text()))
    environment = os.environ | {
        "FLWR_HOME": str(tmp_path / "flower"),
        "PATH": os.pathsep.join([str(SUPERNODE.parent), os.environ["PATH"], "/usr/sbin"]),
        "PYTHONSAFEPATH": "1",
    }
    if os.geteuid() == 0:
        # Else the worker would be of a user that cannot read the keys.
        (tmp_path / "site-nginx.conf").write_text("user root;\n" + (tmp_path / "site-nginx.conf").read_text())
    processes = []
    try:
        for name, command in (("nginx", "mkdir -p"), ("supernode", "FLWR_TELEMETRY_ENABLED=0")):
            with (tmp_path / f"{name}.log").open("wb") as log:
                line = "exec env " + filled(documented(command)) if name == "supernode" else filled(documented(command))
                processes.append(
                    subprocess.Popen(
                        ["bash", "-c", line], stdout=log, stderr=log, env=environment, start_new_session=True
                    )
                )
        made.start("coast")
        made.wait_connected(("north", "coast"), 90)
        run = made.run(study, "stock")
        end = time.monotonic() + 240
        while json.loads((run / "run.json").read_text())["status"] != "done":
            assert time.monotonic() < end, _told(tmp_path, run)
            time.sleep(0.2)
    finally:
        for process in reversed(processes):
            _end(process)
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [line["answered"] for line in lines] == [["coast", "north"]] * len(lines)
    assert {line["phase"] for line in lines} >= {"counts", "fit"}
    assert "Traceback" not in (tmp_path / "supernode.log").read_text()
    assert "north" not in made.daemons, "who answered was the SuperNode"


def _told(folder: Path, run: Path) -> str:
    logs = [folder / "supernode.log", folder / "nginx.log", run / "run.json"]
    return "\n".join(file.read_text()[-2000:] for file in logs)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    try:
        os.killpg(process.pid, 15)
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
    except ProcessLookupError:
        process.wait()
