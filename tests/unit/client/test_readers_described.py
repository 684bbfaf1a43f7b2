"""Plain arrays read as a site describes them: every kind of file, axes, units, gaps, and what does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import vendor_exports as exports
import yaml
from pydantic import ValidationError

from client.readers import exams, read
from client.site.described import DescribedConfig
from ecgshared.ecg.leads import LEADS
from ecgshared.errors import EcgReadError

DIGITAL = exports.digital_ecg(2500)
MILLIVOLTS = DIGITAL * 5e-3
OBJECTS = b"\x93NUMPY\x01\0v\0" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust(117) + b"\n"
"""A .npy of pickled objects, which would run what they say."""


def described_as(**config: Any) -> DescribedConfig:
    """A description of every file, unless it says which."""
    return DescribedConfig(**{"files": "*", **config})


def text_file(path: Path, frame: pd.DataFrame, **options: Any) -> Path:
    frame.to_csv(path, index=False, **options)
    return path


def save(folder: Path, kind: str, array: np.ndarray) -> Path:
    """Write one array (leads, samples) or (samples, leads) as a file of this kind."""
    path = folder / f"a.{kind}"
    if kind == "npy":
        np.save(path, array)
    elif kind == "npz":
        np.savez_compressed(path, ecg=array, other=np.arange(3))
    elif kind in ("csv", "txt", "tsv"):
        separator = {"csv": ",", "txt": " ", "tsv": "\t"}[kind]
        text_file(path, pd.DataFrame(array), header=False, sep=separator)
    elif kind in ("h5", "hdf5"):
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=array, chunks=True, compression="gzip")
    elif kind == "mat":
        scipy.io.savemat(path, {"signal": array, "label": np.ones((1, 2))}, do_compression=True)
    elif kind == "parquet":
        pd.DataFrame(array).rename(columns=str).to_parquet(path)
    elif kind == "bin":
        path.write_bytes(b"\x07" * 10 + array.astype(">f4").tobytes())
    return path


KINDS = ["npy", "npz", "csv", "txt", "tsv", "h5", "hdf5", "mat", "bin"]


@pytest.mark.parametrize("kind", [*KINDS, "parquet"])
@pytest.mark.parametrize("axes", [("leads", "samples"), ("samples", "leads")])
def test_every_kind_of_file_in_both_orders(tmp_path: Path, kind: str, axes: tuple[str, str]) -> None:
    if kind == "parquet":  # its columns are the leads, whatever the axes
        path = save(tmp_path, kind, MILLIVOLTS.T)
    else:
        path = save(tmp_path, kind, MILLIVOLTS if axes[0] == "leads" else MILLIVOLTS.T)
    raw = {"type": "float32", "big_endian": True, "offset_bytes": 10} if kind == "bin" else {}
    described = described_as(files=f"*.{kind}", axes=axes, fs_hz=250, raw=raw)
    record = read(path, described)
    np.testing.assert_allclose(record.p_signal, MILLIVOLTS, rtol=1e-6, atol=1e-6)
    assert (record.fs, record.source_format, record.findings) == (250, "described", ())
    assert list(exams(path, described)) == [path]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_named_by_their_leads_in_any_order(tmp_path: Path, kind: str) -> None:
    order = list(np.random.default_rng(0).permutation(12))
    frame = pd.DataFrame(MILLIVOLTS.T[:, order], columns=[LEADS[i] for i in order])
    frame.insert(0, "time", np.arange(2500))
    path = tmp_path / f"a.{kind}"
    frame.to_csv(path, index=False, sep=";") if kind == "csv" else frame.to_parquet(path)
    record = read(path, described_as(files="*", fs_hz=500))
    np.testing.assert_allclose(record.p_signal, MILLIVOLTS, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("unit", "per_unit", "zero", "factor"),
    [("mV", 200, 0, 5e-3), ("uV", 1, 0, 1e-3), ("V", 1e6, 0, 1e-3), ("mV", 400, 2048, 2.5e-3), ("nV", 1, 0, 1e-6)],
)
def test_units_gain_and_zero(tmp_path: Path, unit: str, per_unit: float, zero: float, factor: float) -> None:
    path = save(tmp_path, "npy", (DIGITAL + round(zero)).astype(np.int16))
    described = described_as(fs_hz=500, unit=unit, numbers_per_unit=per_unit, zero=zero)
    record = read(path, described)
    np.testing.assert_allclose(record.p_signal, DIGITAL * factor, rtol=1e-5, atol=1e-7)
    assert record.adc_units_per_mv == pytest.approx(1 / factor)


def test_fewer_leads_other_channels_missing_and_padding(tmp_path: Path) -> None:
    stored = np.zeros((9, 3000), dtype=np.int16)
    stored[:8, 200:2700] = DIGITAL[[0, 1, 6, 7, 8, 9, 10, 11]] + 1
    stored[3, 700:720] = -999
    path = save(tmp_path, "npy", stored)
    leads = ("I", "II", "C1", "V2", "V3", "V4", "V5", "V6", "resp")
    leads = tuple("V1" if name == "C1" else name for name in leads)
    described = described_as(fs_hz=500, numbers_per_unit=200, missing=-999, padded=True, leads=leads)
    record = read(path, described)
    assert record.p_signal.shape == (12, 2500)
    assert np.isnan(record.p_signal[7, 500:520]).all()
    np.testing.assert_allclose(record.p_signal[6], (DIGITAL[6] + 1) / 200, rtol=1e-6)
    assert {finding.code for finding in record.findings} == {"derived-lead"}


@pytest.mark.parametrize("kind", ["npy", "npz", "hdf5", "mat"])
@pytest.mark.parametrize("named", [False, True])
def test_many_exams_a_file(tmp_path: Path, kind: str, named: bool) -> None:
    stacked = np.stack([MILLIVOLTS + i for i in range(3)]).astype(np.float32)
    ids = np.array([11, 22, 33])
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        np.save(path, stacked)
    elif kind == "npz":
        np.savez(path, ecg=stacked, ids=ids)
    elif kind == "mat":
        scipy.io.savemat(path, {"ecg": stacked, "ids": ids})
    else:
        with h5py.File(path, "w") as file:
            file["ecg"], file["ids"] = stacked, ids
    names = ids if named and kind != "npy" else range(3)
    described = described_as(
        files=f"*.{kind}", axes=("exams", "leads", "samples"), fs_hz=500, ids="ids" if named and kind != "npy" else None
    )
    addresses = list(exams(path, described))
    assert [address.name for address in addresses] == [f"a.{kind}#{name}" for name in names]
    for i, address in enumerate(addresses):
        np.testing.assert_allclose(read(address, described).p_signal, MILLIVOLTS + i, rtol=1e-6, atol=1e-6)
    for wrong in (f"a.{kind}#99", f"a.{kind}#", f"a.{kind}"):
        with pytest.raises(EcgReadError, match="no such exam"):
            read(path.with_name(wrong), described)


def test_the_rate_may_stand_in_the_table_and_nowhere_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path, "npy", MILLIVOLTS)
    assert read(path, described_as(), fs_hz=400).fs == 400
    with pytest.raises(EcgReadError, match="how many samples a second"):
        read(path, described_as())


def test_a_description_covers_its_files_and_no_others(tmp_path: Path) -> None:
    assert not DescribedConfig().covers(tmp_path / "a.npy")
    described = described_as(files=("*.npy", "plain_*.csv"), fs_hz=500)
    assert described.covers(tmp_path / "a.npy")
    assert described.covers(tmp_path / "a.npy#7")
    assert described.covers(tmp_path / "plain_1.csv")
    assert not described.covers(tmp_path / "other.csv")
    muse = tmp_path / "m.xml"
    muse.write_bytes(exports.muse_xml(DIGITAL))
    assert read(muse, described).source_format == "muse_xml"


def test_edan_cart_files_can_be_described(tmp_path: Path) -> None:
    """Edan publishes no description of its .dat; those of the SE-601C were measured by others (BRAVEHEART): leads
    one after the other, 10,000 samples each at 1 kHz, 397 per mV, after a fixed header."""
    eight = np.repeat(DIGITAL[[0, 1, 6, 7, 8, 9, 10, 11]], 4, axis=1)
    path = tmp_path / "20240311-100241-0088.dat"
    path.write_bytes(bytes(2031) + eight.astype("<i2").tobytes() + bytes(3000))
    described = described_as(
        files="*.dat",
        leads=("I", "II", *LEADS[6:]),
        fs_hz=1000,
        numbers_per_unit=397,
        raw={"type": "int16", "offset_bytes": 2031, "samples": 10_000},
    )
    record = read(path, described)
    np.testing.assert_allclose(record.p_signal[0], eight[0] / 397, rtol=1e-6)
    assert record.p_signal.shape == (12, 10_000)


def test_the_command_reads_an_array_by_its_site_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path, "npy", DIGITAL.astype(np.int16))
    site = {
        "site": "a",
        "records": {"folder": "."},
        "table": {"path": "t.csv", "columns": {"file": "file"}},
        "described": {"files": "*.npy", "numbers_per_unit": 200},
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(site))

    def run(*more: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "ecgshared", "read", str(path), "--json", *more],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    code, said = run()
    assert code == 2
    assert "`described:`" in said
    code, said = run("--site", str(tmp_path / "site.yaml"))
    assert code == 2
    assert "how many samples a second" in said
    code, said = run("--site", str(tmp_path / "site.yaml"), "--fs-hz", "500")
    assert code == 0
    facts = json.loads(said)
    assert (facts["format"], facts["fs_hz"], facts["samples"]) == ("described", 500, 2500)
    assert facts["leads"]["II"]["max_mv"] == pytest.approx(DIGITAL[1].max() / 200, abs=1e-4)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"axes": ("leads",)}, "once each"),
        ({"axes": ("samples", "exams", "leads")}, "first axis"),
        ({"leads": ("x", "y")}, "names none"),
        ({"leads": ("I", "Lead I")}, "twice"),
        ({"fs_hz": 5}, "greater than"),
        ({"unit": "bananas"}, "Input should be"),
        ({"no_such_key": 1}, "Extra inputs"),
    ],
)
def test_a_wrong_description_is_refused_at_once(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        DescribedConfig(**config)


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"", "a.npy", "cannot be read"),
        (OBJECTS, "a.npy", "cannot be read"),
        (b"PK\x05\x06" + bytes(18), "a.npz", "no such dataset"),
        (b"a,b\n1,x\n", "a.csv", "cannot be read"),
        (b"1,2,3\n4,5,6\n", "a.csv", "leads that are described"),
        (b"PAR1" + bytes(40), "a.parquet", "cannot be read"),
        (b"not hdf5", "a.h5", "no HDF5"),
        (b"MATLAB 5.0" + bytes(300), "a.mat", "MATLAB"),
        (b"zzz", "a.xyz", "an ending"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_explained(tmp_path: Path, content: bytes, name: str, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EcgReadError, match=says) as caught:
        read(tmp_path / name, described_as(files="*", fs_hz=500))
    assert caught.value.remedy
    assert name in str(caught.value)


def test_sizes_that_are_only_declared_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, ecg=np.zeros((12, 6_000_000)))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(EcgReadError, match="larger unpacked"):
        read(path, described_as(files="*", fs_hz=500))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", shape=(12, 10**9), dtype="f4", chunks=(12, 1000))
    with pytest.raises(EcgReadError, match="axes that are described"):
        read(tmp_path / "a.h5", described_as(files="*", fs_hz=500))
