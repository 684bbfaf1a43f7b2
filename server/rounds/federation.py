"""Our own loop over Flower's Grid: ask sites, wait for quorum or deadline, and never for ever.

Flower's strategies wait without end for missing nodes and stop at a malformed reply. Here every reply is checked
against its declared type, the study's hash and the site that gave it; one that fails is left out and named, and the
site may answer the next request.

In a federation of hospitals a site that is lost on the way (its process died, the network broke, it is paused) is
asked again while others are still at work, and one that answers nonsense is asked ``retries`` times more. Below the
quorum a simulation stops, where nothing will change by waiting; hospitals are waited for, and it is said for whom,
until they return or the patience is over. Which node is which site is the coordinator's registry's to say; a hello
that claims another name is not heard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from ecgshared.errors import RefusalCode, RunError
from ecgshared.service.files import now
from ecgshared.study.study import Study
from ecgshared.wire.bytes import MESSAGE_TYPE_ASK, MESSAGE_TYPE_HELLO, encode_request, refusal_of, to_records
from ecgshared.wire.protocol import Request
from server.rounds.replies import FINAL, RequestOutcome, description, fault_in, read_reply, reasons, will_pass
from server.rounds.run_folder import RunFolder
from server.rounds.step_context import Accept, Metrics, Replies

_POLL_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 10.0
_HELLO_AGAIN_SECONDS = 15.0
_LATECOMERS_SECONDS = 3.0


@dataclass(frozen=True)
class WaitingPolicy:
    """How long a federation waits, and whom it tells. The default is that of one process: it does not wait.

    Attributes
    ----------
    patience_seconds : how long it goes on asking below the quorum.
    tell : is given what is going on, whenever that changes.
    stopped : whether the coordinator wants the run to end.
    site_of : which site a node is, by the key it was let in with; None where every node is believed.
    """

    patience_seconds: float = 0.0
    tell: Callable[[dict[str, Any]], None] = lambda _: None
    stopped: Callable[[], bool] = lambda: False
    site_of: Callable[[int], str | None] | None = None


class Federation:
    """The sites of one run, as the coordinator sees them through a Grid."""

    def __init__(self, grid: Grid, study: Study, run: RunFolder, manners: WaitingPolicy | None = None) -> None:
        self._grid, self._study, self._run = grid, study, run
        self._manners = manners or WaitingPolicy()
        self._run_name = run.info["run"]
        self._nodes: dict[str, int] = {}
        self._unapproved: set[str] = set()
        self._refusing: dict[str, tuple[int, str]] = {}
        self._greeted: dict[int, float] = {}
        self._hellos: dict[str, int] = {}

    def connect(self, wanted: tuple[str, ...], seconds: float, *, enough: int | None = None) -> None:
        """Learn which node is which site, until all of ``wanted`` are known or ``seconds`` are over.

        Once ``enough`` of them are known the others have a few seconds more.
        """
        end = time.monotonic() + seconds
        for site in set(wanted) & set(self._refusing):
            self._part(site)
        while not set(wanted) <= {*self._nodes, *self._refusing} and time.monotonic() < end:
            self._check_stopped()
            if enough is not None and len(set(wanted) & set(self._nodes)) >= enough:
                end, enough = min(end, time.monotonic() + _LATECOMERS_SECONDS), None
            if not self._greet():
                time.sleep(_POLL_SECONDS)

    def _greet(self) -> bool:
        """Ask unknown nodes who they are, and hear those that answer; return whether there was any."""
        at, known = time.monotonic(), set(self._nodes.values())
        due = at - _HELLO_AGAIN_SECONDS
        new = [n for n in self._grid.get_node_ids() if n not in known and self._greeted.get(n, due) <= due]
        self._greeted |= dict.fromkeys(new, at)
        if new:
            hello = to_records(encode_request(Request(self._study.sha256, self._run_name, "", "hello", 0, {})))
            pushed = self._grid.push_messages([Message(hello, node, MESSAGE_TYPE_HELLO, ttl=120.0) for node in new])
            self._hellos |= {message_id: node for message_id, node in zip(pushed, new, strict=True) if message_id}
        replies = list(self._grid.pull_messages(list(self._hellos))) if self._hellos else []
        for reply in replies:
            self._introduce(reply, self._hellos.pop(reply.metadata.reply_to_message_id))
        return bool(new or replies)

    def _introduce(self, reply: Message, node: int) -> None:
        if not reply.has_content():
            return
        refusal = refusal_of(reply.content)
        if refusal is not None:
            # A site that has not approved the code or the envelope says so instead of its name's study.
            site, code = refusal
            if self._manners.site_of is None or self._manners.site_of(node) == site:
                self._refusing[site] = node, code.value
            return
        if "hello" not in reply.content.config_records:
            return
        hello = reply.content.config_records["hello"]
        site = str(hello.get("site", ""))
        if site not in self._study.sites.all:
            return
        if self._manners.site_of is not None:
            if self._manners.site_of(node) != site:
                return
        elif self._nodes.get(site, node) != node:
            raise RunError(f"two nodes both say they are site {site!r}", remedy="give each site file a name of its own")
        self._nodes[site] = node
        self._refusing.pop(site, None)
        self._unapproved.discard(site)
        if hello.get("study") != self._study.sha256:
            self._unapproved.add(site)

    def _part(self, site: str) -> None:
        """Know no longer which node a site is: it may come back as another, or have approved more."""
        for node in (self._nodes.pop(site, None), self._refusing.pop(site, (None, ""))[0]):
            if node is not None:
                self._greeted.pop(node, None)
        self._unapproved.discard(site)

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
    ) -> Replies:
        """Ask ``sites`` one thing; see :class:`server.rounds.step_context.Ask`. Raise RunError below the quorum."""
        request = Request(self._study.sha256, self._run_name, step, phase, round_number, arrays)
        records = to_records(encode_request(request))
        tally = RequestOutcome()
        start = time.monotonic()
        self._ask_until_enough(request, stage, records, sites, quorum, accept, tally)
        answered, absent = tally.answered, tally.absent
        needed = self._needed(sites, absent, quorum)
        size = len(records.array_records["body"]["body"].data)
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
                "lost": tally.lost,
                "bytes_in": tally.received,
                "bytes_out": {site: size for site in sites if site in self._nodes},
                "metrics": dict(metrics(answered)) if metrics is not None and answered else {},
            },
        )
        if len(answered) < needed:
            raise RunError(
                f"step {step!r}, {phase} {round_number}: {len(answered)} of {needed} needed sites answered",
                value=reasons(absent),
                remedy="the run is kept: mend the sites and go on with it (resume)",
            )
        return Replies({site: answered[site] for site in sites if site in answered}, absent)

    def _ask_until_enough(
        self,
        request: Request,
        stage: str,
        records: RecordDict,
        sites: tuple[str, ...],
        quorum: int | None,
        accept: Accept | None,
        tally: RequestOutcome,
    ) -> None:
        """Ask all, then those that are missing, until the quorum has answered or nothing more is to be hoped for."""
        deadline = time.monotonic() + self._study.federation.deadline_seconds
        patience = time.monotonic() + self._manners.patience_seconds
        retries, attempt, waiting, since = self._study.federation.retries, 0, "", 0.0
        while True:
            missing = tuple(s for s in sites if s not in tally.answered and tally.absent.get(s) not in FINAL)
            needed = self._needed(sites, tally.absent, quorum)
            self._collect(request, stage, records, missing, accept, tally, needed)
            needed = self._needed(sites, tally.absent, quorum)
            if len(tally.answered) >= needed:
                break
            attempt += 1
            able = [s for s in sites if tally.absent.get(s) not in FINAL]
            passing = any(will_pass(tally.absent.get(s, "")) for s in able)
            patient = time.monotonic() < patience
            if not (attempt <= retries or (passing and (patient or (self._lasting and time.monotonic() < deadline)))):
                break
            if patient and passing:
                told = (
                    f"step {request.step!r}, {request.phase} {request.round}: {len(tally.answered)} of "
                    f"{needed} needed sites answered ({reasons(tally.absent)})"
                )
                since = since or time.monotonic()
                if told != waiting:
                    self._run.update(status="waiting", waiting_for=told)
                waiting = told
            self._pause(_wait(attempt))
            for site in set(missing) - set(tally.answered):
                self._part(site)
        if waiting:
            self._run.update(status="running", waiting_for=None)
            waited = f"waited {time.monotonic() - since:.0f} s"
            self._run.append("events.jsonl", {"at": now(), "what": waited, "why": waiting})

    @property
    def _lasting(self) -> bool:
        return self._manners.patience_seconds > 0

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._check_stopped()
            time.sleep(min(left, 0.2))

    def _check_stopped(self) -> None:
        if self._manners.stopped():
            raise Stopped("the coordinator stopped the run", remedy="resume it when you like")

    def _needed(self, sites: tuple[str, ...], absent: Mapping[str, str], quorum: int | None) -> int:
        able = sum(absent.get(site) not in FINAL for site in sites)
        wanted = self._study.federation.quorum if quorum is None else quorum
        return able if wanted == "all" else min(int(wanted), len(sites))

    def _collect(
        self,
        request: Request,
        stage: str,
        records: RecordDict,
        sites: tuple[str, ...],
        accept: Accept | None,
        tally: RequestOutcome,
        needed: int,
    ) -> None:
        """Send to ``sites`` and sort what comes back until all answered or the deadline is over."""
        deadline = self._study.federation.deadline_seconds
        end = time.monotonic() + deadline
        self._tell(request, sites, {site: site for site in sites if site not in self._nodes})
        self.connect(sites, min(deadline, 60.0), enough=max(needed - len(tally.answered), 1))
        unheard = [site for site in sites if site not in self._nodes]
        tally.absent.update({site: self._refusing.get(site, (0, "not-connected"))[1] for site in unheard})
        tally.absent.update({site: RefusalCode.STUDY_NOT_APPROVED for site in sites if site in self._unapproved})
        ready = [site for site in sites if site in self._nodes and site not in self._unapproved]
        waiting: dict[str, str] = {}
        again: dict[str, float] = {}
        self._send(records, ready, end, waiting, tally)
        self._tell(request, sites, waiting)
        while waiting and time.monotonic() < end:
            self._check_stopped()
            replies = list(self._grid.pull_messages(list(waiting)))
            for reply in replies:
                # An error reply may carry another source node: a site is known by the message it replies to.
                site = waiting.pop(reply.metadata.reply_to_message_id)
                outcome = read_reply(reply, site, request, stage, tally)
                if not isinstance(outcome, str):
                    outcome = fault_in(outcome) or (accept(outcome) if accept is not None else None) or outcome
                if isinstance(outcome, str):
                    tally.miss(site, outcome)
                    if self._lasting and self._worth_asking_again(outcome, tally.lost[site]):
                        self._part(site)
                        again[site] = time.monotonic() + _wait(len(tally.lost[site]))
                    continue
                tally.absent.pop(site, None)
                tally.answered[site] = outcome
                self._run.append("releases.jsonl", description(outcome, site, request, tally.received[site]))
            if again and waiting:
                self._greet()
                due = [site for site, at in again.items() if site in self._nodes and time.monotonic() >= at]
                again = {site: at for site, at in again.items() if site not in due}
                self._send(records, [site for site in due if site not in self._unapproved], end, waiting, tally)
            if replies:
                self._tell(request, sites, waiting)
            else:
                time.sleep(_POLL_SECONDS)
        for site in waiting.values():
            tally.miss(site, "deadline")

    def _send(
        self, records: RecordDict, sites: list[str], end: float, waiting: dict[str, str], tally: RequestOutcome
    ) -> None:
        """Send to ``sites``; add the messages to ``waiting``, and note those that could not be sent."""
        if not sites:
            return
        ttl = max(end - time.monotonic(), 0.0) + 60.0
        pushed = self._grid.push_messages([Message(records, self._nodes[s], MESSAGE_TYPE_ASK, ttl=ttl) for s in sites])
        sent = {message_id: site for message_id, site in zip(pushed, sites, strict=False) if message_id}
        waiting |= sent
        for site in set(sites) - set(sent.values()):
            tally.miss(site, "lost (not sent)")

    def _worth_asking_again(self, reason: str, lost: list[str]) -> bool:
        nonsense = [r for r in lost if not will_pass(r) and r not in FINAL]
        return will_pass(reason) or (reason not in FINAL and len(nonsense) <= self._study.federation.retries)

    def _tell(self, request: Request, sites: tuple[str, ...], waiting: Mapping[str, str]) -> None:
        self._manners.tell(
            {
                "step": request.step,
                "phase": request.phase,
                "round": request.round,
                "asked": list(sites),
                "late": sorted(waiting.values()),
                "since": now(),
                "connected": sorted(self._nodes),
            }
        )


class Stopped(RunError):
    """The coordinator ended the run; its checkpoint is kept."""


def _wait(attempt: int) -> float:
    """Return the seconds before asking again: they grow, up to a limit."""
    return min(2.0 ** min(attempt, 30) * _POLL_SECONDS, _LONGEST_PAUSE_SECONDS)
