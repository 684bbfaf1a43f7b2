"""What a study would make this site send: computed, gated and shown here, and sent nowhere.

``describe`` and the first round of each ``train`` step need nothing but this site, so their exact payloads are shown
(training starts from the study's initial weights, with this site's own totals in place of the federation's). The
numbers of later phases depend on what the coordinator then asks; of those the declared fields are shown.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.answer import Site
from client.egress.gate import Release, release
from client.site.settings import SiteSettings
from ecgshared.errors import Refused
from ecgshared.stages.describe import SiteCounts, training_totals
from ecgshared.stages.train import Config as TrainConfig
from ecgshared.stages.train import describe_step
from ecgshared.stages.train_net import initial_weights
from ecgshared.study.registry import room, shared_room
from ecgshared.study.study import Study
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Request, StepConfig, field_kinds, payload_type, phases

RUN = "preview"


@dataclass(frozen=True)
class PreviewField:
    """One field of a payload: its kind of release, its shape and, where it was computed, its value."""

    name: str
    kind: str
    shape: tuple[int, ...] | None
    withheld: int
    value: Any


@dataclass(frozen=True)
class PreviewMessage:
    """One message of the study, as it would leave; ``refused`` is the code sent in its place."""

    step: str
    stage: str
    phase: str
    computed: bool
    bytes: int | None
    refused: str | None
    fields: tuple[PreviewField, ...]


def preview_study(path: Path, settings: SiteSettings, study: Study) -> list[PreviewMessage]:
    """Return every message the study can make this site send, in the study's order. Nothing is kept or logged."""
    site = Site(path)
    messages: list[PreviewMessage] = []
    totals: dict[str, dict[str, NDArray[Any]]] = {}
    for step in study.steps:
        if settings.site not in study.members(step) or step.frozen is not None:
            continue
        shared_room(step.stage)
        for phase in phases(step.stage):
            request = _request(study, step, phase, totals)
            message, payload = _message(site, settings, study, step, phase, request)
            messages.append(message)
            if isinstance(payload, SiteCounts):
                totals[step.id] = _own_totals(payload, settings, study)
    # What training keeps at the site from round to round was kept for a run that never was.
    shutil.rmtree(settings.state / "runs" / RUN, ignore_errors=True)
    return messages


def as_lines(messages: list[PreviewMessage]) -> list[str]:
    """Return the messages in words for a terminal: each field with its kind, shape, and what it would say."""
    lines = []
    for message in messages:
        head = f"step {message.step} ({message.stage}), {message.phase}: "
        if message.refused is not None:
            lines.append(head + f"refused with the code {message.refused!r}; nothing else would leave")
            continue
        size = f"{message.bytes:,} bytes would leave" if message.computed else "depends on what is asked; fields:"
        lines.append(head + size)
        for field in message.fields:
            shape = "" if not field.shape else f" {'x'.join(str(n) for n in field.shape)}"
            withheld = f", {field.withheld} withheld" if field.withheld else ""
            value = f" = {_shown(field.value)}" if message.computed else ""
            lines.append(f"    {field.name}: {field.kind}{shape}{withheld}{value}")
    lines.append("nothing was sent")
    return lines


def preview_json(messages: list[PreviewMessage]) -> str:
    """Return the messages with every value; a withheld number is null."""
    return json.dumps([_plain(asdict(message)) for message in messages], indent=1, allow_nan=False)


def _shown(value: Any) -> str:
    with np.printoptions(precision=4, threshold=24, edgeitems=4, linewidth=10_000, nanstr="withheld"):
        text = np.array2string(value).replace("\n", "") if isinstance(value, np.ndarray) else repr(value)
    return "withheld" if text == "nan" else text


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _request(study: Study, step: StepConfig, phase: str, totals: dict[str, dict[str, NDArray[Any]]]) -> Request | None:
    """Return the first request of a phase where this site alone can know it, else None."""
    base = Request(study.sha256, RUN, step.id, phase, 0, {})
    if step.stage == "describe":
        return base
    if isinstance(step, TrainConfig) and phase == "fit":
        described = describe_step(step, study)
        if described in totals and step.start_from is None:
            _, weights, _ = initial_weights(step, study)
            arrays = {f"{described}.{name}": array for name, array in totals[described].items()}
            return replace(base, round=1, arrays={"weights": weights, **arrays})
    return None


def _message(
    site: Site, settings: SiteSettings, study: Study, step: StepConfig, phase: str, request: Request | None
) -> tuple[PreviewMessage, Any]:
    declared = payload_type(step.stage, phase)
    if declared is None:
        raise LookupError(f"{step.stage}/{phase} is not declared")
    kinds = {name: type(kind).__name__.lower() for name, (_, kind) in field_kinds(declared).items()}
    empty = tuple(PreviewField(name, kind, None, 0, None) for name, kind in kinds.items())
    if request is None:
        return PreviewMessage(step.id, step.stage, phase, False, None, None, empty), None
    try:
        made = _released(site, study, step, request)
    except Refused as refusal:
        return PreviewMessage(step.id, step.stage, phase, True, None, refusal.code.value, empty), None
    payload = decode_payload(made.body, declared, stamp_of(request, settings.site))
    described = made.log_line["fields"]
    fields = tuple(
        PreviewField(name, kind, tuple(described[name]["shape"]), described[name]["withheld"], getattr(payload, name))
        for name, kind in kinds.items()
    )
    return PreviewMessage(step.id, step.stage, phase, True, len(made.body), None, fields), payload


def _released(site: Site, study: Study, step: StepConfig, request: Request) -> Release:
    context = site.context(study, request, ledger=None)
    answer = room("client", step.stage).PHASES[request.phase](context, request)
    return release(answer, request, stage=step.stage, settings=context.settings)


def _own_totals(counts: SiteCounts, settings: SiteSettings, study: Study) -> dict[str, NDArray[Any]]:
    totals = training_totals([counts])
    shares = np.array([float(site == settings.site) for site in study.sites.train])
    return {
        "head_counts": totals.head_counts,
        "site_weights": shares,
        "standardise": totals.standardise,
        "head_counts_train_validation": totals.head_counts_train_validation,
        "site_weights_train_validation": shares,
    }
