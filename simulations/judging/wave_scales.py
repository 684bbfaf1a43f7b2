"""Second moments of the wave sizes of made hearts, for the net ``waves``: a scale that nobody's data made.

    ecgfed simulate make three_countries --out hospitals
    python -m simulations.judging.wave_scales hospitals/sites ecgshared/waves.json

``mean`` is subtracted of the 36 features and ``whitening`` multiplied from the right: of made hearts the result has no
correlation and unit variance along each direction that varies enough, so that few steps of gradient descent do what
many would, and the noise of private ones falls on every direction alike.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import torch

from client.readers import read
from ecgshared.arrays import Floats
from ecgshared.ecg.input import InputConfig
from ecgshared.ecg.preprocess import preprocess_record
from ecgshared.errors import EcgReadError
from ecgshared.models.waves_features import wave_sizes
from ecgshared.service.files import write_atomically

RECORDS = 600
LEAST_VARIANCE = 0.05
"""A direction that varies less is not blown up to unit variance: there is mostly noise in it."""


def scales(features: Floats) -> dict[str, list[object]]:
    """Return mean, shape = (36,), and whitening, shape = (36, 36), of features, shape = (n, 36)."""
    values, vectors = np.linalg.eigh(np.cov(features.T))
    whitening = vectors / np.sqrt(np.maximum(values, LEAST_VARIANCE))
    # An eigenvector has no sign of its own: its largest part is positive, whoever computes it.
    whitening *= np.sign(whitening[np.abs(whitening).argmax(axis=0), np.arange(len(values))])
    return {"mean": features.mean(axis=0).round(4).tolist(), "whitening": whitening.round(4).tolist()}


def main(folder: Path, out: Path) -> None:
    """Read made recordings below ``folder`` and write ``out``."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".hea", ".xml", ".dcm", ".scp"))
    random.Random(1).shuffle(files)
    found: list[Floats] = []
    config = InputConfig(fs_hz=100, seconds=10, band_hz=(0.5, 40))
    for file in files:
        if len(found) == RECORDS:
            break
        try:
            signal = preprocess_record(read(file), config)
        except EcgReadError:
            continue
        found.append(wave_sizes(torch.tensor(signal)[None])[0].double().numpy())
    write_atomically(out, (json.dumps(scales(np.array(found))) + "\n").encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
