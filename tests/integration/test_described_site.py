"""A hospital of plain arrays, one-exam HDF5 and a cart's XML: what it says of them counts, and so do changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import vendor_exports as exports
import yaml

from client.dataset.opening import open_site
from client.ingest.run import ingest_site
from client.operator.check import check_site
from client.site.settings import load_site
from ecgshared.errors import ConfigError
from ecgshared.study.study import load_study
from simulations.physics.heart import dipole, draw_rhythm, reference_heart

STUDY = {
    "name": "s",
    "sites": {"train": ["a"]},
    "input": {"fs_hz": 100, "seconds": 10},
    "endpoints": {"male": {"kind": "binary", "column": "male"}},
    "steps": [{"id": "d", "stage": "describe"}],
}


def hearts(n: int, fs: int) -> np.ndarray:
    """Twelve leads of ``n`` in-silico hearts, shape = (n, 12, 10 s), mV."""
    rng = np.random.default_rng(1)
    rhythm = draw_rhythm(
        rng,
        rate_per_min=np.linspace(60, 85, n, dtype=np.float32),
        respiration_hz=np.full(n, 0.2, np.float32),
        ectopic_share=np.zeros(n, np.float32),
        af=np.zeros(n, dtype=bool),
        seconds=10,
    )
    moving = dipole(reference_heart(n), rhythm, fs=fs, seconds=10)
    return np.stack([np.tile(m, (4, 1))[:, : 10 * fs] for m in moving]) + 0.01 * rng.normal(size=(n, 12, 10 * fs))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Four arrays of samples by leads in steps of 5 uV at 250 Hz, two exams as SPH has them, one MUSE file."""
    records = tmp_path / "records"
    records.mkdir()
    lines = ["file,patient,sex,rate"]
    for i, signal in enumerate(hearts(4, 250)):
        np.save(records / f"a{i}.npy", np.rint(signal.T * 200).astype(np.int16))
        lines.append(f"a{i}.npy,p{i},{'MF'[i % 2]},")
    for i, signal in enumerate(hearts(2, 500)):
        with h5py.File(records / f"h{i}.h5", "w") as file:
            file["ecg"] = signal.astype(np.float16)
        lines.append(f"h{i}.h5,q{i},{'MF'[i % 2]},500")
    (records / "m.xml").write_bytes(exports.muse_xml(exports.digital_ecg(5000)))
    (records / "broken.xml").write_bytes(b"<RestingECG>")
    lines += ["m.xml,r0,F,", "broken.xml,r1,M,"]
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    write(tmp_path, {"files": "*.npy", "axes": ["samples", "leads"], "fs_hz": 250, "numbers_per_unit": 200})
    return tmp_path / "site.yaml"


def write(folder: Path, described: dict[str, Any] | None) -> None:
    content = {
        "site": "a",
        "records": {"folder": "records", "pattern": ["**/*.npy", "**/*.h5", "**/*.xml"]},
        "table": {
            "path": "cohort.csv",
            "columns": {"file": "file", "patient_id": "patient", "sex": "sex", "fs_hz": "rate"},
        },
        "quality": {"default": "keep", "actions": {}},
        "studies": ["study.yaml"],
    }
    if described is not None:
        content["described"] = described
    (folder / "site.yaml").write_text(yaml.safe_dump(content))


def test_a_hospital_of_arrays_from_check_to_cohort(site: Path) -> None:
    found = check_site(site, offline=True)
    said = "\n".join([*found.notes, *found.doubts, *found.faults])
    assert "*.npy: 4 recording(s), 4 tried: 4 can be read (described)" in said
    assert "*.h5: 2 recording(s), 2 tried: 2 can be read (hdf5)" in said
    assert "*.xml: 2 recording(s), 2 tried: 1 can be read (muse_xml" in said  # one damaged file hides no other
    settings, study = load_site(site), load_study(site.parent / "study.yaml")
    done = ingest_site(settings, [study])
    assert done.outcomes == {"flagged": 7, "unreadable": 1}
    data = open_site(settings, study)
    assert len(data) == 7
    assert data.descriptions["fs"] == {"250": 4, "500": 3}
    assert "fs-assumed" not in data.descriptions["findings"]  # the table gave it


def test_what_is_said_otherwise_is_read_again(site: Path) -> None:
    study = load_study(site.parent / "study.yaml")
    assert ingest_site(load_site(site), [study]).read == 8
    assert ingest_site(load_site(site), [study]).read == 0
    write(site.parent, {"files": "*.npy", "axes": ["samples", "leads"], "fs_hz": 250, "numbers_per_unit": 400})
    assert ingest_site(load_site(site), [study]).read == 4
    table = site.parent / "cohort.csv"
    table.write_text(table.read_text().replace("q1,F,500", "q1,F,400"))
    assert ingest_site(load_site(site), [study]).read == 1
    assert open_site(load_site(site), study).descriptions["fs"] == {"250": 4, "500": 2, "400": 1}


def test_arrays_that_nobody_described_are_unreadable_not_guessed(site: Path) -> None:
    write(site.parent, None)
    study = load_study(site.parent / "study.yaml")
    assert ingest_site(load_site(site), [study]).outcomes == {"flagged": 3, "unreadable": 5}


def test_exams_of_a_described_file_are_rows(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    np.save(tmp_path / "records" / "all.npy", hearts(3, 250).astype(np.float32))
    rows = [f"all.npy#{i},p{i},{'MF'[i % 2]}," for i in range(3)]
    (tmp_path / "cohort.csv").write_text("\n".join(["file,patient,sex,rate", *rows]) + "\n")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    write(tmp_path, {"files": "*.npy", "axes": ["exams", "leads", "samples"], "fs_hz": 250})
    settings, study = load_site(tmp_path / "site.yaml"), load_study(tmp_path / "study.yaml")
    assert ingest_site(settings, [study]).outcomes == {"flagged": 3}
    assert len(open_site(settings, study)) == 3


def test_a_description_that_is_none_is_refused_with_its_key(site: Path) -> None:
    write(site.parent, {"files": "*.npy", "axes": ["samples"]})
    with pytest.raises(ConfigError, match="described"):
        load_site(site)
