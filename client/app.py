"""The Flower ClientApp, thin: from message to request, from answer to sealed reply. Nothing else leaves.

The node's configuration names the site file (``site``); a Ray worker gets only its partition number, and finds
the file in the list the launcher put into ``ECGFED_SITE_FILES``. Messages carry step, phase, round and arrays; the
run's configuration is never read.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import traceback
from importlib.metadata import version
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from client.approval import approved_study, require_approved_code
from client.audit import log_event
from client.dataset import Progress, SiteData, open_site, record_lockbox_opening
from client.egress import log_release, release
from client.keys import load_keys
from client.ledger import Ledger
from client.outbox import Outbox
from client.settings import SiteSettings, load_site
from client.site import SiteContext
from ecgshared.errors import EcgFedError, RefusalCode, Refused
from ecgshared.stages import room, shared_room
from ecgshared.stages.protocol import Request, payload_type
from ecgshared.study import Study
from ecgshared.wire import (
    WireError,
    body_of,
    decode_request,
    hello_records,
    refusal_records,
    to_records,
)

SITE_FILES = "ECGFED_SITE_FILES"
_RUN_NAME = re.compile(r"^[A-Za-z0-9_.-]{1,80}$")

_settings: dict[Path, SiteSettings] = {}
_cohorts: dict[tuple[Path, str], SiteData] = {}


class _Sealed(RecordDict):
    """Records made by this module's own two exits; the border lets no other kind pass."""


def _seal(records: RecordDict) -> _Sealed:
    return _Sealed(dict(records))


def border(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Outermost mod: a fixed code for every exception, and only sealed records as content."""
    site, state = "unknown", None
    error: Exception
    try:
        settings = site_settings(context)
        site, state = settings.site, settings.state
        reply = call_next(message, context)
        if not reply.has_content() or type(reply.content) is not _Sealed:
            raise Refused(RefusalCode.GATE_CLOSED, "a reply that the gate did not make")
        return Message(RecordDict(dict(reply.content)), reply_to=message)
    except Refused as refusal:
        code, error = refusal.code, refusal
    except WireError as broken:
        code, error = RefusalCode.BAD_REQUEST, broken
    except EcgFedError as known:
        code, error = RefusalCode.DATA_UNAVAILABLE, known
    except Exception as unknown:
        # Whatever it says may name a patient: only its type and place go to the site's own log.
        code, error = RefusalCode.INTERNAL, unknown
    frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
    if state is not None:
        # A refusal's first sentence is written by us and names fields and rules; other errors may quote data.
        why = error.what if isinstance(error, Refused) else type(error).__name__
        log_event(state, "refused", code=code.value, error=why, frames=frames[-6:])
    return Message(refusal_records(site, code), reply_to=message)


app = ClientApp(mods=[border])


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say who this is, and whether it approved the study it is asked about."""
    settings = site_settings(context)
    require_approved_code(settings)
    request = decode_request(body_of(message.content))
    try:
        study = approved_study(settings, request.study_hash).sha256
    except Refused:
        study = ""
    return Message(_seal(hello_records(settings.site, study, version("ecgfed"))), reply_to=message)


@app.query("ask")
def ask(message: Message, context: Context) -> Message:
    """Answer one request about one step of an approved study."""
    path = site_file(context)
    settings = site_settings(context)
    require_approved_code(settings)
    request = decode_request(body_of(message.content))
    study = approved_study(settings, request.study_hash)
    body = answer_bytes(path, settings, study, request)
    return Message(_seal(to_records(body)), reply_to=message)


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


def site_file(context: Context) -> Path:
    """Return the site file of this node."""
    named = context.node_config.get("site")
    if isinstance(named, str):
        return Path(named)
    files = json.loads(os.environ.get(SITE_FILES, "[]"))
    partition = context.node_config.get("partition-id")
    if isinstance(partition, int) and 0 <= partition < len(files):
        return Path(files[partition])
    raise Refused(
        RefusalCode.INTERNAL, "the node's configuration names no site file", remedy="--node-config 'site=...'"
    )


def site_settings(context: Context) -> SiteSettings:
    """Return this node's settings, read once a process."""
    path = site_file(context)
    if path not in _settings:
        _settings[path] = load_site(path)
    return _settings[path]


def hold_cohort(path: Path, study: Study, data: SiteData) -> None:
    """Give a site its cohort in memory, in place of the one its file names (the pooled twin of a simulation)."""
    _cohorts[path, study.sha256] = data


def forget_process_caches() -> None:
    """Drop opened sites, so that a changed file is read again (tests, and the daemon's reload)."""
    _settings.clear()
    _cohorts.clear()
