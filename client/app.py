"""The Flower ClientApp, thin: from message to request, from answer to sealed reply. Nothing else leaves.

The node's configuration names the site file (``site``); a Ray worker gets only its partition number, and finds
the file in the list the launcher put into ``ECGFED_SITE_FILES``. Messages carry step, phase, round and arrays; the
run's configuration is never read.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.answer import Sites, answer_bytes, of_this_process
from client.approval.amendments import amended_study
from client.approval.required import approved_study, require_approved_code
from client.egress.audit import log_event
from ecgshared.errors import EcgFedError, RefusalCode, Refused
from ecgshared.wire.bytes import WireError, body_of, decode_request, hello_records, refusal_records, to_records

SITE_FILES = "ECGFED_SITE_FILES"


class _Sealed(RecordDict):
    """Records made by this module's own two exits; the border lets no other kind pass."""


def _seal(records: RecordDict) -> _Sealed:
    return _Sealed(dict(records))


def make_app(sites: Sites) -> ClientApp:
    """Return a ClientApp that answers for ``sites``; what it has opened lives and ends with it."""
    made = ClientApp(mods=[Border(sites)])

    @made.query("hello")
    def hello(message: Message, context: Context) -> Message:
        """Say who this is, and whether it approved the study it is asked about."""
        settings = sites[site_file(context)].settings()
        require_approved_code(settings)
        request = decode_request(body_of(message.content))
        try:
            study = approved_study(settings, request.study_hash)
        except Refused:
            return Message(_seal(hello_records(settings.site, "", version("ecgfed"))), reply_to=message)
        amended_study(settings, study, request.run, request.amendment)
        return Message(_seal(hello_records(settings.site, study.sha256, version("ecgfed"))), reply_to=message)

    @made.query("ask")
    def ask(message: Message, context: Context) -> Message:
        """Answer one request about one step of an approved study."""
        site = sites[site_file(context)]
        settings = site.settings()
        require_approved_code(settings)
        request = decode_request(body_of(message.content))
        approved = approved_study(settings, request.study_hash)
        study = amended_study(settings, approved, request.run, request.amendment)
        return Message(_seal(to_records(answer_bytes(site, study, request))), reply_to=message)

    return made


class Border:
    """Outermost mod: a fixed code for every exception, and only sealed records as content."""

    def __init__(self, sites: Sites) -> None:
        self._sites = sites

    def __call__(self, message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
        """Pass a message in, and its reply out."""
        error: Exception
        try:
            self._sites[site_file(context)].settings()
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
        return Message(refusal_records(self._logged(context, code, error), code), reply_to=message)

    def _logged(self, context: Context, code: RefusalCode, error: Exception) -> str:
        """Write a refusal into the site's own log; return the site's name."""
        try:
            settings = self._sites[site_file(context)].last_settings
        except Refused:
            settings = None
        if settings is None:
            return "unknown"
        frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
        # A refusal's first sentence is written by us and names fields and rules; other errors may quote data.
        why = error.what if isinstance(error, Refused) else type(error).__name__
        log_event(settings.state, "refused", code=code.value, error=why, frames=frames[-6:])
        return settings.site


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


app = make_app(of_this_process())
"""What Flower loads by this name, here and in a worker."""
