"""Sets of keys for secure sums: offered by the sites, shown to all of them, and shared among them.

A set serves many sums, each with keys of its own; no number of a set is ever used twice, also after a restart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.errors import RunError
from ecgshared.privacy.secure_sum import PublicKeys, context
from ecgshared.service.files import write_atomically
from ecgshared.study.secure import SecureSumConfig
from ecgshared.study.study import Study
from ecgshared.wire.hidden import KeysOffered
from ecgshared.wire.protocol import StepConfig
from ecgshared.wire.secure_rounds import MOST_SUMS
from server.rounds.step_context import Replies

COUNTER = "secure_sums.json"
"""In a step's folder: the number of the last set of keys."""

TRIES = 3
_SUMS_A_SET = min(16, MOST_SUMS)
_KEPT = "the run is kept: mend the sites and go on with it (resume)"

AskParts = Callable[..., Replies]
"""Asks sites one part: (phase, round, arrays, sites, own=, accept=)."""


@dataclass
class KeySet:
    """A set of keys that all its members hold shares of.

    Attributes
    ----------
    use : what binds envelopes and masks to its members and keys.
    next : the sum that is added next. whole : whether every member gave its part to every sum so far.
    """

    number: int
    members: tuple[str, ...]
    use: bytes
    keys: NDArray[np.uint8]
    commitments: NDArray[np.uint8]
    next: int = 0
    whole: bool = True

    def published(self, number: int) -> PublicKeys:
        """Return what the members published for one sum."""
        return PublicKeys(
            context("sum", self.use.hex(), number, "masks"),
            {i: row[number].tobytes() for i, row in enumerate(self.keys)},
            {i: row[number].tobytes() for i, row in enumerate(self.commitments)},
        )

    @property
    def spent(self) -> bool:
        """Whether no further sum is to be added with it."""
        return self.next >= self.keys.shape[1] or not self.whole


@dataclass
class KeySets:
    """The sets of keys of one step.

    Attributes
    ----------
    ask : asks sites one part. folder : the step's own.
    absent : reasons by site, of those that were lost while keys were exchanged.
    """

    study: Study
    step: StepConfig
    run: str
    ask: AskParts
    folder: Path
    absent: dict[str, str] = field(default_factory=dict)
    _held: KeySet | None = None
    _wanted: tuple[str, ...] = ()

    @property
    def threshold(self) -> int:
        """How many must send, and reveal."""
        config = self.study.secure_sum or SecureSumConfig()
        return config.least(len(self.study.members(self.step)))

    def current(self, wanted: tuple[str, ...]) -> KeySet:
        """Return a set with a sum to spare, whose members were there so far; where a site joins, a new one."""
        if self._held is None or self._held.spent or set(wanted) - set(self._wanted):
            self._held, self._wanted = self._exchanged(wanted), wanted
        return self._held

    def drop(self) -> None:
        """Use the set no more."""
        self._held = None

    def asked(
        self, phase: str, round_number: int, arrays: Mapping[str, NDArray[Any]], sites: tuple[str, ...], **how: Any
    ) -> Replies:
        """Ask one part as the study's quorum has it.

        Raises
        ------
        RunError : fewer than the threshold answered.
        """
        replies = self.ask(phase, round_number, arrays, sites, **how)
        if len(replies.by_site) < self.threshold:
            raise RunError(
                f"step {self.step.id!r}, {phase}: {len(replies.by_site)} of {self.threshold} needed sites answered",
                value="; ".join(f"{site}: {why}" for site, why in sorted(replies.absent.items())),
                remedy=_KEPT,
            )
        return replies

    def _exchanged(self, wanted: tuple[str, ...]) -> KeySet:
        """Have the sites make, show and share keys; who is lost on the way is left out, the others begin anew."""
        sites = wanted
        for _ in range(TRIES):
            number = self._next_number()
            offered = self.asked("+keys", number, {"sums": np.array([_SUMS_A_SET])}, sites, accept=_keys_fit)
            self.absent |= offered.absent
            members = tuple(sorted(offered.by_site))
            shown = _shown(members, offered.by_site)
            dealt = self.asked("+shares", number, shown, members)
            if set(dealt.by_site) == set(members) and _one_shape([r.envelopes for r in dealt.by_site.values()]):
                rows = np.stack([dealt.by_site[site].envelopes for site in members])
                own = {site: {"envelopes": rows[:, i]} for i, site in enumerate(members)}
                held = self.asked("+hold", number, {}, members, own=own)
                if set(held.by_site) == set(members):
                    use = self._use(number, members, shown)
                    return KeySet(number, members, use, shown["keys"], shown["commitments"])
                dealt = held
            self.absent |= dealt.absent
            sites = tuple(site for site in members if site in dealt.by_site)
        raise RunError(
            f"step {self.step.id!r}: sites were lost each time keys for a secure sum were exchanged",
            value="; ".join(f"{site}: {why}" for site, why in sorted(self.absent.items())),
            remedy=_KEPT,
        )

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


def _keys_fit(reply: KeysOffered) -> str | None:
    shapes = (np.shape(reply.channel), np.shape(reply.keys), np.shape(reply.commitments))
    return None if shapes == ((32,), (_SUMS_A_SET, 32), (_SUMS_A_SET, 32)) else "wrong-shape"


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
