"""Who a site is to other sites: it signs, they check; the coordinator, who hands everything on, can do neither.

On the network a site signs with the key of its certificate, in a simulation with a key that follows from its own. A
site remembers the key by which it first knew another, and refuses another key from then on; the first time it can be
told which to expect, by the fingerprints in ``secure_sums.peers`` of its file (``ecgfed site identity`` prints a
site's own). Without them a coordinator who cheats from the first day on could play a site.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from client.site.keys import identity_key
from client.site.settings import SiteSettings
from ecgshared.errors import ConfigError, RefusalCode, Refused
from ecgshared.service.files import private_folder, write_atomically

PEERS = "peers.json"
"""Below the folder of state: fingerprints of other sites' keys as first seen."""


class Identity:
    """This site's, to sign with.

    Attributes
    ----------
    proof : what others know it by: its certificate (DER), or in a simulation its public key.
    """

    def __init__(self, settings: SiteSettings) -> None:
        if settings.network is None:
            self._simulated = Ed25519PrivateKey.from_private_bytes(identity_key(settings))
            self._key, self.proof = None, self._simulated.public_key().public_bytes_raw()
            return
        try:
            key = load_pem_private_key(settings.network.key.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(settings.network.certificate.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"the site's key or certificate cannot be read ({type(error).__name__})") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError("the site's key is of another kind", allowed="ECDSA P-384")
        self._key, self.proof = key, certificate.public_bytes(Encoding.DER)

    def sign(self, message: bytes) -> bytes:
        """Return a signature over ``message``."""
        return (
            self._simulated.sign(message) if self._key is None else self._key.sign(message, ec.ECDSA(hashes.SHA384()))
        )

    @property
    def fingerprint(self) -> str:
        """Of the public key, as other sites name it under ``secure_sums.peers``."""
        if self._key is None:
            return hashlib.sha256(self.proof).hexdigest()
        return _fingerprint(self._key.public_key())


@dataclass(frozen=True)
class Signed:
    """What a peer is said to have signed: by which key or certificate, the signature, and the message."""

    peer: str
    proof: bytes
    signature: bytes
    message: bytes


def require_signed(settings: SiteSettings, statements: Sequence[Signed]) -> None:
    """Check that each peer signed its message, by a key that this site knows for its; remember keys seen first.

    Raises
    ------
    Refused : SECURE_SUM_REFUSED: not signed so, another key than before, or a certificate that does not hold. Then
        nothing is remembered.
    """
    found = {}
    for one in statements:
        try:
            if settings.network is None:
                Ed25519PublicKey.from_public_bytes(one.proof).verify(one.signature, one.message)
                found[one.peer] = hashlib.sha256(one.proof).hexdigest()
            else:
                key = _certified(settings, one.peer, one.proof)
                key.verify(one.signature, one.message, ec.ECDSA(hashes.SHA384()))
                found[one.peer] = _fingerprint(key)
        except (InvalidSignature, ValueError, TypeError, OSError):
            raise _refused(f"the keys said to be of {one.peer!r} are not signed by it") from None
    _require_known(settings, found)


def _certified(settings: SiteSettings, peer: str, proof: bytes) -> ec.EllipticCurvePublicKey:
    assert settings.network is not None
    certificate = x509.load_der_x509_certificate(proof)
    authority = x509.load_pem_x509_certificate(settings.network.ca.read_bytes())
    certificate.verify_directly_issued_by(authority)
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    now = datetime.now(UTC)
    if names != [peer] or not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ValueError
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError
    return key


def _require_known(settings: SiteSettings, found: Mapping[str, str]) -> None:
    """Hold fingerprints by peer against those named in the site file, this site's own, and those seen first."""
    path = settings.state / PEERS
    try:
        seen: dict[str, str] = json.loads(path.read_text(encoding="ascii")) if path.exists() else {}
    except (OSError, ValueError):
        raise _refused("the fingerprints of other sites cannot be read") from None
    known = {**found, **seen, **settings.secure_sums.peers}
    known[settings.site] = settings.secure_sums.peers.get(settings.site, Identity(settings).fingerprint)
    for peer, fingerprint in found.items():
        if known[peer] != fingerprint:
            raise Refused(
                RefusalCode.SECURE_SUM_REFUSED,
                f"the key said to be of {peer!r} is not the one this site knows it by",
                value=fingerprint,
                allowed=known[peer],
                remedy=f"ask {peer} for its fingerprint (ecgfed site identity); if it has a new key, name that under "
                "secure_sums.peers in the site file",
            )
    new = set(found) - set(seen) - set(settings.secure_sums.peers) - {settings.site}
    if new:
        private_folder(path.parent)
        kept = seen | {peer: found[peer] for peer in new}
        write_atomically(path, json.dumps(kept, sort_keys=True).encode(), private=True)


def _fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _refused(what: str) -> Refused:
    return Refused(RefusalCode.SECURE_SUM_REFUSED, what)
