"""Who another site is believed to be: certified by the coordinator's authority in its own name, known before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from client.site.identity import PEERS, Identity, Signed, require_signed
from ecgshared.errors import RefusalCode, Refused

MESSAGE = b"the keys of this set"


class Authority:
    """Signs certificates of sites; ``Authority(folder).site(name)`` gives the settings of one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP384R1())
        self.certificate = self._signed("authority", self.key, days=30, authority=True)
        (folder / "ca.crt").write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def site(self, name: str, *, key: Any = None, days: int = 30, common_name: str = "") -> Any:
        key = key or ec.generate_private_key(ec.SECP384R1())
        certificate = self._signed(common_name or name, key, days=days)
        place = self.folder / f"{name}-{certificate.serial_number}"
        place.with_suffix(".key").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        place.with_suffix(".crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        network = SimpleNamespace(
            ca=self.folder / "ca.crt", key=place.with_suffix(".key"), certificate=place.with_suffix(".crt")
        )
        return SimpleNamespace(
            site=name, network=network, state=self.folder / "state" / name, secure_sums=SimpleNamespace(peers={})
        )

    def _signed(self, name: str, key: Any, *, days: int, authority: bool = False) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = subject if authority else self.certificate.subject
        end = datetime.now(UTC) + timedelta(days=days)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(days=60))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(self.key, hashes.SHA384())
        )


def signed(settings: Any, *, peer: str = "", message: bytes = MESSAGE) -> Signed:
    identity = Identity(settings)
    return Signed(peer or settings.site, identity.proof, identity.sign(message), message)


def refused(settings: Any, *statements: Signed) -> str:
    with pytest.raises(Refused) as refusal:
        require_signed(settings, statements)
    assert refusal.value.code == RefusalCode.SECURE_SUM_REFUSED
    return refusal.value.what


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def test_signed_by_members_and_remembered(authority):
    north, coast, island = (authority.site(name) for name in ("north", "coast", "island"))
    statements = [signed(north), signed(coast), signed(island)]
    require_signed(north, statements)
    require_signed(north, statements)
    kept = (north.state / PEERS).read_text()
    assert Identity(coast).fingerprint in kept
    assert Identity(island).fingerprint in kept
    assert "north" not in kept, "who a site is itself it need not remember"


def test_another_key_in_a_known_name(authority):
    north, coast = authority.site("north"), authority.site("coast")
    require_signed(north, [signed(coast)])
    # The authority itself gives the name to another key: the coordinator plays a site.
    assert "not the one" in refused(north, signed(authority.site("coast")))


def test_a_site_s_own_name_is_no_one_else_s(authority):
    north = authority.site("north")
    assert "not the one" in refused(north, signed(authority.site("north")))


def test_named_in_the_site_file_it_holds_from_the_first_day(authority):
    north, coast, other = authority.site("north"), authority.site("coast"), authority.site("coast")
    north.secure_sums.peers["coast"] = Identity(coast).fingerprint
    require_signed(north, [signed(coast)])
    assert "not the one" in refused(north, signed(other))


def test_a_renewed_certificate_of_the_same_key_is_the_same_site(authority):
    key = ec.generate_private_key(ec.SECP384R1())
    north = authority.site("north")
    require_signed(north, [signed(authority.site("coast", key=key))])
    require_signed(north, [signed(authority.site("coast", key=key))])
    # Of that key alone: another one under the name is refused, also after the renewal.
    assert "not the one" in refused(north, signed(authority.site("coast")))


@pytest.mark.parametrize("wrong", ["authority", "name", "expired", "message", "signature", "nonsense"])
def test_what_is_not_signed_so(authority, tmp_path, wrong):
    north, coast = authority.site("north"), authority.site("coast")
    statement = {
        "authority": lambda: signed(Authority(tmp_path / "foreign").site("coast")),
        "name": lambda: signed(authority.site("coast", common_name="island")),
        "expired": lambda: signed(authority.site("coast", days=-1)),
        "message": lambda: Signed("coast", signed(coast).proof, signed(coast, message=b"others").signature, MESSAGE),
        "signature": lambda: Signed("coast", signed(coast).proof, signed(north).signature, MESSAGE),
        "nonsense": lambda: Signed("coast", b"no certificate", b"none", MESSAGE),
    }[wrong]()
    assert "not signed" in refused(north, signed(authority.site("island")), statement)
    assert not (north.state / PEERS).exists(), "of a set that is refused nobody is remembered"
