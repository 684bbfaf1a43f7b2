"""A hospital whose export is one HDF5 file of many exams, joined to its table by the exam's number."""

from __future__ import annotations

import h5py
import numpy as np
import yaml

from client.dataset.opening import open_site
from client.ingest.run import ingest_site
from client.site.settings import load_site
from ecgshared.study.study import load_study
from simulations.physics.heart import dipole, draw_rhythm, reference_heart

EXAMS = [1000 + 7 * i for i in range(6)]


def test_exams_of_one_file_become_rows_of_a_cohort(tmp_path):
    rng = np.random.default_rng(1)
    tracings = np.zeros((6, 4096, 12), dtype=np.float32)
    rhythm = draw_rhythm(
        rng,
        rate_per_min=np.linspace(60, 85, 6, dtype=np.float32),
        respiration_hz=np.full(6, 0.2, np.float32),
        ectopic_share=np.zeros(6, np.float32),
        af=np.zeros(6, dtype=bool),
        seconds=10.24,
    )
    moving = dipole(reference_heart(6), rhythm, fs=400, seconds=10.24)
    for i in range(6):
        tracings[i] = np.tile(moving[i], (4, 1))[:, :4096].T + 0.01 * rng.normal(size=(4096, 12))
    (tmp_path / "records").mkdir()
    with h5py.File(tmp_path / "records" / "exams.hdf5", "w") as file:
        file["tracings"], file["exam_id"] = tracings, np.array(EXAMS)
    lines = ["exam,patient,age,sex,label", *(f"{e},p{i},{50 + i},{'MF'[i % 2]},{i % 2}" for i, e in enumerate(EXAMS))]
    (tmp_path / "cohort.csv").write_text("\n".join([*lines, "9,p9,60,M,1"]) + "\n")
    study = {
        "name": "s",
        "sites": {"train": ["a"]},
        "input": {"fs_hz": 100, "seconds": 10},
        "endpoints": {"y": {"kind": "binary", "column": "y"}},
        "steps": [{"id": "d", "stage": "describe"}],
    }
    site = {
        "site": "a",
        "records": {"folder": "records", "pattern": "**/*.hdf5"},
        "table": {
            "path": "cohort.csv",
            "columns": {"ecg_id": "exam", "patient_id": "patient", "age": "age", "sex": "sex"},
            "labels": {"y": "label"},
            "join": "exams.hdf5#{exam}",
        },
        "quality": {"default": "keep", "actions": {}},
        "studies": ["study.yaml"],
    }
    for name, content in (("study.yaml", study), ("site.yaml", site)):
        (tmp_path / name).write_text(yaml.safe_dump(content))
    settings, loaded = load_site(tmp_path / "site.yaml"), load_study(tmp_path / "study.yaml")
    ingest_site(settings, [loaded])
    data = open_site(settings, loaded)
    assert len(data) == 6
    assert {reason: ecgs for reason, ecgs, _ in data.flow}["recording not found"] == 6
    assert data.descriptions["fs"] == {"400": 6}
    assert np.unique(np.asarray(data.signals), axis=0).shape[0] == 6
