"""How a site joins: a private key that is made here and never leaves, a signed request, and the certificate for it.

One ECDSA P-384 key serves both as the client certificate's and as Flower's node key, so that the coordinator's proxy
can hold the one to the other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from pydantic import Field

from client.site.settings import FEDERATION, NetworkConfig, SiteSettings, load_site, network_of
from client.site.sitefile import network_lines, site_template
from ecgshared.config import Config, load
from ecgshared.errors import ConfigError
from ecgshared.service.files import private_folder, write_atomically, write_once

FOLDER = "network"
"""Beside the site file: a folder for each federation, of key, request, certificate, and the authority's certificate."""
RENEWED, RENEWED_AUTHORITY = "renewed.crt", "renewed-authority.crt"
"""In the state's folder of the network: what the daemon fetched by itself."""


class Kit(Config):
    """What the coordinator sends to invite a site; it holds nothing secret."""

    format_version: int = Field(ge=1, le=1)
    site: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")
    federation: str = Field(default=FEDERATION, pattern=NetworkConfig.model_fields["federation"].metadata[0].pattern)
    coordinator: str = Field(pattern=NetworkConfig.model_fields["coordinator"].metadata[0].pattern)
    ca: str
    envelope_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    code_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    invited: str


@dataclass(frozen=True)
class Enrolled:
    """What ``site init`` made."""

    kit: Kit
    request: Path
    site_file: Path
    new_site_file: bool
    new_key: bool


def start(
    kit_file: Path, site_file: Path, *, given: dict[str, Any] | None = None, guessed: dict[str, str] | None = None
) -> Enrolled:
    """Make key and request for a kit, and a site file where there is none; a key that is there is kept.

    ``given`` and ``guessed`` are what a new site file says beside the defaults; see :func:`.site_template`.

    Raises
    ------
    ConfigError : the kit is not valid, or the site file is that of another site or federation.
    """
    kit = load(Kit, kit_file)
    try:
        authority = x509.load_pem_x509_certificate(kit.ca.encode())
    except ValueError:
        raise ConfigError("the kit's `ca` is no certificate", where=kit_file) from None
    private_folder(site_file.resolve().parent / FOLDER)
    folder = private_folder(site_file.resolve().parent / FOLDER / kit.federation)
    key_file, request_file = folder / f"{kit.site}.key", folder / f"{kit.site}.csr"
    _require_same_authority(folder / "ca.crt", authority, kit, kit_file)
    network = {
        "federation": kit.federation,
        "coordinator": kit.coordinator,
        "ca": f"{FOLDER}/{kit.federation}/ca.crt",
        "certificate": f"{FOLDER}/{kit.federation}/{kit.site}.crt",
        "key": f"{FOLDER}/{kit.federation}/{kit.site}.key",
        "envelope": kit.envelope_sha256,
    }
    new_file = not site_file.exists()
    if new_file:
        template = site_template(kit.site, network, given=given, guessed=guessed)
        write_atomically(site_file, template.encode(), private=True)
    else:
        _join(site_file, kit, network)
    new_key = not key_file.exists() and _write_key(key_file)
    write_atomically(folder / "ca.crt", authority.public_bytes(Encoding.PEM), private=True)
    write_atomically(request_file, request_bytes(key_file, kit.site), private=True)
    return Enrolled(kit, request_file, site_file, new_file, new_key)


def request_bytes(key_file: Path, site: str) -> bytes:
    """Return a signed request for a certificate over a site's key, PEM."""
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)]))
        .sign(read_key(key_file), hashes.SHA384())
    )
    return request.public_bytes(Encoding.PEM)


def install_certificate(settings: SiteSettings, file: Path) -> x509.Certificate:
    """Check the certificate the coordinator sent, and put it in its place.

    Raises
    ------
    ConfigError : it is another key's, another authority's, another site's, or not valid now.
    """
    network = network_of(settings)
    certificate = read_certificate(file)
    faults = certificate_faults(settings, certificate)
    if faults:
        raise ConfigError(
            "this certificate cannot be used:\n  " + "\n  ".join(faults),
            where=file,
            remedy="send the coordinator the request made by `ecgfed site init`, and ask for its certificate",
        )
    private_folder(network.certificate.parent)
    write_atomically(network.certificate, certificate.public_bytes(Encoding.PEM), private=True)
    take_authority(settings, file.read_bytes())
    return certificate


def in_use(settings: SiteSettings) -> NetworkConfig:
    """Return the network with the files of the certificates that count: those of the site file, or renewed ones.

    What a daemon fetches by itself lies in its state, the one place it may write to; it counts while it is of the same
    key and name as the file that the site file names, and ends later.
    """
    network, kept = network_of(settings), settings.link_state / "network"
    return network.model_copy(
        update={
            "certificate": _later(network.certificate, kept / RENEWED),
            "ca": _later(network.ca, kept / RENEWED_AUTHORITY),
        }
    )


