"""A site's side of secure sums: its secrets on its disk, what it checks of others, and what it gives and never gives.

What a site holds to, whatever the coordinator says:

* a sum is of the study's own members of the step, each known by its signature, in a number that the study's threshold
  asks for, three at least;
* the keys of one sum hide one vector, once: another question, another membership, another set of those who sent is
  refused, also after a restart (the secrets and what was done with them are on the disk before an answer leaves, and
  the outbox gives the same answer to the same request);
* of one member it reveals the share of the seed or that of the key, never both;
* its numbers leave under masks only after the group they speak of met the strictest limits among the members: its own
  group by the gate, or that of all together, whose sizes the sites add among themselves (:meth:`SecureSite.weighed`).

Once secrets are gone (a newer set was made for the step) it says so: SECURE_SUM_REFUSED.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.site.identity import Identity, require_signed
from client.site.settings import SiteSettings
from ecgshared.errors import PrivacyError, RefusalCode, Refused
from ecgshared.privacy import shamir
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.privacy.secure_sum import (
    KEY_BYTES,
    PublicKeys,
    agreed,
    commitment,
    context,
    hide,
    joined_counts,
    new_key,
    public_key,
    seal,
    share_secrets,
    unseal,
)
from ecgshared.privacy.summed import Summand, evidence_counts, require_enough
from ecgshared.service.files import private_folder, write_atomically
from ecgshared.study.secure import LEAST_SITES, summed_phases
from ecgshared.study.study import Study
from ecgshared.wire.bytes import WireError, pack, unpack
from ecgshared.wire.hidden import (
    EvidenceDealt,
    EvidenceSummed,
    HiddenWords,
    KeysOffered,
    Revealed,
    SharesDealt,
    SharesHeld,
)
from ecgshared.wire.protocol import Request, StepConfig, Together
from ecgshared.wire.secure_rounds import MOST_SUMS, STAGE_ROUND, sum_of, without_ours

FOLDER = "secure_sums"
_SHARE = shamir.SHARE_BYTES


@dataclass(frozen=True)
class Own:
    """What this site adds to a sum: its numbers, and the sizes of the groups behind them where the sites add those."""

    summand: Summand
    together: Together | None


class SecureSite:
    """One site in the sums of one step of one run.

    Parameters
    ----------
    own : computes the answer to a stage's request, as numbers that add up.
    """

    def __init__(self, settings: SiteSettings, study: Study, step: StepConfig, run: str, own: Callable[[Request], Own]):
        config = study.secure_sum
        if config is None:
            raise _refused("the study adds nothing under masks")
        self._settings, self._study, self._step, self._own = settings, study, step, own
        self._run = run
        self._allowed = tuple(sorted(study.members(step)))
        self._threshold = config.least(len(self._allowed))
        digest = hashlib.sha256(f"{study.sha256}/{run}".encode()).hexdigest()[:24]
        self._folder = settings.state / FOLDER / digest / step.id
        self._identity = Identity(settings)

    def answer(self, request: Request) -> Any:
        """Answer one part of a sum.

        Raises
        ------
        Refused : SECURE_SUM_REFUSED for anything but an honest next part; TOO_FEW where a group is too small.
        """
        of, _, part = request.phase.rpartition("+")
        parts = {
            "keys": self.keys,
            "shares": self.shares,
            "hold": self.hold,
            "evidence": self.evidence,
            "weigh": self.weighed,
            "hidden": self.hidden,
            "reveal": self.reveal,
        }
        if of and of not in summed_phases(self._step.stage):
            raise _refused("the answers to this phase are not added under masks")
        try:
            return parts[part](request)
        except PrivacyError as error:
            raise _refused(error.what) from error
        except (KeyError, ValueError, IndexError, TypeError, WireError) as error:
            raise _refused(f"a part of a secure sum that is none ({type(error).__name__})") from error

    # Before any sum -------------------------------------------------------------------------------------------

    def keys(self, request: Request) -> KeysOffered:
        """Make the secrets of the next sums, keep them, and offer their public halves."""
        sums = int(request.arrays["sums"][0])
        if not 1 <= sums <= MOST_SUMS:
            raise _refused("keys for so many sums")
        path = self._setup_path(request.round)
        if not path.exists():
            made = {
                "channel": _bytes(new_key()),
                "keys": _rows([new_key() for _ in range(sums)]),
                "seeds": _rows([secrets.token_bytes(KEY_BYTES) for _ in range(sums)]),
            }
            _write(path, {"sums": sums}, made)
        header, held = _read(path)
        if header["sums"] != sums:
            raise _refused("keys for another number of sums than before")
        self._forget_older(request.round)
        channel = _bytes(public_key(held["channel"].tobytes()))
        keys = _rows([public_key(row.tobytes()) for row in held["keys"]])
        commitments = _rows([commitment(row.tobytes()) for row in held["seeds"]])
        signed = self._statement(request.round, self._settings.site, channel, keys, commitments)
        return KeysOffered(
            _bytes(self._identity.proof), _bytes(self._identity.sign(signed)), channel, keys, commitments
        )

    def shares(self, request: Request) -> SharesDealt:
        """Check who takes part, and deal shares of this site's secrets to them."""
        setup = _Setup.read(self._setup_path(request.round))
        offered = _Offered.read(request.arrays)
        self._require_members(offered.members)
        for i, name in enumerate(offered.members):
            signed = self._statement(request.round, name, offered.channel[i], offered.keys[i], offered.commitments[i])
            require_signed(self._settings, name, offered.proofs[i], offered.signatures[i], signed)
        me = offered.members.index(self._settings.site)
        if offered.channel[me].tobytes() != public_key(setup.channel):
            raise _refused("the keys said to be this site's are others")
        use = offered.use(self._named(request.round))
        dealt = [
            share_secrets(key.tobytes(), seed.tobytes(), self._threshold, len(offered.members))
            for key, seed in zip(setup.keys, setup.seeds, strict=True)
        ]
        limits = self._settings.limits
        told = np.array([limits.min_patients, limits.min_events], dtype="<u8").tobytes()
        envelopes, own = [], b""
        for i, name in enumerate(offered.members):
            content = told + b"".join(shamir.to_bytes(of_sum[i]) for of_sum in dealt)
            if i == me:
                own = content
            key = agreed(setup.channel, offered.channel[i].tobytes(), context("channel", use.hex()))
            envelopes.append(seal(key, content, context("shares", use.hex(), self._settings.site, name)))
        _write(
            self._setup_path(request.round, "members"),
            {"members": list(offered.members), "use": use.hex()},
            {
                "channel": offered.channel,
                "keys": offered.keys,
                "commitments": offered.commitments,
                "own": _bytes(own),
            },
        )
        return SharesDealt(_rows(envelopes))

    def hold(self, request: Request) -> SharesHeld:
        """Open the shares that others dealt, and keep them: from here on sums may come."""
        setup = _Setup.read(self._setup_path(request.round))
        group = _Group.read(self._setup_path(request.round, "members"), setup, self._settings.site)
        sealed = np.asarray(request.arrays["envelopes"], dtype=np.uint8)
        if len(sealed) != len(group.members):
            # All or none: that each envelope opens proves that all members were shown the same members and keys.
            raise _refused("not all members dealt their shares")
        contents = []
        for i, (name, row) in enumerate(zip(group.members, sealed, strict=True)):
            if i == group.me:
                contents.append(group.own)
            else:
                purpose = context("shares", group.use.hex(), name, self._settings.site)
                contents.append(unseal(group.seal_keys(i), row.tobytes(), purpose))
        if any(len(content) != 16 + 2 * _SHARE * len(setup.keys) for content in contents):
            raise _refused("shares of another number of sums")
        for content in contents:
            shamir.from_bytes(content[16:])
        # Agreed once: with a hundred members a sum would else spend most of its time on it.
        agreed_keys = _rows([group.seal_keys(i) if i != group.me else bytes(KEY_BYTES) for i in range(len(contents))])
        _write(self._setup_path(request.round, "held"), {}, {"shares": _rows(contents), "agreed": agreed_keys})
        return SharesHeld(len(contents))

    # One sum --------------------------------------------------------------------------------------------------

    def evidence(self, request: Request) -> EvidenceDealt:
        """Compute this site's numbers, keep them, and deal shares of the sizes of the groups behind them."""
        session = self._session(request, pooled=True)
        own = self._keep_own(session, request)
        assert own.together is not None
        elements = shamir.pack(evidence_counts(own.together))
        group, members = session.group, session.group.members
        dealt = [shamir.split(e, self._threshold, len(members)) for e in elements]
        _write(session.path("dealt"), {}, {"own": _bytes(shamir.to_bytes([row[group.me] for row in dealt]))})
        envelopes = [
            seal(
                group.seal_keys(i),
                shamir.to_bytes([row[i] for row in dealt]),
                session.purpose("evidence", self._settings.site, name),
            )
            for i, name in enumerate(members)
        ]
        return EvidenceDealt(_rows(envelopes), len(evidence_counts(own.together)))

    def weighed(self, request: Request) -> EvidenceSummed:
        """Add the shares of sizes that the members dealt, and seal the sum for each of them: together they learn the
        sizes of the group of all, the coordinator learns nothing."""
        session = self._session(request, pooled=True)
        group = session.group
        sent = _indices(request.arrays["secure.sent"], len(group.members))
        self._require_enough(sent)
        _, dealt = _read(session.path("dealt"))
        if group.me not in sent:
            raise _refused("sizes of other sites than those of the sum")
        rows = []
        for i, row in zip(sent, np.asarray(request.arrays["secure.envelopes"], dtype=np.uint8), strict=True):
            if i == group.me:
                content = dealt["own"].tobytes()
            else:
                purpose = session.purpose("evidence", group.members[i], self._settings.site)
                content = unseal(group.seal_keys(i), row.tobytes(), purpose)
            rows.append(shamir.from_bytes(content))
        if len({len(row) for row in rows}) != 1:
            raise _refused("sites count different groups")
        summed = shamir.to_bytes([sum(column) % shamir.PRIME for column in zip(*rows, strict=True)])
        _write(session.path("weighed"), {"sent": list(sent)}, {"own": _bytes(summed)})
        told = json.dumps(list(sent)).encode()
        return EvidenceSummed(
            _rows(
                [
                    seal(
                        group.seal_keys(i),
                        summed,
                        session.purpose("weighed", told.hex(), self._settings.site, name),
                    )
                    for i, name in enumerate(group.members)
                ]
            )
        )

    def hidden(self, request: Request) -> HiddenWords:
        """Give this site's numbers under masks, once the limits are met."""
        pooled = summed_phases(self._step.stage)[_of(request)] == "pooled"
        session = self._session(request, pooled=pooled)
        # Of a sum that is not weighed nothing is kept here: the outbox has what leaves, the same when asked again.
        own = self._kept(session) if pooled else self._own(without_ours(request, _of(request)))
        if pooled:
            self._require_limits(session, request, own)
        group, sum_number = session.group, session.number
        published = session.published
        hidden = hide(
            own.summand.words(len(self._allowed)),
            group.me,
            group.setup.keys[sum_number].tobytes(),
            group.setup.seeds[sum_number].tobytes(),
            published,
        )
        return HiddenWords(hidden, own.summand.layout, tuple(f"{k}={v}" for k, v in own.summand.told.items()))

    def reveal(self, request: Request) -> Revealed:
        """Give the shares that open a sum of those who sent their numbers; of each member one kind alone."""
        session = self._session(request, pooled=None)
        group = session.group
        sent = _indices(request.arrays["secure.sent"], len(group.members))
        self._require_enough(sent)
        if session.pooled and list(sent) != _read(session.path("weighed"))[0]["sent"]:
            raise _refused("a sum of other sites than those whose groups were found large enough")
        seeds, keys = (np.zeros((len(group.members), _SHARE), dtype=np.uint8) for _ in range(2))
        for i in range(len(group.members)):
            of_key, of_seed = session.shares_of(i)
            if i in sent:
                seeds[i] = of_seed
            else:
                keys[i] = of_key
        return Revealed(seeds, keys)

    # ----------------------------------------------------------------------------------------------------------

    def _require_limits(self, session: _Session, request: Request, own: Own) -> None:
        header, mine = _read(session.path("weighed"))
        told = json.dumps(header["sent"]).encode()
        group = session.group
        weighed = _indices(request.arrays["secure.weighed"], len(group.members))
        shares: dict[int, list[int]] = {group.me: shamir.from_bytes(mine["own"].tobytes())}
        for i, row in zip(weighed, np.asarray(request.arrays["secure.envelopes"], dtype=np.uint8), strict=True):
            if i != group.me:
                purpose = session.purpose("weighed", told.hex(), group.members[i], self._settings.site)
                shares[i] = shamir.from_bytes(unseal(group.seal_keys(i), row.tobytes(), purpose))
        assert own.together is not None
        counts = joined_counts(shares, self._threshold, len(evidence_counts(own.together)))
        try:
            require_enough(counts, own.together, session.strictest)
        except PrivacyError as error:
            raise Refused(RefusalCode.TOO_FEW, error.what) from error

    def _keep_own(self, session: _Session, request: Request) -> Own:
        """Compute what this site adds, and keep it on the disk, so that a sum asked again is of the same numbers."""
        if session.path("own").exists():
            return self._kept(session)
        asked = without_ours(request, _of(request))
        own = self._own(asked)
        together = own.together
        header = {
            "short": sorted(own.summand.short),
            "told": dict(own.summand.told),
            "order": list(own.summand.arrays),
            "least_patients": None if together is None else together.least_patients,
        }
        arrays = {f"of.{name}": np.asarray(array) for name, array in own.summand.arrays.items()}
        if together is not None:
            arrays |= {
                "patients": np.ravel(together.patients).astype(np.float64),
                "events": np.ravel(together.events).astype(np.float64),
                "carried": np.asarray(together.carried, dtype=np.float64).reshape(-1, 2),
            }
        _write(session.path("own"), header, arrays)
        return own

    def _kept(self, session: _Session) -> Own:
        header, arrays = _read(session.path("own"))
        summand = Summand(
            {name: arrays[f"of.{name}"] for name in header["order"]}, frozenset(header["short"]), header["told"]
        )
        least = header["least_patients"]
        together = None if least is None else Together(arrays["patients"], arrays["events"], arrays["carried"], least)
        return Own(summand, together)

    def _session(self, request: Request, *, pooled: bool | None) -> _Session:
        """Return the sum a request belongs to; it belongs to one phase and one round of the stage for ever."""
        setup_number, number = sum_of(request.round)
        setup = _Setup.read(self._setup_path(setup_number))
        group = _Group.read(self._setup_path(setup_number, "members"), setup, self._settings.site)
        _, held = _read(self._setup_path(setup_number, "held"))
        group.remember(held["agreed"])
        if not number < len(setup.keys):
            raise _refused("no keys were made for this sum")
        of = _of(request)
        session = _Session(group, number, held["shares"], self._folder / f"{request.round}")
        claim = {"of": of, "round": int(np.ravel(request.arrays[STAGE_ROUND])[0])}
        if session.path("claim").exists():
            known, _ = _read(session.path("claim"))
            if {key: known[key] for key in claim} != claim or (pooled is not None and known["pooled"] != pooled):
                raise _refused("the keys of this sum were used for another one")
        elif pooled is None:
            # This site was lost before it gave anything to this sum; what it holds of others it may still reveal.
            pooled = summed_phases(self._step.stage)[of] == "pooled"
            if pooled:
                raise _refused("this site took no part in the sum")
            _write(session.path("claim"), claim | {"pooled": pooled}, {}, sync=True)
        else:
            _write(session.path("claim"), claim | {"pooled": pooled}, {}, sync=True)
        return session

    def _require_members(self, members: tuple[str, ...]) -> None:
        if list(members) != sorted(set(members)) or not set(members) <= set(self._allowed):
            raise _refused("members that are not the study's for this step")
        if self._settings.site not in members:
            raise _refused("a membership without this site")
        self._require_enough(members)

    def _require_enough(self, members: tuple[Any, ...]) -> None:
        if len(members) < max(self._threshold, LEAST_SITES):
            raise _refused(f"a sum of {len(members)} sites; the study asks for {self._threshold}")

    def _named(self, number: int) -> tuple[object, ...]:
        return (self._study.sha256, self._run, self._step.id, number, self._threshold)

    def _statement(self, number: int, site: str, *parts: NDArray[np.uint8]) -> bytes:
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).digest()
        return b"ecgfed secure sum keys v1\0" + context(*self._named(number), site, len(parts[1])) + digest

    def _setup_path(self, number: int, what: str = "secrets") -> Path:
        return self._folder / f"setup-{number}.{what}"

    def _forget_older(self, number: int) -> None:
        """Wipe the secrets of older sets: their sums are over, or will be refused."""
        for path in self._folder.glob("setup-*.*"):
            if int(path.stem.rpartition("-")[2]) < number:
                path.unlink()
        for path in self._folder.glob("[0-9]*.*"):
            if sum_of(int(path.stem))[0] < number:
                path.unlink()


