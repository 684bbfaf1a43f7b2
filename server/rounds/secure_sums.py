"""The coordinator's side of secure sums: it hands keys and envelopes on, adds what is hidden, and opens the sum.

A set of keys serves many sums, each with keys of its own. Where a member of the set is lost, training goes on without
its words and a new set is made for the next round; sums of statistics must be of the same people from the first to the
last of a step, so that the step begins anew without who was lost (:class:`MembersLost`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.errors import PrivacyError, RefusalCode, RunError
from ecgshared.privacy import shamir
from ecgshared.privacy.secure_sum import PublicKeys, Reveal, context, open_sum
from ecgshared.privacy.summed import payload_of, size_of, sums_of
from ecgshared.service.files import write_atomically
from ecgshared.study.registry import shared_room
from ecgshared.study.secure import TOGETHER, SecureSumConfig, summed_phases
from ecgshared.study.study import Study
from ecgshared.wire.hidden import HiddenWords, KeysOffered
from ecgshared.wire.protocol import Request, StepConfig, payload_type
from ecgshared.wire.secure_rounds import MOST_SUMS, STAGE_ROUND, sum_round
from server.rounds.step_context import Accept, Replies

COUNTER = "secure_sums.json"
"""In a step's folder: the number of the last set of keys, so that none is used twice, also after a restart."""

_SUMS_A_SET = 16
_TRIES = 3
_FEWER_GROUPS = "ask for fewer groups, or join more hospitals"


class MembersLost(Exception):
    """Sites whose people are in earlier sums of the step gave nothing to this one.

    Attributes
    ----------
    sites : reasons by site.
    """

    def __init__(self, sites: Mapping[str, str]) -> None:
        self.sites = dict(sites)
        super().__init__(", ".join(f"{site}: {why}" for site, why in self.sites.items()))


class TooFewTogether(RunError):
    """The sites found the groups of all of them together too small, and keep their sum closed."""


AskParts = Callable[..., Replies]
"""Asks sites one part: (phase, round, arrays, sites, own=, accept=)."""


@dataclass
class _Set:
    """A set of keys that all its members hold shares of."""

    number: int
    members: tuple[str, ...]
    use: bytes
    keys: NDArray[np.uint8]
    commitments: NDArray[np.uint8]
    next: int = 0
    whole: bool = True
    """Whether every member gave its part to every sum so far."""

    def published(self, number: int) -> PublicKeys:
        return PublicKeys(
            context("sum", self.use.hex(), number, "masks"),
            {i: row[number].tobytes() for i, row in enumerate(self.keys)},
            {i: row[number].tobytes() for i, row in enumerate(self.commitments)},
        )


