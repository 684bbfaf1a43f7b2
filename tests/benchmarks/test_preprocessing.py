"""Records per CPU second of reading and preprocessing, beside wfdb and NeuroKit2 in the same run."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path

import neurokit2
import numpy as np
import pytest
import wfdb

from client.cache.entries import UNITS_PER_MV
from client.readers import read
from ecgshared.ecg.input import InputConfig
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.preprocess import preprocess, preprocess_record
from ecgshared.ecg.quality import assess
from ecgshared.ecg.record import EcgRecord

pytestmark = pytest.mark.benchmark

CONFIG = InputConfig(fs_hz=500, seconds=10, band_hz=(0.5, 150.0), mains_hz=50)
"""As near as may be to what ``neurokit2.ecg_clean`` does: a high-pass at 0.5 Hz and mains removed."""

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def rate(work: Callable[[], object], records: int, *, repeats: int = 3) -> float:
    """Return records per CPU second, the best of several runs after one to warm up."""
    work()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return records / best


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real 500 Hz records where they are, else records of the same size written here."""
    if (SHARED / "records.csv").is_file():
        rows = csv.DictReader((SHARED / "records.csv").read_text().splitlines())
        return [SHARED / f"{row['file']}.hea" for row in rows if row["site"].startswith("ptbxl")][:60]
    folder, rng = tmp_path_factory.mktemp("records"), np.random.default_rng(0)
    t = np.arange(5000) / 500
    beat = 1000 * np.exp(-0.5 * ((np.mod(t, 0.8) - 0.4) / 0.012) ** 2)
    for i in range(60):
        signal = np.rint(rng.uniform(-1, 2, 12) * beat[:, None] + rng.normal(0, 20, (5000, 12))).astype(np.int64)
        wfdb.wrsamp(
            f"r{i}", fs=500, units=["mV"] * 12, sig_name=list(LEADS), d_signal=signal, fmt=["16"] * 12,
            adc_gain=[1000.0] * 12, baseline=[0] * 12, write_dir=str(folder),
        )  # fmt: skip
    return sorted(folder.glob("*.hea"))


def cleaned_by_neurokit(p_signal: np.ndarray, fs: float) -> np.ndarray:
    return np.stack([neurokit2.ecg_clean(lead, sampling_rate=int(fs), method="neurokit") for lead in p_signal])


def as_cached(signal: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(signal * UNITS_PER_MV), -32768, 32767).astype(np.int16)


def test_array_to_array(headers: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    records: list[EcgRecord] = [read(path) for path in headers]
    stacked = np.stack([record.p_signal for record in records])
    some = [record.p_signal.astype(np.float64) for record in records[:12]]
    ours = rate(lambda: preprocess(stacked, 500, CONFIG), len(records))
    theirs = rate(lambda: [cleaned_by_neurokit(x, 500) for x in some], len(some), repeats=2)
    quality = rate(lambda: [assess(record) for record in records], len(records))
    with capsys.disabled():
        print(
            f"\npreprocess, array to array: {ours:.0f} records/s, neurokit2 per lead {theirs:.0f}: "
            f"{ours / theirs:.1f} x (goal 5); quality rules: {quality:.0f} records/s"
        )
    found, expected = preprocess(stacked[:12], 500, CONFIG), np.stack([cleaned_by_neurokit(x, 500) for x in some])
    inner = slice(1000, -1000)
    similar = [
        np.corrcoef(a, b)[0, 1]
        for a, b in zip(found[..., inner].reshape(-1, 3000), expected[..., inner].reshape(-1, 3000), strict=True)
    ]
    assert np.median(similar) > 0.95


def test_file_to_cached_array(headers: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    def our_way() -> list[np.ndarray]:
        return [as_cached(preprocess_record(read(path), CONFIG)) for path in headers]

    def their_way() -> list[np.ndarray]:
        cached = []
        for path in headers[:12]:
            record = wfdb.rdrecord(str(path.with_suffix("")))
            cached.append(as_cached(cleaned_by_neurokit(record.p_signal.T, record.fs)))
        return cached

    def checked() -> list[np.ndarray]:
        cached = []
        for path in headers:
            record = read(path)
            assess(record)
            cached.append(as_cached(preprocess_record(record, CONFIG)))
        return cached

    ours, with_quality = rate(our_way, len(headers)), rate(checked, len(headers))
    theirs = rate(their_way, 12, repeats=2)
    with capsys.disabled():
        print(
            f"\nfile to int16 array: {ours:.0f} records per CPU second ({with_quality:.0f} with the quality rules), "
            f"wfdb + neurokit2 {theirs:.0f}: {ours / theirs:.1f} x ({with_quality / theirs:.1f} x; goal 4)"
        )
    result = our_way()
    assert {(x.shape, x.dtype.name) for x in result} == {((12, 5000), "int16")}
    assert all(x.any() for x in result)