@dataclass(frozen=True)
class _Setup:
    channel: bytes
    keys: NDArray[np.uint8]
    seeds: NDArray[np.uint8]

    @classmethod
    def read(cls, path: Path) -> _Setup:
        if not path.exists():
            raise _refused("the secrets of this set of keys are gone, or were never made")
        _, arrays = _read(path)
        return cls(arrays["channel"].tobytes(), arrays["keys"], arrays["seeds"])


@dataclass(frozen=True)
class _Offered:
    """What all members offered, as the coordinator hands it on."""

    members: tuple[str, ...]
    proofs: list[bytes]
    signatures: list[bytes]
    channel: NDArray[np.uint8]
    keys: NDArray[np.uint8]
    commitments: NDArray[np.uint8]

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]]) -> _Offered:
        members = tuple(json.loads(np.asarray(arrays["members"], dtype=np.uint8).tobytes()))
        n = len(members)
        keys, commitments = (np.asarray(arrays[name], dtype=np.uint8) for name in ("keys", "commitments"))
        channel = np.asarray(arrays["channel"], dtype=np.uint8)
        if channel.shape != (n, KEY_BYTES) or keys.shape != commitments.shape or keys.shape[::2] != (n, KEY_BYTES):
            raise _refused("keys of another shape")
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
class _Group:
    """The members of a set of keys, and what they published."""

    setup: _Setup
    members: tuple[str, ...]
    me: int
    use: bytes
    channel: NDArray[np.uint8]
    keys: NDArray[np.uint8]
    commitments: NDArray[np.uint8]
    own: bytes

    @classmethod
    def read(cls, path: Path, setup: _Setup, site: str) -> _Group:
        if not path.exists():
            raise _refused("this site was not told who the members are")
        header, arrays = _read(path)
        members = tuple(header["members"])
        return cls(
            setup,
            members,
            members.index(site),
            bytes.fromhex(header["use"]),
            arrays["channel"],
            arrays["keys"],
            arrays["commitments"],
            arrays["own"].tobytes(),
        )

    def seal_keys(self, other: int) -> bytes:
        """Return the key of envelopes to and from another member."""
        if other not in self._agreed:
            purpose = context("channel", self.use.hex())
            self._agreed[other] = agreed(self.setup.channel, self.channel[other].tobytes(), purpose)
        return self._agreed[other]

    def remember(self, keys: NDArray[np.uint8]) -> None:
        """Take keys that were agreed before, by member."""
        self._agreed.update({i: row.tobytes() for i, row in enumerate(keys) if i != self.me})

    @cached_property
    def _agreed(self) -> dict[int, bytes]:
        return {}


