"""The WFDB header: record line, signal lines, and age and sex from the comments.

Source: https://physionet.org/physiotools/wag/header-5.htm. Names and identifiers in comments are not kept.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, NoReturn

from client.readers._assemble import FS_HZ
from ecgshared.ecg import person
from ecgshared.ecg.record import Finding, Sex
from ecgshared.errors import EcgReadError

MAX_SIGNALS = 256

DEFAULT_FS_HZ, DEFAULT_GAIN = 250.0, 200.0
"""What the format prescribes where a header gives neither."""

_FORMAT = re.compile(r"(\d{1,3})(?:x(\d{1,4}))?(?::(\d{1,6}))?(?:\+(\d{1,9}))?")
_GAIN = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\((-?\d+)\))?(?:/(\S+))?")
_AGE = re.compile(r"\bage\b>?\s*[:=]\s*(.*)", re.IGNORECASE)
_NEXT_FIELD = re.compile(r"[<;|]|[,\s]\s*[a-z]+\s*[:=]", re.IGNORECASE)
_SEX = re.compile(r"\b(?:sex|gender)\b>?\s*[:=]\s*(\w+)", re.IGNORECASE)
_MIT_BIH = re.compile(r"#\s*(\d{1,3}\s+[MF])\b")
_PLAIN = re.compile(r"-?[0-9]{1,9}(?: -?[0-9]{1,9})*").fullmatch
_TIME = re.compile(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d+))?)?")
_DATE = re.compile(r"(\d{1,2})[/-](\d{1,2}|[A-Za-z]{3})[/-](\d{4})")

_MONTHS = dict(
    zip(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
        range(1, 13),
        strict=True,
    )
)


class Signal(NamedTuple):
    """One signal line. ``gain`` is in digital units per physical unit; ``line`` counts from 1."""

    number: int
    line: int
    file_name: str
    fmt: str
    samples_per_frame: int
    skew: int
    byte_offset: int
    gain: float
    baseline: int
    units: str
    initial_value: int | None
    checksum: int | None
    description: str


@dataclass(frozen=True)
class Person:
    """What the comments say of the person."""

    age_years: float | None = None
    age_capped: bool = False
    sex: Sex | None = None


@dataclass(frozen=True)
class Header:
    """A header. ``fs`` is frames per second; ``n_frames`` is None where the header does not say."""

    line: int
    fs: float
    n_frames: int | None
    recorded_at: datetime | None
    signals: tuple[Signal, ...]
    person: Person
    findings: tuple[Finding, ...]

    @property
    def values_per_frame(self) -> int:
        """Samples in one frame, all signals together."""
        return sum(signal.samples_per_frame for signal in self.signals)


def parse_header(text: str, path: Path) -> Header:
    """Parse a header's text; raise :class:`EcgReadError` naming ``path`` and line."""
    lines: list[tuple[int, list[str]]] = []
    comments: list[str] = []
    for number, content in enumerate(text.splitlines(), start=1):
        stripped = content.strip()
        if stripped.startswith("#"):
            comments.append(stripped)
        elif stripped:
            lines.append((number, stripped.split()))
    if not lines:
        raise EcgReadError("holds no record line", where=path, remedy="export the record again")
    line, fields = lines[0]
    n_sig, fs, n_frames, findings = _record_line(fields, f"{path}:{line}")
    if len(lines) - 1 < n_sig:
        _fault(
            "fewer signal lines than the record line declares",
            f"{path}:{line}",
            len(lines) - 1,
            f"{n_sig} signal lines",
        )
    file = str(path)
    signals = tuple(_signal(i, number, part, file) for i, (number, part) in enumerate(lines[1 : n_sig + 1]))
    assumed = [signal.description for signal, (_, part) in zip(signals, lines[1:], strict=False) if _no_gain(part)]
    if assumed:
        findings.append(
            Finding(
                "gain-assumed",
                f"no gain is given for {', '.join(assumed)}; WFDB's default, 200 per mV, is used",
            )
        )
    who, about = _person(comments)
    return Header(line, fs, n_frames, _recorded_at(fields[4:6]), signals, who, (*findings, *about))


def _record_line(fields: list[str], where: str) -> tuple[int, float, int | None, list[Finding]]:
    """Return the number of signals, frames per second and frames, and a finding where a rate was assumed."""
    if "/" in fields[0]:
        raise EcgReadError(
            "is a multi-segment record",
            where=where,
            value=fields[0][:60],
            remedy="write each segment, or the joined signal, as a record of its own",
        )
    if len(fields) < 2:
        _fault(
            "the record line does not say how many signals there are",
            where,
            " ".join(fields),
            "NAME SIGNALS FS",
        )
    n_sig = _integer(fields[1], "number of signals", where, 1, MAX_SIGNALS)
    n_frames = _integer(fields[3], "number of samples", where, 0, 2**62) if len(fields) > 3 else 0
    if len(fields) > 2:
        return n_sig, _rate(fields[2].split("/")[0], where), n_frames or None, []
    assumed = Finding("fs-assumed", "the header gives no sampling rate; WFDB's default, 250 Hz, is used")
    return n_sig, DEFAULT_FS_HZ, n_frames or None, [assumed]


def _fault(what: str, where: str, value: object, allowed: str) -> NoReturn:
    raise EcgReadError(
        what,
        where=where,
        value=value if not isinstance(value, str) else value[:80],
        allowed=allowed,
        remedy="correct the header, or export the record again",
    )


def _integer(text: str, what: str, where: str, low: int, high: int) -> int:
    try:
        value = int(text) if len(text) < 25 else None
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        _fault(f"the {what} is not valid", where, text, f"a whole number from {low} to {high}")
    return value


