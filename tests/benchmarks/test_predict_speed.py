"""`ecgfed predict` on one recording, once the model is loaded: from file to answer, every net and format."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ecgfed._predict import predict

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))

from test_onnx import model_of

MOST_MS = 100.0
TIMES = 7
FILES = {
    "wfdb": "ptbxl/records500/00000/00001_hr.hea",
    "matlab": "ningbo/JS20001.hea",
    "philips_xml": "vendor/philips_xml/ad4d3d80-d165_1-04_orig.xml",
    "muse_xml": "vendor/muse_xml/example1.xml",
    "scp": "vendor/scp/Example.scp",
    "hl7_aecg": "vendor/scp/Example.xml",
    "dicom": "vendor/scp/Example.dcm",
}


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ["resnet1d", "crnn", "s4", "attia_cnn", "waves"])
def test_a_recording_takes_less_than_a_tenth_of_a_second(shared_data, name):
    torch.set_num_threads(1)
    model = model_of(name)
    took = {}
    for kind, file in FILES.items():
        each = []
        for _ in range(TIMES):
            start = time.process_time()
            said = predict(model, shared_data / file, given={"age": 60.0})
            each.append(1000 * (time.process_time() - start))
        assert said.outputs or said.refused
        took[kind] = float(np.median(each))
    print(f"{name}: " + ", ".join(f"{kind} {ms:.0f} ms" for kind, ms in took.items()) + " of processor time")
    assert max(took.values()) < MOST_MS
