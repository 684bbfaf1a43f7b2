"""The shared cases of files that were read wrongly, each with the right value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.readers import read
from ecgshared.ecg.leads import LEADS


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> Path:
    folder = shared_data.parent / "cases" / "files"
    if not folder.is_dir():
        pytest.skip("the shared cases (../shared/cases) are not beside this checkout")
    return folder


def test_hdf5_of_one_exam(cases: Path) -> None:
    record = read(cases / "hdf5-one-exam-float16" / "SPH.h5")
    assert (record.p_signal.shape, record.fs) == ((12, 5000), 500)
    assert [finding.code for finding in record.findings] == ["fs-assumed"]
    assert read(cases / "hdf5-one-exam-float16" / "SPH.h5", fs_hz=500).findings == ()


def test_a_signal_file_named_without_its_suffix(cases: Path) -> None:
    record = read(cases / "cinc-without-suffix" / "A0001.hea")
    assert (record.p_signal.shape, record.fs, record.age_years, record.sex) == ((12, 5000), 500, 74, "M")
    assert record.findings == ()


def test_two_sequence_sets_are_one_recording(cases: Path) -> None:
    record = read(cases / "aecg-two-sequence-sets" / "two.xml")
    assert np.isfinite(record.p_signal).all()
    assert record.findings == ()


def test_an_age_beside_a_sex(cases: Path) -> None:
    record = read(cases / "age-with-sex" / "a0.hea")
    assert (record.age_years, record.sex) == (63, "M")


def test_240_hz_is_what_the_cart_wrote(cases: Path) -> None:
    record = read(cases / "muse-240hz" / "m.xml")
    assert (record.fs, record.p_signal.shape) == (240, (12, 2500))


def test_invalid_samples_are_told_by_lead(cases: Path) -> None:
    record = read(cases / "invalid-96-percent" / "n.hea")
    assert 0.95 < record.invalid_share < 0.97
    assert record.p_signal.shape[0] == len(LEADS)
