"""The coordinator's page: invitations and requests, runs as they are on disk, and the trail."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from client.network import enrol
from server.coordinator.home import Home
from server.coordinator.page import CoordinatorPage

TOKEN = "t" * 40


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(
        tmp_path / "home", address="localhost:8443", listen=None, name="oslo network", superlink_port=9092
    )


@pytest.fixture
def coordinator(home: Home) -> TestClient:
    client = TestClient(CoordinatorPage(home.path).pages(TOKEN).app, base_url="http://localhost")
    assert client.get(f"/sign-in?token={TOKEN}").status_code == 200
    return client


def post(
    coordinator: TestClient, path: str, page: str, files: dict[str, tuple[str, bytes]] | None = None, **fields: str
) -> str:
    token = re.search(r'name="csrf" value="([^"]+)"', coordinator.get(page).text)[1]
    return coordinator.post(path, data={"csrf": token, **fields}, files=files).text


def test_a_site_is_invited_admitted_and_revoked(coordinator: TestClient, home: Home, tmp_path: Path) -> None:
    assert "Nobody is invited yet" in coordinator.get("/").text
    assert "cannot be a site" in post(coordinator, "/sites/invite", "/sites", site="Oslo!")
    assert "Invited oslo" in post(coordinator, "/sites/invite", "/sites", site="oslo")
    kit = coordinator.get("/sites/file?site=oslo&kind=kit")
    assert b"envelope_sha256" in kit.content
    request = request_of(kit.content, tmp_path)
    post(coordinator, "/sites/invite", "/sites", site="bergen")
    told = post(coordinator, "/sites/admit", "/sites", {"file": ("oslo.csr", request)}, site="bergen")
    assert "of oslo, not of bergen" in told
    assert home.admitted == []
    assert "Admitted oslo" in post(coordinator, "/sites/admit", "/sites", {"file": ("oslo.csr", request)}, site="oslo")
    assert [entry.site for entry in home.admitted] == ["oslo"]
    assert b"BEGIN CERTIFICATE" in coordinator.get("/sites/file?site=oslo&kind=certificate").content
    assert "nothing was done" in post(coordinator, "/sites/revoke", "/sites", site="oslo", again="osl")
    assert "oslo is revoked" in post(coordinator, "/sites/revoke", "/sites", site="oslo", again="oslo")
    assert "revoked" in coordinator.get("/trail").text


def request_of(kit: bytes, folder: Path) -> bytes:
    """Return the request that a site makes of its kit, as its own command does."""
    (folder / "kit.yaml").write_bytes(kit)
    return enrol.start(folder / "kit.yaml", folder / "site.yaml").request.read_bytes()


def test_files_outside_are_not_handed_out(coordinator: TestClient) -> None:
    for site in ("../authority/authority", "oslo"):
        assert "there is no such file" in coordinator.get("/sites/file", params={"site": site, "kind": "kit"}).text
    assert "no such run" in coordinator.get("/runs/one", params={"name": "../runs"}).text


def test_a_run_is_shown_as_it_is_on_disk(coordinator: TestClient, home: Home) -> None:
    folder = home.path / "runs" / "first"
    folder.mkdir()
    info = {
        "run": "first-1", "study": "first", "status": "running", "started": "2026-11-28T10:00:00Z", "ended": None,
        "sites": ["oslo", "bergen"], "waiting_for": "bergen",
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(info), encoding="utf-8")
    lines = [
        {
            "at": f"2026-11-28T10:00:0{i}Z", "step": "risk", "phase": "round", "round": i, "answered": ["oslo"],
            "absent": {"bergen": "not connected"}, "bytes_in": {"oslo": 1000}, "bytes_out": {"oslo": 1000},
            "seconds": 1.5, "metrics": {"loss": 1.0 / i},
        }
        for i in (1, 2, 3)
    ]  # fmt: skip
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "live.json").write_text(
        json.dumps({"progress": {"step": "risk", "done": 3, "total": 20, "text": "loss 0.33"}, "late": ["bergen"]}),
        encoding="utf-8",
    )
    page = coordinator.get("/runs/one?name=first").text
    assert "waiting: bergen" in page
    assert "3 of 20" in page
    assert "LATE or working" in page
    assert "not connected" in page
    assert "from 0.3333 to 1" in page
    assert "stop after the last checkpoint" in page
    assert "first" in coordinator.get("/runs").text
    assert "There is no report yet" in coordinator.get("/runs/report?name=first").text


def test_a_study_over_strangers_is_not_started(coordinator: TestClient) -> None:
    study = (
        b"name: first\nsites: {train: [oslo]}\nendpoints: {male: {kind: binary, column: male}}\n"
        b"steps: [{id: cohorts, stage: describe}]\n"
    )
    told = post(coordinator, "/runs/start", "/runs", {"file": ("s.yaml", study)})
    assert "sites that are not admitted" in told
    assert "valid YAML" in post(coordinator, "/runs/start", "/runs", {"file": ("s.yaml", b"a: [")})
