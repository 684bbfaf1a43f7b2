"""Whether a site is fit for the network: certificate, approvals, room, and each stage of the way to the coordinator."""

from __future__ import annotations

import shutil
import socket
from datetime import UTC, datetime
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from client.approval.register import in_force
from client.network.enrol import certificate_faults, in_use, read_certificate
from client.network.fleet import FleetLink
from client.network.fleet_failures import CertificateRefused, LinkError, NotAdmitted, RunOver
from client.network.session import last_token
from client.network.status import remembered_node
from client.site.settings import SiteSettings, network_of
from ecgshared.errors import EcgFedError
from ecgshared.service.fingerprint import code_sha256

_SKEW_SECONDS, _SKEW_FATAL = 30.0, 300.0
_LEAST_FREE_MB = 512


def check_network(settings: SiteSettings, *, offline: bool) -> tuple[list[str], list[str]]:
    """Return (faults, notes) about a site's part in the network; ``offline`` asks nobody."""
    faults: list[str] = []
    notes: list[str] = []
    usable = True
    for part in (_certificate, _policy, _room):
        try:
            part(settings, faults, notes)
        except EcgFedError as error:
            faults.append(str(error))
            usable = usable and part is not _certificate
    if not offline and usable:
        _way(settings, faults, notes)
    return faults, notes


def _certificate(settings: SiteSettings, faults: list[str], notes: list[str]) -> None:
    network = in_use(settings)
    certificate = read_certificate(network.certificate)
    faults += [f"{network.certificate}: {fault}" for fault in certificate_faults(settings, certificate)]
    days = (certificate.not_valid_after_utc - datetime.now(UTC)).days
    soon = (
        "; the daemon asks for the next one"
        if network.renew == "by_itself"
        else "; ask the coordinator for the next one"
    )
    soon = soon if 0 <= days < network.renew_days else ""
    notes.append(f"certificate: valid until {certificate.not_valid_after_utc:%Y-%m-%d}, {days} days{soon}")


def _policy(settings: SiteSettings, faults: list[str], notes: list[str]) -> None:
    held, code = in_force(settings.state, settings.federation, settings.approvals), code_sha256()
    for kind, sha256 in (("code", code), ("envelope", network_of(settings).envelope)):
        if (kind, sha256) in held:
            notes.append(f"approved {kind}: {sha256[:12]}")
        else:
            faults.append(f"the {kind} ({sha256[:12]}) is not approved: ecgfed site approve SITE.yaml {kind}")
    studies = [approval for (kind, _), approval in held.items() if kind == "study"]
    named = ", ".join(f"{study.what} ({study.sha256[:12]})" for study in studies)
    notes.append(f"approved studies: {named or 'none, so every question is refused'}")
    cap = settings.privacy
    must = ", and private training only" if cap.required else ""
    notes.append(f"privacy cap: epsilon {cap.max_epsilon:g} at delta {cap.max_delta:g} for each study{must}")


def _room(settings: SiteSettings, faults: list[str], notes: list[str]) -> None:
    folder = settings.state if settings.state.exists() else settings.state.parent
    free = shutil.disk_usage(folder).free / 2**20
    notes.append(f"disk: {free:,.0f} MiB free for {settings.state}")
    if free < _LEAST_FREE_MB:
        faults.append(f"{settings.state}: {free:,.0f} MiB free; below {_LEAST_FREE_MB} messages may not find room")


def _way(settings: SiteSettings, faults: list[str], notes: list[str]) -> None:
    """Go stage by stage, and stop at the first that fails."""
    network = in_use(settings)
    host, port = _host_port(network.coordinator)
    proxy = None if proxy_bypass(host) else getproxies().get("https")
    if proxy:
        via = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        notes.append(f"proxy: {via.hostname}:{via.port or 80}, from HTTPS_PROXY")
    else:
        notes.append("proxy: none (HTTPS_PROXY is not set, or NO_PROXY names the coordinator)")
    fault = _reach((via.hostname or "", via.port or 80) if proxy else (host, port), "proxy" if proxy else "coordinator")
    if fault is not None:
        faults.append(fault)
        return
    notes.append(f"TCP: the {'proxy' if proxy else 'coordinator'} answers")
    try:
        link = FleetLink(network)
    except EcgFedError as error:
        faults.append(str(error))
        return
    # A question about a run that never was: it changes nothing, and tells how far this site gets.
    link.node_id = remembered_node(settings.link_state) or 1
    link.session = last_token(settings.link_state)
    try:
        link.run(0)
    except RunOver:
        notes.append("coordinator: TLS and certificate accepted, this site is known")
    except NotAdmitted:
        notes.append("coordinator: TLS and certificate accepted; it knows this site once its daemon has connected")
    except CertificateRefused as error:
        faults.append(str(error))
    except LinkError as error:
        faults.append(str(error))
    finally:
        link.close()
    if link.skew_seconds is not None:
        text = f"clock: {link.skew_seconds:+.0f} s from the coordinator's"
        if abs(link.skew_seconds) > _SKEW_FATAL:
            faults.append(f"{text}; beyond {_SKEW_FATAL:.0f} s nothing works: let a time service set it")
        else:
            notes.append(text + ("; let a time service set it" if abs(link.skew_seconds) > _SKEW_SECONDS else ""))


def _reach(address: tuple[str, int], name: str) -> str | None:
    host, port = address
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return f"DNS: the name of the {name}, {host}, is not known here; is it right, and does this machine have DNS?"
    try:
        socket.create_connection(address, timeout=10).close()
    except TimeoutError:
        return f"TCP: {host}:{port} ({name}) does not answer; a firewall drops it, mostly"
    except OSError as error:
        return f"TCP: {host}:{port} ({name}) cannot be reached ({error.strerror or type(error).__name__})"
    return None


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
