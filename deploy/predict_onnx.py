"""Apply a model that `ecgfed model export RUN STEP --onnx risk.onnx` wrote. Needs onnxruntime and numpy, nothing else.

    python predict_onnx.py risk.onnx ecg.csv age=63 male=1

ecg.csv (or ecg.npy) holds the twelve leads I, II, III, aVR, aVL, aVF, V1 to V6 in millivolts, one a column (or a row),
at the rate and of the length that the graph states. What is not given is not known to the model.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime


def main(graph: str, recording: str, *given: str) -> None:
    """Print each output with its interval."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    takes = json.loads(told["ecg"])
    ecg = np.load(recording) if recording.endswith(".npy") else np.genfromtxt(recording, delimiter=",")
    ecg = np.asarray(ecg if len(ecg) == 12 else ecg.T, dtype=np.float32)
    if ecg.shape != (12, takes["samples"]):
        sys.exit(f"{recording} is {ecg.shape}; the graph takes 12 x {takes['samples']} at {takes['fs_hz']:g} Hz, in mV")
    known = dict(pair.split("=", 1) for pair in given)
    names = [one["name"] for one in json.loads(told["beside"])]
    if unknown := sorted(set(known) - set(names)):
        sys.exit(f"the model does not take {', '.join(unknown)}; it takes {', '.join(names) or 'nothing'}")
    beside = np.array([float(known.get(name, "nan")) for name in names])
    feeds = {i.name: {"ecg": ecg, "beside": beside}[i.name] for i in session.get_inputs()}
    value, low, high = session.run(None, feeds)
    for output, v, a, b in zip(json.loads(told["outputs"]), value, low, high, strict=True):
        interval = "" if np.isnan(a) else f" ({a:.6g} to {b:.6g})"
        print(f"{output['label']} ({output['kind']}): {v:.6g}{interval} {output['unit']}".rstrip())
    print(told["note"])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
