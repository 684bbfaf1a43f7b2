"""The threshold step over hospitals of known truth, through the real handlers, the real gate and the real choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from federated_stages import study
from pooled_designs import settings

from client.egress.gate import release
from client.rows.binned import read_cuts
from client.rows.risk import Scored, received
from client.stages.threshold import histogram_answer, scale_answer, variance_answer
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.threshold import CANDIDATE_ROOM
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Answer, Request, payload_type
from server.rounds.step_context import Artefact, Replies, StepContext
from server.stages.threshold import run


def chosen(heads: list[Scored], limits: DisclosureLimits, **keys: Any) -> Artefact[Any]:
    """Fix a threshold on these hospitals' ECGs."""
    names = tuple(f"s{i}" for i in range(len(heads)))
    step = {"id": "cut", "stage": "threshold", "uses": ["score"], "target": "event", **keys}
    fit = {"id": "score", "stage": "calibrate", "target": "event", "inputs": ["age"]}
    of_sites = study([fit, step], train=names, zero_shot=())

    def answer(head: Scored, request: Request) -> Answer:
        if request.phase == "scale":
            return scale_answer(head, limits)
        question = read_cuts(request, 1, room=CANDIDATE_ROOM)[0]
        if request.phase == "histogram":
            return histogram_answer(head, limits, question, patients_known=True)
        return variance_answer(head, limits, question, received(request, "rates", (len(question.cuts) + 2,)))

    def ask(phase: str, *, arrays: Any = None, sites: Any = None, **_: Any) -> Replies:
        request, found = Request("", "run", "cut", phase, 0, arrays or {}), {}
        declared = payload_type("threshold", phase)
        assert declared is not None
        for name in sites or names:
            made = release(
                answer(heads[names.index(name)], request), request, stage="threshold", settings=settings(limits)
            )
            found[name] = decode_payload(made.body, declared, stamp_of(request, "a"))
        return Replies(found, {})

    return run(
        of_sites.step("cut"),
        StepContext(
            study=of_sites,
            sites=names,
            inputs={},
            ask=ask,
            folder=Path("unused"),
            progress=lambda *_: None,
            rng=np.random.default_rng(0),
        ),
    )
