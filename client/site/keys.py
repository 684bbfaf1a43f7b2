"""The site's lasting secret: it draws the split and the pseudonyms, and no study changes it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.site.lived import marks_of_life
from client.site.settings import SiteSettings
from ecgshared.errors import PrivacyError
from ecgshared.service.files import private_folder, write_once

PSEUDONYM_BYTES = 16
SITE_KEY = "keys/site.key"
"""Below the folder of state."""
LATER_KEYS = "keys/pseudonyms.keys"
"""Below the folder of state, where pseudonyms were given other keys: one a line, the oldest first."""
LATER_MARK = "pseudonyms.json"
"""Below the folder of state: how many they are, and a check of the newest; without them nobody could be found again."""
UNFINISHED = "keys/pseudonyms.next"
"""Below the folder of state while pseudonyms are being given another key."""

_KEY_BYTES = 32


@dataclass(frozen=True)
class SiteKeys:
    """Keyed functions of identifiers. Each purpose has its own key: none can be turned against another.

    Attributes
    ----------
    later : keys that pseudonyms were given since, the oldest first; the split and all logs stay under the first one.
    """

    own: bytes = field(repr=False)
    split: bytes = field(repr=False)
    later: tuple[bytes, ...] = field(default=(), repr=False)

    def patient(self, patient_id: str) -> bytes:
        """Return a patient's pseudonym in caches and opt-out lists, 16 bytes."""
        return self._pseudonym("patient", patient_id)

    def near(self, form: str) -> bytes:
        """Return the pseudonym of a form that ids near each other have, 16 bytes; only opt-out lists hold it."""
        return self._pseudonym("near", form)

    def record(self, path: str) -> bytes:
        """Return the pseudonym of a recording, from its path below the records folder, 16 bytes."""
        return self._pseudonym("record", path)

    def _pseudonym(self, purpose: str, text: str) -> bytes:
        found = _keyed(self.own, purpose, text)[:PSEUDONYM_BYTES]
        for key in self.later:
            found = under_another_key(key, found)
        return found

    @property
    def content(self) -> bytes:
        """Key of the hashes by which equal signals are found, 32 bytes."""
        return _keyed(self.own, "content", "")

    def split_positions(self, patient_ids: Iterable[str]) -> NDArray[np.float64]:
        """Return each patient's place in [0, 1), shape = (n,): uniform, and the same for ever.

        The lockbox is the lowest places: a larger share keeps whom a smaller one held.
        """
        digests = b"".join(_keyed(self.split, "split", patient_id)[:8] for patient_id in patient_ids)
        # 53 bits, so that the quotient is exact and never 1.
        return (np.frombuffer(digests, dtype=">u8") >> np.uint64(11)).astype(np.float64) / 2.0**53


def load_keys(settings: SiteSettings) -> SiteKeys:
    """Read the site's key (made on first use: ``state/keys/site.key``, owner-only) and the consortium's.

    Raises
    ------
    PrivacyError : the site's key is lost, see :mod:`client.site.lived`; or a key is damaged, too short, or open to
        other users of the machine.
    """
    if settings.seed is not None and settings.network is None and not (settings.state / SITE_KEY).exists():
        # A seed fixes the split too, so that an example's figures print again; on a network it never does.
        _create(settings.state / SITE_KEY, _keyed(settings.seed.to_bytes(8, "big"), "seed", settings.site))
    if (settings.state / UNFINISHED).exists():
        raise PrivacyError(
            "pseudonyms are being given another key, or that was cut short",
            where=settings.state / UNFINISHED,
            remedy="ecgfed site rotate SITE.yaml goes on where it ended",
        )
    own = _own_key(settings.state)
    split = own if settings.consortium_key is None else _read(settings.consortium_key)
    return SiteKeys(own, split, later_keys(settings.state))


def under_another_key(key: bytes, pseudonym: bytes) -> bytes:
    """Return a pseudonym under one more key, 16 bytes: of its first eight alone, since some stores hold no more."""
    return _keyed(key, "later pseudonym", pseudonym[:8].hex())[:PSEUDONYM_BYTES]


def later_keys(state: Path) -> tuple[bytes, ...]:
    """Return the keys that pseudonyms were given after the first, the oldest first.

    Raises
    ------
    PrivacyError : they are not those that the state's pseudonyms are under.
    """
    path, mark = state / LATER_KEYS, state / LATER_MARK
    if not path.exists() and not mark.exists():
        return ()
    try:
        found = tuple(bytes.fromhex(line) for line in path.read_text(encoding="ascii").split())
        if found and mark_of(found) == mark.read_bytes() and all(len(key) == _KEY_BYTES for key in found):
            return found
    except (OSError, ValueError):
        pass
    raise PrivacyError(
        "the later keys of this site's pseudonyms are lost or of another state: nobody forgotten could be kept out",
        where=path,
        remedy=f"restore it, with {mark.name}, from the backup that the rest of the state is from",
    )


def mark_of(keys: tuple[bytes, ...]) -> bytes:
    """Return the content of the file that tells which later keys there are, and none of them."""
    check = _keyed(keys[-1], "mark", str(len(keys))).hex()[:16]
    return f'{{"keys": {len(keys)}, "check": "{check}"}}\n'.encode()


def ledger_key(state: Path) -> bytes:
    """Return the key of the chain over the privacy ledger, 32 bytes; raises as :func:`load_keys` does."""
    return _keyed(_own_key(state), "privacy ledger", "")


def identity_key(settings: SiteSettings) -> bytes:
    """Return the private key that the site signs with in a simulation, 32 bytes; raises as :func:`load_keys` does."""
    return _keyed(load_keys(settings).own, "identity", settings.site)


def log_key(state: Path, log: str) -> bytes:
    """Return the key of the chain over one of the site's logs, 32 bytes; raises as :func:`load_keys` does."""
    return _keyed(_own_key(state), "log", log)


def _own_key(state: Path) -> bytes:
    path = state / SITE_KEY
    if not path.exists():
        found = marks_of_life(state)
        # Not where another process has made the key, and these marks after it, meanwhile.
        if found and not path.exists():
            raise PrivacyError(
                "the site's key is lost, and this site has lived: another key would draw another split of its patients",
                where=path,
                value=", ".join(found[:4]) + (", ..." if len(found) > 4 else ""),
                remedy="restore it from your backup; without one, `ecgfed site rekey SITE.yaml` says what it costs",
            )
        _create(path, secrets.token_bytes(_KEY_BYTES))
    return _read(path)


def _create(path: Path, key: bytes) -> None:
    private_folder(path.parent)
    # Not where another process was faster: its key may be in use already.
    write_once(path, key.hex().encode() + b"\n")


def _read(path: Path) -> bytes:
    try:
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise PrivacyError("other users can read this key", where=path, remedy=f"chmod 600 {path}")
        text = path.read_text(encoding="ascii").strip()
        key = bytes.fromhex(text)
    except FileNotFoundError:
        raise PrivacyError("there is no such key", where=path, remedy="check consortium_key") from None
    except (OSError, ValueError) as error:
        raise PrivacyError(
            f"is no key ({type(error).__name__})", where=path, allowed="hexadecimal digits, at least 64"
        ) from None
    if len(key) < _KEY_BYTES:
        raise PrivacyError("the key is too short", where=path, allowed="at least 64 hexadecimal digits")
    return key


def _keyed(key: bytes, purpose: str, text: str) -> bytes:
    return hmac.digest(key, f"ecgfed {purpose} v1\0{text}".encode(), hashlib.sha256)
