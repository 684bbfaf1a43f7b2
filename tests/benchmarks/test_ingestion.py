"""Ingestion: records per second from file to cache, and memory while 10,000 recordings pass."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import neurokit2
import numpy as np
import pytest
import wfdb
import yaml

from client.cache.entries import STORED
from client.cache.signals import opened
from client.ingest.reading import Job, Recipe, ingest
from client.site.settings import QualityPolicy
from ecgshared.ecg.input import InputConfig
from ecgshared.ecg.leads import LEADS

pytestmark = pytest.mark.benchmark

CONFIG = InputConfig(fs_hz=500, seconds=10, band_hz=(0.5, 150.0), mains_hz=50)
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
WORKERS = 2
STREAMED = 10_000


PAIRS = 11
"""Turns that ours and the peer take: the median of the pairs' ratios is told, which other work hardly moves."""

AT_A_TURN, THEIRS_AT_A_TURN = 200, 25


def spent(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Return the seconds that ``work`` takes."""
    start = clock()
    work()
    return clock() - start


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real 500 Hz records where they are, else records of the same size written here."""
    if (SHARED / "records.csv").is_file():
        rows = csv.DictReader((SHARED / "records.csv").read_text().splitlines())
        return [SHARED / f"{row['file']}.hea" for row in rows if row["site"].startswith("ptbxl")]
    folder, rng = tmp_path_factory.mktemp("records"), np.random.default_rng(0)
    beat = 1000 * np.exp(-0.5 * ((np.mod(np.arange(5000) / 500, 0.8) - 0.4) / 0.012) ** 2)
    for i in range(200):
        signal = rng.uniform(-1, 2, 12) * beat[:, None] + rng.normal(0, 20, (5000, 12))
        one, two = signal[:, 0], signal[:, 1]
        signal[:, 2:6] = np.stack([two - one, -(one + two) / 2, one - two / 2, two - one / 2], axis=1)
        signal = np.rint(signal).astype(np.int64)
        wfdb.wrsamp(
            f"r{i}", fs=500, units=["mV"] * 12, sig_name=list(LEADS), d_signal=signal, fmt=["16"] * 12,
            adc_gain=[1000.0] * 12, baseline=[0] * 12, write_dir=str(folder),
        )  # fmt: skip
    return sorted(folder.glob("*.hea"))


def test_wfdb_from_file_to_cache(headers: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reading, quality rules with exchanged electrodes, preprocessing, checksums and fsync: all of it."""

    def jobs(paths: list[Path]) -> list[Job]:
        return [Job(p, str(i).encode().rjust(16), b"p" * 16, (1, 1)) for i, p in enumerate(paths)]

    recipe = Recipe(CONFIG, QualityPolicy(), b"k" * 32)
    folder = tmp_path / "cache" / "x"

    def ours(threads: int, paths: list[Path]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with opened(folder, CONFIG.samples) as cache:
            ingest(cache, jobs(paths), recipe, threads=threads, progress=None)

    def theirs(paths: list[Path], *, checked: bool) -> None:
        """Clean every lead; where ``checked``, find its beats and their quality too, as ours does."""
        for path in paths:
            record = wfdb.rdrecord(str(path.with_suffix("")))
            cleaned = [neurokit2.ecg_clean(lead, sampling_rate=500, method="neurokit") for lead in record.p_signal.T]
            np.rint(1000 * np.stack(cleaned)).astype(np.int16)
            for lead in cleaned if checked else ():
                _, found = neurokit2.ecg_peaks(lead, sampling_rate=500)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a lead without beats
                    neurokit2.ecg_quality(lead, rpeaks=found["ECG_R_Peaks"], sampling_rate=500)

    def raw(paths: list[Path]) -> None:
        for path in paths:
            path.read_bytes()
            path.with_suffix(".dat").read_bytes()

    for turn in (lambda: ours(1, headers[:20]), lambda: theirs(headers[:1], checked=True)):
        turn()  # to warm up
    rates = np.empty((PAIRS, 4))
    for turn in range(PAIRS):
        mine = [headers[(turn * AT_A_TURN + i) % len(headers)] for i in range(AT_A_TURN)]
        few = mine[:THEIRS_AT_A_TURN]
        rates[turn] = (
            len(mine) / spent(lambda mine=mine: ours(1, mine)),
            len(few) / spent(lambda few=few: theirs(few, checked=False)),
            1 / spent(lambda path=headers[turn % 8]: theirs([path], checked=True)),
            len(mine) / spent(lambda mine=mine: raw(mine)),
        )
    one, clean, checked, bytes_only = np.median(rates, axis=0)
    ratios = np.sort(rates[:, 0] / rates[:, 1])
    many = headers * max(1, 2000 // len(headers))
    two = len(many) / spent(lambda: ours(WORKERS, many), time.perf_counter)
    with capsys.disabled():
        print(
            f"\nWFDB, file to cache with all quality rules, records per CPU second, medians of {PAIRS} turns: ours "
            f"{one:.0f}; wfdb + neurokit2 a lead, cleaning alone, {clean:.0f}: ours {np.median(ratios):.2f} x (goal 4;"
            f" the turns {ratios[0]:.2f} to {ratios[-1]:.2f}); with beats and quality, as ours, {checked:.1f}: "
            f"ours {np.median(rates[:, 0] / rates[:, 2]):.0f} x; raw read of the same bytes {bytes_only:.0f} "
            f"({bytes_only / one:.1f} x). {two:.0f} a second on {WORKERS} processes with their start"
        )
    with opened(folder, CONFIG.samples) as cache:
        found = cache.lookup([job.record for job in jobs(many)], [(1, 1)] * len(many), 0)
        assert cache.stored() > 0.95 * len(many)
        assert len(found.status) == len(many)
    assert STORED == 0


_CHILD = """
import json, resource, sys
from pathlib import Path
from client.ingest.run import ingest_site
from client.site.settings import load_site
from ecgshared.study.study import load_study

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def progress(done, total, text):
    if text == "reading recordings":
        print(json.dumps([done, total, resident()]), flush=True)

if __name__ == "__main__":
    base = Path(sys.argv[1])
    done = ingest_site(load_site(base / "site.yaml"), [load_study(base / "study.yaml")], progress=progress)
    print(json.dumps(done.outcomes), flush=True)
"""


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_stays_flat_while_ten_thousand_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In-silico recordings of one hospital, written once and linked under other names with headers of their own."""
    from simulations.hospitals.make import make_hospitals
    from simulations.patients.scenario import load_scenario

    made = make_hospitals(load_scenario("demo"), tmp_path / "made", 3, 0.1, None)
    source = made.out / "sites" / "north" / "records"
    originals = sorted(source.rglob("*.hea"))
    records = tmp_path / "site" / "records"
    rows = ["file,patient_id"]
    for i in range(STREAMED):
        original = originals[i % len(originals)]
        folder = records / f"{i // 1000:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        samples = original.with_suffix(".dat")
        name = f"{original.stem}-{i:05d}"
        (folder / f"{name}.hea").write_text(original.read_text().replace(original.stem, name))
        (folder / f"{name}.dat").hardlink_to(samples)
        rows.append(f"{i // 1000:02d}/{name},p{i}")
    base = tmp_path / "site"
    (base / "table.csv").write_text("\n".join(rows) + "\n")
    table = {"path": "table.csv", "columns": {"file": "file", "patient_id": "patient_id"}}
    site = {"site": "north", "records": {"folder": "records"}, "table": table, "compute": {"threads": WORKERS}}
    (base / "site.yaml").write_text(yaml.safe_dump(site))
    study = {
        "name": "flat",
        "sites": {"train": ["north"]},
        "input": {"fs_hz": 100, "seconds": 10, "band_hz": [0.5, 40]},
        "endpoints": {"male": {"kind": "binary", "column": "male"}},
        "steps": [{"id": "table1", "stage": "describe"}],
    }
    (base / "study.yaml").write_text(yaml.safe_dump(study))
    (tmp_path / "child.py").write_text(_CHILD)
    start = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "child.py"), str(base)],
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    took = time.perf_counter() - start
    *steps, outcomes = (json.loads(line) for line in ran.stdout.splitlines())
    done, resident = np.array([step[0] for step in steps]), np.array([step[2] for step in steps]) / 2**20
    quarters = [float(resident[np.searchsorted(done, share * STREAMED)]) for share in (0.25, 0.5, 0.75)]
    quarters.append(float(resident[-1]))
    data = sum(path.stat().st_size for path in records.rglob("*.dat")) / 2**20
    cached = next((base / "state" / "cache").rglob("signals.i16")).stat().st_size / 2**20
    with capsys.disabled():
        print(
            f"\n{STREAMED:,} recordings ({data:,.0f} MiB) into {cached:,.0f} MiB of cache in {took:.0f} s: resident "
            + ", ".join(f"{mib:.1f}" for mib in quarters)
            + f" MiB at the quarters; {outcomes}"
        )
    assert sum(outcomes.values()) == STREAMED
    assert quarters[3] - quarters[2] < 0.02 * data / 4
    assert quarters[3] - quarters[0] < 0.02 * data
