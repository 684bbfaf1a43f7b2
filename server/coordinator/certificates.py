"""The supervisor's care for certificates: sites' renewals signed, old ones let go, servers' own made in time.

Nobody is locked out by a renewal: an old certificate is let in until its end, or until some time after the new one was
seen, when no connection of the old one is open any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ecgshared.errors import EcgFedError
from server.coordinator.authority import is_due, read_certificate
from server.coordinator.home import Home
from server.coordinator.site_calls import certificate_seen

_SETTLED_SECONDS = 60.0
_LOOK_SECONDS, _SERVERS_SECONDS = 1.0, 3600.0
_SERVERS = ("server", "loopback")


class CertificateCare:
    """Looks after the certificates of one coordinator.

    Parameters
    ----------
    say : tells people. taken_up : called with the names of the server certificates that were made anew, by whomever.
    """

    def __init__(self, home: Home, say: Callable[[str], Any], taken_up: Callable[[set[str]], None]) -> None:
        self._home, self._say, self._taken_up = home, say, taken_up
        self._due = self._servers_due = 0.0
        self._told: set[tuple[str, str]] = set()
        self._first_seen: dict[str, float] = {}
        self._servers = self._written()

    def look(self) -> None:
        """Do what there is to do; called at every turn, and does little."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _LOOK_SECONDS
        self._sign()
        self._settle()
        if time.monotonic() > self._servers_due:
            self._servers_due = time.monotonic() + _SERVERS_SECONDS
            if self._home.renew_if_due():
                self._say("the servers' certificates were made anew: they would have ended soon")
        written = self._written()
        changed = {name for name in _SERVERS if written[name] != self._servers[name]}
        self._servers = written
        if changed:
            self._taken_up(changed)

    def _sign(self) -> None:
        for request in self._home.asking():
            site = request.stem
            if self._home.config.renewals != "by_itself" or not self._home.authority.can_sign:
                self._tell(site, f"{site} asks for its next certificate: ecgfed coordinator admit {request}")
                continue
            try:
                newest = self._home.path / "admitted" / f"{site}.crt"
                if newest.exists() and not is_due(read_certificate(newest)):
                    request.unlink()
                    self._tell(site, f"{site} asked for a certificate long before the end of its own; none was made")
                    continue
                entry, _ = self._home.admit(request)
                self._say(f"{site}'s certificate was renewed until {entry.not_after}")
            except EcgFedError as error:
                request.unlink(missing_ok=True)
                self._tell(site, f"{site}'s certificate was not renewed: {error.what}")

    def _settle(self) -> None:
        seen = certificate_seen(self._home)
        for entry in self._home.admitted:
            if not entry.older or seen.get(entry.site) != entry.fingerprint:
                continue
            first = self._first_seen.setdefault(entry.fingerprint, time.monotonic())
            if time.monotonic() - first > _SETTLED_SECONDS:
                self._home.settle(entry.site, entry.fingerprint)
                self._say(f"{entry.site} came with its new certificate; the old one is let in no more")

    def _written(self) -> dict[str, int]:
        paths = {name: self._home.path / "tls" / f"{name}.crt" for name in _SERVERS}
        return {name: path.stat().st_mtime_ns if path.exists() else 0 for name, path in paths.items()}

    def _tell(self, site: str, text: str) -> None:
        if (site, text) not in self._told:
            self._told.add((site, text))
            self._say(text)
