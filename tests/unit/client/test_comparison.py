"""The second look at a site: real recordings at a wrong size among the others of their device."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.ingest.comparison import Sized, outliers, summary
from client.readers import read
from ecgshared.ecg.amplitude import step_mv
from ecgshared.ecg.quality import assess, examine
from ecgshared.ecg.record import EcgRecord

OWN = {"stale-gain", "amplitude-implausible"}


def made(
    n: int, *, device: str = "CART", middle: float = 1.3, step: float = 0.005, units: float = 1000.0
) -> list[Sized]:
    rng = np.random.default_rng(n)
    return [
        Sized(f"{device}/{i:03d}", b"p", device, float(middle * np.exp(rng.normal(0, 0.28))), step, units)
        for i in range(n)
    ]


def test_a_site_in_order_has_hardly_any_outliers() -> None:
    assert len(outliers(made(400) + made(30, device="OTHER", middle=2.0))) <= 4
    assert outliers(made(5)) == []
    assert outliers([]) == []


def test_amplitude_step_gain_and_device_are_each_named() -> None:
    others = made(100)
    large = replace(others[0], path="large", amplitude_mv=7.0)
    coarse = replace(others[1], path="coarse", step_mv=0.025)
    stated = replace(others[2], path="stated", units_per_mv=200.0, amplitude_mv=6.0)
    honest = replace(others[3], path="honest", units_per_mv=200.0, amplitude_mv=1.2, step_mv=0.005)
    weak = [replace(one, amplitude_mv=one.amplitude_mv / 4.88, units_per_mv=4880.0) for one in made(60, device="WEAK")]
    found = {outlier.path: outlier for outlier in outliers([*others, large, coarse, stated, honest, *weak])}
    assert found["large"].code == "amplitude-outlier"
    assert found["coarse"].code == "step-outlier"
    assert found["stated"].code == "gain-outlier"
    assert "at theirs it would be 1.2 mV" in found["stated"].why
    assert "honest" not in found
    assert {outlier.code for path, outlier in found.items() if path.startswith("WEAK")} == {"device-amplitude"}
    assert sum(path.startswith("WEAK") for path in found) == 60
    first = summary(found.values())[0]
    assert first.startswith("WEAK: 60 x device-amplitude")
    assert "4880" in first


def test_a_device_with_few_recordings_is_compared_with_the_site() -> None:
    few = replace(made(3, device="RARE")[0], amplitude_mv=9.0)
    (found,) = outliers([*made(50), few])
    assert (found.device, found.code) == ("RARE", "amplitude-outlier")


def rescaled(record: EcgRecord, factor: float, *, by_gain: bool) -> EcgRecord:
    units = record.adc_units_per_mv or 1000.0
    if by_gain:
        return replace(record, p_signal=record.p_signal * np.float32(factor), adc_units_per_mv=units / factor)
    raw = np.rint(record.p_signal * units * factor)
    return replace(record, p_signal=(raw / units).astype(np.float32))


@pytest.mark.slow
def test_400_real_records_at_a_wrong_size(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each beside the others of its site: at least 95% named by itself or beside them, at most 1% of those in order."""
    with (shared_data / "records.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["site"].startswith(("ptbxl", "code15"))]
    records = [read(shared_data / f"{row['file']}.hea") for row in rows]

    def sized(i: int, record: EcgRecord) -> tuple[set[str], Sized | None]:
        codes = {finding.code for finding in assess(record)}
        amplitude = examine(record)[1]
        device = rows[i]["device"] or f"{rows[i]['site'][:4]} {record.fs:g}"
        size = (step_mv(record), record.adc_units_per_mv)
        return codes, None if amplitude is None else Sized(rows[i]["file"], b"", device, amplitude, *size)

    clean = [sized(i, record) for i, record in enumerate(records)]
    site = [one for _, one in clean if one is not None]
    alarms = len(outliers(site)) + sum(bool(codes & OWN) for codes, _ in clean)
    chosen = np.random.default_rng(1).choice(len(records), 100, replace=False).tolist()
    share = {}
    for factor in (10, 5, 1 / 5, 1 / 10):
        for by_gain in (False, True):
            named = []
            for i in chosen:
                codes, one = sized(i, rescaled(records[i], factor, by_gain=by_gain))
                if not codes & OWN and one is not None:
                    others = [other for other in site if other.path != one.path and other.device == one.device]
                    everybody = site if len(others) < 20 else others
                    beside = outliers([other for other in everybody if other.path != one.path] + [one])
                    named.append(any(outlier.path == one.path for outlier in beside))
                else:
                    named.append(bool(codes & OWN))
            share[f"x {factor:g} {'gain' if by_gain else 'values'}"] = float(np.mean(named))
    # A whole device: every recording of it is named.
    fifth = [replace(one, amplitude_mv=one.amplitude_mv / 4.88) for one in site if one.device.startswith("CS-12")]
    with capsys.disabled():
        print(f"\nnamed: {share}; of {len(records)} in order: {alarms}")
    assert alarms <= 0.01 * len(records)
    assert min(share.values()) >= 0.95
    assert len(outliers(fifth)) > 0.9 * len(fifth)