def _rate(text: str, where: str) -> float:
    try:
        fs = float(text)
    except ValueError:
        fs = math.nan
    if not FS_HZ[0] <= fs <= FS_HZ[1]:
        _fault("the sampling rate is not valid", where, text, f"{FS_HZ[0]:g} to {FS_HZ[1]:g} Hz")
    return fs


def _no_gain(fields: list[str]) -> bool:
    scale = _gain(fields[2]) if len(fields) > 2 else None
    return scale is None or scale[0] == 0


def _signal(number: int, line: int, fields: list[str], file: str) -> Signal:
    where = f"{file}:{line}"
    if len(fields) < 2:
        _fault("the signal line is not complete", where, " ".join(fields), "FILE FORMAT GAIN ...")
    file_name = fields[0]
    if "/" in file_name or "\\" in file_name or "\0" in file_name or file_name in (".", "..", "-", "~"):
        _fault("the signal file must lie beside the header", where, file_name, "a file name without a folder")
    fmt = _format(fields[1])
    if fmt is None:
        _fault("the signal format is not valid", where, fields[1], "such as 16, 212, 16+24, 80x2")
    gain, baseline, units = _scale(fields[2], where) if len(fields) > 2 else (DEFAULT_GAIN, None, "mV")
    _, adc_zero, initial_value, checksum, _ = _numbers(fields[3:8], where)
    return Signal(
        number=number,
        line=line,
        file_name=file_name,
        fmt=fmt[0],
        samples_per_frame=1 if fmt[1] is None else _integer(fmt[1], "number of samples per frame", where, 1, 1000),
        skew=int(fmt[2] or 0),
        byte_offset=int(fmt[3] or 0),
        gain=gain,
        baseline=(adc_zero or 0) if baseline is None else baseline,
        units=units,
        initial_value=initial_value,
        checksum=checksum,
        description=" ".join(fields[8:]),
    )


def _numbers(texts: list[str], where: str) -> list[int | None]:
    """Return resolution, ADC zero, initial value, checksum and block size; None for each that is not there."""
    absent: list[int | None] = [None] * (5 - len(texts))
    if _PLAIN(" ".join(texts)):
        return [*map(int, texts), *absent]
    names = ("resolution", "ADC zero", "initial value", "checksum", "block size")
    return [*(_integer(text, name, where, -(2**31), 2**32) for text, name in zip(texts, names, strict=False)), *absent]


def _scale(text: str, where: str) -> tuple[float, int | None, str]:
    """Return gain, baseline and unit of ``GAIN(BASELINE)/UNITS``; 0 stands for the format's default gain."""
    scale = _gain(text)
    if scale is None or not (scale[0] == 0 or 1e-9 <= abs(scale[0]) <= 1e12):
        _fault("the gain is not valid", where, text, "GAIN(BASELINE)/UNITS, such as 1000(0)/mV")
    value, stated, unit = scale
    baseline = None if stated is None else _integer(stated, "baseline", where, -(2**31), 2**31)
    return value or DEFAULT_GAIN, baseline, unit or "mV"


@lru_cache(maxsize=1024)
def _gain(text: str) -> tuple[float, str | None, str | None] | None:
    """Return the parts of ``GAIN(BASELINE)/UNITS``, None where it is none; an archive writes few different ones."""
    match = _GAIN.fullmatch(text)
    return None if match is None else (float(match[1]), match[2], match[3])


@lru_cache(maxsize=1024)
def _format(text: str) -> tuple[str, str | None, str | None, str | None] | None:
    """Return the parts of ``FORMATxSAMPLES:SKEW+OFFSET``, None where it is none."""
    match = _FORMAT.fullmatch(text)
    return None if match is None else (match[1], match[2], match[3], match[4])


def _recorded_at(fields: list[str]) -> datetime | None:
    """Read ``HH:MM:SS DD/MM/YYYY`` (WFDB) or ``DD-Mon-YYYY HH:MM:SS`` (CinC); None unless both are given."""
    time = next((m for m in map(_TIME.fullmatch, fields) if m), None)
    date = next((m for m in map(_DATE.fullmatch, fields) if m), None)
    if time is None or date is None:
        return None
    on = person.day(date[3], date[2] if date[2].isdecimal() else _MONTHS.get(date[2].lower(), 0), date[1])
    at = person.clock(time[1], time[2], time[3] or 0)
    return None if on is None or at is None else datetime.combine(on, at)


def _person(comments: list[str]) -> tuple[Person, list[Finding]]:
    """Return age and sex of the first comments that give them; what cannot be read for certain is a finding."""
    ages = (match[1] for match in (_AGE.search(c) or _MIT_BIH.match(c) for c in comments) if match)
    sexes = (match[1] for match in map(_SEX.search, comments) if match)
    age, findings = _age(_NEXT_FIELD.split(next(ages, ""))[0].strip(" ,"))
    word = next(sexes, None)
    sex = None if age is None else age.sex
    if word is not None:
        try:
            stated = person.parse_sex(word)
        except ValueError:
            stated = None
            findings.append(Finding("sex-unclear", "the sex in the header is no word for one, and is left out"))
        sex = sex if stated is None else stated
    return (Person(sex=sex) if age is None else Person(age.years, age.capped, sex)), findings


def _age(text: str) -> tuple[person.Age | None, list[Finding]]:
    if not any(character.isdecimal() for character in text):
        return None, []  # "NaN", "unknown"
    try:
        return person.parse_age(text), []
    except person.ImplausibleAge as error:
        message = f"age {error.years:g} is not plausible and is dropped"
        return None, [Finding("age-implausible", message, value=error.years)]
    except ValueError:
        return None, [Finding("age-unclear", "the age in the header cannot be read for certain and is left out")]
