"""The coordinator's side of secure sums: it hands keys and envelopes on, adds what is hidden, and opens the sum.

A set of keys serves many sums, each with keys of its own. Where a member of the set is lost, training goes on without
its words and a new set is made for the next round. Sums of statistics must be of the same people from the first to the
last of a step, whoever asks and however often: beside an earlier sum, one without a hospital would tell that hospital's
own numbers. The step waits for who was lost (:class:`MembersLost`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ecgshared.errors import RefusalCode, RunError
from ecgshared.service.files import write_atomically
from ecgshared.study.amendment import LEFT
from ecgshared.study.secure import TOGETHER, summed_phases
from ecgshared.study.study import Study
from ecgshared.wire.hidden import HiddenWords
from ecgshared.wire.protocol import StepConfig
from server.rounds.key_sets import TRIES, AskParts, KeySets
from server.rounds.one_sum import MembersLost as MembersLost
from server.rounds.one_sum import OneSum, told
from server.rounds.one_sum import TooFewTogether as TooFewTogether
from server.rounds.step_context import Accept, Replies

_PEOPLE = "people.json"
"""In the step's folder: whose people are in its sums of statistics."""


@dataclass
class SecureSums:
    """The sums of one step.

    Attributes
    ----------
    ask : asks sites one part. folder : the step's own.
    """

    study: Study
    step: StepConfig
    run: str
    ask: AskParts
    folder: Path
    _without: frozenset[str] = frozenset()
    _people: tuple[str, ...] | None = None
    _summed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._sets = KeySets(self.study, self.step, self.run, self.ask, self.folder)
        file = self.folder / _PEOPLE
        if file.exists():
            self._people = tuple(json.loads(file.read_text(encoding="utf-8")))

    @property
    def members(self) -> tuple[str, ...]:
        """Sites that take part, in the order of their names: of statistics those of the first sum."""
        return self._people or tuple(sorted(set(self.study.members(self.step)) - self._without))

    @property
    def summed(self) -> tuple[str, ...]:
        """Sites that are in a sum that was opened."""
        return tuple(sorted(self._summed))

    @property
    def threshold(self) -> int:
        """How many must send, and reveal."""
        return self._sets.threshold

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
        if left := set(self._people or ()) - set(self.study.members(self.step)):
            raise MembersLost(dict.fromkeys(left, LEFT))
        wanted = self.members if sites is None or TOGETHER in sites else tuple(sorted(set(sites) & set(self.members)))
        for _ in range(TRIES):
            keys = self._sets.current(wanted)
            sum_ = OneSum(self._sets, keys, keys.next, phase, round_number, arrays, pooled, self._people)
            keys.next += 1
            words, reveals = sum_.hidden(), {}
            if words is not None:
                keys.whole = keys.whole and set(words) == set(keys.members)
                reveals = sum_.reveals(tuple(words))
            if words is not None and len(reveals) >= self.threshold:
                payload = sum_.opened(words, reveals)
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
            remedy=_remedy(sum_.absent),
        )

    def _lose(self, lost: Mapping[str, str]) -> None:
        """Go on without sites before anything was told of their people."""
        if self._people is not None or len(set(self.members) - set(lost)) < self.threshold:
            raise MembersLost(lost)
        self._without = self._without | set(lost)
        self._sets.absent |= lost
        self._sets.drop()

    def _replies(
        self, payload: Any, words: Mapping[str, HiddenWords], absent: Mapping[str, str], pooled: bool
    ) -> Replies:
        sent = tuple(words)
        self._summed |= set(sent)
        if pooled and self._people is None:
            self._people = sent
            write_atomically(self.folder / _PEOPLE, json.dumps(list(sent)).encode(), sync=True)
        reasons = {site: why for site, why in {**self._sets.absent, **absent}.items() if site not in words}
        return Replies({TOGETHER: payload}, reasons, {site: told(reply) for site, reply in words.items()}, sent)


def _remedy(absent: Mapping[str, str]) -> str:
    mend = "the run is kept: mend the sites and go on with it (resume)"
    if RefusalCode.SECURE_SUM_REFUSED.value not in absent.values():
        return mend
    return f"{mend}; who was in a sum of this step before must be in the next one too"