@dataclass(frozen=True)
class _Session:
    """One sum: its members' shares as this site holds them, and its files."""

    group: _Group
    number: int
    held: NDArray[np.uint8]
    base: Path

    def path(self, what: str) -> Path:
        return self.base.with_name(f"{self.base.name}.{what}")

    @property
    def pooled(self) -> bool:
        return bool(_read(self.path("claim"))[0]["pooled"])

    def purpose(self, *what: str) -> bytes:
        return context("sum", self.group.use.hex(), self.number, *what)

    @property
    def published(self) -> PublicKeys:
        return PublicKeys(
            self.purpose("masks"),
            {i: row[self.number].tobytes() for i, row in enumerate(self.group.keys)},
            {i: row[self.number].tobytes() for i, row in enumerate(self.group.commitments)},
        )

    def shares_of(self, member: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return this site's shares of a member's (key, seed) of this sum."""
        row = self.held[member][16:]
        start = 2 * _SHARE * self.number
        return row[start : start + _SHARE], row[start + _SHARE : start + 2 * _SHARE]

    @property
    def strictest(self) -> DisclosureLimits:
        """The strictest limits among the members."""
        told = np.stack([np.frombuffer(row[:16].tobytes(), dtype="<u8") for row in self.held])
        patients, events = (int(v) for v in told.max(axis=0))
        return DisclosureLimits(min_patients=max(patients, 1), min_events=events)


def _of(request: Request) -> str:
    return request.phase.rpartition("+")[0]


def _indices(array: NDArray[Any], n: int) -> tuple[int, ...]:
    found = tuple(int(i) for i in np.ravel(array))
    if list(found) != sorted(set(found)) or any(not 0 <= i < n for i in found):
        raise _refused("members that are none")
    return found


def _pieces(joined: NDArray[Any], sizes: NDArray[Any], n: int) -> list[bytes]:
    data, ends = np.asarray(joined, dtype=np.uint8).tobytes(), np.cumsum(np.ravel(sizes).astype(np.int64))
    if len(ends) != n or (np.ravel(sizes) < 0).any() or (n and int(ends[-1]) != len(data)):
        raise _refused("signatures of another length")
    return [data[int(end - size) : int(end)] for end, size in zip(ends, np.ravel(sizes), strict=True)]


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8)


def _rows(rows: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), -1)


def _write(path: Path, header: dict[str, Any], arrays: Mapping[str, NDArray[Any]], *, sync: bool = False) -> None:
    """Keep something of a sum. What a power failure takes is refused afterwards; a claim alone must outlive it."""
    private_folder(path.parent)
    write_atomically(path, pack(header, arrays), private=True, sync=sync)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    try:
        return unpack(path.read_bytes())
    except FileNotFoundError:
        raise _refused("what this site kept of this sum is gone, or it took no part in it") from None


def _refused(what: str) -> Refused:
    return Refused(RefusalCode.SECURE_SUM_REFUSED, what)
