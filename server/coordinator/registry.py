"""Which sites were invited, admitted and revoked: ``sites.json`` in a coordinator's folder."""

from __future__ import annotations

import base64
import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from ecgshared.errors import ConfigError
from ecgshared.service.files import write_atomically

FILE = "sites.json"


@dataclass(frozen=True)
class SiteEntry:
    """One site in the registry. ``public_key`` is base64 of the bytes Flower registers a node by.

    ``older`` : fingerprints of certificates that were renewed but may be in use yet, with their ends.
    """

    site: str
    status: Literal["invited", "admitted", "revoked"]
    since: str
    public_key: str = ""
    fingerprint: str = ""
    serial: str = ""
    not_after: str = ""
    older: Mapping[str, str] = field(default_factory=dict)

    @property
    def node_key(self) -> bytes:
        """The key as bytes."""
        return base64.b64decode(self.public_key)

    @property
    def marks(self) -> list[str]:
        """The fingerprints that are let in now: the newest, and older ones until their own end."""
        return [self.fingerprint, *(mark for mark, until in self.older.items() if until > utc_now())]


def read_sites(home: Path) -> dict[str, SiteEntry]:
    """Return the registry, by site; raise :class:`ConfigError` where it cannot be read."""
    try:
        content = json.loads((home / FILE).read_text(encoding="utf-8"))
        return {site: SiteEntry(site=site, **entry) for site, entry in sorted(content.items())}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"the registry of sites cannot be read ({type(error).__name__})",
            where=home / FILE,
            remedy="restore it from your backup",
        ) from None


@contextmanager
def changing_sites(home: Path) -> Iterator[dict[str, SiteEntry]]:
    """Hand the registry out to be changed; it is written when nothing was raised."""
    with (home / ".sites.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sites = read_sites(home)
        yield sites
        content = {s: {k: v for k, v in asdict(e).items() if k != "site"} for s, e in sites.items()}
        write_atomically(home / FILE, json.dumps(content, indent=1, sort_keys=True).encode())


def utc_now() -> str:
    """Return the time as the registry writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
