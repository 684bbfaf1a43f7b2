"""What the coordinator itself hears from sites, in the SuperLink's process: sessions, and renewals of certificates.

Whatever comes here passed the proxy: a certificate that is let in, held to the node key that the request names. Beside
Flower's fleet API there are two calls, ``/v1/ecgfed/session`` and ``/v1/ecgfed/renew``, and a header that says which
session a call belongs to.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ecgshared.errors import EcgFedError
from ecgshared.service.files import now, write_atomically
from server.coordinator.authority import read_request
from server.coordinator.home import Home
from server.coordinator.proxy import CERTIFICATE_HEADER, NODE_KEY_HEADER
from server.coordinator.registry import SiteEntry
from server.coordinator.sessions import Opening, Sessions
from server.coordinator.waiting import HeldPolls

SESSION_HEADER = "ecgfed-session"
SEEN = "seen.json"
_FLEET, _OWN = "/v1/fleet/", "/v1/ecgfed/"
_LARGEST_BODY = 16_384


class SiteCalls:
    """ASGI middleware before Flower's application."""

    def __init__(self, app: Any, home: Home) -> None:
        self._app, self._home = app, home
        self._sessions = Sessions(home.path)
        self._polls = HeldPolls()
        self._sites: dict[str, SiteEntry] = {}
        self._sites_read = -1
        self._seen: dict[str, str] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a call of our own, refuse one of a session that is not the last, and pass on all others."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not scope["path"].startswith((_FLEET, _OWN)):
            await self._polls.handle(self._app, scope, receive, send)
            return
        headers = dict(scope["headers"])
        entry = self._site_of(headers.get(NODE_KEY_HEADER.encode(), b""))
        if entry is not None:
            self._note(entry, headers.get(CERTIFICATE_HEADER.encode(), b"").decode("ascii", "replace"))
        if scope["path"].startswith(_OWN):
            answer = (
                Response("not found\n", 404) if entry is None else await self._answer(entry, Request(scope, receive))
            )
            await answer(scope, receive, send)
            return
        token = headers.get(SESSION_HEADER.encode(), b"").decode("ascii", "replace")

        def is_current() -> bool:
            return entry is None or self._sessions.is_current(entry.site, token)

        if not is_current():
            await JSONResponse({"session": "forked"}, 409)(scope, receive, send)
            return
        await self._polls.handle(self._app, scope, receive, send, is_current)

    async def _answer(self, entry: SiteEntry, request: Request) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _LARGEST_BODY:
                return Response("too large\n", 413)
        try:
            content = json.loads(body or b"{}")
        except ValueError:
            return Response("not JSON\n", 400)
        call = request.scope["path"].removeprefix(_OWN)
        try:
            if call == "session":
                return self._open_session(entry, content)
            if call == "renew":
                return self._renew(entry, content, request.headers.get(CERTIFICATE_HEADER, ""))
        except (OSError, EcgFedError):
            return Response("the coordinator cannot write or read its files\n", 503)
        return Response("not found\n", 404)

    def _open_session(self, entry: SiteEntry, content: Any) -> Response:
        asked = Opening.read(content)
        if asked is None:
            return Response("no opening of a session\n", 400)
        verdict = self._sessions.open(entry.site, asked)
        return JSONResponse({"session": verdict}, 200 if verdict == "open" else 409)

    def _renew(self, entry: SiteEntry, content: Any, mark: str) -> Response:
        """Take a request in, and hand out the site's newest certificate where that is not the one it came with."""
        wanted = content.get("request", "") if isinstance(content, dict) else ""
        newest = self._home.path / "admitted" / f"{entry.site}.crt"
        certificate = newest.read_text(encoding="ascii") if mark != entry.fingerprint and newest.exists() else ""
        if isinstance(wanted, str) and wanted and not certificate:
            request = read_request(Path("renewal"), wanted.encode())
            if request.site != entry.site or request.public_key != entry.node_key:
                return Response("a request of another site or key\n", 400)
            write_atomically(self._home.path / "renewals" / f"{entry.site}.csr", wanted.encode(), private=True)
        authority = self._home.authority.certificate_file.read_text(encoding="ascii")
        return JSONResponse({"certificate": certificate, "authority": authority})

    def _site_of(self, header: bytes) -> SiteEntry | None:
        try:
            written = (self._home.path / "sites.json").stat().st_mtime_ns
            if written != self._sites_read:
                self._sites = {entry.public_key: entry for entry in self._home.admitted}
                self._sites_read = written
        except (OSError, EcgFedError):
            self._sites = {}
        return self._sites.get(header.decode("ascii", "replace"))

    def _note(self, entry: SiteEntry, mark: str) -> None:
        """Note which certificate a site came with, when it is another than before: the supervisor lets old ones go."""
        if not mark or self._seen.get(entry.site) == mark:
            return
        self._seen[entry.site] = mark
        try:
            path = self._home.path / SEEN
            write_atomically(path, json.dumps({s: {"mark": m, "at": now()} for s, m in self._seen.items()}).encode())
        except OSError:
            self._seen.pop(entry.site)  # again with its next call


def certificate_seen(home: Home) -> dict[str, str]:
    """Return the fingerprint each site last came with since the SuperLink started."""
    try:
        found = json.loads((home.path / SEEN).read_text(encoding="utf-8"))
        return {site: str(entry["mark"]) for site, entry in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
