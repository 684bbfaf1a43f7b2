"""HDF5 as CODE-15% writes it: addressing, padding, and sizes that are only declared."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import vendor_exports as exports

from client.readers import hdf5, read
from ecgshared.errors import EcgReadError


@pytest.fixture
def tracings() -> np.ndarray:
    """Five exams of 4096 samples, float32 mV; the second is padded as a 7 s exam is."""
    stacked = np.stack([exports.digital_ecg(4096, seed).T * 5e-3 for seed in range(5)]).astype(np.float32) + 0.001
    stacked[1, :581] = stacked[1, -581:] = 0
    return stacked


IDS = np.array([1169160, 7, 42, 2873686, 11])


@pytest.mark.parametrize("options", [{}, {"chunks": (1, 4096, 12), "compression": "gzip"}])
def test_an_exam_by_its_id_without_its_padding(
    tmp_path: Path, tracings: np.ndarray, options: dict[str, object]
) -> None:
    path = exports.hdf5(tmp_path / "exams_part0.hdf5", tracings, IDS, **options)
    for row, exam in enumerate(IDS):
        record = read(Path(f"{path}#{exam}"))
        expected = tracings[row, 581:-581] if row == 1 else tracings[row]
        np.testing.assert_array_equal(record.p_signal, expected.T)
        assert (record.fs, record.source_format, record.findings) == (400, "hdf5", ())
        assert (record.age_years, record.sex, record.adc_units_per_mv) == (None, None, None)


def test_addresses_are_listed_lazily_and_read_back(tmp_path: Path, tracings: np.ndarray) -> None:
    path = exports.hdf5(tmp_path / "e.hdf5", tracings, IDS)
    assert [address.name for address in hdf5.exams(path)] == [f"e.hdf5#{exam}" for exam in IDS]
    wide = exports.hdf5(tmp_path / "w.hdf5", tracings)
    assert [read(address).p_signal.shape for address in hdf5.exams(wide)] == [(12, 4096), (12, 2934), *[(12, 4096)] * 3]
    with h5py.File(tmp_path / "million.hdf5", "w") as file:
        file.create_dataset("tracings", shape=(1_000_000, 4096, 12), dtype="f4", chunks=(1, 4096, 12))
    assert [a.name for a in islice(hdf5.exams(tmp_path / "million.hdf5"), 2)] == ["million.hdf5#0", "million.hdf5#1"]


def test_strings_as_ids_one_exam_and_leads_first(tmp_path: Path, tracings: np.ndarray) -> None:
    named = exports.hdf5(tmp_path / "named.hdf5", tracings[:2], np.array([b"a-1", b"b-2"]))
    np.testing.assert_array_equal(read(Path(f"{named}#b-2")).p_signal, tracings[1, 581:-581].T)
    single = exports.hdf5(tmp_path / "single.hdf5", np.swapaxes(tracings[:1], 1, 2), IDS[:1])
    np.testing.assert_array_equal(read(single).p_signal, tracings[0].T)


def test_a_changed_file_is_looked_up_again(tmp_path: Path, tracings: np.ndarray) -> None:
    path = exports.hdf5(tmp_path / "e.hdf5", tracings, IDS)
    read(Path(f"{path}#42"))
    exports.hdf5(path, tracings[:3], IDS[::-1][:3])
    np.testing.assert_array_equal(read(Path(f"{path}#11")).p_signal, tracings[0].T)
    with pytest.raises(EcgReadError, match="no such exam"):
        read(Path(f"{path}#7"))


def test_rate_and_unit_of_the_file_win(tmp_path: Path, tracings: np.ndarray) -> None:
    path = exports.hdf5(tmp_path / "e.hdf5", tracings[:1, :2000], IDS[:1])
    assert [f.code for f in read(path).findings] == ["fs-assumed"]
    with h5py.File(path, "a") as file:
        file["tracings"].attrs["units"] = "uV"
        file.attrs["fs"] = 200
    record = read(path)
    assert (record.fs, record.findings) == (200, ())
    np.testing.assert_allclose(record.p_signal, tracings[0, :2000].T * 1e-3, rtol=1e-6)


def test_which_exam_is_asked(tmp_path: Path, tracings: np.ndarray) -> None:
    path = exports.hdf5(tmp_path / "e.hdf5", tracings, IDS)
    for address, says in (
        (path, "many exams"),
        (Path(f"{path}#1"), "no such exam"),
        (Path(f"{path}#"), "no such exam"),
    ):
        with pytest.raises(EcgReadError, match=says) as caught:
            read(address)
        assert caught.value.remedy


def bomb(path: Path, **options: object) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("tracings", dtype="f4", **options)
    return path


def test_sizes_that_are_only_declared(tmp_path: Path) -> None:
    """A few kilobytes of file that would unpack to gigabytes are refused before they do."""
    cases = {
        "chunk": bomb(tmp_path / "a", shape=(4096, 4096, 12), chunks=(4096, 4096, 12), compression="gzip", fillvalue=1),
        "samples": bomb(tmp_path / "b", shape=(1, 10**12, 12), chunks=(1, 4096, 12), compression="gzip"),
        "exams": bomb(tmp_path / "c", shape=(10**15, 4096, 12), chunks=(1, 4096, 12)),
        "layout": bomb(tmp_path / "d", shape=(10**6, 10**6), chunks=(1, 1000)),
    }
    for what, path in cases.items():
        assert path.stat().st_size < 1 << 16, what
        with pytest.raises(EcgReadError) as caught:
            read(Path(f"{path}#0"))
        assert caught.value.remedy, what


def test_a_packed_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "packed"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("tracings", (400, 4096, 12), "f4", chunks=(400, 4096, 12), compression="gzip")
        data[:, 0, 0] = 1
    assert path.stat().st_size < 1 << 20
    with pytest.raises(EcgReadError, match="chunks too large"):
        read(Path(f"{path}#0"))


def test_data_outside_the_file_are_not_followed(tmp_path: Path, tracings: np.ndarray) -> None:
    target = exports.hdf5(tmp_path / "target.hdf5", tracings)
    with h5py.File(tmp_path / "link.hdf5", "w") as file:
        file["tracings"] = h5py.ExternalLink(str(target), "/tracings")
    layout = h5py.VirtualLayout(shape=tracings.shape, dtype="f4")
    layout[:] = h5py.VirtualSource(str(target), "tracings", shape=tracings.shape)
    with h5py.File(tmp_path / "virtual.hdf5", "w") as file:
        file.create_virtual_dataset("tracings", layout)
    with h5py.File(tmp_path / "raw.hdf5", "w") as file:
        file.create_dataset("tracings", (1, 4096, 12), "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
    for name in ("link", "virtual", "raw"):
        with pytest.raises(EcgReadError):
            read(tmp_path / f"{name}.hdf5#0")


def test_other_hdf5_files_say_what_is_expected(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other", "w") as file:
        file["speed"] = np.ones(3)
    with pytest.raises(EcgReadError, match="no dataset of tracings"):
        read(tmp_path / "other")
    (tmp_path / "cut").write_bytes((tmp_path / "other").read_bytes()[:600])
    with pytest.raises(EcgReadError):
        read(tmp_path / "cut")
