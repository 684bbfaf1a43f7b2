"""How a site joins: key, request, certificate and site file, as the operator meets them on the command line."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hospital import write_recording
from pydantic import BaseModel
from site_network import Authority
from typer.testing import CliRunner

from client.network import enrol
from client.operator.cli import app
from client.site.settings import SiteSettings, load_site
from ecgshared.errors import ConfigError, EcgFedError

ENVELOPE = "ab" * 32


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def write_kit(folder: Path, authority: Authority, **changes: object) -> Path:
    content = {
        "format_version": 1, "site": "north", "coordinator": "ecg.example.org:443", "ca": authority.ca.read_text(),
        "envelope_sha256": ENVELOPE, "code_sha256": "cd" * 32, "invited": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    kit = folder / "north.kit.yaml"
    kit.write_text(yaml.safe_dump(content | changes))
    return kit


@pytest.fixture
def enrolled(tmp_path, authority) -> tuple[Path, SiteSettings]:
    site_file = tmp_path / "hospital" / "site.yaml"
    site_file.parent.mkdir()
    enrol.start(write_kit(tmp_path, authority), site_file)
    return site_file, load_site(site_file)


def test_init_makes_an_owner_only_key_and_a_request_for_it(tmp_path, authority):
    site_file = tmp_path / "site.yaml"
    done = CliRunner().invoke(app, ["init", "--kit", str(write_kit(tmp_path, authority)), "--out", str(site_file)])
    assert done.exit_code == 0, done.output
    assert "ANOTHER than the coordinator runs" in done.output
    network = load_site(site_file).network
    assert stat.S_IMODE(network.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(network.key.parent.stat().st_mode) == 0o700
    request = x509.load_pem_x509_csr(network.key.with_suffix(".csr").read_bytes())
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=north"
    assert isinstance(request.public_key().curve, ec.SECP384R1)
    assert b"PRIVATE" not in network.key.with_suffix(".csr").read_bytes()
    assert str(network.key.with_suffix(".csr")) in done.output.replace("\n", "")
    assert network.envelope == ENVELOPE
    assert network.ca.read_text() == authority.ca.read_text()


def test_init_with_folder_and_table_fills_in_what_it_guesses(tmp_path, authority):
    for i in range(4):
        write_recording(tmp_path / "ecg" / f"r{i}", i)
    (tmp_path / "list.csv").write_text("Patient;Datei\n" + "".join(f"p{i};r{i}\n" for i in range(4)))
    kit, site_file = str(write_kit(tmp_path, authority)), tmp_path / "site.yaml"
    words = ["init", "--kit", kit, "--folder", str(tmp_path / "ecg"), "--table", str(tmp_path / "list.csv")]
    done = CliRunner().invoke(app, [*words, "--out", str(site_file)])
    assert done.exit_code == 0, done.output
    assert "4 recordings" in done.output
    assert "3. read what was guessed: ecgfed site check" in done.output
    settings = load_site(site_file)
    assert settings.site == "north"
    assert settings.network is not None
    assert settings.table.columns == {"patient_id": "Patient", "file": "Datei"}
    assert settings.table.separator == ";"
    assert "GUESSED: it splits the lines alike" in site_file.read_text()


def test_init_again_keeps_the_key_and_what_the_operator_wrote(tmp_path, authority, enrolled):
    site_file, settings = enrolled
    key, text = settings.network.key.read_bytes(), site_file.read_text()
    again = enrol.start(write_kit(tmp_path, authority), site_file)
    assert (again.new_key, again.new_site_file) == (False, False)
    assert settings.network.key.read_bytes() == key
    assert site_file.read_text() == text


def test_init_joins_a_site_file_that_is_there(tmp_path, authority):
    site_file = tmp_path / "own.yaml"
    own = {"site": "north", "records": {"folder": "r"}, "table": {"path": "t.csv", "columns": {"file": "f"}}}
    site_file.write_text("# my words\n" + yaml.safe_dump(own))
    enrol.start(write_kit(tmp_path, authority), site_file)
    assert site_file.read_text().startswith("# my words\n")
    assert load_site(site_file).network.coordinator == "ecg.example.org:443"
    with pytest.raises(ConfigError, match="names another coordinator"):
        enrol.start(write_kit(tmp_path, authority, coordinator="evil.example.org:443"), site_file)
    with pytest.raises(ConfigError, match="is for site 'south'"):
        enrol.start(write_kit(tmp_path, authority, site="south"), site_file)


@pytest.mark.parametrize(
    "changes",
    [
        {"ca": "no certificate"},
        {"coordinator": "http://x"},
        {"envelope_sha256": "short"},
        {"site": "../x"},
        {"more": 1},
    ],
)
def test_a_broken_kit_is_said_to_be_one(tmp_path, authority, changes):
    with pytest.raises(ConfigError):
        enrol.start(write_kit(tmp_path, authority, **changes), tmp_path / "site.yaml")
    assert not (tmp_path / "network" / "north.key").exists()


def every_key(model: type[BaseModel], prefix: str = "") -> set[str]:
    from client.site.sitefile import _section

    keys = set()
    for name, field in model.model_fields.items():
        inner = _section(field)
        keys |= {prefix + name} if inner is None else every_key(inner, f"{prefix}{name}.")
    return keys


def test_a_new_site_file_holds_every_key_explained_and_is_valid(enrolled):
    site_file, settings = enrolled
    text = site_file.read_text()
    data = yaml.safe_load(text)

    def keys(tree: dict, prefix: str, known: set[str]) -> set[str]:
        found = set()
        for name, value in tree.items():
            full = prefix + name
            if value is None and full not in known:  # a section that may be left out, explained as a whole
                found |= {key for key in known if key.startswith(f"{full}.")}
            else:
                found |= {full} if full in known else keys(value, f"{full}.", known)
        return found

    wanted = every_key(SiteSettings)
    assert keys(data, "", wanted) == wanted
    lines = text.splitlines()
    keyed = [i for i, line in enumerate(lines) if line.split(":")[0].strip() in {k.rpartition(".")[2] for k in wanted}]
    inside_a_value = [i for i in keyed if lines[i - 1].endswith(("columns:", "file: file"))]
    bare = [lines[i] for i in keyed if not lines[i - 1].lstrip().startswith("#") and i not in inside_a_value]
    left_out = {key for key in wanted if key.startswith("table.query.")}
    assert len(keyed) >= len(wanted - left_out)
    assert not bare
    assert settings.model_copy(update={"records": None, "table": None, "network": None, "state": None}) == (
        SiteSettings.model_validate({"site": "north", "records": {"folder": "r"}, "table": {"path": "t", "join": "{x}",
        "columns": {}}}).model_copy(update={"records": None, "table": None, "network": None, "state": None})
    )  # fmt: skip


def sent(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "sent.crt"
    path.write_bytes(content)
    return path


def test_the_certificate_is_checked_and_installed(tmp_path, authority, enrolled):
    site_file, settings = enrolled
    request = settings.network.key.with_suffix(".csr")
    file = sent(tmp_path, authority.issue(request))
    done = CliRunner().invoke(app, ["certificate", str(site_file), str(file)])
    assert done.exit_code == 0, done.output
    installed = enrol.read_certificate(settings.network.certificate)
    key = enrol.read_key(settings.network.key).public_key()
    der = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert installed.public_key().public_bytes(*der) == key.public_bytes(*der)


@pytest.mark.parametrize("fault", ["key", "authority", "expired", "name", "garbage"])
def test_a_certificate_that_does_not_fit_is_not_installed(tmp_path, authority, enrolled, fault):
    _, settings = enrolled
    request = settings.network.key.with_suffix(".csr")
    content, said = {
        "key": lambda: (
            authority.issue(request, key=ec.generate_private_key(ec.SECP384R1()).public_key()),
            "not that of",
        ),
        "authority": lambda: (Authority(tmp_path / "o").issue(request), "not issued by the authority"),
        "expired": lambda: (authority.issue(request, days=-1), "expired on"),
        "name": lambda: (authority.issue(request, name="south"), "is for south"),
        "garbage": lambda: (b"garbage", "is no certificate"),
    }[fault]()
    with pytest.raises(EcgFedError, match=said):
        enrol.install_certificate(settings, sent(tmp_path, content))
    assert not settings.network.certificate.exists()


def test_a_key_others_can_read_is_refused(enrolled):
    _, settings = enrolled
    settings.network.key.chmod(0o644)
    with pytest.raises(ConfigError, match="other users can read"):
        enrol.read_key(settings.network.key)
