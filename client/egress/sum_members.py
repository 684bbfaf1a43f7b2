"""Who is in a set of keys: what each member offered, what they share, and how a site came to believe it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from client.egress.sum_files import Bytes, as_bytes, as_rows, read, refused, write
from ecgshared.privacy import shamir
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.privacy.secure_sum import KEY_BYTES, agreed, context, loaded, public_key, seal, share_secrets, unseal

SHARE = shamir.SHARE_BYTES
_LIMITS = 16
"""Bytes before a member's shares that tell its limits."""


@dataclass(frozen=True)
class Secrets:
    """What a site keeps to itself of a set: a key to seal envelopes with, and of each sum a key and a seed."""

    channel: bytes
    keys: Bytes
    seeds: Bytes

    @classmethod
    def read(cls, path: Path) -> Secrets:
        """Read them from the disk."""
        if not path.exists():
            raise refused("the secrets of this set of keys are gone, or were never made")
        _, arrays = read(path)
        return cls(arrays["channel"].tobytes(), arrays["keys"], arrays["seeds"])


@dataclass(frozen=True)
class Offered:
    """What all members offered, as the coordinator hands it on."""

    members: tuple[str, ...]
    proofs: list[bytes]
    signatures: list[bytes]
    channel: Bytes
    keys: Bytes
    commitments: Bytes

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]]) -> Offered:
        """Read them from a request; refuse what is of another shape."""
        members = tuple(json.loads(np.asarray(arrays["members"], dtype=np.uint8).tobytes()))
        n = len(members)
        keys, commitments = (np.asarray(arrays[name], dtype=np.uint8) for name in ("keys", "commitments"))
        channel = np.asarray(arrays["channel"], dtype=np.uint8)
        if channel.shape != (n, KEY_BYTES) or keys.shape != commitments.shape or keys.shape[::2] != (n, KEY_BYTES):
            raise refused("keys of another shape")
        return cls(
            members,
            _pieces(arrays["proofs"], arrays["proof_sizes"], n),
            _pieces(arrays["signatures"], arrays["signature_sizes"], n),
            channel,
            keys,
            commitments,
        )

    def use(self, named: tuple[object, ...]) -> bytes:
        """Return what binds all envelopes and masks to this membership and these keys."""
        digest = hashlib.sha256(self.channel.tobytes() + self.keys.tobytes() + self.commitments.tobytes()).hexdigest()
        return context("setup", *named, json.dumps(self.members), digest)