@dataclass
class SecureSums:
    """The sums of one step.

    Attributes
    ----------
    ask : asks sites one part. folder : the step's own.
    without : sites that were lost before, and stay out.
    """

    study: Study
    step: StepConfig
    run: str
    ask: AskParts
    folder: Path
    without: frozenset[str] = frozenset()
    _set: _Set | None = None
    _people: tuple[str, ...] | None = None
    _absent: dict[str, str] = field(default_factory=dict)
    _summed: set[str] = field(default_factory=set)

    @property
    def members(self) -> tuple[str, ...]:
        """Sites that may take part, in the order of their names."""
        return tuple(sorted(set(self.study.members(self.step)) - self.without))

    @property
    def summed(self) -> tuple[str, ...]:
        """Sites that are in a sum that was opened."""
        return tuple(sorted(self._summed))

    @property
    def threshold(self) -> int:
        """How many must send, and reveal."""
        config = self.study.secure_sum or SecureSumConfig()
        return config.least(len(self.study.members(self.step)))

    def add(
        self,
        phase: str,
        round_number: int,
        arrays: Mapping[str, NDArray[Any]],
        *,
        sites: tuple[str, ...] | None = None,
        accept: Accept | None = None,
    ) -> Replies:
        """Return the sum of the sites' answers to a phase as one answer, of TOGETHER, and who is not in it.

        Raises
        ------
        MembersLost : one whose people are in earlier sums is missing.
        RunError : too few sites answered, or the sum could not be opened.
        """
        pooled = summed_phases(self.step.stage)[phase] == "pooled"
        wanted = self.members if sites is None or TOGETHER in sites else tuple(sorted(set(sites) & set(self.members)))
        for _ in range(_TRIES):
            keys = self._keys(wanted)
            number = keys.next
            keys.next += 1
            common = {**arrays, STAGE_ROUND: np.array([round_number])}
            sum_ = _Sum(self, keys, number, phase, common, pooled)
            words, reveals = sum_.hidden(), {}
            if words is not None:
                keys.whole = keys.whole and set(words) == set(keys.members)
                reveals = sum_.reveals(tuple(words))
            if words is not None and len(reveals) >= self.threshold:
                payload = self._opened(
                    keys, number, phase, words, reveals, Request("", "", "", phase, round_number, arrays)
                )
                why = accept(payload) if accept is not None else None
                if why is not None:
                    raise RunError(f"step {self.step.id!r}, {phase}: the sum cannot be used", value=why)
                return self._replies(payload, words, sum_.absent, pooled)
            keys.whole = False
            if pooled:
                self._lose({s: why for s, why in sum_.absent.items() if s in keys.members})
        raise RunError(
            f"step {self.step.id!r}, {phase} {round_number}: sites were lost in each attempt at a secure sum",
            value="; ".join(f"{site}: {why}" for site, why in sorted(sum_.absent.items())),
            remedy="the run is kept: mend the sites and go on with it (resume)",
        )

    def _lose(self, lost: Mapping[str, str]) -> None:
        """Go on without sites before anything was told of their people; after that the step begins anew."""
        if self._people is not None or len(set(self.members) - set(lost)) < self.threshold:
            raise MembersLost(lost)
        self.without = self.without | set(lost)
        self._absent |= lost
        self._set = None

    def _replies(
        self, payload: Any, words: Mapping[str, HiddenWords], absent: Mapping[str, str], pooled: bool
    ) -> Replies:
        sent = tuple(words)
        self._summed |= set(sent)
        if pooled and self._people is None:
            self._people = sent
        reasons = {site: why for site, why in {**self._absent, **absent}.items() if site not in words}
        return Replies({TOGETHER: payload}, reasons, {site: _told(reply) for site, reply in words.items()}, sent)

    def _opened(
        self,
        keys: _Set,
        number: int,
        phase: str,
        words: Mapping[str, HiddenWords],
        reveals: Mapping[int, Reveal],
        request: Request,
    ) -> Any:
        place = {site: i for i, site in enumerate(keys.members)}
        layout = next(iter(words.values())).layout
        try:
            total = open_sum(
                {place[s]: reply.words for s, reply in words.items()}, reveals, keys.published(number), self.threshold
            )
            sums = sums_of(total, layout)
            told = [_told(reply) for reply in words.values()]
            of_sums = getattr(shared_room(self.step.stage), "of_sums", None)
            cls = payload_type(self.step.stage, phase)
            assert cls is not None
            return payload_of(cls, sums, told) if of_sums is None else of_sums(cls, sums, told, request)
        except PrivacyError as error:
            raise RunError(
                f"step {self.step.id!r}, {phase}: the secure sum could not be opened: {error.what}",
                value=error.value,
                remedy="a site's software or a message is at fault; go on with the run (resume) to ask anew",
            ) from None

    # Keys -----------------------------------------------------------------------------------------------------

    def _keys(self, wanted: tuple[str, ...]) -> _Set:
        """Return a set of keys with a sum to spare, whose members have all been there so far."""
        held = self._set
        if held is None or held.next >= held.keys.shape[1] or not held.whole:
            held = self._set = self._new_keys(wanted)
        return held

    def _new_keys(self, wanted: tuple[str, ...]) -> _Set:
        sites = wanted
        for _ in range(_TRIES):
            number = self._next_number()
            sums = min(_SUMS_A_SET, MOST_SUMS)
            offered = self._asked("+keys", number, {"sums": np.array([sums])}, sites, accept=_keys_fit(sums))
            self._absent |= offered.absent
            members = tuple(sorted(offered.by_site))
            shown = _shown(members, offered.by_site)
            dealt = self._asked("+shares", number, shown, members)
            if set(dealt.by_site) == set(members) and _one_shape([r.envelopes for r in dealt.by_site.values()]):
                rows = np.stack([dealt.by_site[site].envelopes for site in members])
                own = {site: {"envelopes": rows[:, i]} for i, site in enumerate(members)}
                held = self._asked("+hold", number, {}, members, own=own)
                if set(held.by_site) == set(members):
                    return _Set(number, members, self._use(number, members, shown), shown["keys"], shown["commitments"])
                dealt = held
            # Who is lost now is left out; whoever stayed begins with new keys.
            self._absent |= dealt.absent
            sites = tuple(site for site in members if site in dealt.by_site)
        raise RunError(
            f"step {self.step.id!r}: sites were lost each time keys for a secure sum were exchanged",
            value="; ".join(f"{site}: {why}" for site, why in sorted(self._absent.items())),
            remedy="the run is kept: mend the sites and go on with it (resume)",
        )

    def _asked(
        self, phase: str, round_number: int, arrays: Mapping[str, NDArray[Any]], sites: tuple[str, ...], **how: Any
    ) -> Replies:
        """Ask as the study's quorum has it, and for no fewer than the threshold."""
        replies = self.ask(phase, round_number, arrays, sites, **how)
        if len(replies.by_site) < self.threshold:
            raise RunError(
                f"step {self.step.id!r}, {phase}: {len(replies.by_site)} of {self.threshold} needed sites answered",
                value="; ".join(f"{site}: {why}" for site, why in sorted(replies.absent.items())),
                remedy="the run is kept: mend the sites and go on with it (resume)",
            )
        return replies

    def _use(self, number: int, members: tuple[str, ...], shown: Mapping[str, NDArray[Any]]) -> bytes:
        digest = hashlib.sha256(
            shown["channel"].tobytes() + shown["keys"].tobytes() + shown["commitments"].tobytes()
        ).hexdigest()
        named = (self.study.sha256, self.run, self.step.id, number, self.threshold)
        return context("setup", *named, json.dumps(members), digest)

    def _next_number(self) -> int:
        """Return a number that no set of keys of this step has had, and keep it first."""
        path = self.folder / COUNTER
        last = json.loads(path.read_text(encoding="ascii"))["last"] if path.exists() else 0
        write_atomically(path, json.dumps({"last": last + 1}).encode())
        return int(last) + 1


