"""Our own loop over Flower's Grid: ask sites, wait for quorum or deadline, and never for ever.

Flower's strategies wait without end for missing nodes and stop at a malformed reply. Here every reply is checked
against its declared type, the study's hash and the site that gave it; one that fails is left out and named, and the
site may answer the next request.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from ecgshared.errors import RefusalCode, RunError
from ecgshared.stages.protocol import Request, Weights, field_kinds, payload_type
from ecgshared.study import Study
from ecgshared.wire import (
    MESSAGE_TYPE_ASK,
    MESSAGE_TYPE_HELLO,
    WireError,
    body_of,
    decode_payload,
    encode_request,
    has_infinity,
    refusal_of,
    stamp_of,
    to_records,
)
from server.conduct import Accept, Metrics, Replies
from server.runs import RunFolder

_FINAL = {
    RefusalCode.TOO_FEW,
    RefusalCode.BUDGET_SPENT,
    RefusalCode.PRIVACY_REQUIRED,
    RefusalCode.NOT_A_MEMBER,
}
"""Refusals that asking again cannot change; such a site does not count towards a quorum of all."""

_POLL_SECONDS = 0.05


class Federation:
    """The sites of one run, as the coordinator sees them through a Grid."""

    def __init__(self, grid: Grid, study: Study, run: RunFolder) -> None:
        self._grid, self._study, self._run = grid, study, run
        self._run_name = run.info["run"]
        self._nodes: dict[str, int] = {}
        self._unapproved: set[str] = set()

    def connect(self, wanted: tuple[str, ...], seconds: float) -> None:
        """Learn which node is which site, until all of ``wanted`` are known or ``seconds`` are over."""
        hello = Request(self._study.sha256, self._run_name, "", "hello", 0, {})
        end = time.monotonic() + seconds
        asked: set[int] = set()
        pending: dict[str, int] = {}
        while not set(wanted) <= set(self._nodes) and time.monotonic() < end:
            new = [node for node in self._grid.get_node_ids() if node not in asked]
            asked.update(new)
            records = to_records(encode_request(hello))
            pushed = [Message(records, node, MESSAGE_TYPE_HELLO, ttl=seconds + 60) for node in new]
            pending |= dict(zip(self._grid.push_messages(pushed), new, strict=True)) if new else {}
            replies = list(self._grid.pull_messages(list(pending))) if pending else []
            for reply in replies:
                self._introduce(reply, pending.pop(reply.metadata.reply_to_message_id))
            if not new and not replies:
                time.sleep(_POLL_SECONDS)

    def _introduce(self, reply: Message, node: int) -> None:
        if not reply.has_content() or "hello" not in reply.content.config_records:
            return
        hello = reply.content.config_records["hello"]
        site = str(hello.get("site", ""))
        if site not in self._study.sites.all:
            return
        if self._nodes.get(site, node) != node:
            raise RunError(f"two nodes both say they are site {site!r}", remedy="give each site file a name of its own")
        self._nodes[site] = node
        if hello.get("study") != self._study.sha256:
            self._unapproved.add(site)

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
        """Ask ``sites`` one thing; see :class:`server.conduct.Ask`. Raise RunError below the quorum."""
        request = Request(self._study.sha256, self._run_name, step, phase, round_number, arrays)
        records = to_records(encode_request(request))
        tally = _Tally()
        start = time.monotonic()
        for attempt in range(self._study.federation.retries + 1):
            missing = tuple(s for s in sites if s not in tally.answered and tally.absent.get(s) not in _FINAL)
            if attempt:
                time.sleep(min(2.0**attempt, 30.0) * _POLL_SECONDS)
                self._nodes = {site: node for site, node in self._nodes.items() if site not in missing}
            self._collect(request, stage, records, missing, accept, tally)
            needed = self._needed(sites, tally.absent, quorum)
            if len(tally.answered) >= needed:
                break
        answered, absent = tally.answered, tally.absent
        size = len(records.array_records["body"]["body"].data)
        self._run.append(
            "history.jsonl",
            {
                "step": step,
                "phase": phase,
                "round": round_number,
                "seconds": round(time.monotonic() - start, 4),
                "answered": sorted(answered),
                "absent": absent,
                "bytes_in": tally.received,
                "bytes_out": {site: size for site in sites if site in self._nodes},
                "metrics": dict(metrics(answered)) if metrics is not None and answered else {},
            },
        )
        if len(answered) < needed:
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(absent.items()))
            raise RunError(
                f"step {step!r}, {phase} {round_number}: {len(answered)} of {needed} needed sites answered",
                value=reasons,
                remedy="the run is kept: mend the sites and start it again with --resume",
            )
        return Replies({site: answered[site] for site in sites if site in answered}, absent)

    def _needed(self, sites: tuple[str, ...], absent: Mapping[str, str], quorum: int | None) -> int:
        able = sum(absent.get(site) not in _FINAL for site in sites)
        wanted = self._study.federation.quorum if quorum is None else quorum
        return able if wanted == "all" else min(int(wanted), len(sites))

    def _collect(
        self,
        request: Request,
        stage: str,
        records: RecordDict,
        sites: tuple[str, ...],
        accept: Accept | None,
        tally: _Tally,
    ) -> None:
        """Send to ``sites`` and sort what comes back until all answered or the deadline is over."""
        deadline = self._study.federation.deadline_seconds
        end = time.monotonic() + deadline
        self.connect(sites, min(deadline, 60.0))
        tally.absent.update({site: "not-connected" for site in sites if site not in self._nodes})
        tally.absent.update({site: RefusalCode.STUDY_NOT_APPROVED for site in sites if site in self._unapproved})
        ready = [site for site in sites if site in self._nodes and site not in self._unapproved]
        messages = [Message(records, self._nodes[site], MESSAGE_TYPE_ASK, ttl=deadline + 60) for site in ready]
        waiting = dict(zip(self._grid.push_messages(messages), ready, strict=True)) if ready else {}
        while waiting and time.monotonic() < end:
            replies = list(self._grid.pull_messages(list(waiting)))
            for reply in replies:
                # An error reply may carry another source node: a site is known by the message it replies to.
                site = waiting.pop(reply.metadata.reply_to_message_id)
                outcome = _read(reply, site, request, stage, tally)
                if not isinstance(outcome, str):
                    outcome = _fault(outcome) or (accept(outcome) if accept is not None else None) or outcome
                if isinstance(outcome, str):
                    tally.absent[site] = outcome
                    continue
                tally.absent.pop(site, None)
                tally.answered[site] = outcome
                self._run.append("releases.jsonl", _description(outcome, site, request, tally.received[site]))
            if not replies:
                time.sleep(_POLL_SECONDS)
        tally.absent.update(dict.fromkeys(waiting.values(), "deadline"))


@dataclass
class _Tally:
    """One request's outcome so far, by site: payloads, reasons of absence, bytes received."""

    answered: dict[str, Any] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)


