"""A site's certificate rolls over: warned of in time, renewed by the connection itself, taken up while the daemon runs.

The key stays; only the certificate over it is made anew. So does the authority's own certificate, which is taken in
place of the old one where it is of the very key that is trusted already, and of no other.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from cryptography import x509

from client.network.enrol import (
    certificate_faults,
    in_use,
    read_certificate,
    request_bytes,
    take_authority,
    take_renewed,
)
from client.network.fleet import FleetLink
from client.network.fleet_failures import LinkError
from client.network.journal import Journal
from client.network.status import StatusFile
from client.site.settings import NetworkConfig, SiteSettings
from ecgshared.errors import EcgFedError

_LONGEST_SECONDS, _SHORTEST_SECONDS = 3600.0, 2.0


class Renewal:
    """Looks after one daemon's certificate. For the thread that fetches."""

    def __init__(self, link: FleetLink, journal: Journal, status: StatusFile) -> None:
        self._link, self._journal, self._status = link, journal, status
        self._due, self._asked, self._told = 0.0, 0, ""

    def look(self, settings: SiteSettings) -> None:
        """Warn of the certificate's end, and fetch the next one where the operator lets it; at times only."""
        if time.monotonic() < self._due:
            return
        network = in_use(settings)
        try:
            certificate = read_certificate(network.certificate)
            left = (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds()
            self._due = time.monotonic() + min(_LONGEST_SECONDS, max(_SHORTEST_SECONDS, left / 20))
            due = is_due(certificate, network.renew_days)
            if not due:
                self._status.set(certificate_ends=None)
            if network.renew == "by_itself":
                self._fetch(settings, due)
            if self._asked:
                # What is signed by itself is there in seconds; where somebody must sign, it may take days.
                self._due = min(self._due, time.monotonic() + _SHORTEST_SECONDS * self._asked)
            if due and read_certificate(in_use(settings).certificate) == certificate:
                self._warn(network, left / 86_400)
        except LinkError:
            self._due = time.monotonic() + _SHORTEST_SECONDS  # the fetching thread tells of it
        except (EcgFedError, OSError) as error:
            self._journal.tell("renewal-failed", f"the certificate could not be renewed: {error}", warn=True)
            self._due = time.monotonic() + 60

    def _fetch(self, settings: SiteSettings, due: bool) -> None:
        network = in_use(settings)
        answer = self._link.renew(request_bytes(network.key, settings.site).decode() if due else "")
        if answer is None:
            return
        self._asked += due
        if self._asked == 1:
            self._journal.tell("renewal-asked", "the coordinator was asked for the next certificate")
        authority = answer.get("authority", "")
        if authority and take_authority(settings, authority.encode()):
            self._journal.tell("authority-renewed", "the authority's certificate was renewed; its key is the same")
        given = answer.get("certificate", "")
        if not given:
            return
        made = x509.load_pem_x509_certificate(given.encode())
        if made == read_certificate(network.certificate) or certificate_faults(settings, made):
            return
        take_renewed(settings, made)
        self._asked = 0
        until = f"{made.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        self._journal.tell("certificate-renewed", f"a new certificate was fetched; valid until {until}")

    def _warn(self, network: NetworkConfig, days: float) -> None:
        whose = "the coordinator has been asked for the next one" if self._asked else "ask the coordinator for the next"
        text = f"the certificate ends in {days:.0f} day(s); {whose}"
        self._status.set(certificate_ends=text)
        if text != self._told:
            self._told = text
            self._journal.tell("certificate-ends", text, warn=True, days_left=round(days, 1))


def is_due(certificate: x509.Certificate, days: float) -> bool:
    """Whether a certificate is in its last ``days``, or in its last third where it was made for few."""
    lifetime = (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds() / 86_400
    left = (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds() / 86_400
    return left < min(days, lifetime / 3)
