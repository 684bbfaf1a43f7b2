"""What the recording machine measured: read from every format that carries it, and used where a rate is doubted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import vendor_exports as exports

from client.readers import read
from client.readers._machine import possible, with_units
from ecgshared.ecg.quality import assess
from ecgshared.ecg.rate import CODE, by_machine_intervals

SAID = {
    "vendor/dicom/anonymous_ecg.dcm": {"rr_ms": 982, "pr_ms": 161, "qrs_ms": 75, "qt_ms": 368},
    "vendor/hl7_aecg/hl7aecg_example.xml": {"rate_bpm": 57, "pr_ms": 192, "qrs_ms": 88, "qt_ms": 418},
    "vendor/philips_xml/ad4d3d80-d165_1-04_orig.xml": {
        "rate_bpm": 41, "rr_ms": 1463, "pr_ms": 144, "qrs_ms": 102, "qt_ms": 564,
    },
    "vendor/philips_xml/ad4d3d80-d165_1-04_converted.xml": {
        "rate_bpm": 41, "rr_ms": 1463, "pr_ms": 144, "qrs_ms": 102, "qt_ms": 564,
    },
    "vendor/muse_xml/example1.xml": {"rate_bpm": 48, "pr_ms": 138, "qrs_ms": 96, "qt_ms": 452},
    **{f"vendor/scp/Example.{end}": {"pr_ms": 148, "qrs_ms": 120, "qt_ms": 420} for end in ("scp", "dcm", "xml")},
}  # fmt: skip
"""As the files' own text, or another program's export of the same recording, gives them."""


@pytest.mark.parametrize("name", SAID)
def test_real_exports_say_what_their_machines_measured(shared_data: Path, name: str) -> None:
    assert dict(read(shared_data / name).machine) == SAID[name]


@pytest.mark.parametrize("name", [name for name in SAID if "hl7aecg" not in name])  # which holds no heartbeats
@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
def test_a_wrong_rate_is_told_by_them_and_a_right_one_kept(shared_data: Path, name: str, factor: float) -> None:
    record = read(shared_data / name)
    assert not [f for f in assess(record) if f.code == CODE]
    doubted = [f for f in assess(replace(record, fs=record.fs * factor)) if f.code == CODE]
    assert [f.value for f in doubted] == [record.fs]


def written(path: Path, content: bytes) -> dict[str, float]:
    path.write_bytes(content)
    return dict(read(path).machine)


def test_cardiosoft_eli_and_scp_as_they_write_them(tmp_path: Path) -> None:
    digital = exports.digital_ecg()
    block = (
        b'<RestingECGMeasurements><VentricularRate units="BPM">61</VentricularRate><PQInterval units="ms">158'
        b'</PQInterval><QRSDuration units="ms">92</QRSDuration><QTInterval units="ms">402</QTInterval>'
        b'<RRInterval units="ms">983</RRInterval></RestingECGMeasurements><StripData>'
    )
    content = exports.cardiosoft_xml(digital).replace(b"<StripData>", block)
    assert written(tmp_path / "c.xml", content) == {
        "rate_bpm": 61, "rr_ms": 983, "pr_ms": 158, "qrs_ms": 92, "qt_ms": 402,
    }  # fmt: skip
    assert written(tmp_path / "e.xml", exports.eli_xml(digital)) == {"rate_bpm": 75, "qt_ms": 456}
    plain = exports.scp(digital)
    assert written(tmp_path / "s.scp", plain) == {}


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [
        ((812, 29999, 100, 200, 260, 350, 660, 0, 0), {"rr_ms": 812, "pr_ms": 160, "qrs_ms": 90, "qt_ms": 400}),
        ((29999, 29999, 29999, 29999, 260, 350, 29999, 0, 0), {"qrs_ms": 90}),
        ((0, 0, 0, 0, 0, 0, 0, 0, 0), {}),
    ],
)
def test_section_7_of_scp(tmp_path: Path, numbers: tuple[int, ...], wanted: dict[str, float]) -> None:
    body = bytes([1, 0]) + np.array(numbers, "<u2").tobytes() + bytes(4)
    content = exports.scp(exports.digital_ecg(), measurements=body)
    assert written(tmp_path / "s.scp", content) == wanted


def test_a_damaged_section_7_does_not_cost_the_ecg(tmp_path: Path) -> None:
    body = bytes([1, 0]) + np.array([812, 0, 100, 200, 260, 350, 660], "<u2").tobytes() + bytes(6)
    content = bytearray(exports.scp(exports.digital_ecg(), measurements=body))
    content[content.index(body)] ^= 1
    assert written(tmp_path / "s.scp", bytes(content)) == {}


def test_values_no_heart_has_and_units_nobody_knows_are_left_out() -> None:
    assert possible({"rate_bpm": 0.0, "rr_ms": 29_999.0, "qt_ms": 400.0, "qrs_ms": None, "pr_ms": 9999.0}) == {
        "qt_ms": 400
    }
    found = [("qt_ms", 0.4, "s"), ("qt_ms", 380.0, "ms"), ("rate_bpm", 60.0, "/min"), ("pr_ms", 150.0, "furlong")]
    assert with_units(found) == {"qt_ms": 400, "rate_bpm": 60}
    assert with_units([("rate_bpm", 1.2, "Hz"), ("qrs_ms", 90.0, None)]) == {"qrs_ms": 90}


def test_intervals_that_differ_by_more_than_one_factor_say_nothing() -> None:
    machine = {"pr_ms": 150.0, "qrs_ms": 90.0, "qt_ms": 400.0}
    assert by_machine_intervals(500, 5000, machine, {name: 0.98 * value for name, value in machine.items()}) == []
    (doubt,) = by_machine_intervals(400, 5000, machine, {name: 1.2 * value for name, value in machine.items()}) or []
    assert doubt.value == 500
    assert by_machine_intervals(500, 5000, machine, {"pr_ms": 150, "qrs_ms": 150, "qt_ms": 300}) is None
    assert by_machine_intervals(500, 5000, {"pr_ms": 150.0, "qrs_ms": 90.0}, machine) is None
    assert by_machine_intervals(500, 5000, machine, machine | {"qt_ms": float("nan")}) is None
