"""The operator's page: who gets in, what a strange page cannot do, and that it does what the commands do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hospital import make_hospital
from starlette.testclient import TestClient

from client.approval.register import in_force
from client.network.status import is_paused
from client.operator.page import SitePage
from client.site.keys import load_keys
from client.site.settings import load_site
from ecgshared.service.pages import COOKIE, LARGEST_FORM, kept_token

TOKEN = "t" * 40
STUDY = {
    "name": "first",
    "about": "Who is who",
    "sites": {"train": ["north"], "zero_shot": ["far"]},
    "endpoints": {"outcome": {"kind": "binary", "column": "outcome"}},
    "steps": [{"id": "cohorts", "stage": "describe"}],
}


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    rows = [{"ecg_id": f"e{i}", "patient_id": f"p{i}", "file": f"r{i}", "age": "60", "outcome": "0"} for i in range(3)]
    make_hospital(tmp_path, rows, exclude=None)
    return tmp_path / "site.yaml"


@pytest.fixture
def stranger(site_file: Path) -> TestClient:
    return TestClient(SitePage(site_file).pages(TOKEN).app, base_url="http://127.0.0.1", follow_redirects=False)


@pytest.fixture
def operator(stranger: TestClient) -> TestClient:
    assert stranger.get(f"/sign-in?token={TOKEN}").status_code == 303
    stranger.follow_redirects = True
    return stranger


def csrf(operator: TestClient, page: str = "/") -> str:
    return re.search(r'name="csrf" value="([^"]+)"', operator.get(page).text)[1]


def post(operator: TestClient, path: str, page: str = "/", **fields: str) -> str:
    return operator.post(path, data={"csrf": csrf(operator, page), **fields}).text


def test_without_the_token_nothing_is_shown_and_nothing_done(stranger: TestClient, site_file: Path) -> None:
    for path in ("/", "/studies", "/left", "/people", "/data/quality"):
        assert stranger.get(path).headers["location"] == "/sign-in"
    assert stranger.post("/pause", data={"paused": "yes"}).headers["location"] == "/sign-in"
    assert stranger.get("/sign-in?token=wrong").status_code == 403
    assert stranger.post("/sign-in", data={"token": TOKEN[:-1]}).status_code == 403
    assert not is_paused(load_site(site_file).state)


def test_a_form_of_a_strange_page_is_refused(operator: TestClient, site_file: Path) -> None:
    state = load_site(site_file).state
    assert operator.post("/pause", data={"paused": "yes"}).status_code == 403
    assert operator.post("/pause", data={"paused": "yes", "csrf": "x"}).status_code == 403
    token = csrf(operator)
    evil = {"Origin": "https://evil.example"}
    assert operator.post("/pause", data={"paused": "yes", "csrf": token}, headers=evil).status_code == 403
    large = "x" * (LARGEST_FORM + 1)
    assert operator.post("/pause", data={"paused": "yes", "csrf": token, "more": large}).status_code == 403
    assert not is_paused(state)
    own = {"Origin": "http://127.0.0.1"}
    assert operator.post("/pause", data={"paused": "yes", "csrf": token}, headers=own).status_code == 200
    assert is_paused(state)


def test_a_name_that_a_stranger_points_here_is_not_answered(site_file: Path) -> None:
    client = TestClient(SitePage(site_file).pages(TOKEN).app, base_url="http://evil.example")
    assert client.get(f"/sign-in?token={TOKEN}").status_code == 400


def test_the_cookie_and_the_headers_hold_scripts_and_frames_off(stranger: TestClient) -> None:
    answer = stranger.get(f"/sign-in?token={TOKEN}")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    policy = stranger.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert stranger.get("/").headers["cache-control"] == "no-store"


def test_signed_out_is_out(operator: TestClient) -> None:
    kept = operator.cookies[COOKIE]
    post(operator, "/sign-out")
    operator.cookies.set(COOKIE, kept)
    operator.follow_redirects = False
    assert operator.get("/").headers["location"] == "/sign-in"


def test_a_study_is_read_shown_approved_by_its_name_and_taken_back(operator: TestClient, site_file: Path) -> None:
    settings, content = load_site(site_file), yaml.safe_dump(STUDY).encode()
    page = operator.post(
        "/studies/offer", data={"csrf": csrf(operator, "/studies")}, files={"file": ("s.yaml", content)}
    )
    assert "Nothing is approved yet" in page.text
    assert "study first" in page.text
    sha256 = page.url.params["hash"]
    assert in_force(settings.state) == {}
    here = f"/studies/one?hash={sha256}"
    assert "Type first to approve" in post(operator, "/studies/approve", here, what=sha256, word="frst")
    assert in_force(settings.state) == {}
    assert "approved: study first" in post(operator, "/studies/approve", here, what=sha256, word="first")
    assert list(in_force(settings.state)) == [("study", sha256)]
    assert "take the approval back" in operator.get(here).text
    assert "withdrawn" in post(operator, "/studies/withdraw", here, hash=sha256)
    assert in_force(settings.state) == {}


def test_a_file_that_is_no_study_is_told_and_not_kept(operator: TestClient, site_file: Path) -> None:
    answer = operator.post(
        "/studies/offer", data={"csrf": csrf(operator, "/studies")}, files={"file": ("s.yaml", b"name: x\nstep: []\n")}
    )
    assert "did you mean" in answer.text
    amendment = {"file": ("1.yaml", b"format_version: 1\namends: tiny\n")}
    answer = operator.post("/studies/offer", data={"csrf": csrf(operator, "/studies")}, files=amendment)
    assert "an amendment of a run" in answer.text
    assert not list((load_site(site_file).state / "studies" / "offered").iterdir())
    for wrong in ("../../approvals", "0" * 64, ""):
        assert "no study of this hash" in operator.get("/studies/one", params={"hash": wrong}).text


def test_what_left_is_listed_and_names_are_not_markup(operator: TestClient, site_file: Path) -> None:
    state = load_site(site_file).state
    line = {
        "at": "2026-11-28T10:00:00Z", "run": "<script>x</script>", "study": "0" * 64, "step": "cohorts",
        "phase": "counts", "round": 0, "kind": "answer", "bytes": 1200, "fields": {"a": {"withheld": 3}},
    }  # fmt: skip
    load_keys(load_site(site_file))
    (state / "releases.jsonl").write_text(json.dumps(line) + "\nnot json\n", encoding="utf-8")
    page = operator.get("/left").text
    assert "2 answer(s), 1,200 bytes" in page
    assert "&lt;script&gt;" in page
    assert "<script>x" not in page
    assert "is damaged" in page


def test_a_person_is_found_before_being_forgotten_and_twice_named(operator: TestClient, site_file: Path) -> None:
    assert "nobody has this id" in post(operator, "/people/find", "/people", patient="p77")
    assert "1 row(s)" in post(operator, "/people/find", "/people", patient="p1")
    assert "nothing was done" in post(operator, "/people/forget", "/people", patient="p1", again="p2")
    assert "is on the opt-out list" in post(operator, "/people/forget", "/people", patient="p1", again="p1")


def test_the_data_page_says_what_to_do_before_and_shows_counts_after(operator: TestClient, site_file: Path) -> None:
    from client.ingest.run import ingest_site
    from client.operator.ingest_cli import _of_everything

    assert "No recording has been read" in operator.get("/data").text
    settings = load_site(site_file)
    ingest_site(settings, [_of_everything(settings.site)])
    page = operator.get("/data").text
    assert "By device" in page
    assert re.search(r"<strong>3</strong>", page)
    assert operator.get("/data/quality").status_code == 200
    assert "p1" not in page


def test_the_token_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    token = kept_token(tmp_path)
    assert kept_token(tmp_path) == token
    assert (tmp_path / "page.token").stat().st_mode & 0o077 == 0
