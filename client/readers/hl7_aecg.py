"""HL7 annotated ECG (aECG, the FDA's XML): one rhythm series, further series derived from it.

A series may give its leads in several sequence sets; those of one start, rate and length are one recording.
Samples are ``origin + scale * digits`` in the unit each list names; time is a list with an increment.

Source: HL7 aECG Implementation Guide (Brown and Badilini, 2005), PORT_MT020001.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from client.readers._assemble import MAX_SAMPLES, assemble, check_rate, mv_per_unit
from client.readers._machine import with_units
from client.readers._source import filter_label, label
from client.readers._xml import fail, number, numbers, optional_number, parse, root_name, text_of
from ecgshared.ecg import person
from ecgshared.ecg.leads import standard_name
from ecgshared.ecg.record import EcgRecord, Finding
from ecgshared.errors import EcgReadError

_SECONDS_PER = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_MEASURED = {
    "MDC_ECG_HEART_RATE": "rate_bpm",
    "MDC_ECG_HEART_RATE_VENTRICULAR": "rate_bpm",
    "MDC_ECG_TIME_PD_RR": "rr_ms",
    "MDC_ECG_TIME_PD_PR": "pr_ms",
    "MDC_ECG_TIME_PD_QRS": "qrs_ms",
    "MDC_ECG_TIME_PD_QT": "qt_ms",
}
_FILTER = "MDC_ECG_CTL_VBL_ATTR_FILTER_"


@dataclass(frozen=True)
class _Set:
    """Leads over one time axis: one sequence set, or several of one ``start``, rate and length."""

    start: str | None
    names: list[str]
    rows: list[NDArray[np.float64]]
    fs: float
    mv_per_step: float


def sniff(head: bytes, path: Path) -> bool:
    """Tell whether the root element is AnnotatedECG."""
    return root_name(head) == "AnnotatedECG"


def read(path: Path) -> EcgRecord:
    """Read the rhythm series.

    Raises
    ------
    EcgReadError : damaged, or without a series of samples.
    """
    root = parse(path)
    series = _rhythm(root, path)
    sets = [_decode(element, path) for element in series.iterfind("component/sequenceSet")]
    usable = [s for s in sets if s is not None]
    if not usable:
        fail("the series holds no sequence of samples", path, None, "component/sequenceSet with leads")
    joined = _joined(usable)
    best = max(joined, key=lambda s: (_leads(s), len(s.rows[0])))
    left_out = [s for s in joined if s is not best and _leads(s)]
    recorded_at = _moment(series) or _moment(root)
    subject = root.find(".//subjectDemographicPerson")
    gender = None if subject is None else subject.find("administrativeGenderCode")
    birth = None if subject is None else subject.find("birthTime")
    born = person.moment(None if birth is None else birth.get("value"))
    age, findings = person.age_at(
        _stated_age(root), None if born is None else born.date(), None if recorded_at is None else recorded_at.date()
    )
    return assemble(
        best.names,
        best.rows,
        path,
        fs=best.fs,
        source_format="hl7_aecg",
        mv_per_step=best.mv_per_step,
        age_years=age,
        sex=None if gender is None else person.sex_of(gender.get("code")) or person.sex_of(gender.get("displayName")),
        recorded_at=recorded_at,
        device=label(
            text_of(series, "author/seriesAuthor/manufacturedSeriesDevice/manufacturerModelName"),
            text_of(series, "author/seriesAuthor/manufacturedSeriesDevice/softwareName"),
        ),
        manufacturer=label(text_of(series, "author/seriesAuthor/manufacturerOrganization/name")),
        filters=_filters(series),
        machine=_measured(series),
        findings=(
            *findings,
            *(
                Finding(
                    "leads-apart",
                    f"{', '.join(s.names[:12])} have another start, rate or length, and are left out",
                )
                for s in left_out
            ),
        ),
    )


def _joined(sets: list[_Set]) -> list[_Set]:
    """Return the sets, those that lie over one time axis as one."""
    axes: dict[tuple[str | None, float, int], list[_Set]] = {}
    for each in sets:
        axes.setdefault((each.start, each.fs, len(each.rows[0])), []).append(each)
    return [
        _Set(
            start,
            [name for s in group for name in s.names],
            [row for s in group for row in s.rows],
            fs,
            max(s.mv_per_step for s in group),
        )
        for (start, fs, _), group in axes.items()
    ]


def _leads(one: _Set) -> int:
    return len({standard_name(name) for name in one.names} - {None})


def _rhythm(root: Element, path: Path) -> Element:
    """Return the series of the rhythm; derived series (representative beats) lie below it."""
    found = root.findall("component/series")
    coded = [s for s in found if (_code(s) or "").upper() == "RHYTHM"]
    plain = [s for s in found if "BEAT" not in (_code(s) or "").upper()]
    if not (coded or plain):
        raise EcgReadError(
            "holds no rhythm series",
            where=path,
            value=[_code(s) for s in found][:5] or None,
            allowed="a series coded RHYTHM",
            remedy="export the recording, not only its representative beat",
        )
    return (coded or plain)[0]


def _code(element: Element) -> str | None:
    code = element.find("code")
    return None if code is None else code.get("code")


def _decode(element: Element, path: Path) -> _Set | None:
    names: list[str] = []
    rows: list[NDArray[np.float64]] = []
    steps: list[float] = []
    fs = start = None
    for sequence in element.iterfind("component/sequence"):
        name, value = _code(sequence) or "", sequence.find("value")
        if value is None:
            continue
        increment, digits, head = value.find("increment"), value.find("digits"), value.find("head")
        if increment is not None and name.startswith("TIME"):
            where = f"{path}: {name[:20]}"
            step = number(increment.get("value"), "time increment", where, low=1e-9, high=1e9)
            unit = increment.get("unit") or "s"
            if unit not in _SECONDS_PER:
                fail("the unit of the time increment is not known", where, unit[:20], "s, ms, us")
            fs = check_rate(round(1 / (step * _SECONDS_PER[unit]), 6), where)
            start = None if head is None else head.get("value")
        elif digits is not None and standard_name(name) is not None:
            where = f"{path}: {name[:30]}"
            row, step = _millivolts(value, digits, where)
            names.append(name)
            rows.append(row)
            steps.append(step)
    if not rows:
        return None
    if fs is None:
        fail("a sequence set has no time increment", path, None, "a TIME_ABSOLUTE or TIME_RELATIVE sequence")
    return _Set(start, names, rows, fs, max(steps))


def _millivolts(value: Element, digits: Element, where: str) -> tuple[NDArray[np.float64], float]:
    samples = numbers(digits.text, "the sequence", where)
    if len(samples) > MAX_SAMPLES:
        fail("holds more samples than a 12-lead ECG has", where, len(samples), f"at most {MAX_SAMPLES}")
    scale, origin = value.find("scale"), value.find("origin")
    if scale is None:
        fail("the sequence has no scale", where, None, '<scale value="5" unit="uV"/>')
    step = number(scale.get("value"), "scale", where) * mv_per_unit(scale.get("unit"), where)
    if not 1e-9 <= abs(step) <= 1e3:
        fail("the scale is not valid", where, scale.get("value"), "a step of an ECG's amplitude")
    offset = 0.0
    if origin is not None:
        offset = number(origin.get("value"), "origin", where)
        offset *= mv_per_unit(origin.get("unit"), where) if offset else 1.0
    return samples * step + offset, abs(step)


def _moment(element: Element) -> datetime | None:
    for which in ("low", "center"):
        found = element.find(f"effectiveTime/{which}")
        if found is not None:
            moment = person.moment(found.get("value"))
            if moment is not None:
                return moment
    found = element.find("effectiveTime")
    return None if found is None else person.moment(found.get("value"))


def _stated_age(root: Element) -> float | None:
    """Return "Reported Age" (LOINC 21612-7) in years."""
    for observation in root.iterfind("controlVariable/relatedObservation"):
        if _code(observation) == "21612-7":
            value = observation.find("value")
            return None if value is None else person.years(value.get("value"), value.get("unit"))
    return None


def _measured(series: Element) -> dict[str, float]:
    """Return the measurements among the annotations of the rhythm, or of the beats derived from it: the first of each.

    Per lead and per beat there may be more; writers put the global ones first.
    """
    annotations = (a for a in series.iter("annotation") if _code(a) in _MEASURED)
    values = ((_MEASURED[_code(a) or ""], a.find("value")) for a in annotations)
    return with_units(
        (name, optional_number(value.get("value")), value.get("unit")) for name, value in values if value is not None
    )


def _filters(series: Element) -> str | None:
    found: dict[str, float] = {}
    for variable in series.iterfind("controlVariable/controlVariable"):
        kind = (_code(variable) or "").removeprefix(_FILTER)
        for part in variable.iterfind("component/controlVariable"):
            value = part.find("value")
            hertz = None if value is None else optional_number(value.get("value"))
            if hertz is not None and (_code(part) or "").endswith("_FREQ"):
                found[kind] = hertz
    return filter_label(found.get("HIGH_PASS"), found.get("LOW_PASS"), found.get("NOTCH"))
