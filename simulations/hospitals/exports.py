"""A hospital's folder as the hospital would hold it: recordings, cohort table, site file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from ecgshared.ecg.leads import LEADS
from ecgshared.errors import EcgReadError
from ecgshared.study.columns import STANDARD_COLUMNS
from simulations.hospitals.formats import write
from simulations.hospitals.formats.header import Header
from simulations.patients.clinical import CLINICAL
from simulations.patients.scenario import TableStyle

_TIMED = ("recorded_at", "admission_time", "death_date", "index_date")
"""Columns with a time of day: whether a death came in the first 24 hours of a stay hangs on it."""
_ROWS = 50_000
RECORDS_FOLDER, TABLE_FILE, SITE_FILE = "records", "cohort.csv", "site.yaml"


def quantise(p_signal: NDArray[np.float32], adc_units_per_mv: float) -> NDArray[np.int16]:
    """Return what the device stores, shape = (..., 12, T), int16 units.

    I, II, V1..V6 are rounded; III, aVR, aVL, aVF are computed from stored I and II, as electrocardiographs do,
    so Einthoven's law holds to the unit and Goldberger's to half of one. Values beyond the range are clipped.
    """
    top = np.iinfo(np.int16).max
    units = np.clip(np.rint(p_signal * np.float32(adc_units_per_mv)), -top / 2, top / 2).astype(np.int16)
    one, two = units[..., 0, :].astype(np.int32), units[..., 1, :].astype(np.int32)
    three = two - one
    for row, value in ((2, 2 * three), (3, -(one + two)), (4, one - three), (5, two + three)):
        units[..., row, :] = value >> 1
    return np.asarray(units)


def write_record(folder: Path, header: Header, units: NDArray[np.int16]) -> None:
    """Write one record in its device's format; see :func:`write_wfdb` for the parameters."""
    if header.device.format == "wfdb":
        write_wfdb(folder, header, units)
    else:
        write(header.device.format, folder, header, units)


def write_wfdb(folder: Path, header: Header, units: NDArray[np.int16]) -> None:
    """Write one record as ``<record>.hea`` and ``<record>.dat`` (WFDB format 16, checksums, comments).

    Parameters
    ----------
    folder : the records folder; ``header.record`` is relative to it.
    units : array, shape = (12, T), int16, in standard lead order.

    Raises
    ------
    EcgReadError : the array is not twelve leads of int16.
    """
    if units.dtype != np.int16 or units.ndim != 2 or units.shape[0] != len(LEADS):
        raise EcgReadError(
            "a record must be twelve leads of int16",
            value=(units.shape, str(units.dtype)),
            allowed="(12, T), int16",
        )
    path = folder / header.record
    name, samples = path.name, units.shape[1]
    sums = units.sum(axis=1, dtype=np.int64)
    checksums = (sums + 32768) % 65536 - 32768
    gain = f"{header.device.adc_units_per_mv:g}(0)/mV"
    when = header.recorded_at.strftime("%H:%M:%S %d/%m/%Y")
    lines = [f"{name} {len(LEADS)} {header.device.fs_hz} {samples} {when}"]
    lines += [
        f"{name}.dat 16 {gain} 16 0 {first} {checksum} 0 {lead}"
        for lead, first, checksum in zip(LEADS, units[:, 0].tolist(), checksums.tolist(), strict=True)
    ]
    lines += [
        f"# Age: {header.age}",
        f"# Sex: {'Male' if header.sex == 'M' else 'Female'}",
        f"# Device: {header.device.name}",
    ]
    path.with_suffix(".dat").write_bytes(np.ascontiguousarray(units.T, dtype="<i2").tobytes())
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n", encoding="ascii")


def local_table(table: pd.DataFrame, style: TableStyle) -> pd.DataFrame:
    """Return the cohort table in the hospital's own names, codes and formats, every cell a string."""
    out = {}
    for column, local in style.columns.items():
        if column not in table:
            continue
        values, kind = table[column], STANDARD_COLUMNS[column].kind
        if kind == "date":
            form = style.time_format if column in _TIMED else style.date_format
            text = values.dt.strftime(form).fillna("")
        elif kind == "sex":
            text = values.map(dict(zip(("F", "M"), style.sex, strict=True)))
        elif kind == "flag":
            text = values.map(dict(zip((0.0, 1.0), style.flag, strict=True))).fillna("")
        elif kind == "code":
            text = values if style.icd_dots else values.str.replace(".", "", regex=False)
        elif kind == "number":
            shown = values * 100 if column == "lvef" and style.lvef_percent else values
            text = shown.map(lambda v: _number(v, style))
        else:
            text = values.astype(str)
        out[local] = text
    for label, local in style.labels.items():
        out[local] = table[label].map(dict(zip((0.0, 1.0), style.flag, strict=True))).fillna("")
    for column, local in style.declared.items():
        out[local] = _declared(table[column], column, style)
    for measure in table.columns.difference([*STANDARD_COLUMNS, *style.labels, *style.declared], sort=False):
        out[measure] = table[measure].map(lambda v: _number(v, style))
    return pd.DataFrame(out)