def _read(reply: Message, site: str, request: Request, stage: str, tally: _Tally) -> Any:
    """Return the payload of a reply, or (a string) why there is none."""
    if not reply.has_content():
        return f"lost (Flower error {reply.error.code})"
    refusal = refusal_of(reply.content)
    if refusal is not None:
        return refusal[1].value
    try:
        body = body_of(reply.content)
        tally.received[site] = len(body)
        cls = payload_type(stage, request.phase)
        if cls is None:
            raise WireError("no declared reply")
        return decode_payload(body, cls, stamp_of(request, site))
    except WireError as error:
        return f"malformed: {error}"


def _fault(payload: Any) -> str | None:
    if has_infinity(payload):
        return "not-finite"
    for name, (_, kind) in field_kinds(type(payload)).items():
        if isinstance(kind, Weights) and not np.isfinite(getattr(payload, name)).all():
            return "not-finite"
    return None


def _description(payload: Any, site: str, request: Request, size: int) -> dict[str, Any]:
    described = {}
    kinds = field_kinds(type(payload))
    for name in (f.name for f in fields(payload)):
        value = getattr(payload, name)
        array = np.asarray(value) if isinstance(value, np.ndarray | float) else None
        described[name] = {
            "kind": type(kinds[name][1]).__name__.lower(),
            "type": type(value).__name__ if array is None else str(array.dtype),
            "shape": list(np.shape(value)) if array is not None or not hasattr(value, "__len__") else [len(value)],
            "withheld": 0 if array is None else int(np.isnan(array).sum()),
        }
    return {
        "site": site,
        "step": request.step,
        "phase": request.phase,
        "round": request.round,
        "kind": type(payload).__name__,
        "fields": described,
        "bytes": size,
    }
