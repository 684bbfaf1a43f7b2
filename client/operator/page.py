"""The page of a hospital's operator: what is asked of me, what ever left, what it cost; approve, pause, forget.

It does what the commands of ``ecgfed site`` do, by the same functions, and nothing else. It shows patients' ids and
names of files to nobody: of the table it shows counts.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse, Response

from client.approval.decision import approve as approve_it
from client.approval.decision import withdraw as withdraw_it
from client.approval.register import in_force, load_copy
from client.approval.show import show_study
from client.ingest.quality_report import FILE as QUALITY_FILE
from client.ingest.register import FILE as LEDGER_FILE
from client.ingest.register import FOLDER as INGEST_FOLDER
from client.ingest.register import OUTCOMES
from client.network.status import describe, is_paused, read_status, running_pid
from client.network.status import pause as set_paused
from client.operator.forget import answers_with, find_person, forget_patient, in_words
from client.operator.releases import budget_lines, read_releases
from client.site.settings import SiteSettings, load_site
from ecgshared.errors import ConfigError
from ecgshared.service.files import private_folder, write_atomically
from ecgshared.service.fingerprint import code_sha256
from ecgshared.service.pages import Pages, Visit
from ecgshared.study.amendment import is_amendment
from ecgshared.study.registry import shared_room
from ecgshared.study.study import Study, load_study

_LISTED = 200
_FOLDER = Path(__file__).parent / "templates"
MENU = (("/", "Now"), ("/studies", "Studies"), ("/left", "What left"), ("/data", "Data"), ("/people", "People"))


class SitePage:
    """The views and actions of one site; its file is read anew at every request."""

    def __init__(self, site_file: Path) -> None:
        self._file = site_file

    def pages(self, token: str) -> Pages:
        """Return the application."""
        views = {
            "/": self.now, "/studies": self.studies, "/studies/one": self.study, "/left": self.left,
            "/data": self.data, "/data/quality": self.quality, "/people": self.people,
        }  # fmt: skip
        actions = {
            "/pause": self.pause, "/studies/offer": self.offer, "/studies/approve": self.approve,
            "/studies/withdraw": self.withdraw, "/people/find": self.find, "/people/forget": self.forget,
        }  # fmt: skip
        return Pages(self._settings().site, "site operator", _FOLDER, views, actions, MENU, token)

    def _settings(self) -> SiteSettings:
        return load_site(self._file)

    def now(self, visit: Visit) -> Response:
        """Show whether the daemon runs, what it does, and what waits for the operator."""
        settings = self._settings()
        pid, status = running_pid(settings.link_state), read_status(settings.link_state)
        held = in_force(settings.state, settings.federation, settings.approvals)
        waiting = [study for study in self._offered(settings) if ("study", study.sha256) not in held]
        software = code_sha256()
        return visit.show(
            "now.html", networked=settings.network is not None, running=pid is not None, lines=describe(pid, status),
            paused=is_paused(settings.link_state), waiting=waiting, software=software,
            software_approved=settings.network is None or ("code", software) in held,
            envelope_approved=settings.network is None or ("envelope", settings.network.envelope) in held,
            recent=read_releases(settings.state)[-5:][::-1],
        )  # fmt: skip

    def pause(self, visit: Visit) -> Response:
        """Stop answering, or go on."""
        settings, paused = self._settings(), visit.text("paused") == "yes"
        set_paused(settings.link_state, paused)
        said = "Paused: every question is refused until you go on." if paused else "The site answers again."
        return visit.done(said, "/")

    def studies(self, visit: Visit) -> Response:
        """List studies: those that wait for a decision, and those in force."""
        settings = self._settings()
        held = in_force(settings.state, settings.federation, settings.approvals)
        offered = [study for study in self._offered(settings) if ("study", study.sha256) not in held]
        return visit.show("studies.html", offered=offered, held=sorted(held.values(), key=lambda a: a.at, reverse=True))

    def study(self, visit: Visit) -> Response:
        """Show one study in plain words, and how to approve it or take it back."""
        settings, sha256 = self._settings(), visit.text("hash")
        study = self._find(settings, sha256)
        approved = in_force(settings.state, settings.federation, settings.approvals).get(("study", sha256))
        member = settings.site in study.sites.all
        return visit.show(
            "study.html", study=study, approved=approved, member=member, lines=show_study(settings, study),
            networked=settings.network is not None,
        )  # fmt: skip

    def offer(self, visit: Visit) -> Response:
        """Keep a study file that the operator was sent, so that it can be read here; nothing is approved by it."""
        settings, content = self._settings(), visit.form.get("file")
        if not isinstance(content, bytes) or not content:
            return visit.fault("Choose a study file first.", "/studies")
        folder = private_folder(settings.state / "studies" / "offered")
        path = folder / "incoming.yaml"
        write_atomically(path, content, private=True)
        if is_amendment(path):
            path.unlink()
            told = "This is an amendment of a run: read and approve it by `ecgfed site show` and `ecgfed site approve`."
            return visit.fault(told, "/studies")
        try:
            study = load_study(path)
        except ConfigError as error:
            return visit.fault(str(error).replace(str(path), "the file"), "/studies")
        else:
            write_atomically(folder / f"{study.sha256}.yaml", content, private=True)
        finally:
            path.unlink(missing_ok=True)
        return visit.done(f"Read {study.name}. Nothing is approved yet.", f"/studies/one?hash={study.sha256}")

    def approve(self, visit: Visit) -> Response:
        """Approve a study, the software or the envelope, once the word that stands beside it was typed."""
        settings, what, typed = self._settings(), visit.text("what"), visit.text("word")
        target = what if what in ("code", "envelope") else str(self._offered_path(settings, what))
        back = "/" if what in ("code", "envelope") else f"/studies/one?hash={what}"
        wanted = [""]

        def confirmed(_: list[str], word: str) -> bool:
            wanted[0] = word
            return typed == word

        said = approve_it(settings, target, confirmed)
        if typed != wanted[0]:
            return visit.fault(f"Type {wanted[0]} to approve; nothing was approved.", back)
        return visit.done(said, back)

    def withdraw(self, visit: Visit) -> Response:
        """Take an approval back."""
        return visit.done(withdraw_it(self._settings(), visit.text("hash")), "/studies")

    def left(self, visit: Visit) -> Response:
        """Show all that ever left, why it may, and what private training has cost."""
        settings, run = self._settings(), visit.text("run")
        lines = read_releases(settings.state)
        runs = list(dict.fromkeys(str(line.get("run", "?")) for line in lines))
        chosen = [line for line in lines if run in ("", line.get("run"))]
        rows = [self._release(settings, line) for line in chosen[-_LISTED:][::-1]]
        size = sum(int(line.get("bytes", 0)) for line in chosen)
        return visit.show(
            "left.html", rows=rows, runs=runs, run=run, total=len(chosen), size=size, listed=_LISTED,
            budget=budget_lines(settings),
        )  # fmt: skip

    def _release(self, settings: SiteSettings, line: dict[str, Any]) -> dict[str, Any]:
        if "damaged" in line:
            return {"damaged": line["damaged"]}
        withheld = sum(int(field.get("withheld", 0)) for field in line.get("fields", {}).values())
        words, why = _in_words(settings, str(line.get("study", "")), str(line.get("step", "")), str(line.get("phase")))
        keys = ("at", "run", "step", "phase", "round", "kind", "bytes")
        return {key: line.get(key, "?") for key in keys} | {
            "withheld": withheld, "words": words, "why": why, "again": bool(line.get("replayed")), "damaged": 0,
        }  # fmt: skip

    def data(self, visit: Visit) -> Response:
        """Show how far the reading of recordings is, and what was found in them by device."""
        settings = self._settings()
        folder = settings.state / INGEST_FOLDER
        outcomes, devices = _ledger(folder / LEDGER_FILE)
        return visit.show(
            "data.html", outcomes=[(words, outcomes.get(name, 0)) for name, words in OUTCOMES.items()],
            total=sum(outcomes.values()), devices=devices, report=(folder / QUALITY_FILE).exists(), file=self._file,
        )  # fmt: skip

    def quality(self, visit: Visit) -> Response:
        """Show the quality report that the last ingest wrote; its pictures are in it, its scripts would not run."""
        path = self._settings().state / INGEST_FOLDER / QUALITY_FILE
        try:
            answer = HTMLResponse(path.read_bytes())
        except OSError:
            return visit.fault("There is no quality report yet; `ecgfed site ingest` writes it.", "/data")
        # The report is one file with its style inside it.
        answer.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        return answer

    def people(self, visit: Visit) -> Response:
        """Offer to find and forget a person."""
        return visit.show("people.html", patient="", lines=[])

    def find(self, visit: Visit) -> Response:
        """Say what forgetting a person would do, before it is done."""
        settings, patient = self._settings(), visit.text("patient")
        person = find_person(settings, patient)
        return visit.show(
            "people.html", patient=person.name, lines=in_words(settings, person, answers_with(settings, person))
        )

    def forget(self, visit: Visit) -> Response:
        """Forget a person once the id was typed a second time."""
        settings, patient = self._settings(), visit.text("patient")
        if visit.text("again") != patient:
            return visit.fault("The id was not typed again as it is; nothing was done.", "/people")
        done = forget_patient(settings, patient)
        listed = "was on the opt-out list already" if done.known_before else "is on the opt-out list"
        said = f"{done.ecgs} ECG(s) overwritten and removed from {done.caches} cache(s). The person {listed}."
        return visit.done(said, "/people")

    def _offered(self, settings: SiteSettings) -> list[Study]:
        """Return the studies that lie here to be decided on; those that cannot be read any more are passed over."""
        found = []
        for path in sorted((settings.state / "studies" / "offered").glob("*.yaml")):
            try:
                found.append(load_study(path))
            except ConfigError:
                continue  # of another version of the study language
        return found

    def _offered_path(self, settings: SiteSettings, sha256: str) -> Path:
        path = settings.state / "studies" / "offered" / f"{sha256}.yaml"
        if not sha256.isalnum() or len(sha256) != 64 or not path.exists():
            raise ConfigError("no study of this hash was given to this page", value=sha256, remedy="choose its file")
        return path

    def _find(self, settings: SiteSettings, sha256: str) -> Study:
        if ("study", sha256) in in_force(settings.state, settings.federation, settings.approvals):
            return load_copy(settings.state, sha256)
        return load_study(self._offered_path(settings, sha256))


def _in_words(settings: SiteSettings, sha256: str, step_id: str, phase: str) -> tuple[str, str]:
    """Return what left in a phase and why it may, as the stage declares; empty where the study is not at hand."""
    try:
        room = shared_room(load_copy(settings.state, sha256).step(step_id).stage)
    except (ConfigError, StopIteration):
        return "", ""
    return getattr(room, "LEAVES", {}).get(phase, ""), str(getattr(room, "PROTECTED", ""))


def _ledger(path: Path) -> tuple[dict[str, int], list[tuple[str, int, int]]]:
    """Return files by outcome, and of each device files and those with findings; read beside a running ingest."""
    if not path.exists():
        return {}, []
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            outcomes = dict(database.execute("SELECT outcome, COUNT(*) FROM file GROUP BY outcome").fetchall())
            devices = database.execute(
                "SELECT device, COUNT(*), SUM(codes <> '') FROM file WHERE record IS NOT NULL "
                "GROUP BY device ORDER BY COUNT(*) DESC LIMIT 40"
            ).fetchall()
    except sqlite3.Error as error:
        raise ConfigError(f"the ledger of recordings cannot be read ({error})", where=path) from None
    return outcomes, [(str(d) or "not told", int(n), int(m or 0)) for d, n, m in devices]


def page(site_file: Path, port: int, said: Any) -> None:
    """Serve the page until Ctrl-C."""
    from ecgshared.service.pages import kept_token, serve

    settings = load_site(site_file)
    token = kept_token(settings.state)
    serve(SitePage(site_file).pages(token), port, said, token)
