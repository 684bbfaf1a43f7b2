"""The coordinator's folder: set up once, a registry of sites that holds, and errors that say what to do."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from proxied import request_of

from client.network.enrol import Kit
from ecgshared.cli import main
from ecgshared.config import load
from ecgshared.errors import ConfigError
from server.coordinator import proxy
from server.coordinator.authority import read_certificate
from server.coordinator.config import CoordinatorConfig
from server.coordinator.home import Home


def create(folder: Path, **changes: object) -> Home:
    given = {"address": "ecg.example.org:443", "listen": "127.0.0.1:18443", "name": "test", "superlink_port": 18000}
    return Home.create(folder, **(given | changes))  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path):
    return create(tmp_path / "coordinator")


def admit(home: Home, folder: Path, site: str, **options: float):
    request, key = request_of(folder, site)
    return home.admit(request, **options), key


def test_only_the_owner_reads_a_new_home(home):
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    secrets = [*home.path.rglob("*.key"), *home.path.rglob("*.secret")]
    assert len(secrets) == 5
    for file in secrets:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len((home.path / "superexec.secret").read_text()) == 64
    assert len(home.control_secret) == 64


def test_every_key_of_coordinator_yaml_is_there_explained_and_read_back(home):
    text = (home.path / "coordinator.yaml").read_text()
    assert load(CoordinatorConfig, home.path / "coordinator.yaml") == home.config
    lines = text.splitlines()
    for name, field in CoordinatorConfig.model_fields.items():
        (at,) = (i for i, line in enumerate(lines) if line.startswith(f"{name}:"))
        if field.description:
            assert lines[at - 1] == f"# {field.description}"
    assert {name for name, field in CoordinatorConfig.model_fields.items() if not field.description} == {
        "format_version"
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("adress: a:1", "did you mean 'address'"),
        ("superlink_port: 0", "superlink_port"),
        ("superlink_port: 18443", "both 18443"),
        ("listen: 127.0.0.1", "listen"),
        ("listen: 127.0.0.1:70000", "1 to 65535"),
        ("listen: '127.0.0.1:1; include /etc/passwd'", "listen"),
        ("max_reply_mb: 100000", "max_reply_mb"),
        ("certificate_days: 0", "certificate_days"),
    ],
)
def test_a_wrong_key_of_coordinator_yaml_is_named(home, line, told):
    file = home.path / "coordinator.yaml"
    kept = [old for old in file.read_text().splitlines() if old.split(":")[0] != line.split(":")[0]]
    file.write_text("\n".join([*kept, line]) + "\n")
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        Home(home.path)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("address", ["ecg.example.org", "https://ecg.example.org:443", "a b:1", "x:70000", "x:0", ""])
def test_an_address_that_is_none_makes_nothing(tmp_path, address):
    with pytest.raises(ConfigError, match="address"):
        create(tmp_path / "c", address=address)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("init", "--address", "nowhere"), "host:port, as ecg.example.org:443"),
        (("init", "--address", "a:1", "--home", "{file}"), "{file}: File exists"),
        (("init", "--address", "a:1", "--home", "/proc/nowhere"), "/proc/nowhere: No such file"),
        (("init", "--address", "a:8000"), "both 8000"),
        (("status",), "no coordinator was set up here"),
    ],
)
def test_a_slip_at_the_keyboard_is_one_message(tmp_path, monkeypatch, capsys, words, told):
    (tmp_path / "file").touch()
    words = [word.format(file=tmp_path / "file") for word in words]
    home = [] if "--home" in words else ["--home", str(tmp_path / "none")]
    monkeypatch.setattr(sys, "argv", ["ecgfed", "coordinator", *words, *home])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert told.format(file=tmp_path / "file") in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_full_disk_leaves_the_registry_whole(home, monkeypatch, capsys):
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    home.invite("north")
    before = (home.path / "sites.json").read_bytes()
    monkeypatch.setattr("server.coordinator.registry.write_atomically", full)
    monkeypatch.setattr(sys, "argv", ["ecgfed", "coordinator", "revoke", "north", "--home", str(home.path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "sites.json: No space left on device" in capsys.readouterr().err
    assert (home.path / "sites.json").read_bytes() == before


def test_a_home_is_made_once(home):
    before = home.authority.certificate_file.read_bytes()
    with pytest.raises(ConfigError, match="set up here already"):
        create(home.path)
    assert home.authority.certificate_file.read_bytes() == before


def test_a_lost_configuration_does_not_cost_the_authority(home, tmp_path):
    """Who sets up again gets servers' certificates of the authority that the sites trust, and keeps the sites."""
    home.invite("north")
    admit(home, tmp_path, "north")
    (home.path / "coordinator.yaml").unlink()
    again = create(home.path)
    assert again.authority.certificate == home.authority.certificate
    assert [entry.site for entry in again.admitted] == ["north"]
    server = read_certificate(home.path / "tls" / "server.crt")
    server.verify_directly_issued_by(home.authority.certificate)