def _declared(values: pd.Series[Any], column: str, style: TableStyle) -> pd.Series[Any]:
    if CLINICAL[column].startswith("category"):
        return values.astype(str)
    if CLINICAL[column].startswith("event"):
        text: pd.Series[Any] = values.dt.strftime(style.date_format).fillna("")
        return text
    if CLINICAL[column].startswith("flag"):
        return values.map(dict(zip((0.0, 1.0), style.flag, strict=True))).fillna("")
    return values.map(lambda v: _number(v, style))


def _number(value: float, style: TableStyle) -> str:
    return "" if pd.isna(value) else f"{value:.6g}".replace(".", style.decimal)


def write_table(folder: Path, table: pd.DataFrame, style: TableStyle) -> None:
    """Write the cohort table as the hospital's CSV, a slice at a time: as text it is many times its size."""
    with (folder / TABLE_FILE).open("w", encoding=style.encoding, newline="") as stream:
        for start in range(0, len(table), _ROWS):
            part = local_table(table.iloc[start : start + _ROWS], style)
            part.to_csv(stream, sep=style.separator, index=False, header=start == 0, lineterminator="\n")


def site_settings(
    name: str, table: Iterable[str], style: TableStyle, suffix: str = ".hea", *, case_control: bool = False
) -> dict[str, Any]:
    """Return the site file's content: where things are, how local columns and codes map to standard ones."""
    present = set(table)
    columns = {column: local for column, local in style.columns.items() if column in present}
    # A table has two formats (dates, times) and the schema takes one, so both are left to the reader.
    values: dict[str, dict[str, str]] = {}
    for column in columns:
        kind = STANDARD_COLUMNS[column].kind
        if kind == "sex" and style.sex != ("F", "M"):
            values[column] = dict(zip(style.sex, ("F", "M"), strict=True))
        if kind == "flag" and style.flag != ("0", "1"):
            values[column] = dict(zip(style.flag, ("0", "1"), strict=True))
    flags = [column for column in style.declared if CLINICAL[column].startswith("flag")]
    if style.flag != ("0", "1"):
        values |= {column: dict(zip(style.flag, ("0", "1"), strict=True)) for column in flags}
        values |= {label: dict(zip(style.flag, ("0", "1"), strict=True)) for label in style.labels}
    return {
        "format_version": 1,
        "site": name,
        **({"design": "case_control"} if case_control else {}),
        "records": {"folder": RECORDS_FOLDER, "pattern": f"**/*{suffix}"},
        "table": {
            "path": TABLE_FILE,
            "separator": style.separator,
            "decimal": style.decimal,
            "encoding": style.encoding,
            "date_format": None,
            "day_first": "%d" in style.date_format and style.date_format.index("%d") == 0,
            "columns": columns,
            **({"declared": dict(style.declared)} if style.declared else {}),
            **({"labels": dict(style.labels)} if style.labels else {}),
            **({"values": values} if values else {}),
            "join": "{" + columns["file"] + "}",
        },
        "state": "state",
        # Nobody made is harmed by what weights in the clear tell; a hospital chooses this knowingly, or not at all.
        "privacy": {"weights": "plain"},
        # The study of these hospitals lies beside them; a real site names the files it approved.
        "studies": ["../../study.yaml"],
    }


def write_site(
    folder: Path,
    name: str,
    table: Iterable[str],
    style: TableStyle,
    suffix: str = ".hea",
    *,
    case_control: bool = False,
) -> None:
    """Write the site file; ``suffix`` is that of the recordings."""
    text = yaml.safe_dump(
        site_settings(name, table, style, suffix, case_control=case_control), sort_keys=False, allow_unicode=True
    )
    (folder / SITE_FILE).write_text(f"# Site file of {name}, made with its in-silico data.\n{text}", encoding="utf-8")