@dataclass(frozen=True)
class Group:
    """The members of a set of keys, and what they published.

    Attributes
    ----------
    me : the place of this site among ``members``, which are in the order of their names.
    use : what binds envelopes and masks to these members and keys.
    own : what this site dealt to itself.
    """

    secrets: Secrets
    members: tuple[str, ...]
    me: int
    use: bytes
    channel: Bytes
    keys: Bytes
    commitments: Bytes
    own: bytes

    @classmethod
    def read(cls, path: Path, secrets: Secrets, site: str) -> Group:
        """Read it from the disk."""
        if not path.exists():
            raise refused("this site was not told who the members are")
        header, arrays = read(path)
        members = tuple(header["members"])
        return cls(
            secrets,
            members,
            members.index(site),
            bytes.fromhex(header["use"]),
            arrays["channel"],
            arrays["keys"],
            arrays["commitments"],
            arrays["own"].tobytes(),
        )

    @classmethod
    def dealing(
        cls, secrets: Secrets, offered: Offered, site: str, use: bytes, threshold: int, limits: DisclosureLimits
    ) -> tuple[Group, Bytes]:
        """Return the group, and this site's shares and limits, sealed for each member, a row each."""
        me, n = offered.members.index(site), len(offered.members)
        if offered.channel[me].tobytes() != public_key(secrets.channel):
            raise refused("the keys said to be this site's are others")
        dealt = [
            share_secrets(key.tobytes(), seed.tobytes(), threshold, n)
            for key, seed in zip(secrets.keys, secrets.seeds, strict=True)
        ]
        told = np.array([limits.min_patients, limits.min_events], dtype="<u8").tobytes()
        contents = [told + b"".join(shamir.to_bytes(of_sum[i]) for of_sum in dealt) for i in range(n)]
        group = cls(secrets, offered.members, me, use, offered.channel, offered.keys, offered.commitments, contents[me])
        return group, as_rows([group.seal(i, content, "shares") for i, content in enumerate(contents)])

    def write(self, path: Path) -> None:
        """Keep it."""
        write(
            path,
            {"members": list(self.members), "use": self.use.hex()},
            {
                "channel": self.channel,
                "keys": self.keys,
                "commitments": self.commitments,
                "own": as_bytes(self.own),
            },
        )

    def opened(self, envelopes: Bytes) -> tuple[Bytes, Bytes]:
        """Return what each member dealt to this site, a row each, and the keys agreed with them.

        Raises
        ------
        Refused : one is missing or holds no shares. PrivacyError : one does not open. All or none: that each opens
            proves that all members were shown the same members and keys.
        """
        if len(envelopes) != len(self.members):
            raise refused("not all members dealt their shares")
        contents = [
            self.own if i == self.me else self.unseal(i, row.tobytes(), "shares") for i, row in enumerate(envelopes)
        ]
        if any(len(content) != _LIMITS + 2 * SHARE * len(self.secrets.keys) for content in contents):
            raise refused("shares of another number of sums")
        for content in contents:
            shamir.from_bytes(content[_LIMITS:])
        keys = [self.seal_key(i) if i != self.me else bytes(KEY_BYTES) for i in range(len(contents))]
        return as_rows(contents), as_rows(keys)

    def seal(self, other: int, content: bytes, *what: object) -> bytes:
        """Seal something for another member, for one use."""
        return seal(self.seal_key(other), content, self._purpose(*what, self.members[self.me], self.members[other]))

    def unseal(self, other: int, sealed: bytes, *what: object) -> bytes:
        """Open what another member sealed for this site; raises PrivacyError where it did not."""
        purpose = self._purpose(*what, self.members[other], self.members[self.me])
        return unseal(self.seal_key(other), sealed, purpose)

    def seal_key(self, other: int) -> bytes:
        """Return the key of envelopes to and from another member."""
        if other not in self._agreed:
            purpose = context("channel", self.use.hex())
            self._agreed[other] = agreed(self._channel, self.channel[other].tobytes(), purpose)
        return self._agreed[other]

    def remember(self, keys: Bytes) -> None:
        """Take keys that were agreed before, by member: with a hundred of them a sum would else spend most of its time
        on that."""
        self._agreed.update({i: row.tobytes() for i, row in enumerate(keys) if i != self.me})

    def _purpose(self, *what: object) -> bytes:
        return context("envelope", self.use.hex(), *what)

    @cached_property
    def _channel(self) -> X25519PrivateKey:
        return loaded(self.secrets.channel)

    @cached_property
    def _agreed(self) -> dict[int, bytes]:
        return {}


def strictest(held: Bytes) -> DisclosureLimits:
    """Return the strictest limits among the members, from what each dealt."""
    patients, events = (int(v) for v in np.stack([np.frombuffer(r[:_LIMITS].tobytes(), "<u8") for r in held]).max(0))
    return DisclosureLimits(min_patients=max(patients, 1), min_events=events)


def shares_of(held: Bytes, member: int, number: int) -> tuple[Bytes, Bytes]:
    """Return this site's shares of a member's (key, seed) of one sum."""
    row, start = held[member][_LIMITS:], 2 * SHARE * number
    return row[start : start + SHARE], row[start + SHARE : start + 2 * SHARE]


def _pieces(joined: NDArray[Any], sizes: NDArray[Any], n: int) -> list[bytes]:
    data, ends = np.asarray(joined, dtype=np.uint8).tobytes(), np.cumsum(np.ravel(sizes).astype(np.int64))
    if len(ends) != n or (np.ravel(sizes) < 0).any() or (n and int(ends[-1]) != len(data)):
        raise refused("signatures of another length")
    return [data[int(end - size) : int(end)] for end, size in zip(ends, np.ravel(sizes), strict=True)]
