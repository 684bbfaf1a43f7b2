"""Requests and payloads as bytes, and those bytes as Flower records.

One message holds one byte array: a safetensors document whose metadata carry the scalars. Flower moves every
array in a round trip of its own, so one is what it gets; the same bytes lie in a site's outbox, are counted in
its log, and are parsed without pickle. Whatever does not fit the declared type exactly is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_origin

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ecgshared.errors import RefusalCode
from ecgshared.wire.protocol import Request, field_kinds

FORMAT_VERSION = 1
MAX_BYTES = 1 << 30
MESSAGE_TYPE_ASK, MESSAGE_TYPE_HELLO = "query.ask", "query.hello"

PayloadT = TypeVar("PayloadT")


class WireError(ValueError):
    """Bytes that are no message of the declared type. Its text never crosses a border."""


def pack(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Write scalars and arrays as one safetensors document."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {"header": json.dumps({"format_version": FORMAT_VERSION, **header}, sort_keys=True)}
    return bytes(save_tensors(contiguous, metadata=metadata))


def unpack(body: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what :func:`pack` wrote; raise :class:`WireError` for anything else."""
    if len(body) > MAX_BYTES:
        raise WireError(f"a message of {len(body)} bytes, over the limit of {MAX_BYTES}")
    try:
        arrays = load_tensors(body)
        size = int.from_bytes(body[:8], "little")
        header = json.loads(json.loads(body[8 : 8 + size])["__metadata__"]["header"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WireError(f"not a message ({type(error).__name__})") from None
    if not isinstance(header, dict) or header.pop("format_version", None) != FORMAT_VERSION:
        raise WireError("a message of another format version")
    return header, arrays


def encode_request(request: Request) -> bytes:
    """Write a request."""
    amended = {"amendment": request.amendment} if request.amendment else {}
    return pack(_question(request) | amended, request.arrays)


def decode_request(body: bytes) -> Request:
    """Read a request: step, phase, round, hashes and arrays, and nothing else."""
    header, arrays = unpack(body)
    wanted: dict[str, type] = {"study_hash": str, "run": str, "step": str, "phase": str, "round": int}
    if "amendment" in header:
        wanted["amendment"] = str
    if set(header) != set(wanted) or any(type(header[key]) is not kind for key, kind in wanted.items()):
        raise WireError("a request with other fields than its declared ones")
    return Request(arrays=arrays, **header)


def encode_payload(payload: Any, stamp: Mapping[str, Any]) -> bytes:
    """Write a payload; ``stamp`` says whose answer to which request it is."""
    scalars, arrays = {}, {}
    for name in field_kinds(type(payload)):
        value = getattr(payload, name)
        if isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            scalars[name] = list(value) if isinstance(value, tuple) else value
    return pack({"stamp": dict(stamp), "scalars": scalars}, arrays)


def decode_payload(body: bytes, cls: type[PayloadT], stamp: Mapping[str, Any]) -> PayloadT:
    """Read a payload of exactly the declared type; raise :class:`WireError` otherwise."""
    header, arrays = unpack(body)
    if header.get("stamp") != dict(stamp) or set(header) != {"stamp", "scalars"}:
        raise WireError("an answer to something else")
    values: dict[str, Any] = {**header["scalars"], **arrays}
    kinds = field_kinds(cls)
    if set(values) != set(kinds) or set(header["scalars"]) & set(arrays):
        raise WireError("an answer with other fields than its declared ones")
    for name, (kind, _) in kinds.items():
        values[name] = _as_declared(name, values[name], kind)
    return cls(**values)


def _as_declared(name: str, value: Any, kind: Any) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and type(value) is int:
        return value
    if kind is str and type(value) is str:
        return value
    if get_origin(kind) is tuple and isinstance(value, list) and all(type(v) is str for v in value):
        return tuple(value)
    if isinstance(value, np.ndarray) and _is_array(kind):
        return value
    raise WireError(f"field {name} is not of its declared type")


def _is_array(kind: Any) -> bool:
    """Tell whether a declared type is an array: ``NDArray`` is an alias of ndarray, from NumPy 2.5 on a type alias."""
    origin = get_origin(kind) or kind
    meant = getattr(origin, "__value__", origin)
    return (get_origin(meant) or meant) is np.ndarray


def has_infinity(payload: Any) -> bool:
    """Whether any number of a payload is infinite. NaN is legitimate: it means withheld."""
    for field in fields(payload):
        value = getattr(payload, field.name)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and np.isinf(value).any():
            return True
        if isinstance(value, float) and math.isinf(value):
            return True
    return False


def to_records(body: bytes) -> RecordDict:
    """Wrap bytes for Flower."""
    return RecordDict({"body": ArrayRecord({"body": Array(np.frombuffer(body, dtype=np.uint8))})})


def refusal_records(site: str, code: RefusalCode) -> RecordDict:
    """All that leaves a site which does not answer: its name and a fixed code."""
    return RecordDict({"refusal": ConfigRecord({"site": site, "code": code.value})})


def hello_records(site: str, study_hash: str, version: str) -> RecordDict:
    """A site's presence: its name, the study it is asked about if it approved it, its software."""
    return RecordDict({"hello": ConfigRecord({"site": site, "study": study_hash, "version": version})})


def body_of(records: RecordDict) -> bytes:
    """Return the bytes of a message made by :func:`to_records`."""
    try:
        if set(records) != {"body"} or set(records.array_records["body"]) != {"body"}:
            raise WireError("a message with other records than its declared one")
        array = records.array_records["body"]["body"].numpy()
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"not a message ({type(error).__name__})") from None
    if array.dtype != np.uint8 or array.ndim != 1:
        raise WireError("a message whose body is no bytes")
    return array.tobytes()


def refusal_of(records: RecordDict) -> tuple[str, RefusalCode] | None:
    """Return (site, code) where the records are a refusal, else None."""
    if set(records) != {"refusal"}:
        return None
    refusal = records.config_records["refusal"]
    try:
        return str(refusal["site"]), RefusalCode(str(refusal["code"]))
    except (KeyError, ValueError):
        return str(refusal.get("site", "")), RefusalCode.INTERNAL


def stamp_of(request: Request, site: str) -> dict[str, Any]:
    """Return what binds an answer to its request; who else is asked is no part of it."""
    return {"site": site, **_question(request)}


def _question(request: Request) -> dict[str, Any]:
    return {key: value for key, value in vars(request).items() if key not in ("arrays", "amendment")}
