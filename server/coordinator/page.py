"""The page of a coordinator: sites and invitations, runs as they go, the trail of what happened.

It does what the commands of ``ecgfed coordinator`` do, by the same functions, and nothing else.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.responses import FileResponse, HTMLResponse, Response

from ecgshared.errors import ConfigError
from ecgshared.service.files import write_atomically
from ecgshared.service.pages import Pages, Visit
from ecgshared.study.study import load_study
from server.coordinator.background import describe, queue_run, resume_run, stop_run
from server.coordinator.home import Home
from server.coordinator.submission import GOING
from server.coordinator.watch import of_sites, one_line

_FOLDER = Path(__file__).parent / "templates"
_ROUNDS, _EVENTS = 30, 300
MENU = (("/", "Now"), ("/sites", "Sites"), ("/runs", "Runs"), ("/trail", "Trail"))


class CoordinatorPage:
    """The views and actions of one coordinator's folder."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def pages(self, token: str) -> Pages:
        """Return the application."""
        views = {
            "/": self.now, "/sites": self.sites, "/sites/file": self.file, "/runs": self.runs, "/runs/one": self.run,
            "/runs/report": self.report, "/runs/results": self.results, "/trail": self.trail,
        }  # fmt: skip
        actions = {
            "/sites/invite": self.invite, "/sites/admit": self.admit, "/sites/revoke": self.revoke,
            "/runs/start": self.start, "/runs/stop": self.stop, "/runs/resume": self.resume,
        }  # fmt: skip
        return Pages(Home(self._home).config.name, "coordinator", _FOLDER, views, actions, MENU, token)

    def now(self, visit: Visit) -> Response:
        """Show what runs, who is connected, which certificates end soon."""
        content, lines = describe(Home(self._home))
        warnings = [line for line in lines if line.startswith("the certificate")]
        going = [name for name, status in content["runs"].items() if status in GOING]
        return visit.show("now.html", state=content, warnings=warnings, going=going)

    def sites(self, visit: Visit) -> Response:
        """List the sites, with what was made for each to be sent."""
        home = Home(self._home)
        connections = {name: one["connection"] for name, one in describe(home)[0]["sites"].items()}
        rows = [
            {
                "entry": entry, "connection": connections.get(name, "unknown"),
                "kit": (home.path / "kits" / f"{name}.kit.yaml").exists(),
                "certificate": (home.path / "admitted" / f"{name}.crt").exists() and entry.status == "admitted",
            }
            for name, entry in home.sites.items()
        ]  # fmt: skip
        return visit.show("sites.html", rows=rows)

    def invite(self, visit: Visit) -> Response:
        """Make a site's kit."""
        site = visit.text("site")
        Home(self._home).invite(site)
        return visit.done(f"Invited {site}. Send it the kit; it answers with {site}.csr.", "/sites")

    def admit(self, visit: Visit) -> Response:
        """Sign a site's request, once the operator of the page has said whose it is."""
        content, site = visit.form.get("file"), visit.text("site")
        if not isinstance(content, bytes) or not content:
            return visit.fault("Choose the request that the site sent, a file that ends in .csr.", "/sites")
        with tempfile.TemporaryDirectory(prefix="ecgfed-") as folder:
            # Its name is what the form says: the request inside must be that site's.
            path = Path(folder) / "request.csr"
            write_atomically(path, content, sync=False)
            from server.coordinator.authority import read_request

            named = read_request(path).site
            if named != site:
                return visit.fault(f"The request is of {named}, not of {site}; nobody was admitted.", "/sites")
            entry, _ = Home(self._home).admit(path)
        return visit.done(f"Admitted {entry.site} until {entry.not_after}. Send it the certificate.", "/sites")

    def revoke(self, visit: Visit) -> Response:
        """Let a site in no more."""
        site = visit.text("site")
        if visit.text("again") != site:
            return visit.fault(f"Type {site} to revoke it; nothing was done.", "/sites")
        Home(self._home).revoke(site)
        return visit.done(f"{site} is revoked.", "/sites")

    def file(self, visit: Visit) -> Response:
        """Hand out a kit or a certificate to be sent; neither holds a secret."""
        home, site, kind = Home(self._home), visit.text("site"), visit.text("kind")
        if site not in home.sites or kind not in ("kit", "certificate"):
            raise ConfigError("there is no such file", value=f"{kind} of {site}")
        path = (
            home.path / ("kits" if kind == "kit" else "admitted") / f"{site}.{'kit.yaml' if kind == 'kit' else 'crt'}"
        )
        if not path.exists():
            raise ConfigError("this was not made yet", value=path.name)
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    def runs(self, visit: Visit) -> Response:
        """List the runs, the newest first."""
        home = Home(self._home)
        found = [
            (path.parent.name, _read(path))
            for path in sorted((home.path / "runs").glob("*/run.json"), key=lambda p: p.stat().st_mtime, reverse=True)
        ]
        return visit.show("runs.html", runs=found)

    def start(self, visit: Visit) -> Response:
        """Start a study over the admitted sites."""
        home, content, name = Home(self._home), visit.form.get("file"), visit.text("name")
        if not isinstance(content, bytes) or not content:
            return visit.fault("Choose a study file first.", "/runs")
        with tempfile.TemporaryDirectory(prefix="ecgfed-") as folder:
            path = Path(folder) / "study.yaml"
            write_atomically(path, content, sync=False)
            try:
                load_study(path)
            except ConfigError as error:
                return visit.fault(str(error).replace(str(path), "the file"), "/runs")
            chosen = queue_run(home, path, name or None)
        return visit.done(f"Started {chosen}.", f"/runs/one?name={chosen}")

    def run(self, visit: Visit) -> Response:
        """Show one run as it goes."""
        name = visit.text("name")
        folder = Home(self._home).run_folder(name)
        info, live = _read(folder / "run.json"), _read(folder / "live.json")
        seen = _lines(folder / "history.jsonl")
        values = {
            "info": info, "status": str(info.get("status", "damaged")), "going": info.get("status") in GOING,
            "progress": live.get("progress") or {}, "asking": live if live.get("step") else {},
            "sites": of_sites(info, live, seen), "rounds": [one_line(line) for line in seen[-_ROUNDS:][::-1]],
            "losses": _losses(seen), "events": _lines(folder / "events.jsonl")[-20:][::-1],
            "has_report": (folder / "report.html").exists(), "has_results": (folder / "results.json").exists(),
        }  # fmt: skip
        return visit.show("run.html", name=name, **values)

    def stop(self, visit: Visit) -> Response:
        """End a run after its last checkpoint."""
        name = visit.text("name")
        return visit.done(stop_run(Home(self._home), name), f"/runs/one?name={name}")

    def resume(self, visit: Visit) -> Response:
        """Go on with a run."""
        name = visit.text("name")
        resume_run(Home(self._home), name)
        return visit.done(f"Run {name} goes on.", f"/runs/one?name={name}")

    def report(self, visit: Visit) -> Response:
        """Show a run's report: one file, with its style and figures inside it."""
        path = Home(self._home).run_folder(visit.text("name")) / "report.html"
        if not path.exists():
            return visit.fault("There is no report yet.", f"/runs/one?name={visit.text('name')}")
        answer = HTMLResponse(path.read_bytes())
        answer.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        return answer

    def results(self, visit: Visit) -> Response:
        """Hand out ``results.json``."""
        path = Home(self._home).run_folder(visit.text("name")) / "results.json"
        if not path.exists():
            raise ConfigError("there are no results yet", value=visit.text("name"))
        return FileResponse(path, filename=f"{path.parent.name}.json", media_type="application/json")

    def trail(self, visit: Visit) -> Response:
        """Show what happened in all runs and with all sites, the newest first."""
        home = Home(self._home)
        events = [
            (str(line.get("at", "")), path.parent.name, f"{line.get('what', '')} {line.get('why', '')}".strip())
            for path in (home.path / "runs").glob("*/events.jsonl")
            for line in _lines(path)
        ]
        events += [(entry.since, site, entry.status) for site, entry in home.sites.items()]
        return visit.show("trail.html", events=sorted(events, reverse=True)[:_EVENTS], most=_EVENTS)


def _losses(seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a picture of each figure that several rounds of a step gave: its points in a box of 240 x 60."""
    courses: dict[tuple[str, str], list[float]] = {}
    for line in seen:
        for name, value in line.get("metrics", {}).items():
            if isinstance(value, int | float):
                courses.setdefault((str(line["step"]), name), []).append(float(value))
    found = []
    for (step, name), values in courses.items():
        if len(values) < 2:
            continue
        low, high = min(values), max(values)
        x = [240 * i / (len(values) - 1) for i in range(len(values))]
        y = [56 - 52 * (v - low) / (high - low) if high > low else 30 for v in values]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        found.append({"step": step, "name": name, "points": points, "last": values[-1], "low": low, "high": high})
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a log; what a full disk cut off is passed over."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict)]


def page(home: Path, port: int, said: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C."""
    from ecgshared.service.pages import kept_token, serve

    token = kept_token(Home(home).path)
    serve(CoordinatorPage(home).pages(token), port, said, token)
