"""The coordinator's authority: what it signs holds by the strictest reading, and what it will not sign."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from proxied import request_of

from ecgshared.errors import ConfigError
from server.coordinator.authority import Authority, days_left, fingerprint, read_certificate, read_request


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.create(tmp_path_factory.mktemp("authority") / "deep" / "er", "test")


def admitted(authority, folder, *, days=30.0, name="north"):
    request, key = request_of(folder, name)
    return authority.admit(read_request(request), days=days), key


def purposes(certificate):
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_an_authority_signs_certificates_and_no_other_authority(authority):
    certificate = authority.certificate
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert basic.value.ca
    assert basic.value.path_length == 0
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    assert isinstance(certificate.public_key().curve, ec.SECP384R1)
    certificate.verify_directly_issued_by(certificate)


def test_private_keys_are_their_owners_alone(authority, tmp_path):
    authority.serve(tmp_path / "tls" / "server.key", tmp_path / "tls" / "server.crt", ["localhost"], days=1)
    for file in (authority.key_file, tmp_path / "tls" / "server.key"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_site_certificate_is_a_clients_for_its_own_key(authority, tmp_path):
    certificate, key = admitted(authority, tmp_path)
    certificate.verify_directly_issued_by(authority.certificate)
    assert certificate.public_key() == key.public_key()
    assert purposes(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert [n.value for n in certificate.subject] == ["north"]
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=30) - timedelta(minutes=1) < left <= timedelta(days=30)
    assert 29.9 < days_left(certificate) <= 30
    assert datetime.now(UTC) - certificate.not_valid_before_utc > timedelta(minutes=9), "clocks differ"


def test_a_strict_verifier_accepts_what_was_signed(authority, tmp_path):
    """``cryptography`` verifies by the rules of the Web: key identifiers, key usage, purposes."""
    policy = PolicyBuilder().store(Store([authority.certificate]))
    authority.serve(tmp_path / "s.key", tmp_path / "s.crt", ["localhost", "127.0.0.1"], days=1)
    server = read_certificate(tmp_path / "s.crt")
    policy.build_server_verifier(x509.DNSName("localhost")).verify(server, [])
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("elsewhere")).verify(server, [])
    with pytest.raises(VerificationError):
        policy.build_client_verifier().verify(server, [])


def test_python_3_13_accepts_what_was_signed(authority, tmp_path):
    """Its default context sets VERIFY_X509_STRICT, which wants the identifiers of both keys."""
    authority.serve(tmp_path / "s.key", tmp_path / "s.crt", ["localhost"], days=1)
    certificate, _ = admitted(authority, tmp_path)
    (tmp_path / "north.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    client = ssl.create_default_context(cafile=str(authority.certificate_file))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.load_cert_chain(tmp_path / "north.crt", tmp_path / "north.key")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode, server.verify_flags = ssl.CERT_REQUIRED, server.verify_flags | ssl.VERIFY_X509_STRICT
    server.load_verify_locations(authority.certificate_file)
    server.load_cert_chain(tmp_path / "s.crt", tmp_path / "s.key")
    _shake_hands(client, server)
    with pytest.raises(ssl.SSLError):
        _shake_hands(client, server, host="elsewhere")


def test_two_authorities_do_not_vouch_for_each_other(authority, tmp_path):
    other = Authority.create(tmp_path / "other", "test")
    certificate, _ = admitted(other, tmp_path)
    with pytest.raises(InvalidSignature):
        certificate.verify_directly_issued_by(authority.certificate)


def test_a_certificate_can_be_of_the_past(authority, tmp_path):
    certificate, _ = admitted(authority, tmp_path, days=-1)
    assert days_left(certificate) < -0.9
    assert certificate.not_valid_before_utc < certificate.not_valid_after_utc


def test_the_fingerprint_is_that_of_openssl(authority, tmp_path):
    import hashlib

    certificate, _ = admitted(authority, tmp_path)
    assert fingerprint(certificate) == hashlib.sha1(certificate.public_bytes(Encoding.DER)).hexdigest()


def test_a_request_gives_flowers_form_of_the_key(tmp_path):
    file, key = request_of(tmp_path, "north")
    request = read_request(file)
    assert request.site == "north"
    assert request.public_key == public_key_to_bytes(key.public_key())


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP521R1()])
def test_a_request_for_another_curve_is_refused(tmp_path, curve):
    file, _ = request_of(tmp_path, "north", curve=curve)
    with pytest.raises(ConfigError, match=r"another kind[\s\S]*P-384"):
        read_request(file)


def test_a_request_for_an_rsa_key_is_refused(tmp_path):
    from cryptography.hazmat.primitives import hashes

    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "north")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    (tmp_path / "r.csr").write_bytes(csr.public_bytes(Encoding.PEM))
    with pytest.raises(ConfigError, match="another kind"):
        read_request(tmp_path / "r.csr")


@pytest.mark.parametrize("names", [(), ("north", "coast")])
def test_a_request_names_one_site(tmp_path, names):
    file, _ = request_of(tmp_path, "north", names=names)
    with pytest.raises(ConfigError, match="names no site, or several"):
        read_request(file)


def test_a_request_that_was_changed_on_the_way_is_refused(tmp_path):
    file, _ = request_of(tmp_path, "north")
    der = bytearray(x509.load_pem_x509_csr(file.read_bytes()).public_bytes(Encoding.DER))
    where = der.index(b"north")
    der[where : where + 5] = b"coast"
    file.write_bytes(x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM))
    with pytest.raises(ConfigError, match="not signed by the key it is for"):
        read_request(file)


@pytest.mark.parametrize("content", [b"", b"not PEM", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"])
def test_no_request(tmp_path, content):
    (tmp_path / "x.csr").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is no certificate request[\s\S]*ecgfed site init"):
        read_request(tmp_path / "x.csr")
    with pytest.raises(ConfigError, match="there is no such request"):
        read_request(tmp_path / "y.csr")
    with pytest.raises(ConfigError, match="is no certificate request"):
        read_request(tmp_path)


def test_a_lost_a_foreign_and_a_mismatched_key_of_the_authority(tmp_path):
    made = Authority.create(tmp_path / "a", "test")
    request = read_request(request_of(tmp_path, "north")[0])
    other = Authority.create(tmp_path / "b", "test")
    made.key_file.write_bytes(other.key_file.read_bytes())
    with pytest.raises(ConfigError, match=r"not that of its certificate[\s\S]*backup"):
        made.admit(request, days=1)
    made.key_file.write_text("garbage")
    with pytest.raises(ConfigError, match="key cannot be read"):
        made.admit(request, days=1)
    made.key_file.unlink()
    with pytest.raises(ConfigError, match="key cannot be read"):
        made.admit(request, days=1)
    made.certificate_file.write_text("garbage")
    with pytest.raises(ConfigError, match="certificate cannot be read"):
        made.certificate  # noqa: B018


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str = "localhost") -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=host)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    done = {one: False, other: False}
    for _ in range(10):
        for side in done:
            try:
                side.do_handshake()
                done[side] = True
            except ssl.SSLWantReadError:
                pass
    assert all(done.values())
