"""A recording as the model sees it: preprocessed as in training, its median beat, and what it says of the person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.dataset.median_beats import window_of
from client.readers import read
from ecgshared.ecg.input import InputConfig
from ecgshared.ecg.preprocess import preprocess_record
from ecgshared.ecg.record import EcgRecord
from ecgshared.errors import EcgReadError
from simulations.generation.checkpoint import Checkpoint

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def recorded_beat(path: Path, settings: InputConfig) -> tuple[F32, EcgRecord]:
    """Return the median beat, shape = (12, W), mV, and the recording.

    Raises
    ------
    EcgReadError : it cannot be read, or shows no two whole beats.
    """
    record = read(path)
    beat = window_of(preprocess_record(record, settings), settings.fs_hz)
    if beat is None:
        raise EcgReadError("no two whole beats show", where=path, remedy="give a recording of some seconds")
    return beat, record


def person_of(checkpoint: Checkpoint, record: EcgRecord) -> F64:
    """Return the average person's conditions, shape = (C,), with age and sex of the recording where it has them."""
    values = checkpoint.mean.copy()
    known = {"age": record.age_years, "male": None if record.sex is None else float(record.sex == "M")}
    for name, value in known.items():
        if value is not None and name in checkpoint.conditions:
            values[checkpoint.conditions.index(name)] = value
    return values