def test_a_typo_in_the_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"no coordinator was set up here[\s\S]*--home"):
        Home(tmp_path / "coordinater")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_another_users_folder(home):
    script = (
        "import os, sys; from pathlib import Path; from server.coordinator.home import Home\n"
        "from ecgshared.errors import *\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: Home(Path(sys.argv[1]))\n"
        "except ConfigError as error: print(error)\n"
    )
    # Its parents must not be what stops the other user.
    folder = home.path.parent
    while folder != folder.parent:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o001)
        folder = folder.parent
    done = subprocess.run(
        [sys.executable, "-c", script, str(home.path)], capture_output=True, text=True, check=False, cwd="/"
    )
    assert "this folder is another user's" in done.stdout, done.stderr


def test_a_kit_is_what_a_site_expects_and_holds_no_secret(home):
    path = home.invite("north")
    kit = load(Kit, path)
    assert (kit.site, kit.coordinator) == ("north", "ecg.example.org:443")
    assert kit.ca == home.authority.certificate_file.read_text()
    assert "PRIVATE" not in path.read_text()
    assert home.sites["north"].status == "invited"


@pytest.mark.parametrize("name", ["", "North", "1st", "a/b", "../x", "a" * 41, "a b", "é", "a\nb", "north\n"])
def test_a_name_that_no_site_can_have(home, name):
    with pytest.raises(ConfigError, match="cannot be a site's name"):
        home.invite(name)
    assert home.sites == {}


def test_admitted(home, tmp_path):
    home.invite("north")
    (entry, file), key = admit(home, tmp_path, "north", days=3)
    assert entry == home.sites["north"]
    assert (entry.status, home.admitted) == ("admitted", [entry])
    certificate = read_certificate(file)
    assert certificate.public_key() == key.public_key()
    assert entry.not_after == certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert b"BEGIN PUBLIC KEY" in entry.node_key


def test_admitted_again_with_the_same_key_renews(home, tmp_path):
    home.invite("north")
    (first, _), _ = admit(home, tmp_path, "north", days=3)
    second, _ = home.admit(tmp_path / "north.csr", days=9)
    assert (second.public_key, second.status) == (first.public_key, "admitted")
    assert second.not_after > first.not_after
    assert second.fingerprint != first.fingerprint, "the old certificate is let in no more"


def test_admitted_with_another_key_is_refused(home, tmp_path):
    home.invite("north")
    (first, _), _ = admit(home, tmp_path / "a", "north")
    with pytest.raises(ConfigError, match=r"admitted with another key[\s\S]*revoke it"):
        admit(home, tmp_path / "b", "north")
    assert home.sites["north"] == first


def test_a_key_is_of_one_site(home, tmp_path):
    """Else one hospital's key would speak for two."""
    import cryptography.x509 as x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    home.invite("north")
    home.invite("coast")
    _, key = admit(home, tmp_path, "north")
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "coast")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA384())
    (tmp_path / "coast.csr").write_bytes(csr.public_bytes(Encoding.PEM))
    with pytest.raises(ConfigError, match="this key is that of another site"):
        home.admit(tmp_path / "coast.csr")
    assert home.sites["coast"].status == "invited"


