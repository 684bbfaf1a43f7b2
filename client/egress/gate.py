"""The only door out of a hospital.

``release`` takes a handler's answer, checks it against the reply its stage declared for that phase, blanks every
cell whose group is below the site's limits, writes it as bytes, logs what left, and seals it. The outermost mod of
``client/app.py`` lets nothing else pass. Whatever is not understood closes the gate: an undeclared type, a field
without evidence, a text with a character outside a small alphabet, an infinite number.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from client.site.logs import chained
from client.site.settings import SiteSettings
from ecgshared.errors import PrivacyError, RefusalCode, Refused
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.wire.bytes import encode_payload, has_infinity, stamp_of
from ecgshared.wire.protocol import (
    Answer,
    Evidence,
    Hidden,
    Kind,
    Public,
    Request,
    Sums,
    Weights,
    field_kinds,
    payload_type,
)

_PLAIN_TEXT = re.compile(r"^[A-Za-z0-9 ._:/+()<>=',-]{0,80}$")
_MAX_PUBLIC_VALUES = 4096
RELEASES = "releases.jsonl"
"""Below the folder of state."""


@dataclass(frozen=True)
class Release:
    """Sealed bytes, with the line that describes them in the log of releases."""

    body: bytes
    log_line: dict[str, Any]


def release(answer: Answer, request: Request, *, stage: str, settings: SiteSettings) -> Release:
    """Check, blank and encode one answer; raise :class:`Refused` (gate-closed or too-few) instead of sending.

    Nothing is written here: :func:`log_release` records what is about to leave.
    """
    declared = payload_type(stage, request.phase)
    if declared is None or type(answer.payload) is not declared:
        raise _closed(f"{type(answer.payload).__name__} is not the declared reply of {stage}/{request.phase}")
    undeclared = set(answer.evidence) - set(field_kinds(declared))
    if undeclared:
        raise _closed(f"evidence for unknown fields {sorted(undeclared)}")
    changes: dict[str, Any] = {}
    described: dict[str, dict[str, Any]] = {}
    for name, (_, kind) in field_kinds(declared).items():
        value, withheld = _checked(
            name, getattr(answer.payload, name), kind, answer.evidence.get(name), settings.limits
        )
        changes[name] = value
        described[name] = {
            "kind": type(kind).__name__.lower(),
            "shape": list(np.shape(value)) if not isinstance(value, str | tuple) else [len(value)],
            "withheld": withheld,
        }
    payload = replace(answer.payload, **changes)
    if has_infinity(payload):
        raise _closed("an infinite number")
    body = encode_payload(payload, stamp_of(request, settings.site))
    return Release(
        body,
        {
            "site": settings.site,
            "study": request.study_hash,
            "run": request.run,
            "step": request.step,
            "phase": request.phase,
            "round": request.round,
            "kind": declared.__name__,
            "fields": described,
            "bytes": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        },
    )


def log_release(state: Path, line: dict[str, Any], *, replayed: bool) -> None:
    """Append one line to the site's log of releases and sync it: what left is on record before it leaves.

    Raises
    ------
    Refused : GATE_CLOSED where somebody edited the log: what left cannot be put on record.
    """
    stamped = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "replayed": replayed, **line}
    try:
        chained(state / RELEASES).append([stamped])
    except PrivacyError as error:
        raise _closed(error.what) from error


def _closed(why: str) -> Refused:
    return Refused(RefusalCode.GATE_CLOSED, f"the egress gate is closed: {why}")


def _checked(name: str, value: Any, kind: Kind, evidence: Evidence | None, limits: DisclosureLimits) -> tuple[Any, int]:
    """Return the value fit to leave and the number of cells that were withheld."""
    if isinstance(kind, Public):
        _check_public(name, value)
        return value, 0
    if isinstance(kind, Hidden):
        if not isinstance(value, np.ndarray) or value.dtype.kind != "u":
            raise _closed(f"field {name!r} is no array of whole numbers under masks")
        return value, 0
    if evidence is None:
        raise _closed(f"field {name!r} comes without evidence of the group behind it")
    # Compressed weights are whole numbers that stand for fractions.
    kinds = "fu" if isinstance(kind, Weights) else "f"
    if not isinstance(value, float | np.ndarray) or np.asarray(value).dtype.kind not in kinds:
        raise _closed(f"field {name!r} is no floating-point number or array")
    allowed = _allowed(evidence, limits)
    if isinstance(kind, Weights):
        if not allowed.all():
            raise Refused(RefusalCode.TOO_FEW, f"field {name!r}: fewer than {limits.min_patients} patients")
        if np.ndim(value) != 1 or not np.isfinite(value).all():
            raise _closed(f"field {name!r} is no finite flat vector")
        return value, 0
    if isinstance(kind, Sums) and allowed.ndim == 0:
        allowed = np.broadcast_to(allowed, np.shape(value))
    cells = np.array(value, dtype=np.asarray(value).dtype)
    if allowed.shape != cells.shape[: allowed.ndim]:
        raise _closed(f"field {name!r}: evidence of shape {allowed.shape} for values of shape {cells.shape}")
    cells[~allowed] = np.nan
    withheld = int(np.isnan(cells).sum())
    return (float(cells) if isinstance(value, float) else cells), withheld


def _allowed(evidence: Evidence, limits: DisclosureLimits) -> np.ndarray:
    allowed = np.asarray(np.asarray(evidence.patients) >= limits.min_patients)
    if evidence.events is not None:
        allowed = allowed & (np.asarray(evidence.events) >= limits.min_events)
    return np.asarray(allowed)


def _check_public(name: str, value: Any) -> None:
    texts = (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ()
    if any(not isinstance(text, str) or not _PLAIN_TEXT.fullmatch(text) for text in texts):
        raise _closed(f"field {name!r} holds a text outside the permitted alphabet")
    if len(texts) > _MAX_PUBLIC_VALUES or np.size(np.asarray(value, dtype=object)) > _MAX_PUBLIC_VALUES:
        raise _closed(f"field {name!r} is too large to be public")
