"""DICOM waveforms: 12-lead ECG and General ECG storage, by pydicom.

An object can hold several multiplex groups. The record is the original rhythm; groups of the same length, rate
and start are joined to it, median beats are not. A sample in its unit is ``value * sensitivity * correction +
baseline``.

Source: DICOM PS3.3 C.10.9 (waveform), PS3.16 CID 3001 (ECG leads).
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.readers._assemble import assemble, check_length, check_rate, mv_per_unit
from client.readers._machine import with_units
from client.readers._source import filter_label, label, read_bytes
from ecgshared.ecg import person
from ecgshared.ecg.leads import LEADS, standard_name
from ecgshared.ecg.record import EcgRecord
from ecgshared.errors import EcgReadError

MAX_CHANNELS, MAX_GROUPS, MAX_TEXT, MAX_ANNOTATIONS = 64, 32, 200, 500

_PREFIX = 128
_DTYPES = {"SB": "i1", "UB": "u1", "SS": "<i2", "US": "<u2", "SL": "<i4", "UL": "<u4"}
_LEAD_BY_NUMBER = dict(zip((1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), LEADS, strict=True))
"""Lead numbers of ISO/IEEE 11073-10101, the same in MDC (``2:61``) and SCPECG (``5.6.3-9-61``) codes."""

_MDC_CODE, _SCP_CODE = re.compile(r"2:(\d{1,3})"), re.compile(r"5\.6\.3-9-(\d{1,3})")
_MEASURED = {
    **{("MDC", "2:16770"): "rate_bpm", ("MDC", "2:16778"): "rate_bpm", ("LN", "8867-4"): "rate_bpm"},
    **dict.fromkeys((("MDC", "2:16000"), ("SCPECG", "5.10.2.1-3"), ("LN", "8637-1")), "rr_ms"),
    **dict.fromkeys((("MDC", "2:15872"), ("SCPECG", "5.13.5-7"), ("LN", "8625-6")), "pr_ms"),
    **dict.fromkeys((("MDC", "2:16156"), ("SCPECG", "5.13.5-9"), ("LN", "8633-0")), "qrs_ms"),
    **dict.fromkeys((("MDC", "2:16160"), ("SCPECG", "5.13.5-11"), ("LN", "8634-8")), "qt_ms"),
}
"""Codes of global measurements: ISO/IEEE 11073-10101 (DICOM CID 3689), the SCP-ECG scheme, and LOINC."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_KEYWORDS = [
    "WaveformSequence",
    "Modality",
    "AcquisitionDateTime",
    *(f"{kind}{part}" for kind in ("Content", "Acquisition", "Study", "Series") for part in ("Date", "Time")),
    "PatientBirthDate",
    "PatientAge",
    "PatientSex",
    "WaveformAnnotationSequence",
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
]
"""All that is taken from an object: names and numbers of people are not even decoded."""

_REMEDY = "export it again as 12-lead ECG Waveform Storage, Explicit VR Little Endian"


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether the file has DICOM's preamble."""
    return head[_PREFIX : _PREFIX + 4] == b"DICM"


