"""Every part of a secure sum, with fields missing, undeclared, readable or oversized: nothing but what is hidden, or
says nothing of people, passes the gate."""

from __future__ import annotations

from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.egress.gate import release
from client.site.settings import SiteSettings
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.study.registry import STAGES, shared_room
from ecgshared.study.secure import summed_phases
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.hidden import HiddenWords
from ecgshared.wire.protocol import Answer, Evidence, Hidden, Request, field_kinds, payload_type, phases

SETTINGS = SiteSettings.model_construct(site="north", state=Path("/nowhere"), limits=DisclosureLimits())
for _stage in STAGES:
    shared_room(_stage)
PARTS = [("calibrate", f"+{part}") for part in ("keys", "shares", "hold")] + [
    (stage, f"{phase}+{part}")
    for stage in STAGES
    for phase in summed_phases(stage)
    for part in ("evidence", "weigh", "hidden", "reveal")
]


def drawn(stage: str, phase: str, rng: np.random.Generator) -> tuple[type[Any], dict[str, Any]]:
    declared = payload_type(stage, phase)
    assert declared is not None
    values: dict[str, Any] = {}
    for name, (kind_of, kind) in field_kinds(declared).items():
        if isinstance(kind, Hidden):
            width = np.uint64 if name == "words" else np.uint8
            values[name] = rng.integers(0, 200, (3, 5)).astype(width)
        else:
            values[name] = 3 if kind_of is int else ("update:3x2:short",)
    return declared, values


def left(declared: type[Any], stage: str, phase: str, values: dict[str, Any], evidence: Any = None) -> Any:
    request = Request("0" * 64, "run", "step", phase, 65, {})
    made = release(Answer(declared(**values), evidence or {}), request, stage=stage, settings=SETTINGS)
    return decode_payload(made.body, declared, stamp_of(request, "north"))


def test_the_numbers_of_every_sum_are_words_under_masks() -> None:
    added = [(stage, phase) for stage in STAGES for phase in summed_phases(stage)]
    assert len(added) > 12
    assert {payload_type(stage, f"{phase}+hidden") for stage, phase in added} == {HiddenWords}


@pytest.mark.parametrize(("stage", "phase"), PARTS)
def test_what_is_hidden_passes_as_it_is(stage: str, phase: str) -> None:
    declared, values = drawn(stage, phase, np.random.default_rng(1))
    found = left(declared, stage, phase, values)
    for name, value in values.items():
        assert np.array_equal(getattr(found, name), value)


@pytest.mark.parametrize(("stage", "phase"), PARTS)
def test_nothing_else_passes(stage: str, phase: str) -> None:
    declared, values = drawn(stage, phase, np.random.default_rng(2))
    faults: list[tuple[Any, dict[str, Any], Any]] = [(declared, values, {"rows": Evidence(np.array(99))})]
    for name, (_, kind) in field_kinds(declared).items():
        wrong = [values[name].astype(np.float64), values[name].astype(np.int64), "text", 7, None] if isinstance(
            kind, Hidden
        ) else [("x\n",) * 2, ("y" * 200,), ("z",) * 5000, np.zeros(5000)]  # fmt: skip
        faults += [(declared, values | {name: value}, None) for value in wrong]
    more = make_dataclass(declared.__name__, [f.name for f in fields(declared)], bases=(declared,), frozen=True)
    faults.append((more, values, None))
    for kind_of, changed, evidence in faults:
        with pytest.raises(Refused) as refused:
            left(kind_of, stage, phase, changed, evidence)
        assert refused.value.code == RefusalCode.GATE_CLOSED


@given(st.sampled_from(STAGES), st.text("abcdefgh+", max_size=12), st.sampled_from(["hidden", "reveal", "keys"]))
def test_a_part_of_what_is_never_added_is_no_declared_message(stage: str, phase: str, part: str) -> None:
    if phase and phase not in (*summed_phases(stage), *phases(stage)):
        assert payload_type(stage, f"{phase}+{part}") is None
