"""Damaged files of every format: a record or an explained EcgReadError, never anything else.

The mutants are made and read by tests/fuzzing.py in child processes with limits on memory and processor time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import vendor_exports as exports
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.readers import HEAD_BYTES, read, readers
from ecgshared.errors import EcgReadError

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
CHILD = ROOT / "tests" / "fuzzing.py"
PEAK_MIB = 1024
"""Most memory of a child: what the libraries take, and a read."""


def seed(folder: Path, name: str, address: str, **files: bytes) -> None:
    (folder / name).mkdir(parents=True)
    for file, content in files.items():
        (folder / name / file.replace("__", ".")).write_bytes(content)
    (folder / name / "address.txt").write_text(address)


def more_seeds(folder: Path, digital: exports.Digital) -> None:
    """Arrays, alone and as a site describes them, and the packed formats of WFDB by their headers."""
    millivolts = digital * 5e-3
    for fmt in ("8", "24", "61", "310", "311"):
        lines = ["r 12 500 900", *(f"r.dat {fmt} 200(0)/mV 12 0 0 0 0 {lead}" for lead in exports.LEADS)]
        data = np.random.default_rng(1).bytes(12 * 900 * (3 if fmt == "24" else 2))
        seed(folder, f"wfdb-{fmt}", "r.hea", r__hea="\n".join(lines).encode(), r__dat=data)
    work = folder / "work"
    work.mkdir()
    scipy.io.savemat(work / "s.mat", {"ECG": {"sex": "Male", "age": 50, "data": millivolts}}, do_compression=True)
    scipy.io.savemat(work / "p.mat", {"ECG": {"sex": "Male", "age": 50, "data": millivolts}})
    seed(folder, "matlab-packed", "file", file=(work / "s.mat").read_bytes())
    seed(folder, "matlab-plain", "file", file=(work / "p.mat").read_bytes())
    with h5py.File(work / "one.h5", "w") as file:
        file["ecg"] = millivolts.astype(np.float16)
    seed(folder, "hdf5-one-exam", "file", file=(work / "one.h5").read_bytes())
    lines = ["r 12 500 900", *(f"r.mat 16+24 200/mV 16 0 0 0 0 {lead}" for lead in exports.LEADS)]
    scipy.io.savemat(work / "v.mat", {"val": digital.astype(np.int16)}, do_compression=True)
    seed(folder, "wfdb-mat-5", "r.hea", r__hea="\n".join(lines).encode(), r__mat=(work / "v.mat").read_bytes())
    np.save(work / "a.npy", millivolts)
    np.savez_compressed(work / "a.npz", ecg=millivolts)
    pd.DataFrame(millivolts.T, columns=exports.LEADS).to_csv(work / "a.csv", index=False)
    pd.DataFrame(millivolts.T, columns=exports.LEADS).to_parquet(work / "a.parquet")
    shutil.copyfile(work / "v.mat", work / "a.mat")
    (work / "a.bin").write_bytes(digital.astype("<i2").tobytes())
    with h5py.File(work / "a.h5", "w") as file:
        file.create_dataset("x", data=millivolts, chunks=(1, 300), compression="gzip")
    for path in sorted(work.glob("a.*")):
        raw = {"type": "int16"} if path.suffix == ".bin" else {}
        seed(folder, f"described-{path.suffix[1:]}", path.name, **{path.name.replace(".", "__"): path.read_bytes()})
        description = json.dumps({"files": "a.*", "fs_hz": 500, "raw": raw})
        (folder / f"described-{path.suffix[1:]}" / "described.json").write_text(description)
    shutil.rmtree(work)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Intact files of every format and coding: written here, and the real ones where they are."""
    folder, digital = tmp_path_factory.mktemp("seeds"), exports.digital_ecg(900)
    for name, write in exports.ALL.items():
        seed(folder, f"written-{name}", "file", file=write(digital))
    for title, content in {
        "scp-plain": exports.scp(digital, coding="plain", differences=1),
        "scp-custom": exports.scp(digital, coding="custom"),
        "scp-beats": exports.scp(digital, beat=digital[:, :200], beats_at=(150, 500), ratio=4),
        "philips-plain": exports.philips_xml(digital, xli=False, version="1.03", encoding="utf-8"),
    }.items():
        seed(folder, title, "file", file=content)
    tracings = np.stack([digital.T * 5e-3] * 2).astype(np.float32)
    for title, options in {"hdf5-plain": {}, "hdf5-packed": {"chunks": (1, 900, 12), "compression": "gzip"}}.items():
        path = exports.hdf5(folder / "x", tracings, np.array([7, 8]), **options)
        seed(folder, title, "file#8", file=path.read_bytes())
        path.unlink()
    more_seeds(folder, digital)
    for fmt in ("16", "212", "516"):
        wfdb.wrsamp(
            "r", fs=500, units=["mV"] * 12, sig_name=list(exports.LEADS), d_signal=digital.T, fmt=[fmt] * 12,
            adc_gain=[200.0] * 12, baseline=[0] * 12, write_dir=str(folder),
        )  # fmt: skip
        both = [path for path in folder.iterdir() if path.is_file()]
        seed(folder, f"wfdb-{fmt}", "r.hea", **{path.name.replace(".", "__"): path.read_bytes() for path in both})
        for path in both:
            path.unlink()
    if SHARED.is_dir():
        for path in sorted((SHARED / "vendor").rglob("*.*")):
            if path.suffix in (".xml", ".dcm", ".scp") and "invalid" not in path.name:
                seed(folder, f"real-{path.parent.name}-{path.name}", "file", file=path.read_bytes())
        real = next((SHARED / "samitrop" / "wfdb").glob("*.hea"))
        (folder / "real-wfdb").mkdir()
        for end in (".hea", ".dat"):
            shutil.copyfile(real.with_suffix(end), folder / "real-wfdb" / real.with_suffix(end).name)
        (folder / "real-wfdb" / "address.txt").write_text(real.name)
    return folder