def read(path: Path) -> EcgRecord:
    """Read the rhythm of a waveform object.

    Raises
    ------
    EcgReadError : not a waveform object, compressed, damaged, or with units or codings that are not known.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of values that break DICOM's rules and reads them
        try:
            return _read(path)
        except EcgReadError:
            raise
        except (Exception, RecursionError) as error:
            # pydicom converts an element when it is asked for; its messages quote values, which may name a person.
            raise EcgReadError(
                f"its elements cannot be decoded ({type(error).__name__})", where=path, remedy=_REMEDY
            ) from None


def _read(path: Path) -> EcgRecord:
    dataset = _dataset(path)
    groups = _sequence(dataset, "WaveformSequence")
    if not groups:
        raise EcgReadError(
            "holds no waveform", where=path, value=_text(dataset, "Modality"), allowed="modality ECG", remedy=_REMEDY
        )
    little = bool(dataset.file_meta.TransferSyntaxUID.is_little_endian)
    chosen = _rhythm(groups, path)
    leads: dict[str, NDArray[np.float64]] = {}
    steps: list[float] = []
    filters: list[str] = []
    for number, group in chosen:
        where = f"{path}: multiplex group {number}"
        raw = _raw(group, little, where)
        padding = _padding(group, raw.dtype)
        for i, channel in enumerate(_sequence(group, "ChannelDefinitionSequence")[: raw.shape[1]]):
            name = _lead(channel)
            if name is None or name in leads:
                continue
            leads[name], step = _millivolts(raw[:, i], channel, where)
            if padding is not None:
                leads[name][raw[:, i] == padding] = np.nan
            steps.append(step)
            found = filter_label(
                _float(channel, "FilterLowFrequency"),
                _float(channel, "FilterHighFrequency"),
                _float(channel, "NotchFilterFrequency"),
            )
            if found and found not in filters:
                filters.append(found)
    recorded_at = _recorded_at(dataset)
    born = person.moment(_text(dataset, "PatientBirthDate"))
    age, findings = person.age_at(
        person.years(_text(dataset, "PatientAge")),
        None if born is None else born.date(),
        None if recorded_at is None else recorded_at.date(),
    )
    return assemble(
        list(leads),
        list(leads.values()),
        path,
        fs=_rate(chosen[0][1], path),
        source_format="dicom",
        mv_per_step=max(steps, default=None),
        age_years=age,
        sex=person.sex_of(_text(dataset, "PatientSex")),
        recorded_at=recorded_at,
        device=label(_text(dataset, "ManufacturerModelName"), _text(dataset, "SoftwareVersions")),
        manufacturer=label(_text(dataset, "Manufacturer")),
        filters="; ".join(filters[:3]) or None,
        machine=_measured(dataset),
        findings=findings,
    )


def _dataset(path: Path) -> Any:
    """Return the elements a record needs; a deflated object is refused before it is inflated."""
    import pydicom

    raw = read_bytes(path)
    if _DEFLATED in raw:
        raise EcgReadError("is deflated, which cannot be bounded", where=path, remedy=_REMEDY)
    return pydicom.dcmread(io.BytesIO(raw), specific_tags=_KEYWORDS)


def _sequence(item: Any, keyword: str) -> list[Any]:
    found = item.get(keyword)
    return [] if found is None else list(found)


def _text(item: Any, keyword: str) -> str | None:
    found = item.get(keyword)
    return None if found is None else str(found).strip()[:MAX_TEXT] or None


def _float(item: Any, keyword: str) -> float | None:
    found = item.get(keyword)
    value = math.nan if found is None or str(found).strip() == "" else float(found)
    return value if math.isfinite(value) else None


def _whole(item: Any, keyword: str, where: str) -> int:
    value = _float(item, keyword)
    if value is None or value < 0 or value != int(value):
        raise EcgReadError(f"{keyword} is missing or not valid", where=where, value=value, remedy=_REMEDY)
    return int(value)


def _rate(group: Any, where: object) -> float:
    return check_rate(_float(group, "SamplingFrequency") or 0.0, where)


def _rhythm(groups: list[Any], path: Path) -> list[tuple[int, Any]]:
    """Return the groups, counted from 1, that make the recording."""
    numbered = list(enumerate(groups[:MAX_GROUPS], start=1))
    beats = ("MEDIAN", "BEAT", "AVERAGE", "TEMPLATE")
    original = [
        (number, group)
        for number, group in numbered
        if not any(word in (_text(group, "MultiplexGroupLabel") or "").upper() for word in beats)
    ]
    recorded = [(n, g) for n, g in original if (_text(g, "WaveformOriginality") or "ORIGINAL").upper() == "ORIGINAL"]
    candidates = recorded or original
    if not candidates:
        raise EcgReadError("holds median beats only", where=path, allowed="a rhythm waveform", remedy=_REMEDY)

    def shape(group: Any) -> tuple[float, int, float]:
        samples = _whole(group, "NumberOfWaveformSamples", str(path))
        return _rate(group, path), samples, _float(group, "MultiplexGroupTimeOffset") or 0.0

    def worth(entry: tuple[int, Any]) -> tuple[int, int]:
        named = {_lead(channel) for channel in _sequence(entry[1], "ChannelDefinitionSequence")} - {None}
        return len(named), shape(entry[1])[1]

    best = max(candidates, key=worth)
    same = [entry for entry in candidates if entry is not best and shape(entry[1]) == shape(best[1])]
    return [best, *same]


def _raw(group: Any, little: bool, where: str) -> NDArray[np.integer]:
    """Return a group's samples as stored, shape = (T, channels)."""
    channels = _whole(group, "NumberOfWaveformChannels", where)
    samples = check_length(_whole(group, "NumberOfWaveformSamples", where), where)
    if not 1 <= channels <= MAX_CHANNELS:
        raise EcgReadError(
            "the number of channels is not valid",
            where=where,
            value=channels,
            allowed=f"1 to {MAX_CHANNELS}",
            remedy=_REMEDY,
        )
    coding = (_text(group, "WaveformSampleInterpretation") or "").upper()
    if coding not in _DTYPES:
        raise EcgReadError(
            "the coding of the samples is not supported",
            where=where,
            value=coding[:16],
            allowed=", ".join(_DTYPES),
            remedy=_REMEDY,
        )
    dtype = np.dtype(_DTYPES[coding]).newbyteorder("<" if little else ">")
    data = group.get("WaveformData") or b""
    if not isinstance(data, bytes) or len(data) < channels * samples * dtype.itemsize:
        raise EcgReadError(
            "holds fewer samples than it declares",
            where=where,
            value=len(data),
            allowed=f"{channels} channels of {samples} samples of {dtype.itemsize} bytes",
            remedy=_REMEDY,
        )
    return np.frombuffer(data, dtype=dtype, count=channels * samples).reshape(samples, channels)


