"""Both pages in Debian's Chromium, as wide as a desk and a phone: by keyboard, measured, judged by axe-core.

Without a browser, or on a machine without playwright, they are skipped by name. Pictures go to ``ECGFED_PICTURES``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hospital import make_hospital

from client.approval.register import in_force
from client.site.settings import load_site
from server.coordinator.home import Home

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

WIDTHS = (1400, 390)
CONTRAST = """
() => {
  const channel = v => { v /= 255; return v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4); };
  const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const colour = text => text.match(/[\\d.]+/g).map(Number);
  const behind = e => { for (; e; e = e.parentElement) { const c = colour(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll("main *, header *")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const a = light(colour(getComputedStyle(e).color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${e.tagName} ${e.className}: ${e.textContent.trim().slice(0, 40)} ${ratio.toFixed(1)}`);
  }
  return poor;
}
"""
NAMELESS = """
() => [...document.querySelectorAll("input:not([type=hidden]), select, textarea, button, a")]
  .filter(e => !(e.labels && e.labels.length) && !e.getAttribute("aria-label") && !e.textContent.trim())
  .map(e => e.outerHTML.slice(0, 80))
"""


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """Run a page's command; yield the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "ecgshared", *arguments, "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield re.search(r"http://\S+", process.stdout.readline())[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        process.stdout.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def looked_at(page: object, name: str) -> None:
    """Hold a page to what can be measured of it at both widths, and keep its picture."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than {width}"
        if folder := os.environ.get("ECGFED_PICTURES"):
            page.screenshot(path=Path(folder) / f"{name}-{width}.png", full_page=True)
    judged = axe.Axe().run(page)
    assert judged.violations_count == 0, f"{name}: {judged.generate_report()}"
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})


def test_the_judge_finds_what_it_should(browser: object) -> None:
    page = browser.new_page()
    page.set_content("<html><body><img src='x.png'><input></body></html>")
    assert axe.Axe().run(page).violations_count >= 2
    page.close()


def test_an_operator_who_never_opens_a_terminal(browser: object, tmp_path: Path) -> None:
    rows = [{"ecg_id": f"e{i}", "patient_id": f"p{i}", "file": f"r{i}", "age": "60", "outcome": "0"} for i in range(3)]
    make_hospital(tmp_path, rows)
    settings = load_site(tmp_path / "site.yaml")
    study = {
        "name": "first", "about": "Who is who", "sites": {"train": ["north"], "zero_shot": ["far"]},
        "endpoints": {"outcome": {"kind": "binary", "column": "outcome"}},
        "steps": [{"id": "cohorts", "stage": "describe"}],
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    with served("site", "page", str(tmp_path / "site.yaml")) as address:
        page = browser.new_page()
        faults = []
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(address.split("?")[0])
        looked_at(page, "sign-in")
        page.goto(address)
        assert "token" not in page.url
        looked_at(page, "site-now")
        page.get_by_role("link", name="Studies").click()
        page.get_by_label("Study file").set_input_files(tmp_path / "study.yaml")
        page.get_by_role("button", name="read it").press("Enter")
        looked_at(page, "site-study")
        page.get_by_label("You have read it").fill("first")
        page.get_by_label("You have read it").press("Enter")
        assert page.get_by_role("status").inner_text().startswith("approved: study first")
        assert [kind for kind, _ in in_force(settings.state)] == ["study"]
        for name in ("What left", "Data", "People"):
            page.get_by_role("link", name=name).click()
            looked_at(page, f"site-{name.split()[-1].lower()}")
        page.get_by_label("patient id").fill("p1")
        page.keyboard.press("Enter")
        page.get_by_label("type the id again").fill("p1")
        looked_at(page, "site-forget")
        page.keyboard.press("Enter")
        assert "opt-out list" in page.get_by_role("status").inner_text()
        page.get_by_role("link", name="Now").click()
        page.get_by_role("button", name="pause").click()
        assert page.locator(".tag.paused").count() == 1
        assert faults == []
        page.close()


def test_a_coordinator_invites_and_watches(browser: object, tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home", address="localhost:8443", listen=None, name="oslo", superlink_port=9092)
    with served("coordinator", "page", "--home", str(home.path)) as address:
        page = browser.new_page()
        page.goto(address)
        looked_at(page, "coordinator-now")
        page.get_by_role("link", name="Sites").click()
        page.get_by_label("Invite a site").fill("bergen")
        page.keyboard.press("Enter")
        assert "Invited bergen" in page.get_by_role("status").inner_text()
        looked_at(page, "coordinator-sites")
        with page.expect_download() as download:
            page.get_by_role("link", name="kit").click()
        assert "envelope_sha256" in Path(download.value.path()).read_text(encoding="utf-8")
        for name in ("Runs", "Trail"):
            page.get_by_role("link", name=name).click()
            looked_at(page, f"coordinator-{name.lower()}")
        page.get_by_role("button", name="sign out").click()
        page.goto(address.split("/sign-in")[0])
        assert page.url.endswith("/sign-in")
        page.close()
