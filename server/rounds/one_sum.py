"""One secure sum on its way: sizes weighed among the sites, words under masks, shares that open it, and the sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.errors import PrivacyError, RefusalCode, RunError
from ecgshared.privacy import shamir
from ecgshared.privacy.secure_sum import Reveal, open_sum
from ecgshared.privacy.summed import payload_of, size_of, sums_of
from ecgshared.study.registry import shared_room
from ecgshared.wire.hidden import HiddenWords
from ecgshared.wire.protocol import Request, payload_type
from ecgshared.wire.secure_rounds import STAGE_ROUND, sum_round
from server.rounds.key_sets import KeySet, KeySets
from server.rounds.step_context import Replies

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


@dataclass
class OneSum:
    """A sum of answers to one phase, under the keys of one number of a set.

    Attributes
    ----------
    arrays : what the stage asks with. pooled : the limits are those of all sites together.
    people : whose people are in earlier sums of the step, which must be in this one too; None where nobody's are.
    absent : filled with who did not answer, and why.
    """

    sets: KeySets
    keys: KeySet
    number: int
    phase: str
    round: int
    arrays: Mapping[str, NDArray[Any]]
    pooled: bool
    people: tuple[str, ...] | None
    absent: dict[str, str] = field(default_factory=dict)

    def hidden(self) -> dict[str, HiddenWords] | None:
        """Return the members' words under masks; None where one that must be in the sum was lost on the way."""
        members, own = self.keys.members, None
        common = self.arrays
        if self.pooled:
            found = self._weighed()
            if found is None:
                return None
            members, own = found
            common = {}
        try:
            replies = self._ask("hidden", common, members, own=own)
        except RunError as error:
            if self.pooled and RefusalCode.TOO_FEW.value in str(error.value):
                raise TooFewTogether(error.what, value=error.value, remedy=_FEWER_GROUPS) from None
            raise
        words = self._of_one_layout(replies.by_site)
        whole = set(words) == set(members) if self.pooled else len(words) >= self.sets.threshold
        return words if whole else None

    def reveals(self, sent: tuple[str, ...]) -> dict[int, Reveal]:
        """Ask for the shares that open the sum of those who sent."""
        place = self._place
        indices = np.array(sorted(place[site] for site in sent))
        asked = sent if self.pooled else self.keys.members
        replies = self._ask("reveal", {"secure.sent": indices}, asked)
        gone = [i for i in range(len(place)) if i not in set(indices.tolist())]
        shape = (len(place), shamir.SHARE_BYTES)
        return {
            place[site]: Reveal(
                {int(i): int.from_bytes(r.seeds[i].tobytes(), "big") for i in indices},
                {i: int.from_bytes(r.keys[i].tobytes(), "big") for i in gone},
            )
            for site, r in replies.by_site.items()
            if r.seeds.shape == shape and r.keys.shape == shape
        }

    def opened(self, words: Mapping[str, HiddenWords], reveals: Mapping[int, Reveal]) -> Any:
        """Return the sum as one answer.

        Raises
        ------
        RunError : it could not be opened, or is no answer.
        """
        step, hidden = self.sets.step, {self._place[s]: reply.words for s, reply in words.items()}
        try:
            total = open_sum(hidden, reveals, self.keys.published(self.number), self.sets.threshold)
            sums = sums_of(total, next(iter(words.values())).layout)
            texts = [told(reply) for reply in words.values()]
            of_sums = getattr(shared_room(step.stage), "of_sums", None)
            cls = payload_type(step.stage, self.phase)
            assert cls is not None
            request = Request("", "", "", self.phase, self.round, self.arrays)
            return payload_of(cls, sums, texts) if of_sums is None else of_sums(cls, sums, texts, request)
        except PrivacyError as error:
            raise RunError(
                f"step {step.id!r}, {self.phase}: the secure sum could not be opened: {error.what}",
                value=error.value,
                remedy="a site's software or a message is at fault; go on with the run (resume) to ask anew",
            ) from None

    @property
    def _place(self) -> dict[str, int]:
        return {site: i for i, site in enumerate(self.keys.members)}

    def _weighed(self) -> tuple[tuple[str, ...], dict[str, dict[str, NDArray[Any]]]] | None:
        """Have the members add up the sizes of their groups; return who is in, and what each needs to read the sum."""
        dealt = self._ask("evidence", self.arrays, self.keys.members)
        if self.people is not None and (lost := set(self.people) - set(dealt.by_site)):
            raise MembersLost({site: self.absent.get(site, "lost") for site in lost})
        cells = Counter(reply.cells for reply in dealt.by_site.values()).most_common(1)[0][0]
        shape = (len(self.keys.members), _sealed_size(cells))
        sent = tuple(
            s for s, r in sorted(dealt.by_site.items()) if r.cells == cells and r.envelopes.shape[:1] == shape[:1]
        )
        place = self._place
        rows = np.stack([dealt.by_site[site].envelopes for site in sent])
        indices = np.array([place[site] for site in sent])
        own = {site: {"secure.envelopes": rows[:, place[site]], "secure.sent": indices} for site in sent}
        weighed = self._ask("weigh", {}, sent, own=own)
        if set(weighed.by_site) != set(sent):
            return None
        rows = np.stack([weighed.by_site[site].envelopes for site in sent])
        back = {site: {"secure.envelopes": rows[:, place[site]], "secure.weighed": indices} for site in sent}
        return sent, back

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
        replies = self.sets.asked(
            f"{self.phase}+{part}",
            sum_round(self.keys.number, self.number),
            {**arrays, STAGE_ROUND: np.array([self.round])},
            sites,
            **options,
        )
        self.absent |= replies.absent
        return replies


def told(reply: HiddenWords) -> dict[str, str]:
    """Return what a site told beside its numbers, by name."""
    return dict(text.split("=", 1) for text in reply.told if "=" in text)


def _sealed_size(cells: int) -> int:
    return len(shamir.pack([0] * cells)) * shamir.SHARE_BYTES