def _padding(group: Any, dtype: np.dtype[Any]) -> int | None:
    """Return the value that stands for "no sample", if no sample can have it: writers also state 0, the baseline."""
    found = group.get("WaveformPaddingValue")
    if isinstance(found, bytes) and len(found) >= dtype.itemsize:
        found = int(np.frombuffer(found, dtype=dtype, count=1)[0])
    extremes = (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return found if isinstance(found, int) and found in extremes and found != 0 else None


def _lead(channel: Any) -> str | None:
    """Return the standard lead of a channel by code, by the code's meaning, or by its label."""
    for source in _sequence(channel, "ChannelSourceSequence")[:1]:
        scheme, code = (_text(source, "CodingSchemeDesignator") or "").upper(), _text(source, "CodeValue") or ""
        match = _MDC_CODE.fullmatch(code) if scheme == "MDC" else _SCP_CODE.fullmatch(code)
        if match is not None and scheme in ("MDC", "SCPECG"):
            return _LEAD_BY_NUMBER.get(int(match[1]))
        named = standard_name((_text(source, "CodeMeaning") or "").partition("(")[0])
        if named is not None:
            return named
    return standard_name(_text(channel, "ChannelLabel") or "")


def _millivolts(raw: NDArray[np.integer], channel: Any, where: str) -> tuple[NDArray[np.float64], float]:
    sensitivity = _float(channel, "ChannelSensitivity")
    if sensitivity is None:
        raise EcgReadError("a channel has no sensitivity, so its samples no unit", where=where, remedy=_REMEDY)
    units = _sequence(channel, "ChannelSensitivityUnitsSequence")
    code = (_text(units[0], "CodeValue") if units else None) or ""
    factor = mv_per_unit(code, where)
    step = sensitivity * (_float(channel, "ChannelSensitivityCorrectionFactor") or 1.0)
    values = raw.astype(np.float64) * (step * factor) + (_float(channel, "ChannelBaseline") or 0.0) * factor
    return values, abs(step * factor)


def _measured(dataset: Any) -> dict[str, float]:
    """Return the machine's measurements among the annotations; texts among them are not looked at."""

    def found() -> Iterator[tuple[str, float | None, str | None]]:
        for item in _sequence(dataset, "WaveformAnnotationSequence")[:MAX_ANNOTATIONS]:
            for code in _sequence(item, "ConceptNameCodeSequence")[:1]:
                key = (_text(code, "CodingSchemeDesignator") or "").upper(), _text(code, "CodeValue") or ""
                if key in _MEASURED and "NumericValue" in item:
                    units = _sequence(item, "MeasurementUnitsCodeSequence")
                    yield _MEASURED[key], _number(item), _text(units[0], "CodeValue") if units else None

    return with_units(found())


def _number(item: Any) -> float | None:
    """Return the first number of an annotation; there may be several, or none that can be read."""
    value = item.get("NumericValue")
    try:
        return float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) else value)
    except (TypeError, ValueError, IndexError):
        return None


def _recorded_at(dataset: Any) -> datetime | None:
    moment = person.moment(_text(dataset, "AcquisitionDateTime"))
    for kind in ("Content", "Acquisition", "Study", "Series"):
        if moment is None and _text(dataset, f"{kind}Date") is not None:
            moment = person.moment(f"{_text(dataset, f'{kind}Date')}{_text(dataset, f'{kind}Time') or ''}")
    return moment