@dataclass
class _Sum:
    """One sum on its way."""

    of: SecureSums
    keys: _Set
    number: int
    phase: str
    arrays: Mapping[str, NDArray[Any]]
    pooled: bool
    absent: dict[str, str] = field(default_factory=dict)

    def hidden(self) -> dict[str, HiddenWords] | None:
        """Return the members' words under masks; None where one that must be in the sum was lost on the way."""
        members, own = self.keys.members, None
        common: Mapping[str, NDArray[Any]] = self.arrays
        if self.pooled:
            found = self._weighed()
            if found is None:
                return None
            members, own = found
            common = {STAGE_ROUND: self.arrays[STAGE_ROUND]}
        try:
            replies = self._ask("hidden", common, members, own=own)
        except RunError as error:
            if self.pooled and RefusalCode.TOO_FEW.value in str(error.value):
                raise TooFewTogether(error.what, value=error.value, remedy=_FEWER_GROUPS) from None
            raise
        words = self._of_one_layout(replies.by_site)
        whole = set(words) == set(members) if self.pooled else len(words) >= self.of.threshold
        return words if whole else None

    def _weighed(self) -> tuple[tuple[str, ...], dict[str, dict[str, NDArray[Any]]]] | None:
        """Have the members add up the sizes of their groups; return who is in, and what each needs to read the sum."""
        people = self.of._people
        dealt = self._ask("evidence", self.arrays, self.keys.members)
        if people is not None and (lost := set(people) - set(dealt.by_site)):
            raise MembersLost({site: self.absent.get(site, "lost") for site in lost})
        cells = Counter(reply.cells for reply in dealt.by_site.values()).most_common(1)[0][0]
        shape = (len(self.keys.members), _sealed_size(cells))
        sent = tuple(
            s for s, r in sorted(dealt.by_site.items()) if r.cells == cells and r.envelopes.shape[:1] == shape[:1]
        )
        place = {site: i for i, site in enumerate(self.keys.members)}
        rows = np.stack([dealt.by_site[site].envelopes for site in sent])
        indices = np.array([place[site] for site in sent])
        own = {
            site: {
                "secure.envelopes": rows[:, place[site]],
                "secure.sent": indices,
                STAGE_ROUND: self.arrays[STAGE_ROUND],
            }
            for site in sent
        }
        weighed = self._ask("weigh", {}, sent, own=own)
        if set(weighed.by_site) != set(sent):
            return None
        rows = np.stack([weighed.by_site[site].envelopes for site in sent])
        back = {site: {"secure.envelopes": rows[:, place[site]], "secure.weighed": indices} for site in sent}
        return sent, back

    def reveals(self, sent: tuple[str, ...]) -> dict[int, Reveal]:
        """Ask for the shares that open the sum."""
        place = {site: i for i, site in enumerate(self.keys.members)}
        indices = np.array(sorted(place[site] for site in sent))
        asked = sent if self.pooled else self.keys.members
        replies = self._ask(
            "reveal",
            {"secure.sent": indices, STAGE_ROUND: self.arrays[STAGE_ROUND]},
            asked,
        )
        gone = [i for i in range(len(self.keys.members)) if i not in set(indices.tolist())]
        shape = (len(self.keys.members), shamir.SHARE_BYTES)
        return {
            place[site]: Reveal(
                {int(i): int.from_bytes(r.seeds[i].tobytes(), "big") for i in indices},
                {i: int.from_bytes(r.keys[i].tobytes(), "big") for i in gone},
            )
            for site, r in replies.by_site.items()
            if r.seeds.shape == shape and r.keys.shape == shape
        }

    def _of_one_layout(self, replies: Mapping[str, HiddenWords]) -> dict[str, HiddenWords]:
        """Return the replies whose numbers are the same ones as most sites'; others are named."""
        layouts = Counter(reply.layout for reply in replies.values())
        if not layouts:
            return {}
        layout = layouts.most_common(1)[0][0]
        try:
            size = size_of(layout)
        except PrivacyError:
            size = -1
        good = {}
        for site, reply in sorted(replies.items()):
            if reply.layout == layout and reply.words.shape == (size,) and reply.words.dtype == np.uint64:
                good[site] = reply
            else:
                self.absent[site] = "wrong-shape"
        return good

    def _ask(self, part: str, arrays: Mapping[str, NDArray[Any]], sites: tuple[str, ...], **options: Any) -> Replies:
        replies = self.of._asked(
            f"{self.phase}+{part}", sum_round(self.keys.number, self.number), arrays, sites, **options
        )
        self.absent |= replies.absent
        return replies


