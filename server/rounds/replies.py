"""What came back from the sites of one request: read against what was declared, or a reason why it does not count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from flwr.app import Message

from ecgshared.errors import RefusalCode
from ecgshared.wire.bytes import WireError, body_of, decode_payload, has_infinity, refusal_of, stamp_of
from ecgshared.wire.protocol import Request, Weights, field_kinds, payload_type
from server.rounds.grid import fault_of

FINAL = {
    RefusalCode.TOO_FEW,
    RefusalCode.BUDGET_SPENT,
    RefusalCode.PRIVACY_REQUIRED,
    RefusalCode.NOT_A_MEMBER,
}
"""Refusals that asking again cannot change; such a site does not count towards a quorum of all."""

REVOKED = "revoked"
"""Why a site is absent that the coordinator lets in no more. It counts towards a quorum of all: people must decide."""

PASSING = {
    RefusalCode.PAUSED,
    RefusalCode.WORKER_LOST,
    RefusalCode.INTERNAL,
    RefusalCode.DATA_UNAVAILABLE,
    RefusalCode.STUDY_NOT_APPROVED,
    RefusalCode.AMENDMENT_NOT_APPROVED,
    RefusalCode.CODE_NOT_APPROVED,
    RefusalCode.ENVELOPE_NOT_APPROVED,
}
"""Refusals that time or an operator can change: worth waiting for below the quorum."""


def will_pass(reason: str) -> bool:
    """Whether a reason of absence may be gone when the site is asked again later."""
    return reason in PASSING or reason in ("deadline", "not-connected") or reason.startswith("lost")


def reasons(absent: Mapping[str, str]) -> str:
    """Return who is absent and why, as one line."""
    return "; ".join(f"{site}: {reason}" for site, reason in sorted(absent.items()))


@dataclass
class SiteState:
    """One site in one request.

    Attributes
    ----------
    payload : its answer; None until it has given one that counts.
    why : there is none, for now; "" where it has not been asked yet or has answered.
    lost : every reason so far. bytes_in : of its last reply.
    message : that it has yet to answer; "" where it has none.
    overdue : earlier ones that it did not answer in time; should it do so yet, that counts.
    again_at : when it is asked again while others are still at work, monotonic seconds.
    """

    name: str
    payload: Any = None
    why: str = ""
    lost: list[str] = field(default_factory=list)
    bytes_in: int = 0
    message: str = ""
    overdue: list[str] = field(default_factory=list)
    again_at: float = math.inf

    @property
    def open_messages(self) -> list[str]:
        """What an answer may still come to."""
        return [] if self.answered else [*self.overdue, *([self.message] if self.message else [])]

    @property
    def answered(self) -> bool:
        """Whether it has given an answer that counts."""
        return self.payload is not None

    @property
    def able(self) -> bool:
        """Whether it may answer yet, or has."""
        return self.why not in FINAL

    def sent(self, message: str) -> None:
        """Note that it was asked."""
        self.message, self.again_at = message, math.inf

    def heard(self, payload: Any) -> None:
        """Take its answer."""
        self.payload, self.why, self.message = payload, "", ""

    def miss(self, reason: str) -> None:
        """Note why it has not answered, for now."""
        if reason == "deadline":
            self.overdue.append(self.message)
        self.why, self.message = reason, ""
        self.lost.append(str(reason))


def read_reply(reply: Message, state: SiteState, request: Request, stage: str) -> Any:
    """Return the payload of a site's reply, or (a string) why there is none."""
    if not reply.has_content():
        return fault_of(reply.error) or f"lost (Flower error {reply.error.code})"
    refusal = refusal_of(reply.content)
    if refusal is not None:
        return refusal[1].value
    try:
        body = body_of(reply.content)
        state.bytes_in = len(body)
        cls = payload_type(stage, request.phase)
        if cls is None:
            raise WireError("no declared reply")
        payload = decode_payload(body, cls, stamp_of(request, state.name))
    except WireError as error:
        return f"malformed: {error}"
    return fault_in(payload) or payload


def fault_in(payload: Any) -> str | None:
    """Return why a well-formed payload cannot be used whatever the stage: a number that is not finite; else None."""
    if has_infinity(payload):
        return "not-finite"
    for name, (_, kind) in field_kinds(type(payload)).items():
        if isinstance(kind, Weights) and not np.isfinite(getattr(payload, name)).all():
            return "not-finite"
    return None


def description(payload: Any, site: str, request: Request, size: int) -> dict[str, Any]:
    """Return what left a site, without its values: the line of ``releases.jsonl``."""
    described = {}
    kinds = field_kinds(type(payload))
    for name in (f.name for f in fields(payload)):
        value = getattr(payload, name)
        array = np.asarray(value) if isinstance(value, np.ndarray | float) else None
        described[name] = {
            "kind": type(kinds[name][1]).__name__.lower(),
            "type": type(value).__name__ if array is None else str(array.dtype),
            "shape": list(np.shape(value)) if array is not None or not hasattr(value, "__len__") else [len(value)],
            "withheld": 0 if array is None or array.dtype.kind != "f" else int(np.isnan(array).sum()),
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
