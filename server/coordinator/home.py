"""The coordinator's folder: configuration, authority, the registry of sites, runs. All that lasts lies here.

coordinator.yaml   what the coordinator may change, every key explained
authority/ tls/    our authority; the certificates of the proxy and of the loopback
superexec.secret   what lets our executor, and nobody else, take a run from the SuperLink
control.secret     what lets the coordinator, and no other user of the machine, let sites in and start runs there
sites.json         who was invited, admitted, revoked, with node keys and certificates' fingerprints
kits/ admitted/    what was made for sites: invitations and certificates
renewals/          requests of admitted sites for their next certificates, as they came over the connection
actions.jsonl      what was done here and by whom, chained under audit.key
sessions.json      which session of a site's daemon was the last: a copy of its state is not let in beside it
seen.json          which certificate a site last came with
studies/           a place for study files
runs/NAME/         run folders
flower-runs/       which run folder a run of Flower's works on
proxy/ flower/     files of nginx and of Flower, made anew at every start
logs/ status.json nodes.json   of the supervisor
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from ecgshared.config import load, validate
from ecgshared.errors import ConfigError
from ecgshared.service.files import write_atomically
from ecgshared.service.fingerprint import code_sha256
from server.coordinator import trail
from server.coordinator.authority import Authority, fingerprint, is_due, read_certificate, read_request
from server.coordinator.config import ADDRESS, CoordinatorConfig, commented, federation_slug
from server.coordinator.envelope import envelope_sha256
from server.coordinator.registry import FILE, SiteEntry, changing_sites, read_sites, utc_now

HOME_VARIABLE = "ECGFED_COORDINATOR"
_FOLDERS = ("kits", "admitted", "studies", "runs", "flower-runs", "logs", "flower", "proxy", "renewals")
_SITE = re.compile(r"[a-z][a-z0-9_-]{0,39}")


class Home:
    """A coordinator's folder that was made by :meth:`create`."""

    def __init__(
        self, path: Path, *, authority_key: Path | None = None, passphrase: Callable[[], str] | None = None
    ) -> None:
        self.path = path.resolve()
        if not _there(self.path / "coordinator.yaml"):
            raise ConfigError(
                "no coordinator was set up here",
                where=self.path,
                remedy="ecgfed coordinator init --home DIR --address HOST:PORT, or name the folder by --home",
            )
        self.config = load(CoordinatorConfig, self.path / "coordinator.yaml")
        self.authority = Authority(self.path / "authority", key_file=authority_key, passphrase=passphrase)

    @classmethod
    def create(cls, path: Path, *, address: str, listen: str | None, name: str, superlink_port: int) -> Home:
        """Set a coordinator up; raise :class:`ConfigError` where one is."""
        path = path.resolve()
        if _there(path / "coordinator.yaml"):
            raise ConfigError("a coordinator was set up here already", where=path, remedy="choose another --home")
        for given_address in filter(None, (address, listen)):
            if not re.fullmatch(ADDRESS, given_address):
                raise ConfigError(
                    "this is no address", value=given_address, allowed="host:port, as ecg.example.org:443"
                )
        given = {
            "name": name,
            "address": address,
            "listen": listen or f"0.0.0.0:{address.rpartition(':')[2]}",
            "superlink_port": superlink_port,
        }
        values = validate(CoordinatorConfig, given, where="ecgfed coordinator init")
        for folder in (path, *(path / name for name in _FOLDERS)):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # An authority that sites trust is not made anew where only coordinator.yaml was lost.
        # Nor where its key is kept elsewhere.
        if not Authority(path / "authority").certificate_file.exists():
            Authority.create(path / "authority", name)
        if not (path / FILE).exists():
            write_atomically(path / "sites.json", b"{}\n")
        _write_secrets(path)
        if Authority(path / "authority").key_file.exists() or not (path / "tls" / "loopback.crt").exists():
            _serve(Authority(path / "authority"), path / "tls", values)
        # Last: what ended half-way is begun again.
        write_atomically(path / "coordinator.yaml", commented(values).encode())
        return cls(path)

    def make_whole(self) -> None:
        """Make again what a backup need not hold: folders, and the secrets between processes of this machine."""
        for name in _FOLDERS:
            (self.path / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_secrets(self.path)

    def renew(self) -> None:
        """Make new server certificates, for the proxy and for the loopback."""
        trail.note_always(self.path, "renew", what="servers")
        _serve(self.authority, self.path / "tls", self.config)

    def renew_if_due(self) -> bool:
        """Make new server certificates where they end soon and nobody need be asked; return whether it was done."""
        files = [self.path / "tls" / f"{name}.crt" for name in ("server", "loopback")]
        due = any(not file.exists() or is_due(read_certificate(file)) for file in files)
        if due and self.authority.can_sign:
            self.renew()
            return True
        return False

    def invite(self, site: str) -> Path:
        """Write the kit of a site and return its path.

        Raises
        ------
        ConfigError : the name cannot be a site's, or is that of an admitted one.
        """
        if not _SITE.fullmatch(site):
            raise ConfigError(
                "this cannot be a site's name",
                value=site,
                allowed="a small letter, then small letters, digits, - and _, at most 40",
            )
        self.make_whole()
        with changing_sites(self.path) as sites:
            if site in sites and sites[site].status == "admitted":
                raise ConfigError(
                    f"site {site!r} is admitted already", remedy="its old kit still holds; or revoke it first"
                )
            trail.note(self.path, "invite", site=site)
            sites[site] = SiteEntry(site, "invited", utc_now())
        kit = {
            "format_version": 1,
            "site": site,
            "federation": federation_slug(self.config.name),
            "coordinator": self.config.address,
            "ca": self.authority.certificate_file.read_text(encoding="ascii"),
            "envelope_sha256": envelope_sha256(),
            "code_sha256": code_sha256(),
            "invited": utc_now(),
        }
        path = self.path / "kits" / f"{site}.kit.yaml"
        write_atomically(path, yaml.safe_dump(kit, sort_keys=False).encode())
        return path

    def admit(
        self, request_file: Path, *, days: float | None = None, signed: Path | None = None
    ) -> tuple[SiteEntry, Path]:
        """Sign an invited site's request; return its entry and the certificate to send back.

        A site that is admitted may be admitted again with the same key, which renews its certificate; the old one is
        let in until its end, or until the new one was seen.

        Parameters
        ----------
        signed : the certificate, where it was made elsewhere (:func:`sign`).
        """
        request = read_request(request_file)
        self.make_whole()
        with changing_sites(self.path) as sites:
            known = sites.get(request.site)
            if known is None or known.status == "revoked":
                raise ConfigError(
                    f"site {request.site!r} was {'revoked' if known else 'never invited'}",
                    where=request_file,
                    allowed=", ".join(s for s, e in sites.items() if e.status == "invited") or "nobody is invited",
                    remedy=f"ecgfed coordinator invite {request.site}",
                )
            key = base64.b64encode(request.public_key).decode()
            if known.status == "admitted" and known.public_key != key:
                raise ConfigError(
                    f"site {request.site!r} is admitted with another key",
                    where=request_file,
                    remedy="if it lost its key: revoke it, invite it again, then admit this request",
                )
            others = [e.site for e in sites.values() if e.public_key == key and e.site != request.site]
            if others:
                raise ConfigError("this key is that of another site", where=request_file, value=others[0])
            if signed is None:
                certificate = self.authority.admit(request, days=days or self.config.certificate_days)
            else:
                certificate = self.authority.check(request, signed)
            older = {**known.older, known.fingerprint: known.not_after} if known.status == "admitted" else {}
            mark = fingerprint(certificate)
            entry = SiteEntry(
                request.site, "admitted", utc_now(), key, mark, f"{certificate.serial_number:x}",
                certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
                {m: until for m, until in older.items() if until > utc_now() and m != mark},
            )  # fmt: skip
            again = "renewed" if known.status == "admitted" else ""
            trail.note(self.path, "admit", site=request.site, until=entry.not_after, certificate=mark, why=again)
            sites[request.site] = entry
        path = self.path / "admitted" / f"{request.site}.crt"
        # With the authority's own behind it, so that a site learns of its renewal too.
        write_atomically(path, certificate.public_bytes(Encoding.PEM) + self.authority.certificate_file.read_bytes())
        (self.path / "renewals" / f"{request.site}.csr").unlink(missing_ok=True)
        return entry, path

    def settle(self, site: str, mark: str) -> None:
        """Let a site's older certificates in no more, if ``mark`` is that of its newest."""
        with changing_sites(self.path) as sites:
            if site in sites and sites[site].fingerprint == mark and sites[site].older:
                sites[site] = replace(sites[site], older={})

    def asking(self) -> list[Path]:
        """Return the requests for renewal that wait to be signed."""
        return sorted((self.path / "renewals").glob("*.csr"))

    def revoke(self, site: str) -> SiteEntry:
        """Let a site in no more; return its last entry."""
        with changing_sites(self.path) as sites:
            if site not in sites or sites[site].status == "revoked":
                raise ConfigError(
                    f"there is no such site, or it is revoked: {site!r}",
                    allowed=", ".join(s for s, e in sorted(sites.items()) if e.status != "revoked") or "there is none",
                )
            entry = sites[site]
            trail.note_always(self.path, "revoke", site=site)
            sites[site] = replace(entry, status="revoked", since=utc_now(), older={})
        (self.path / "renewals" / f"{site}.csr").unlink(missing_ok=True)
        return entry

    @property
    def control_secret(self) -> str:
        """What the SuperLink's control API asks for."""
        try:
            return (self.path / "control.secret").read_text(encoding="ascii")
        except OSError as error:
            raise ConfigError(
                f"the secret of the control API cannot be read ({type(error).__name__})",
                where=self.path / "control.secret",
                remedy="remove coordinator.yaml and run `ecgfed coordinator init` again: authority and sites are kept",
            ) from None

    @property
    def sites(self) -> dict[str, SiteEntry]:
        """The registry, by site."""
        return read_sites(self.path)

    @property
    def admitted(self) -> list[SiteEntry]:
        """Who is let in."""
        return [entry for entry in self.sites.values() if entry.status == "admitted"]

    def is_revoked(self, site: str) -> bool:
        """Whether a site was let in once and is no more; False where the registry cannot be read."""
        try:
            return self.sites[site].status == "revoked"
        except (ConfigError, KeyError):
            return False

    def note_nodes(self, nodes: Mapping[int, str]) -> None:
        """Write which site each of Flower's nodes is, by the key it was let in with."""
        write_atomically(self.path / "nodes.json", json.dumps({str(n): s for n, s in nodes.items()}).encode())

    def site_of(self, node_id: int) -> str | None:
        """Return which site a node of Flower's is; None where nobody let it in."""
        try:
            found = json.loads((self.path / "nodes.json").read_text(encoding="utf-8")).get(str(node_id))
        except (OSError, ValueError, AttributeError):
            return None
        return found if isinstance(found, str) else None

    def run_folder(self, name: str) -> Path:
        """Return a run's folder by its name; raise :class:`ConfigError` where there is none."""
        known = sorted(p.parent.name for p in (self.path / "runs").glob("*/run.json"))
        if name not in known:
            raise ConfigError("there is no such run", value=name, allowed=", ".join(known) or "there is none")
        return self.path / "runs" / name

    def latest_run(self) -> str:
        """Return the name of the newest run; raise :class:`ConfigError` where there is none."""
        found = list((self.path / "runs").glob("*/run.json"))
        if not found:
            raise ConfigError("there is no run yet", where=self.path, remedy="ecgfed coordinator run STUDY.yaml")
        newest = max(found, key=lambda p: (p.parent / "study.yaml").stat().st_mtime_ns)
        return newest.parent.name


def _serve(authority: Authority, tls: Path, config: CoordinatorConfig) -> None:
    host, days = config.address.rpartition(":")[0].strip("[]"), config.certificate_days
    authority.serve(tls / "server.key", tls / "server.crt", [host], days=days)
    authority.serve(tls / "loopback.key", tls / "loopback.crt", ["localhost", "127.0.0.1"], days=days)


def _there(file: Path) -> bool:
    try:
        return file.exists()
    except PermissionError:
        raise ConfigError(
            "this folder is another user's", where=file.parent, remedy="be the user who runs the coordinator"
        ) from None


def _write_secrets(home: Path) -> None:
    for name in ("superexec.secret", "control.secret"):
        if not (home / name).exists():
            write_atomically(home / name, secrets.token_hex(32).encode(), private=True)