def _sealed_size(cells: int) -> int:
    return len(shamir.pack([0] * cells)) * shamir.SHARE_BYTES


def _keys_fit(sums: int) -> Accept:
    def accept(reply: KeysOffered) -> str | None:
        shapes = (np.shape(reply.channel), np.shape(reply.keys), np.shape(reply.commitments))
        return None if shapes == ((32,), (sums, 32), (sums, 32)) else "wrong-shape"

    return accept


def _one_shape(arrays: list[NDArray[Any]]) -> bool:
    return len({array.shape for array in arrays}) == 1 and arrays[0].ndim == 2 and len(arrays[0]) == len(arrays)


def _shown(members: tuple[str, ...], offered: Mapping[str, KeysOffered]) -> dict[str, NDArray[Any]]:
    replies = [offered[site] for site in members]
    return {
        "members": np.frombuffer(json.dumps(members).encode(), dtype=np.uint8),
        "proofs": np.concatenate([r.proof for r in replies]),
        "proof_sizes": np.array([len(r.proof) for r in replies]),
        "signatures": np.concatenate([r.signature for r in replies]),
        "signature_sizes": np.array([len(r.signature) for r in replies]),
        "channel": np.stack([r.channel for r in replies]),
        "keys": np.stack([r.keys for r in replies]),
        "commitments": np.stack([r.commitments for r in replies]),
    }


def _told(reply: HiddenWords) -> dict[str, str]:
    return dict(text.split("=", 1) for text in reply.told if "=" in text)
