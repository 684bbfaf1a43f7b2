"""Records per second of each format, beside the raw read of the same bytes and wfdb with NeuroKit2 per lead.

All rates are per second of processor time of one core, so a machine at work elsewhere changes little. The last
test reads on two cores at once, in wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import neurokit2
import numpy as np
import pytest
import vendor_exports as exports
import wfdb

from client.readers import hdf5, read

pytestmark = pytest.mark.benchmark

FOLDER_FORMATS = (*exports.ALL, "wfdb", "hdf5", "hdf5-gzip")


def rate(work: Callable[[], object], records: int, *, seconds: float = 0.6) -> float:
    """Return records per CPU second, after one run to warm up."""
    work()
    start, runs = time.process_time(), 0
    while (spent := time.process_time() - start) < seconds:
        work()
        runs += 1
    return runs * records / spent


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Ten 10 s recordings at 500 Hz (HDF5: 400 Hz) of each format; Philips with its 11 s as carts write them."""
    folder, found = tmp_path_factory.mktemp("formats"), {}
    ecgs = [exports.digital_ecg(5000, seed) for seed in range(10)]
    for name, write in exports.ALL.items():
        found[name] = [folder / f"{i}-{name}" for i in range(len(ecgs))]
        for path, digital in zip(found[name], ecgs, strict=True):
            path.write_bytes(write(digital))
    for i, digital in enumerate(ecgs):
        wfdb.wrsamp(
            f"w{i}", fs=500, units=["mV"] * 12, sig_name=list(exports.LEADS), d_signal=digital.T, fmt=["16"] * 12,
            adc_gain=[200.0] * 12, baseline=[0] * 12, write_dir=str(folder),
        )  # fmt: skip
    found["wfdb"] = sorted(folder.glob("w*.hea"))
    tracings = np.stack([d[:, :4096].T * 5e-3 for d in ecgs]).astype(np.float32)
    ids = np.arange(10) + 100
    plain = exports.hdf5(folder / "plain.hdf5", tracings, ids)
    packed = exports.hdf5(folder / "packed.hdf5", tracings, ids, chunks=(1, 4096, 12), compression="gzip")
    return found | {"hdf5": list(hdf5.exams(plain)), "hdf5-gzip": list(hdf5.exams(packed))}


def raw(paths: list[Path]) -> int:
    """Read the same bytes and do nothing with them."""
    total = 0
    for path in paths:
        for each in (path, path.with_suffix(".dat")) if path.suffix == ".hea" else (path,):
            total += len(Path(str(each).partition("#")[0]).read_bytes())
    return total


def wfdb_and_neurokit(paths: list[Path]) -> None:
    for path in paths:
        record = wfdb.rdrecord(str(path.with_suffix("")))
        for lead in record.p_signal.T:
            neurokit2.ecg_clean(lead, sampling_rate=record.fs, method="neurokit")


def test_each_format_on_one_core(files: dict[str, list[Path]], capsys: pytest.CaptureFixture[str]) -> None:
    library = rate(lambda: wfdb_and_neurokit(files["wfdb"]), len(files["wfdb"]), seconds=2)
    lines = [f"wfdb + neurokit2 per lead: {library:.0f} records per CPU second"]
    rates = {}
    for name in FOLDER_FORMATS:
        paths = files[name]
        ours = rates[name] = rate(lambda paths=paths: [read(path) for path in paths], len(paths))
        # The bytes of one exam of many: a file of ten is read once for ten records.
        whole = paths[:1] if "hdf5" in name else paths
        bytes_only = rate(lambda whole=whole: raw(whole), len(paths), seconds=0.2)
        kib = raw(whole) / len(paths) / 1024
        lines.append(
            f"{name:15s} {ours:6.0f} records/s, {kib:4.0f} KiB each: {ours / bytes_only:.4f} of the raw read, "
            f"{ours / library:5.1f} x wfdb + neurokit2"
        )
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert all(value > 0 for value in rates.values())


def read_all(paths: list[Path]) -> int:
    return sum(read(path).p_signal.shape[1] for path in paths)


def test_each_format_on_two_cores(files: dict[str, list[Path]], capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(read_all, [paths[:1] for paths in files.values()] * 2))
        for name in FOLDER_FORMATS:
            batches = [files[name] * 2] * 4
            start = time.perf_counter()
            samples = list(pool.map(read_all, batches))
            spent = time.perf_counter() - start
            assert min(samples) > 0
            lines.append(f"{name:15s} {sum(map(len, batches)) / spent:6.0f} records/s")
    with capsys.disabled():
        print("\non two cores, wall time\n" + "\n".join(lines))
