"""A sampling rate is doubted where something contradicts it, and only there."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.readers import read
from ecgshared.ecg.quality import assess
from ecgshared.ecg.rate import CODE
from ecgshared.ecg.record import EcgRecord, Finding
from simulations.physics.heart import dipole, reference_heart, regular_rhythm
from simulations.physics.torso import project, reference_anatomy, reference_electrodes, twelve


def simulated(fs: float, samples: int, bpm: float = 70, mains_hz: float | None = None) -> EcgRecord:
    seconds = samples / fs
    waves = dipole(reference_heart(), regular_rhythm(np.float32([bpm]), seconds + 1), fs=fs, seconds=seconds + 1)
    signal = twelve(project(waves, reference_anatomy(), reference_electrodes()))[0][:, :samples]
    rng = np.random.default_rng(0)
    eight = signal[[0, 1, 6, 7, 8, 9, 10, 11]] + rng.normal(0, 0.006, (8, samples))
    if mains_hz is not None:
        eight += 0.02 * rng.uniform(0.5, 1, (8, 1)) * np.sin(2 * np.pi * mains_hz * np.arange(samples) / fs)
    return EcgRecord(twelve(eight[None].astype(np.float32))[0], fs=fs, adc_units_per_mv=1000.0)


def doubts(record: EcgRecord) -> list[Finding]:
    return [finding for finding in assess(record) if finding.code == CODE]


@pytest.mark.parametrize(
    ("fs", "samples"),
    [(240, 2500), (500, 5120), (400, 5000), (360, 5000), (250, 3000), (500, 2500), (250, 5000), (400, 4000),
     (1000, 5000), (257, 2570), (300, 2934), (977, 10_000), (200, 2500)],
)  # fmt: skip
@pytest.mark.parametrize("bpm", [48, 75, 110])
def test_no_length_is_a_reason_to_doubt(fs: float, samples: int, bpm: float) -> None:
    assert doubts(simulated(fs, samples, bpm)) == []


@pytest.mark.parametrize(("true", "stated"), [(240, 250), (250, 240), (500, 512), (500, 400), (400, 500), (250, 500)])
def test_what_the_machine_counted_contradicts_a_rate_or_confirms_it(true: float, stated: float) -> None:
    record = simulated(true, 10 * true, 72)
    counted = {"rate_bpm": 72.0}
    assert doubts(replace(record, machine=counted)) == []
    assert doubts(replace(record, machine={"rr_ms": 833.0})) == []
    (found,) = doubts(replace(record, fs=float(stated), machine=counted))
    assert found.value == true


def test_a_machine_that_counted_otherwise_is_no_evidence_without_a_usual_rate() -> None:
    assert doubts(replace(simulated(500, 5000, 72), machine={"rate_bpm": 66.0})) == []
    assert doubts(replace(simulated(500, 5000, 72), machine={"rate_bpm": 0.0})) == []


@pytest.mark.parametrize(("true", "stated"), [(500, 400), (400, 500), (500, 360), (250, 240), (500, 512), (400, 360)])
def test_mains_betray_a_rate_that_the_heart_does_not(true: float, stated: float) -> None:
    record = simulated(true, 10 * true, mains_hz=60.0)
    assert doubts(record) == []
    (found,) = doubts(replace(record, fs=float(stated)))
    assert found.value == true
    assert "mains of 60 Hz" in found.message


def test_mains_in_real_records(shared_data: Path) -> None:
    """20 uV of 50 Hz in recordings of 500 Hz that say 400, 512 or 1000: where lines of the heart leave it visible."""
    with (shared_data / "records.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["site"].startswith("ptbxl")][:60]
    told = []
    for row in rows:
        record = read(shared_data / f"{row['file']}.hea")
        wave = 0.02 * np.sin(2 * np.pi * 50 * np.arange(record.p_signal.shape[1]) / 500).astype(np.float32)
        heard = replace(record, p_signal=record.p_signal + wave)
        assert doubts(heard) == []
        found = [doubts(replace(heard, fs=fs)) for fs in (400.0, 512.0, 1000.0)]
        told += [bool(one) and one[0].value == 500 for one in found]
    assert np.mean(told) > 0.7


@pytest.mark.slow
def test_real_records_at_other_rates(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """None as it is; at half or twice the true rate most are, though each rate by itself is a usual one."""
    with (shared_data / "records.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found: dict[float, list[bool]] = {factor: [] for factor in (1.0, 0.4, 0.5, 0.625, 0.8, 1.25, 1.6, 2.0, 2.5)}
    for row in rows[::9]:
        record = read(shared_data / f"{row['file']}.hea")
        for factor, told in found.items():
            told.append(bool(doubts(replace(record, fs=record.fs * factor))))
    share = {factor: float(np.mean(told)) for factor, told in found.items()}
    with capsys.disabled():
        print(f"\nstated over true rate: doubted { {k: round(v, 3) for k, v in share.items()} }")
    assert share[1.0] == 0
    for factor in (0.4, 0.5, 2.0, 2.5):
        assert share[factor] >= 0.5, factor
