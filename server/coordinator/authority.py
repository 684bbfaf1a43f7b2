"""The coordinator's certificate authority: its own certificate, the servers', and one for each hospital's request.

All keys are ECDSA P-384. A hospital's key is made at the hospital and only its signed request comes here. That key is
also Flower's node key, so that the proxy can hold a certificate to the node that speaks under it.

The authority's own key may lie encrypted, or off the coordinator altogether: it is read when something is signed, and
at no other time.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ecgshared.errors import ConfigError
from ecgshared.service.files import write_atomically

PASSPHRASE_VARIABLE = "ECGFED_AUTHORITY_PASSPHRASE"
_CLOCKS_DIFFER_BY = timedelta(minutes=10)
_LEAST_PASSPHRASE = 12
_CURVE = ec.SECP384R1


@dataclass(frozen=True)
class SiteRequest:
    """What a hospital's certificate request says: its name and its public key."""

    site: str
    key: ec.EllipticCurvePublicKey

    @property
    def public_key(self) -> bytes:
        """The key as Flower writes a node's: PEM of SubjectPublicKeyInfo."""
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class Authority:
    """The authority in a folder: ``ca.key`` and ``ca.crt``.

    Parameters
    ----------
    key_file : where the key lies instead, on a medium that is kept elsewhere, say.
    passphrase : asked for where the key is encrypted and the environment (``ECGFED_AUTHORITY_PASSPHRASE``) has none.
    """

    def __init__(
        self, folder: Path, *, key_file: Path | None = None, passphrase: Callable[[], str] | None = None
    ) -> None:
        self.key_file, self.certificate_file = key_file or folder / "ca.key", folder / "ca.crt"
        self._passphrase = passphrase

    @classmethod
    def create(cls, folder: Path, name: str, *, days: float = 3650) -> Authority:
        """Make an authority; its private key is readable by its owner only.

        Raises
        ------
        ConfigError : one stands there already; every certificate in use hangs on its key.
        """
        made, key = cls(folder), ec.generate_private_key(_CURVE())
        if made.key_file.exists():
            raise ConfigError(
                "an authority stands here already",
                where=made.key_file,
                remedy="choose another folder; remove this one only if no site was ever admitted",
            )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        certificate = _own_certificate(_named(f"{name} authority"), key, days)
        _write_key(made.key_file, key)
        write_atomically(made.certificate_file, certificate.public_bytes(Encoding.PEM))
        return made

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own certificate."""
        return read_certificate(self.certificate_file)

    def serve(self, key_file: Path, certificate_file: Path, names: list[str], *, days: float) -> None:
        """Make a server's key and a certificate for ``names`` (host names or addresses)."""
        key = ec.generate_private_key(_CURVE())
        alternative = x509.SubjectAlternativeName([_general_name(name) for name in names])
        certificate = self._signed(
            _builder(_named(names[0]), self.certificate.subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(alternative, critical=False)
        )
        _write_key(key_file, key)
        write_atomically(certificate_file, certificate.public_bytes(Encoding.PEM))

    def admit(self, request: SiteRequest, *, days: float) -> x509.Certificate:
        """Return a client certificate for a hospital's request."""
        return self._signed(
            _builder(_named(request.site), self.certificate.subject, request.key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        )

    def check(self, request: SiteRequest, file: Path) -> x509.Certificate:
        """Return the certificate that was signed elsewhere for a request.

        Raises
        ------
        ConfigError : it is another key's or site's, not of this authority, or not valid now.
        """
        certificate = read_certificate(file)
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, ValueError, TypeError):
            raise ConfigError(
                "this certificate was not issued by the authority of this coordinator", where=file
            ) from None
        names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if certificate.public_key() != request.key or names != [request.site]:
            raise ConfigError("this certificate is not that of the request", where=file, value=names)
        if days_left(certificate) < 0:
            raise ConfigError("this certificate has expired", where=file)
        return certificate

    def renew(self, *, days: float = 3650) -> x509.Certificate:
        """Make the authority's own certificate anew, of the same key and name: all it ever signed stays valid.

        A site takes it up in place of the old one because it is of the key that it trusts already.
        """
        certificate = _own_certificate(self.certificate.subject, self._key(), days)
        write_atomically(self.certificate_file, certificate.public_bytes(Encoding.PEM))
        return certificate

    @property
    def can_sign(self) -> bool:
        """Whether the key is here and needs nobody to type a passphrase."""
        try:
            load_pem_private_key(self.key_file.read_bytes(), password=None)
        except (OSError, ValueError, TypeError):
            return False
        return True

    def lock(self, passphrase: str) -> None:
        """Encrypt the key, or encrypt it anew; raise :class:`ConfigError` where the passphrase is too short."""
        if len(passphrase) < _LEAST_PASSPHRASE:
            raise ConfigError("this passphrase is too short", allowed=f"at least {_LEAST_PASSPHRASE} characters")
        _write_key(self.key_file, self._key(), passphrase.encode())

    def unlock(self) -> None:
        """Keep the key in the clear again, readable by its owner only."""
        _write_key(self.key_file, self._key())

    def _key(self) -> ec.EllipticCurvePrivateKey:
        try:
            content = self.key_file.read_bytes()
            try:
                key = load_pem_private_key(content, password=None)
            except TypeError:
                key = load_pem_private_key(content, password=self._given_passphrase())
        except FileNotFoundError:
            raise ConfigError(
                "the authority's key cannot be read: it is not here",
                where=self.key_file,
                remedy="give it by --authority-key, or sign where it is: ecgfed coordinator sign, then admit --signed",
            ) from None
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the authority's key cannot be read ({type(error).__name__})",
                where=self.key_file,
                remedy="is the passphrase right? else restore it from your backup; without it nothing can be signed",
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError("the authority's key is of another kind", where=self.key_file, allowed="ECDSA P-384")
        if key.public_key() != self.certificate.public_key():
            raise ConfigError(
                "the authority's key is not that of its certificate",
                where=self.key_file,
                remedy="restore both from the same backup",
            )
        return key

    def _given_passphrase(self) -> bytes:
        given = os.environ.get(PASSPHRASE_VARIABLE) or (self._passphrase() if self._passphrase is not None else "")
        if not given:
            raise ConfigError(
                "the authority's key is encrypted",
                where=self.key_file,
                remedy=f"use the command line, which asks for the passphrase, or set {PASSPHRASE_VARIABLE} for it",
            )
        return given.encode()

    def _signed(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        key = self._key()
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        return builder.add_extension(issuer, critical=False).sign(key, hashes.SHA384())


def read_request(file: Path, content: bytes | None = None) -> SiteRequest:
    """Read a hospital's certificate request, from ``content`` where it is given, and check signature, curve and name.

    Raises
    ------
    ConfigError : it is no such request.
    """
    try:
        csr = x509.load_pem_x509_csr(file.read_bytes() if content is None else content)
    except FileNotFoundError:
        raise ConfigError("there is no such request", where=file) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"is no certificate request ({type(error).__name__})",
            where=file,
            allowed="the .csr file that `ecgfed site init` made",
        ) from None
    if not csr.is_signature_valid:
        raise ConfigError("the request is not signed by the key it is for", where=file)
    key = csr.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVE):
        raise ConfigError("the request is for a key of another kind", where=file, allowed="ECDSA P-384")
    names = [str(name.value) for name in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1:
        raise ConfigError("the request names no site, or several", where=file, value=names)
    return SiteRequest(names[0], key)


def read_certificate(file: Path) -> x509.Certificate:
    """Read a PEM certificate; raise :class:`ConfigError` where it is none."""
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the certificate cannot be read ({type(error).__name__})", where=file) from None


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-1 of a certificate as nginx writes it, lower-case hexadecimal.

    It only names a certificate that the authority's signature has already vouched for.
    """
    return certificate.fingerprint(hashes.SHA1()).hex()


def days_left(certificate: x509.Certificate) -> float:
    """Return the days a certificate is still valid, negative where it has expired."""
    return (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds() / 86_400


def is_due(certificate: x509.Certificate, days: float = 30.0) -> bool:
    """Whether a certificate should be renewed: in its last ``days``, or in its last third where it is short."""
    lifetime = (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds() / 86_400
    return days_left(certificate) < min(days, lifetime / 3)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    # RFC 5280, 4.2.1.1 and 4.2.1.2: without both keys' identifiers strict clients (Python 3.13, say) refuse.
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + timedelta(days=days)) - _CLOCKS_DIFFER_BY)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _own_certificate(subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: float) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        _builder(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA384())
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Flower's SuperLink reads keys of the traditional form only where OpenSSL is old; PKCS8 is read by all.
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    write_atomically(path, data, private=True)
