"""Every message a stage declares, with fields missing, undeclared, oversized or of small groups: what passes is fit."""

from __future__ import annotations

from dataclasses import fields, make_dataclass
from pathlib import Path

import numpy as np
import pytest

from client.egress.gate import release
from client.site.settings import SiteSettings
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.study.registry import STAGES, shared_room
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Answer, Evidence, Public, Request, Weights, field_kinds, payload_type, phases

SETTINGS = SiteSettings.model_construct(site="north", state=Path("/nowhere"), limits=DisclosureLimits())
for _stage in STAGES:
    shared_room(_stage)
MESSAGES = [(stage, phase) for stage in STAGES for phase in phases(stage)]


def drawn(stage, phase, rng):
    """A payload of the declared type, three cells a field, and evidence of random groups behind each cell."""
    declared = payload_type(stage, phase)
    values, evidence = {}, {}
    for name, (kind_of, kind) in field_kinds(declared).items():
        if isinstance(kind, Public):
            values[name] = {str: "plain", int: 1, float: 0.5}.get(kind_of, ("plain",))
            continue
        values[name] = 0.5 if kind_of is float else rng.normal(size=3)
        shape = () if kind_of is float or isinstance(kind, Weights) else 3
        patients, events = rng.integers(0, 25, shape), rng.integers(0, 12, shape)
        if isinstance(kind, Weights):
            patients, events = np.array(40), np.array(20)
        evidence[name] = Evidence(patients, events)
    return declared, values, evidence


def left(declared, stage, phase, values, evidence):
    request = Request("0" * 64, "run", "step", phase, 1, {})
    made = release(Answer(declared(**values), evidence), request, stage=stage, settings=SETTINGS)
    return decode_payload(made.body, declared, stamp_of(request, "north"))


@pytest.mark.parametrize(("stage", "phase"), MESSAGES)
def test_no_cell_of_a_group_below_the_limits_passes(stage, phase):
    for seed in range(5):
        declared, values, evidence = drawn(stage, phase, np.random.default_rng(seed))
        found = left(declared, stage, phase, values, evidence)
        for name, group in evidence.items():
            small = (group.patients < 10) | (group.events < 5)
            sent = np.asarray(getattr(found, name))
            assert np.isnan(sent[np.broadcast_to(small, sent.shape)]).all()
            assert np.isfinite(sent[~np.broadcast_to(small, sent.shape)]).all()


@pytest.mark.parametrize(("stage", "phase"), MESSAGES)
def test_what_is_not_declared_does_not_pass(stage, phase):
    declared, values, evidence = drawn(stage, phase, np.random.default_rng(0))
    faults = []
    for name in evidence:
        faults.append((declared, values, {n: e for n, e in evidence.items() if n != name}))
        faults.append((declared, values | {name: "1,2,3"}, evidence))
        faults.append((declared, values | {name: np.array([np.inf] * 3)}, evidence | {name: Evidence(np.full(3, 99))}))
    for name, value in values.items():
        if name not in evidence:
            faults.append((declared, values | {name: "x" * 81 if isinstance(value, str) else ("x\n",) * 3}, evidence))
            if not isinstance(value, str | tuple):
                faults[-1] = (declared, values | {name: np.zeros(5000)}, evidence)
    faults.append((declared, values, evidence | {"rows": Evidence(np.array(99))}))
    more = make_dataclass(declared.__name__, [f.name for f in fields(declared)], bases=(declared,), frozen=True)
    faults.append((more, values, evidence))
    for kind, changed, groups in faults:
        with pytest.raises(Refused) as refused:
            left(kind, stage, phase, changed, groups)
        assert refused.value.code in (RefusalCode.GATE_CLOSED, RefusalCode.TOO_FEW)
