"""Certificates over the years: renewed with nobody locked out, by the connection, by an authority kept elsewhere."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from proxied import request_of
from typer.testing import CliRunner

from client.network import enrol
from client.site.settings import load_site
from ecgshared.errors import ConfigError
from server.coordinator import certificates
from server.coordinator.authority import Authority, is_due, read_certificate, read_request
from server.coordinator.certificates import CertificateCare
from server.coordinator.cli import app
from server.coordinator.config import federation_slug
from server.coordinator.home import Home

LAST_THIRD = 0.003
"""Days of a certificate that is in its last third when it is made, as it is dated back by ten minutes."""
PASSPHRASE = "correct horse battery"


@pytest.fixture
def home(tmp_path):
    return Home.create(
        tmp_path / "home",
        address="ecg.example.org:443",
        listen="127.0.0.1:18443",
        name="Nordic ECG",
        superlink_port=18000,
    )


@pytest.fixture
def request_file(home, tmp_path):
    home.invite("oslo")
    return request_of(tmp_path / "site", "oslo")[0]


@pytest.fixture
def care(home, monkeypatch):
    said: list[str] = []
    seen: dict[str, str] = {}
    clock = {"now": 0.0}
    monkeypatch.setattr(certificates, "certificate_seen", lambda _: seen)
    monkeypatch.setattr(certificates.time, "monotonic", lambda: clock["now"])
    made = CertificateCare(home, said.append, lambda names: said.append(f"taken up: {sorted(names)}"))

    def look() -> list[str]:
        clock["now"] += 2
        made.look()
        return said

    look.seen, look.clock = seen, clock  # type: ignore[attr-defined]
    return look


def ask(home: Home, request_file: Path) -> None:
    (home.path / "renewals" / "oslo.csr").write_bytes(request_file.read_bytes())


def test_the_old_certificate_is_let_in_until_the_new_one_was_seen(home, request_file, care):
    first, _ = home.admit(request_file, days=20)
    second, _ = home.admit(request_file, days=90)
    assert set(home.sites["oslo"].marks) == {first.fingerprint, second.fingerprint}
    third, _ = home.admit(request_file, days=91)
    assert len(home.sites["oslo"].marks) == 3
    care.seen["oslo"] = first.fingerprint
    for _ in range(50):
        care()
    assert len(home.sites["oslo"].marks) == 3, "it still comes with the first one"
    care.seen["oslo"] = third.fingerprint
    care()
    assert len(home.sites["oslo"].marks) == 3, "connections of the old one may be open yet"
    care.clock["now"] += 61
    assert "came with its new certificate" in care()[-1]
    assert home.sites["oslo"].marks == [third.fingerprint]


def test_the_old_certificate_ends_by_itself(home, request_file):
    home.admit(request_file, days=1)
    entry, _ = home.admit(request_file, days=9)
    (old,) = entry.older
    ended = replace(entry, older={old: "2020-01-01T00:00:00Z"})
    assert ended.marks == [entry.fingerprint]
    home.revoke("oslo")
    assert home.sites["oslo"].older == {}
    assert home.admitted == []


def test_a_request_in_the_last_month_is_signed_by_itself(home, request_file, care):
    first, path = home.admit(request_file, days=LAST_THIRD)
    ask(home, request_file)
    assert "renewed until" in care()[0]
    assert home.sites["oslo"].fingerprint != first.fingerprint
    assert home.asking() == []
    assert not is_due(read_certificate(path))
    ask(home, request_file)
    assert "long before the end" in care()[-1]
    assert home.asking() == []


def test_a_request_of_another_key_renews_nothing(home, request_file, care, tmp_path):
    first, _ = home.admit(request_file, days=LAST_THIRD)
    ask(home, request_of(tmp_path / "thief", "oslo")[0])
    assert "not renewed: site 'oslo' is admitted with another key" in care()[-1]
    assert home.sites["oslo"].marks == [first.fingerprint]


def test_where_the_coordinator_wants_to_be_asked_it_is_told_once(home, request_file, care):
    file = home.path / "coordinator.yaml"
    file.write_text(file.read_text().replace("renewals: by_itself", "renewals: ask"))
    asked = Home(home.path)
    asked.admit(request_file, days=LAST_THIRD)
    ask(asked, request_file)
    said: list[str] = []
    ours = CertificateCare(asked, said.append, lambda _: None)
    ours.look()
    assert [text for text in said if "ecgfed coordinator admit" in text] == said[:1]
    assert asked.asking()


def test_the_servers_certificates_are_made_anew_in_time(home, care):
    days = home.config.certificate_days
    assert not home.renew_if_due()
    home.authority.serve(
        home.path / "tls" / "server.key", home.path / "tls" / "server.crt", ["127.0.0.1"], days=LAST_THIRD
    )
    said = care()
    assert "the servers' certificates were made anew" in said[0]
    assert said[1] == "taken up: ['loopback', 'server']"
    left = read_certificate(home.path / "tls" / "server.crt").not_valid_after_utc - datetime.now(UTC)
    assert left.days >= days - 1


def test_the_authority_is_renewed_with_its_key_and_what_it_signed_stays_valid(home, request_file):
    _, path = home.admit(request_file)
    old, signed = home.authority.certificate, read_certificate(path)
    command("renew", "--authority", home=home)
    new = home.authority.certificate
    assert new.not_valid_after_utc >= old.not_valid_after_utc
    assert new.serial_number != old.serial_number
    assert (new.public_key(), new.subject) == (old.public_key(), old.subject)
    for authority in (old, new):
        signed.verify_directly_issued_by(authority)
        read_certificate(home.path / "tls" / "server.crt").verify_directly_issued_by(authority)


def test_an_encrypted_key_signs_for_who_has_the_passphrase_and_for_nobody_else(home, request_file, monkeypatch):
    command("lock", home=home, typed=f"{PASSPHRASE}\n{PASSPHRASE}\n")
    assert b"ENCRYPTED" in home.authority.key_file.read_bytes()
    assert home.authority.key_file.stat().st_mode & 0o077 == 0
    assert not home.authority.can_sign
    with pytest.raises(ConfigError, match="key is encrypted"):
        home.admit(request_file)
    command("admit", str(request_file), home=home, typed=f"{PASSPHRASE}\n")
    assert home.sites["oslo"].status == "admitted"
    with pytest.raises(ConfigError, match="is the passphrase right"):
        command("admit", str(request_file), home=home, typed="another one\n")
    monkeypatch.setenv("ECGFED_AUTHORITY_PASSPHRASE", PASSPHRASE)
    home.admit(request_file)
    command("unlock", home=home)
    monkeypatch.delenv("ECGFED_AUTHORITY_PASSPHRASE")
    assert home.authority.can_sign
    with pytest.raises(ConfigError, match="too short"):
        home.authority.lock("short")


def test_an_authority_that_is_kept_elsewhere(home, request_file, tmp_path, monkeypatch):
    elsewhere = tmp_path / "safe"
    elsewhere.mkdir()
    (elsewhere / "ca.crt").write_bytes(home.authority.certificate_file.read_bytes())
    home.authority.key_file.rename(elsewhere / "ca.key")
    with pytest.raises(ConfigError, match=r"it is not here[\s\S]*ecgfed coordinator sign"):
        home.admit(request_file)
    signed = tmp_path / "oslo.crt"
    command("sign", str(request_file), "--authority", str(elsewhere), "--out", str(signed), "--days", "9")
    command("admit", str(request_file), "--signed", str(signed), home=home)
    assert home.sites["oslo"].status == "admitted"
    command("admit", str(request_file), "--authority-key", str(elsewhere / "ca.key"), home=home)
    command("renew", "--authority-key", str(elsewhere / "ca.key"), home=home)
    # Nor is another authority made in its place.
    (home.path / "coordinator.yaml").unlink()
    again = Home.create(home.path, address="e:443", listen=None, name="x", superlink_port=18000)
    assert again.authority.certificate == home.authority.certificate
    assert not again.authority.key_file.exists()


def test_what_was_signed_elsewhere_is_held_to_request_and_authority(home, request_file, tmp_path):
    stranger = Authority.create(tmp_path / "other", "Nordic ECG")
    other_request, _ = request_of(tmp_path / "b", "oslo")
    for authority, asked, said in (
        (stranger, request_file, "not issued by the authority"),
        (home.authority, other_request, "not that of the request"),
    ):
        signed = tmp_path / "signed.crt"
        signed.write_bytes(authority.admit(read_request(asked), days=1).public_bytes(Encoding.PEM))
        with pytest.raises(ConfigError, match=said):
            home.admit(request_file, signed=signed)
    assert home.sites["oslo"].status == "invited"


def test_two_federations_at_one_site_and_a_third_that_takes_a_name(home, tmp_path):
    other = Home.create(tmp_path / "b", address="b.example.org:443", listen=None, name="Alps", superlink_port=18001)
    impostor = Home.create(tmp_path / "c", address="c.example.org:443", listen=None, name="Alps", superlink_port=18002)
    hospital = tmp_path / "hospital"
    hospital.mkdir()
    for coordinator, file in ((home, "nordic.yaml"), (other, "alps.yaml")):
        enrolled = enrol.start(coordinator.invite("oslo"), hospital / file)
        _, certificate = coordinator.admit(enrolled.request)
        enrol.install_certificate(load_site(hospital / file), certificate)
    nordic, alps = (load_site(hospital / file) for file in ("nordic.yaml", "alps.yaml"))
    assert nordic.network is not None
    assert alps.network is not None
    assert nordic.federation == federation_slug("Nordic ECG") == "nordic-ecg"
    assert nordic.state == alps.state, "one ledger, one split"
    assert nordic.link_state != alps.link_state, "two connections"
    anchors = {load_site(hospital / file).network.ca: c for c, file in ((home, "nordic.yaml"), (other, "alps.yaml"))}  # type: ignore[union-attr]
    for anchor, coordinator in anchors.items():
        assert read_certificate(anchor) == coordinator.authority.certificate
    with pytest.raises(ConfigError, match="another federation is called 'alps' here"):
        enrol.start(impostor.invite("oslo"), hospital / "impostor.yaml")
    with pytest.raises(ConfigError, match="joins federation 'nordic-ecg', the kit is of 'alps'"):
        enrol.start(other.path / "kits" / "oslo.kit.yaml", hospital / "nordic.yaml")
    assert read_certificate(alps.network.ca) == other.authority.certificate


def test_a_renewed_certificate_counts_beside_the_site_files_own(home, tmp_path):
    hospital = tmp_path / "hospital"
    hospital.mkdir()
    enrolled = enrol.start(home.invite("oslo"), hospital / "site.yaml")
    _, path = home.admit(enrolled.request, days=20)
    settings = load_site(hospital / "site.yaml")
    given = enrol.install_certificate(settings, path)
    assert settings.network is not None
    assert enrol.in_use(settings).certificate == settings.network.certificate
    _, path = home.admit(enrolled.request, days=300)
    enrol.take_renewed(settings, read_certificate(path))
    assert enrol.read_certificate(enrol.in_use(settings).certificate) != given
    # Another key's does not count, however late it ends; nor another authority's, however it is called.
    thief, _ = request_of(tmp_path / "thief", "oslo")
    enrol.take_renewed(settings, home.authority.admit(read_request(thief), days=999))
    assert enrol.in_use(settings).certificate == settings.network.certificate
    stranger = Authority.create(tmp_path / "other", "Nordic ECG", days=9999)
    assert not enrol.take_authority(settings, stranger.certificate_file.read_bytes())
    home.authority.renew(days=5000)
    assert enrol.take_authority(settings, home.authority.certificate_file.read_bytes())
    assert enrol.read_certificate(enrol.in_use(settings).ca) == home.authority.certificate


def command(name: str, *arguments: str, home: Home | None = None, typed: str = "") -> None:
    where = ["--home", str(home.path)] if home is not None else []
    done = CliRunner().invoke(app, [name, *arguments, *where], input=typed, env=dict(os.environ))
    if done.exception is not None:
        raise done.exception
    assert done.exit_code == 0, done.output