def test_who_was_not_invited_is_not_admitted(home, tmp_path):
    home.invite("coast")
    with pytest.raises(ConfigError, match=r"never invited[\s\S]*coast[\s\S]*invite north"):
        admit(home, tmp_path, "north")
    assert "north" not in home.sites
    assert not (home.path / "admitted" / "north.crt").exists()


def test_a_revoked_site_is_out_until_it_is_invited_again(home, tmp_path):
    home.invite("north")
    admit(home, tmp_path, "north")
    home.revoke("north")
    assert home.admitted == []
    with pytest.raises(ConfigError, match="was revoked"):
        home.admit(tmp_path / "north.csr")
    with pytest.raises(ConfigError, match="or it is revoked"):
        home.revoke("north")
    home.invite("north")
    assert home.admitted == []
    home.admit(tmp_path / "north.csr")
    assert [entry.site for entry in home.admitted] == ["north"]


def test_an_admitted_site_is_not_invited_and_a_stranger_not_revoked(home, tmp_path):
    home.invite("north")
    admit(home, tmp_path, "north")
    with pytest.raises(ConfigError, match="admitted already"):
        home.invite("north")
    assert home.sites["north"].status == "admitted"
    with pytest.raises(ConfigError, match=r"no such site[\s\S]*north"):
        home.revoke("sourth")


def test_sites_that_are_admitted_at_once_are_all_kept(home, tmp_path):
    """Two operators, or a script: nobody's entry is lost."""
    names = [f"s{i}" for i in range(12)]
    for name in names:
        home.invite(name)
        request_of(tmp_path, name)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: Home(home.path).admit(tmp_path / f"{name}.csr"), names))
    assert sorted(entry.site for entry in home.admitted) == sorted(names)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"north": 1}', '{"north": {"state": "admitted"}}', None])
def test_a_damaged_registry_lets_nobody_in_and_is_left_as_it_is(home, content):
    file = home.path / "sites.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    for call in (lambda: home.admitted, lambda: home.invite("north"), lambda: home.revoke("north")):
        with pytest.raises(ConfigError, match=r"registry of sites cannot be read[\s\S]*backup"):
            call()
    assert not file.exists() if content is None else file.read_text() == content


def test_new_server_certificates_have_new_keys(home):
    before = read_certificate(home.path / "tls" / "server.crt")
    home.renew()
    after = read_certificate(home.path / "tls" / "server.crt")
    assert before.public_key() != after.public_key()
    after.verify_directly_issued_by(home.authority.certificate)


def test_runs_are_found_by_name_only(home):
    with pytest.raises(ConfigError, match=r"no run yet[\s\S]*coordinator run"):
        home.latest_run()
    for name in ("b", "a"):
        folder = home.path / "runs" / name
        folder.mkdir()
        (folder / "study.yaml").write_text("")
        (folder / "run.json").write_text(json.dumps({"status": "done"}))
    os.utime(home.path / "runs" / "b" / "study.yaml", (1, 1))
    assert home.latest_run() == "a"
    assert home.run_folder("b") == home.path / "runs" / "b"
    (home.path / "run.json").write_text("{}")
    for name in ("c", "..", "../runs/a", ""):
        with pytest.raises(ConfigError, match=r"no such run[\s\S]*a, b"):
            home.run_folder(name)


@pytest.mark.skipif(proxy.find_nginx(None) is None, reason="nginx is not installed")
def test_nginx_reads_the_configuration_of_a_folder_with_a_space(tmp_path):
    home = create(tmp_path / "our coordinator")
    tls = home.path / "tls"
    proxy.write_config(
        home.path / "proxy", listen=home.config.listen, upstream_port=home.config.superlink_port,
        certificate=tls / "server.crt", key=tls / "server.key", ca=home.authority.certificate_file, sites={},
    )  # fmt: skip
    nginx = proxy.find_nginx(None)
    assert nginx is not None
    proxy.check(nginx, home.path / "proxy")
