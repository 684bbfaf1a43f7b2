"""Bytes on the wire: what is written is read back; whatever is not exactly declared is an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecgshared.errors import RefusalCode
from ecgshared.wire.bytes import (
    WireError,
    body_of,
    decode_payload,
    decode_request,
    encode_payload,
    encode_request,
    refusal_of,
    refusal_records,
    stamp_of,
    to_records,
    unpack,
)
from ecgshared.wire.protocol import Public, Request, Statistic, payload


@payload("wire-test", "say")
@dataclass(frozen=True)
class Said:
    values: Annotated[NDArray[Any], Statistic()]
    mean: Annotated[float, Statistic()]
    names: Annotated[tuple[str, ...], Public()]
    count: Annotated[int, Public()]


REQUEST = Request("hash", "run-1", "risk", "say", 3, {"risk.weights": np.arange(4, dtype=np.float32)})
STAMP = stamp_of(REQUEST, "north")
SAID = Said(np.array([1.5, np.nan]), 0.25, ("age", "male"), 7)


def test_a_request_comes_back_as_it_was():
    back = decode_request(body_of(to_records(encode_request(REQUEST))))
    assert vars(back) | {"arrays": None} == vars(REQUEST) | {"arrays": None}
    np.testing.assert_array_equal(back.arrays["risk.weights"], REQUEST.arrays["risk.weights"])


def test_a_payload_comes_back_as_it_was_and_nan_stays_nan():
    back = decode_payload(encode_payload(SAID, STAMP), Said, STAMP)
    np.testing.assert_array_equal(back.values, SAID.values)
    assert (back.mean, back.names, back.count) == (0.25, ("age", "male"), 7)


@pytest.mark.parametrize("key", ["site", "run", "step", "phase", "round", "study_hash"])
def test_an_answer_to_something_else_is_refused(key):
    other = STAMP | {key: "other"}
    with pytest.raises(WireError, match="something else"):
        decode_payload(encode_payload(SAID, other), Said, STAMP)


def test_another_type_with_other_fields_is_refused():
    @dataclass(frozen=True)
    class More:
        values: Annotated[NDArray[Any], Statistic()]
        secret: Annotated[float, Statistic()]

    body = encode_payload(More(np.zeros(2), 1.0), STAMP)
    with pytest.raises(WireError, match="other fields"):
        decode_payload(body, Said, STAMP)


def test_a_scalar_in_the_place_of_an_array_is_refused():
    @dataclass(frozen=True)
    class Twisted:
        values: Annotated[float, Statistic()]
        mean: Annotated[float, Statistic()]
        names: Annotated[tuple[str, ...], Public()]
        count: Annotated[int, Public()]

    body = encode_payload(Twisted(1.0, 1.0, (), 1), STAMP)
    with pytest.raises(WireError, match="declared type"):
        decode_payload(body, Said, STAMP)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(0, 255))
def test_no_bytes_bring_anything_but_a_wire_error(junk, place, value):
    body = bytearray(encode_request(REQUEST))
    body[place % len(body)] = value
    for data in (junk, bytes(body), bytes(body)[: place % len(body)]):
        try:
            header, arrays = unpack(data)
        except WireError:
            continue
        assert isinstance(header, dict)
        assert all(isinstance(a, np.ndarray) for a in arrays.values())


def test_a_refusal_carries_a_code_and_nothing_else():
    assert refusal_of(refusal_records("north", RefusalCode.TOO_FEW)) == ("north", RefusalCode.TOO_FEW)
    assert refusal_of(to_records(b"x")) is None
