"""From one request about an approved study to the bytes that may leave: open, compute, gate, keep, log."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

import numpy as np

from client.dataset.data import SiteData
from client.dataset.opening import open_site
from client.egress.audit import record_lockbox_opening
from client.egress.gate import log_release, release
from client.egress.ledger import Ledger
from client.egress.outbox import Outbox
from client.ingest.reading import Progress
from client.rows.context import SiteContext
from client.site.keys import load_keys
from client.site.settings import SiteSettings
from ecgshared.errors import RefusalCode, Refused
from ecgshared.study.registry import room, shared_room
from ecgshared.study.study import Study
from ecgshared.wire.protocol import Request, payload_type

_RUN_NAME = re.compile(r"^[A-Za-z0-9_.-]{1,80}$")


_cohorts: dict[tuple[Path, str], SiteData] = {}


def answer_bytes(path: Path, settings: SiteSettings, study: Study, request: Request) -> bytes:
    """Compute, gate, keep and log one answer; a repeated request gets the kept bytes."""
    stage = checked_stage(settings, study, request)
    outbox = Outbox(settings.state / "outbox")
    private = getattr(study.step(request.step), "privacy", None) is not None
    kept = outbox.find(request, once=private)
    if kept is None:
        ledger = Ledger(settings.state)
        context = open_context(path, settings, study, request, ledger=ledger)
        handler = room("client", stage).PHASES[request.phase]
        made = release(handler(context, request), request, stage=stage, settings=settings)
        # Before it is kept: were the kept answer lost, the same round would be another release, and is another charge.
        ledger.answered()
        outbox.keep(request, made)
    else:
        made = kept
    log_release(settings.state, made.log_line, replayed=kept is not None)
    return made.body


def checked_stage(settings: SiteSettings, study: Study, request: Request) -> str:
    """Return the stage of the request's step; refuse what the study does not hold for this site."""
    if not _RUN_NAME.match(request.run) or request.round < 0:
        raise Refused(RefusalCode.BAD_REQUEST, "a run name or round out of range")
    steps = {step.id: step for step in study.steps}
    if request.step not in steps:
        raise Refused(RefusalCode.UNKNOWN_STEP, "the study has no such step", value=request.step)
    step = steps[request.step]
    if settings.site not in study.members(step):
        raise Refused(RefusalCode.NOT_A_MEMBER, f"step {step.id!r} is not for site {settings.site!r}")
    shared_room(step.stage)
    if payload_type(step.stage, request.phase) is None:
        raise Refused(RefusalCode.BAD_REQUEST, f"stage {step.stage!r} has no such phase", value=request.phase)
    return step.stage


def cohort(path: Path, settings: SiteSettings, study: Study, *, progress: Progress | None = None) -> SiteData:
    """Open a site's cohort under a study, once a process; recordings not yet in the cache are read."""
    key = (path, study.sha256)
    if key not in _cohorts:
        _cohorts[key] = open_site(settings, study, progress=progress)
    return _cohorts[key]


def open_context(
    path: Path, settings: SiteSettings, study: Study, request: Request, *, ledger: Ledger | None
) -> SiteContext:
    """Hand out what the step may see of the site's cohort under this study.

    A training site's lockbox is handed only to a step that opens it, and the opening is recorded. A site that is
    only evaluated has no lockbox to guard: all its patients stand there.
    """
    step = study.step(request.step)
    data, trains = cohort(path, settings, study), settings.site in study.sites.train
    if trains and step.opens_lockbox:
        record_lockbox_opening(settings, study_hash=study.sha256, step=step.id, run=request.run)
    elif trains:
        data = data.without_lockbox()
    return SiteContext(
        settings=settings,
        study=study,
        step=step,
        data=data,
        state=settings.state / "runs" / request.run,
        run=request.run,
        trains=trains,
        ledger=ledger,
        rng=_generator(settings, study.sha256, step.id, request.phase, str(request.round)),
    )


def _generator(settings: SiteSettings, *names: str) -> np.random.Generator:
    """Return randomness of this site for one request: the same when asked again, never from the study's seed."""
    text = "\0".join(names).encode()
    if settings.seed is None:
        digest = hmac.digest(load_keys(settings).own, b"ecgfed randomness v1\0" + text, "sha256")
    else:
        digest = hashlib.sha256(str(settings.seed).encode() + b"\0" + text).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def hold_cohort(path: Path, study: Study, data: SiteData) -> None:
    """Give a site its cohort in memory, in place of the one its file names (the pooled twin of a simulation)."""
    _cohorts[path, study.sha256] = data


def forget_cohorts() -> None:
    """Drop opened cohorts, so that they are made anew."""
    _cohorts.clear()