def read_mutants(seeds: Path, tmp_path: Path, count: int, *, processes: int = 2) -> dict[str, Any]:
    """Read ``count`` mutants in child processes; a crash is a fault like any other."""
    share = -(-count // processes)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def child(which: int) -> dict[str, Any]:
        report = tmp_path / f"report-{which}.json"
        done = subprocess.run(
            [sys.executable, str(CHILD), str(seeds), str(share), str(which * share), str(report)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60 + share,
            check=False,
        )
        found: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
        if done.returncode or "tally" not in found:
            return {
                "tally": {},
                "faults": [{**found, "exit": done.returncode, "said": done.stderr[-600:]}],
                "peak_mib": 0,
            }
        return found

    with ThreadPoolExecutor(processes) as pool:
        reports = list(pool.map(child, range(processes)))
    tally: dict[str, int] = {}
    for report in reports:
        for key, value in report["tally"].items():
            tally[key] = tally.get(key, 0) + value
    return {
        "tally": tally,
        "faults": [fault for report in reports for fault in report["faults"]],
        "peak_mib": max(report["peak_mib"] for report in reports),
    }


def judge(found: dict[str, Any], count: int, capsys: pytest.CaptureFixture[str]) -> None:
    total = {kind: sum(n for key, n in found["tally"].items() if key.startswith(kind)) for kind in ("read", "refused")}
    with capsys.disabled():
        print(f"\n{count} mutants: {total['read']} read, {total['refused']} refused; peak {found['peak_mib']} MiB")
    assert not found["faults"], json.dumps(found["faults"][:8], indent=1)
    assert total["read"] + total["refused"] == sum(found["tally"].values()) >= count
    assert min(total.values()) > count / 10  # neither all intact nor all hopeless
    assert found["peak_mib"] < PEAK_MIB


def test_a_thousand_mutants(seeds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge(read_mutants(seeds, tmp_path, 1000), 1000, capsys)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twelve_thousand_mutants(seeds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge(read_mutants(seeds, tmp_path, 12_000), 12_000, capsys)


@pytest.mark.parametrize("kind", ["memory", "time", "exception"])
def test_the_harness_sees_what_it_looks_for(seeds: Path, tmp_path: Path, kind: str) -> None:
    """A reader that hoards, hangs or raises is caught: the tests above can fail."""
    code = {
        "memory": "import numpy; x = numpy.ones(1 << 28)",
        "time": "\nwhile True: pass",
        "exception": "raise KeyError('x')",
    }[kind]
    body = "\n    ".join(code.split("\n"))
    script = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(CHILD.parent)!r}]\n"
        f"import client.readers\ndef broken(path, *_):\n    {body}\n    raise OSError\nclient.readers.read = broken\n"
        f"import fuzzing; from pathlib import Path\n"
        f"fuzzing.CPU_SECONDS = 0.3\nfuzzing.run(Path({str(seeds)!r}), 1, 0, Path({str(tmp_path / 'r')!r}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, capture_output=True)
    fault = json.loads((tmp_path / "r").read_text())["faults"][0]["fault"]
    assert {"memory": "Memory", "time": "took more than", "exception": "KeyError"}[kind] in fault


MAGIC = [
    b"",
    b"<RestingECG>",
    b"<AnnotatedECG>",
    b'<?xml version="1.0"?><CardiologyXML>',
    b"<restingecgdata>",
    b"\x89HDF\r\n\x1a\n",
    b"ISHNE1.0",
    bytes(128) + b"DICM",
    bytes(8) + b"\0\0" + bytes(6) + b"SCPECG",
    b"r 12 500 5000\n",
    b"<ECG ACQUISITION_TIME=",
    b"<a.b.SchillerEDI>",
    b"@\x20MFR ",
    b"0       ",
    b"MATLAB 5.0",
]


@given(magic=st.sampled_from(MAGIC), rest=st.binary(max_size=600))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_behind_a_magic_number(tmp_path: Path, magic: bytes, rest: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(magic + rest)
    assert sum(module.sniff((magic + rest)[:HEAD_BYTES], path) for module in readers().values()) <= 1
    with pytest.raises(EcgReadError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    assert "cannot decode" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_that_are_none_become_missing_samples(tmp_path: Path, value: float) -> None:
    tracings = np.ones((1, 4096, 12), dtype=np.float32)
    tracings[0, 100:200] = value
    record = read(exports.hdf5(tmp_path / "e.hdf5", tracings))
    assert np.isnan(record.p_signal[:, 100:200]).all()
    assert np.isfinite(record.p_signal[:, 200:]).all()
    with h5py.File(tmp_path / "e.hdf5", "a") as file:
        file.attrs["fs"] = value
    with pytest.raises(EcgReadError, match="sampling rate"):
        read(tmp_path / "e.hdf5")
