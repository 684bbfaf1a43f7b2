"""A site's side of secure sums: what it answers to each part, what it checks of others, and what it never gives.

What a site holds to, whatever the coordinator says:

* a sum is of the study's own members of the step, each known by its signature, in a number that the study's threshold
  asks for, three at least;
* the keys of one sum hide one vector, once: another question, another membership, another set of those who sent is
  refused, also after a restart (the secrets and what was done with them are on the disk before an answer leaves, and
  the outbox gives the same answer to the same request);
* of one member it reveals the share of the seed or that of the key, never both;
* its numbers leave under masks only after the group they speak of met the strictest limits among the members: its own
  group by the gate, or that of all together, whose sizes the sites add among themselves.

Once secrets are gone (a newer set was made for the step) it says so: SECURE_SUM_REFUSED.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np

from client.egress.sum_files import Bytes, SumFiles, as_bytes, as_rows, read, refused, write
from client.egress.sum_members import Group, Offered, Secrets
from client.egress.sum_session import Own as Own
from client.egress.sum_session import Session, indices
from client.site.identity import Identity, Signed, require_signed
from client.site.settings import SiteSettings
from ecgshared.errors import PrivacyError
from ecgshared.privacy.secure_sum import KEY_BYTES, commitment, context, new_key, public_key
from ecgshared.study.secure import LEAST_SITES, summed_phases
from ecgshared.study.study import Study
from ecgshared.wire.bytes import WireError
from ecgshared.wire.hidden import (
    EvidenceDealt,
    EvidenceSummed,
    HiddenWords,
    KeysOffered,
    Revealed,
    SharesDealt,
    SharesHeld,
)
from ecgshared.wire.protocol import Request, StepConfig
from ecgshared.wire.secure_rounds import MOST_SUMS, STAGE_ROUND, sum_of, without_ours

FOLDER = "secure_sums"


class SecureSite:
    """One site in the sums of one step of one run.

    Parameters
    ----------
    own : computes the answer to a stage's request, as numbers that add up.
    """

    def __init__(self, settings: SiteSettings, study: Study, step: StepConfig, run: str, own: Callable[[Request], Own]):
        config = study.secure_sum
        if config is None:
            raise refused("the study adds nothing under masks")
        self._settings, self._study, self._step, self._own = settings, study, step, own
        self._run = run
        self._allowed = tuple(sorted(study.members(step)))
        self._threshold = config.least(len(self._allowed))
        digest = hashlib.sha256(f"{study.sha256}/{run}".encode()).hexdigest()[:24]
        self._files = SumFiles(settings.state / FOLDER / digest / step.id)

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
            raise refused("the answers to this phase are not added under masks")
        try:
            return parts[part](request)
        except PrivacyError as error:
            raise refused(error.what) from error
        except (KeyError, ValueError, IndexError, TypeError, WireError) as error:
            raise refused(f"a part of a secure sum that is none ({type(error).__name__})") from error

    # Before any sum -------------------------------------------------------------------------------------------

    def keys(self, request: Request) -> KeysOffered:
        """Make the secrets of the next sums, keep them, and offer their public halves."""
        sums = int(request.arrays["sums"][0])
        if not 1 <= sums <= MOST_SUMS:
            raise refused("keys for so many sums")
        path = self._files.of_set(request.round, "secrets")
        if not path.exists():
            made = {
                "channel": as_bytes(new_key()),
                "keys": as_rows([new_key() for _ in range(sums)]),
                "seeds": as_rows([secrets.token_bytes(KEY_BYTES) for _ in range(sums)]),
            }
            write(path, {"sums": sums}, made)
        header, held = read(path)
        if header["sums"] != sums:
            raise refused("keys for another number of sums than before")
        self._files.forget_older(request.round)
        channel = as_bytes(public_key(held["channel"].tobytes()))
        keys = as_rows([public_key(row.tobytes()) for row in held["keys"]])
        commitments = as_rows([commitment(row.tobytes()) for row in held["seeds"]])
        identity = Identity(self._settings)
        signed = self._statement(request.round, self._settings.site, channel, keys, commitments)
        return KeysOffered(as_bytes(identity.proof), as_bytes(identity.sign(signed)), channel, keys, commitments)

    def shares(self, request: Request) -> SharesDealt:
        """Check who takes part, and deal shares of this site's secrets to them."""
        own = Secrets.read(self._files.of_set(request.round, "secrets"))
        offered = Offered.read(request.arrays)
        self._require_members(offered.members)
        require_signed(
            self._settings,
            [
                Signed(
                    name,
                    offered.proofs[i],
                    offered.signatures[i],
                    self._statement(request.round, name, offered.channel[i], offered.keys[i], offered.commitments[i]),
                )
                for i, name in enumerate(offered.members)
            ],
        )
        use = offered.use(self._named(request.round))
        group, envelopes = Group.dealing(own, offered, self._settings.site, use, self._threshold, self._settings.limits)
        group.write(self._files.of_set(request.round, "members"))
        return SharesDealt(envelopes)

    def hold(self, request: Request) -> SharesHeld:
        """Open the shares that others dealt, and keep them: from here on sums may come."""
        group = self._group(request.round)
        contents, keys = group.opened(np.asarray(request.arrays["envelopes"], dtype=np.uint8))
        write(self._files.of_set(request.round, "held"), {}, {"shares": contents, "agreed": keys})
        return SharesHeld(len(contents))

    # One sum --------------------------------------------------------------------------------------------------

    def evidence(self, request: Request) -> EvidenceDealt:
        """Compute this site's numbers, keep them, and deal shares of the sizes of the groups behind them."""
        session = self._session(request)
        if not session.pooled:
            raise refused("this sum is not weighed")
        own = session.kept()
        if own is None:
            own = self._own(without_ours(request, _of(request)))
            session.keep(own)
        assert own.together is not None
        return EvidenceDealt(*session.deal_sizes(own.together))

    def weighed(self, request: Request) -> EvidenceSummed:
        """Add the shares of sizes that the members dealt."""
        session = self._session(request)
        sent = indices(request.arrays["secure.sent"], len(session.group.members))
        self._require_enough(sent)
        return EvidenceSummed(session.add_sizes(sent, _envelopes(request)))

    def hidden(self, request: Request) -> HiddenWords:
        """Give this site's numbers under masks, once the limits are met."""
        session = self._session(request)
        # Of a sum that is not weighed nothing is kept here: the outbox has what leaves, the same when asked again.
        own = session.kept() if session.pooled else self._own(without_ours(request, _of(request)))
        if own is None:
            raise refused("what this site kept of this sum is gone, or it took no part in it")
        if session.pooled:
            assert own.together is not None
            weighed = indices(request.arrays["secure.weighed"], len(session.group.members))
            session.require_limits(weighed, _envelopes(request), own.together)
        words = session.hidden(own.summand.words(len(self._allowed)))
        return HiddenWords(words, own.summand.layout, tuple(f"{k}={v}" for k, v in own.summand.told.items()))

    def reveal(self, request: Request) -> Revealed:
        """Give the shares that open a sum of those who sent their numbers; of each member one kind alone."""
        session = self._session(request, giving=False)
        sent = indices(request.arrays["secure.sent"], len(session.group.members))
        self._require_enough(sent)
        return Revealed(*session.shares(sent))

    # ----------------------------------------------------------------------------------------------------------

    def _group(self, number: int) -> Group:
        own = Secrets.read(self._files.of_set(number, "secrets"))
        group = Group.read(self._files.of_set(number, "members"), own, self._settings.site)
        # One that left since its keys were shared ends the set.
        self._require_members(tuple(group.members))
        return group

    def _session(self, request: Request, *, giving: bool = True) -> Session:
        """Return the sum a request belongs to; it belongs to one phase and one round of the stage for ever."""
        set_number, number = sum_of(request.round)
        group = self._group(set_number)
        _, held = read(self._files.of_set(set_number, "held"))
        group.remember(held["agreed"])
        if not number < len(group.secrets.keys):
            raise refused("no keys were made for this sum")
        return Session.claim(
            group,
            number,
            held["shares"],
            round_number=request.round,
            what={"of": _of(request), "round": int(np.ravel(request.arrays[STAGE_ROUND])[0])},
            pooled=summed_phases(self._step.stage)[_of(request)] == "pooled",
            giving=giving,
            threshold=self._threshold,
            files=self._files,
        )

    def _require_members(self, members: tuple[str, ...]) -> None:
        if list(members) != sorted(set(members)) or not set(members) <= set(self._allowed):
            raise refused("members that are not the study's for this step")
        if self._settings.site not in members:
            raise refused("a membership without this site")
        self._require_enough(members)

    def _require_enough(self, members: tuple[Any, ...]) -> None:
        if len(members) < max(self._threshold, LEAST_SITES):
            raise refused(f"a sum of {len(members)} sites; the study asks for {self._threshold}")

    def _named(self, number: int) -> tuple[object, ...]:
        return (self._study.sha256, self._run, self._step.id, number, self._threshold)

    def _statement(self, number: int, site: str, *parts: Bytes) -> bytes:
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).digest()
        return b"ecgfed secure sum keys v1\0" + context(*self._named(number), site, len(parts[1])) + digest


def _of(request: Request) -> str:
    return request.phase.rpartition("+")[0]


def _envelopes(request: Request) -> Bytes:
    return np.asarray(request.arrays["secure.envelopes"], dtype=np.uint8)