def _later(given: Path, renewed: Path) -> Path:
    try:
        old, new = read_certificate(given), read_certificate(renewed)
    except ConfigError:
        return given
    same = _public(old) == _public(new) and old.subject == new.subject
    return renewed if same and new.not_valid_after_utc > old.not_valid_after_utc else given


def take_renewed(settings: SiteSettings, certificate: x509.Certificate) -> None:
    """Keep a certificate that the daemon fetched, and that has no faults."""
    path = private_folder(settings.link_state / "network") / RENEWED
    write_atomically(path, certificate.public_bytes(Encoding.PEM), private=True)


def take_authority(settings: SiteSettings, content: bytes) -> bool:
    """Take the authority's renewed certificate up, where one stands in ``content`` (PEM); return whether it was.

    It is taken where it is of the key and the name that are trusted already, signed by that key, and ends later.
    """
    trusted = read_certificate(in_use(settings).ca)
    for candidate in x509.load_pem_x509_certificates(content):
        same = _public(candidate) == _public(trusted) and candidate.subject == trusted.subject
        if same and _signed_by_itself(candidate) and candidate.not_valid_after_utc > trusted.not_valid_after_utc:
            path = private_folder(settings.link_state / "network") / RENEWED_AUTHORITY
            write_atomically(path, candidate.public_bytes(Encoding.PEM), private=True)
            return True
    return False


def certificate_faults(settings: SiteSettings, certificate: x509.Certificate) -> list[str]:
    """Return what is wrong with a certificate for this site, in plain words; empty where nothing is."""
    network, faults = in_use(settings), []
    authority = read_certificate(network.ca)
    if _public(certificate) != _public(read_key(network.key)):
        faults.append(f"it is not that of this site's key ({network.key})")
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        faults.append("it was not issued by the authority of the kit")
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [settings.site]:
        faults.append(f"it is for {', '.join(names) or 'nobody'}, this site is {settings.site!r}")
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc < now:
        faults.append(f"it expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if certificate.not_valid_before_utc > now:
        faults.append(
            f"it is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; is the clock right?"
        )
    return faults


def read_certificate(file: Path) -> x509.Certificate:
    """Read a PEM certificate."""
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            "there is no such certificate", where=file, remedy="ecgfed site certificate SITE.yaml SITE.crt installs it"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"is no certificate ({type(error).__name__})", where=file, allowed="a PEM file") from None


def read_key(file: Path) -> ec.EllipticCurvePrivateKey:
    """Read the site's private key; raise :class:`ConfigError` where it is none, or open to other users."""
    try:
        if os.name == "posix" and file.stat().st_mode & 0o077:
            raise ConfigError("other users can read this key", where=file, remedy=f"chmod 600 {file}")
        key = load_pem_private_key(file.read_bytes(), password=None)
    except FileNotFoundError:
        raise ConfigError("there is no such key", where=file, remedy="ecgfed site init makes it") from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"is no private key ({type(error).__name__})", where=file, allowed="a PEM file") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError("is a key of another kind", where=file, allowed="ECDSA P-384")
    return key


def not_after(file: Path) -> float | None:
    """Return when a certificate expires, seconds since 1970; None where there is none."""
    try:
        return read_certificate(file).not_valid_after_utc.timestamp()
    except ConfigError:
        return None


def _join(site_file: Path, kit: Kit, network: dict[str, str]) -> None:
    settings = load_site(site_file)
    if settings.site != kit.site:
        raise ConfigError(
            f"the kit is for site {kit.site!r}, the file is of {settings.site!r}",
            where=site_file,
            remedy="give another file by --out, or ask for a kit of this site's name",
        )
    if settings.network is None:
        section = f"\n{network_lines(network)}".encode()
        # The file itself, where a link stands in the folder.
        write_atomically(site_file.resolve(), site_file.read_bytes() + section)
    elif settings.network.federation != kit.federation:
        raise ConfigError(
            f"the file joins federation {settings.network.federation!r}, the kit is of {kit.federation!r}",
            where=site_file,
            remedy="give a second file by --out, and write the same `state`, records and table into it",
        )
    elif settings.network.coordinator != kit.coordinator or settings.network.envelope != kit.envelope_sha256:
        raise ConfigError(
            "the file names another coordinator or envelope than the kit",
            where=site_file,
            remedy="edit its `network:` section if that is intended",
        )


def _require_same_authority(file: Path, given: x509.Certificate, kit: Kit, kit_file: Path) -> None:
    """Refuse a kit of another authority under a name that is known: a trust anchor is never overwritten."""
    if file.exists() and _public(read_certificate(file)) != _public(given):
        raise ConfigError(
            f"another federation is called {kit.federation!r} here: its authority has another key",
            where=kit_file,
            value=str(file),
            remedy="ask the coordinator for the fingerprint of its authority by telephone; if it began anew, move the "
            "folder of the old one away; if it is another federation, it needs another name",
        )


def _signed_by_itself(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _write_key(path: Path) -> bool:
    """Make a key unless one stands there; return whether it was made."""
    key = ec.generate_private_key(ec.SECP384R1())
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return write_once(path, data)


def _public(holder: x509.Certificate | ec.EllipticCurvePrivateKey) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
