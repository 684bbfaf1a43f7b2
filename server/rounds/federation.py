"""Our own loop over Flower's Grid: ask sites, wait for quorum or deadline, and never for ever.

Flower's strategies wait without end for missing nodes and stop at a malformed reply. Here every reply is checked
against its declared type, the study's hash and the site that gave it; one that fails is left out and named, and the
site may answer the next request.

In a federation of hospitals a site that is lost on the way (its process died, the network broke, it is paused) is
asked again while others are still at work, and one that answers nonsense is asked ``retries`` times more. Below the
quorum a simulation stops, where nothing will change by waiting; hospitals are waited for, and it is said for whom,
until they return or the patience is over. Which node is which site is for :mod:`server.rounds.presence` to know.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from ecgshared.errors import RefusalCode, RunError, TooFewError
from ecgshared.service.files import now
from ecgshared.study.study import Study
from ecgshared.wire.bytes import MESSAGE_TYPE_ASK
from ecgshared.wire.protocol import Request
from server.rounds.aside import AsideQuestions
from server.rounds.patience import Stopped, Wait, WaitingPolicy
from server.rounds.presence import POLL_SECONDS, Presence
from server.rounds.question import Question
from server.rounds.replies import FINAL, REVOKED, SiteState, description, read_reply, reasons, will_pass
from server.rounds.run_folder import RunFolder
from server.rounds.step_context import Accept, Metrics, Replies

_LONGEST_PAUSE_SECONDS = 10.0
_REVOKED_SECONDS = 5.0


class Federation:
    """The sites of one run, as the coordinator sees them through a Grid."""

    def __init__(self, grid: Grid, study: Study, run: RunFolder, policy: WaitingPolicy | None = None) -> None:
        self._grid, self._study, self._run = grid, study, run
        self._policy = policy or WaitingPolicy()
        self._run_name = run.info["run"]
        self._revoked_due = 0.0
        hello = self._request("", "hello", 0, {})
        self._presence = Presence(grid, study, hello, self._policy.site_of)
        self._aside = AsideQuestions(grid, self._presence, self._note_aside)

    def ask(
        self,
        step: str,
        stage: str,
        phase: str,
        round_number: int,
        arrays: Mapping[str, NDArray[Any]],
        sites: tuple[str, ...],
        *,
        quorum: int | None = None,
        accept: Accept | None = None,
        metrics: Metrics | None = None,
        own: Mapping[str, Mapping[str, NDArray[Any]]] | None = None,
    ) -> Replies:
        """Ask ``sites`` one thing; see :class:`server.rounds.step_context.Ask`. Raise RunError below the quorum.

        ``own`` : what is sent to one site alone, by site, beside ``arrays``.
        """
        request = self._request(step, phase, round_number, arrays)
        question = Question.of(request, stage, accept, own or {})
        states = [SiteState(site) for site in sites]
        start = time.monotonic()
        self._ask_until_enough(question, states, quorum)
        answered = {state.name: state.payload for state in states if state.answered}
        absent = {state.name: state.why for state in states if state.why}
        self._run.append(
            "history.jsonl",
            {
                "at": now(),
                "step": step,
                "phase": phase,
                "round": round_number,
                "seconds": round(time.monotonic() - start, 4),
                "answered": sorted(answered),
                "absent": absent,
                "lost": {state.name: state.lost for state in states if state.lost},
                "bytes_in": {state.name: state.bytes_in for state in states if state.bytes_in},
                "bytes_out": {site: question.bytes_to(site) for site in sites if site in self._presence.nodes},
                "metrics": dict(metrics(answered)) if metrics is not None and answered else {},
            },
        )
        needed = self._needed(states, quorum)
        if len(answered) < needed:
            # Whoever is too small stays so; of any other absence the operators hear, and may mend it.
            only_small = all(state.answered or state.why == RefusalCode.TOO_FEW for state in states)
            raise (TooFewError if only_small else RunError)(
                f"step {step!r}, {phase} {round_number}: {len(answered)} of {needed} needed sites answered",
                value=reasons(absent),
                remedy=_remedy(absent),
            )
        return Replies(answered, absent)

    def _request(self, step: str, phase: str, round_number: int, arrays: Mapping[str, NDArray[Any]]) -> Request:
        study = self._study
        return Request(study.sha256, self._run_name, step, phase, round_number, arrays, study.amendment)

    def ask_aside(self, step: str, stage: str, phase: str, sites: tuple[str, ...]) -> Replies:
        """Ask sites that were away what others were asked before; wait for none, and return who has answered by now."""
        return self._aside.ask(self._request(step, phase, 0, {}), stage, sites)

    def _note_aside(self, request: Request, state: SiteState) -> None:
        line = {"at": now(), "step": request.step, "phase": request.phase, "round": request.round}
        told = {"answered": [state.name], "absent": {}, "bytes_in": {state.name: state.bytes_in}}
        self._run.append("history.jsonl", line | told)
        self._run.append("releases.jsonl", description(state.payload, state.name, request, state.bytes_in))

    def note_sum(
        self, step: str, phase: str, round_number: int, replies: Replies, metrics: Mapping[str, float | None]
    ) -> None:
        """Write a secure sum that was opened into the history: who is in it, beside the lines of its parts."""
        self._run.append(
            "history.jsonl",
            {
                "at": now(),
                "step": step,
                "phase": phase,
                "round": round_number,
                "answered": list(replies.summed),
                "absent": dict(replies.absent),
                "metrics": dict(metrics),
            },
        )

    def _ask_until_enough(self, question: Question, states: list[SiteState], quorum: int | None) -> None:
        """Ask all, then those that are missing, until the quorum has answered or nothing more is to be hoped for."""
        deadline = time.monotonic() + self._study.federation.deadline_seconds
        patience = time.monotonic() + self._policy.patience_seconds
        attempt, wait = 0, Wait(self._run)
        while True:
            missing = [state for state in states if state.able and not state.answered]
            self._collect(question, missing, self._needed(states, quorum) - _answered(states))
            if _answered(states) >= self._needed(states, quorum):
                break
            attempt += 1
            passing = any(state.able and will_pass(state.why) for state in states)
            patient = time.monotonic() < patience
            worth_it = patient or (self._lasting and time.monotonic() < deadline)
            if attempt > self._study.federation.retries and not (passing and worth_it):
                break
            if patient and passing:
                told = reasons({state.name: state.why for state in states if state.why})
                needed = self._needed(states, quorum)
                wait.tell(f"{question.name}: {_answered(states)} of {needed} needed sites answered ({told})")
            self._pause(_wait(attempt))
            for state in missing:
                if not state.answered:
                    self._presence.part(state.name)
        wait.over()

    @property
    def _lasting(self) -> bool:
        return self._policy.patience_seconds > 0

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._check_stopped()
            time.sleep(min(left, 0.2))

    def _check_stopped(self) -> None:
        if self._policy.stopped():
            raise Stopped("the coordinator stopped the run", remedy="resume it when you like")

    def _needed(self, states: list[SiteState], quorum: int | None) -> int:
        wanted = self._study.federation.quorum if quorum is None else quorum
        return sum(state.able for state in states) if wanted == "all" else min(int(wanted), len(states))

    def _collect(self, question: Question, states: list[SiteState], lacking: int) -> None:
        """Send to the sites and sort what comes back until all answered or the deadline is over."""
        deadline = self._study.federation.deadline_seconds
        names = tuple(state.name for state in states)
        self._tell(question, names, [name for name in names if name not in self._presence.nodes])
        # Who is let in no more will not come.
        wanted = tuple(name for name in names if name in self._presence.nodes or not self._policy.revoked(name))
        self._presence.connect(wanted, min(deadline, 60.0), self._check_stopped, enough=max(lacking, 1))
        for state in states:
            if state.name not in self._presence.nodes:
                away = REVOKED if self._policy.revoked(state.name) else "not-connected"
                state.why = self._presence.refusal_of(state.name) or away
            elif state.name in self._presence.unapproved:
                state.why = RefusalCode.STUDY_NOT_APPROVED
        # Only now: the wait for absent sites is no fault of those that are here.
        end = time.monotonic() + deadline
        self._send(question, states, end)
        self._tell(question, names, _waiting(states))
        while _waiting(states) and time.monotonic() < end:
            self._check_stopped()
            heard = self._hear(question, states)
            self._give_up_revoked(states)
            self._ask_again(question, states, end)
            if heard:
                self._tell(question, names, _waiting(states))
            else:
                time.sleep(POLL_SECONDS)
        for state in states:
            if state.message:
                state.miss("deadline")

    def _send(self, question: Question, states: list[SiteState], end: float) -> None:
        """Send to those of the sites that are connected and have approved the study."""
        ready = [s for s in states if s.name in self._presence.nodes and s.name not in self._presence.unapproved]
        if not ready:
            return
        ttl = max(end - time.monotonic(), 0.0) + 60.0
        messages = [
            Message(question.records_for(s.name), self._presence.nodes[s.name], MESSAGE_TYPE_ASK, ttl=ttl)
            for s in ready
        ]
        pushed = list(self._grid.push_messages(messages))
        for i, state in enumerate(ready):
            if i < len(pushed) and pushed[i]:
                state.sent(pushed[i])
            else:
                state.miss("lost (not sent)")

    def _hear(self, question: Question, states: list[SiteState]) -> bool:
        """Take in what has come back; return whether anything has."""
        # An error reply may carry another source node: a site is known by the message it replies to.
        waiting = {message: state for state in states for message in state.open_messages}
        replies = list(self._grid.pull_messages(list(waiting)))
        released = []
        for reply in replies:
            asked = reply.metadata.reply_to_message_id
            state = waiting[asked]
            if state.answered:
                continue
            read = read_reply(reply, state, question.request, question.stage)
            if not isinstance(read, str) and question.accept is not None:
                read = question.accept(read) or read
            if isinstance(read, str) and asked != state.message:
                state.overdue.remove(asked)  # it has been asked again since
            elif isinstance(read, str):
                state.miss(read)
                if self._lasting and self._worth_asking_again(state):
                    self._presence.part(state.name)
                    state.again_at = time.monotonic() + _wait(len(state.lost))
            else:
                state.heard(read)
                released.append(description(read, state.name, question.request, state.bytes_in))
        if released:
            self._run.append("releases.jsonl", *released)
        return bool(replies)

    def _ask_again(self, question: Question, states: list[SiteState], end: float) -> None:
        """Ask those that were lost once more, if they are back, while others are still at work."""
        lost = [state for state in states if state.again_at < math.inf]
        if not lost or not _waiting(states):
            return
        self._presence.greet()
        due = [s for s in lost if s.name in self._presence.nodes and time.monotonic() >= s.again_at]
        for state in due:
            state.again_at = math.inf
        self._send(question, due, end)

    def _give_up_revoked(self, states: list[SiteState]) -> None:
        """Wait for nobody who is let in no more: what it may yet say cannot come."""
        if time.monotonic() < self._revoked_due:
            return
        self._revoked_due = time.monotonic() + _REVOKED_SECONDS
        for state in states:
            if state.message and self._policy.revoked(state.name):
                state.miss(REVOKED)
                self._presence.part(state.name)

    def _worth_asking_again(self, state: SiteState) -> bool:
        nonsense = [reason for reason in state.lost if not will_pass(reason) and reason not in FINAL]
        return will_pass(state.why) or (state.able and len(nonsense) <= self._study.federation.retries)

    def _tell(self, question: Question, sites: tuple[str, ...], late: list[str]) -> None:
        self._policy.tell(
            {
                "step": question.request.step,
                "phase": question.request.phase,
                "round": question.request.round,
                "asked": list(sites),
                "late": sorted(late),
                "since": now(),
                "connected": sorted(self._presence.nodes),
            }
        )


def _remedy(absent: Mapping[str, str]) -> str:
    left = sorted(site for site, why in absent.items() if why == REVOKED)
    if not left:
        return "the run is kept: mend the sites and go on with it (resume)"
    without = " ".join(f"--without {site}" for site in left)
    return (
        "the run is kept: let them in again (invite, admit), or go on without them once the other sites approve that: "
        f"ecgfed coordinator amend RUN {without}"
    )


def _waiting(states: list[SiteState]) -> list[str]:
    return [state.name for state in states if state.message]


def _answered(states: list[SiteState]) -> int:
    return sum(state.answered for state in states)


def _wait(attempt: int) -> float:
    """Return the seconds before asking again: they grow, up to a limit."""
    return min(2.0 ** min(attempt, 30) * POLL_SECONDS, _LONGEST_PAUSE_SECONDS)
