"""One recording: read, judged, measured, brought to what a model sees, drawn."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ecgshared.ecg.record import EcgRecord

Name = str | PathLike[str]


def read(path: Name, *, fs_hz: float | None = None) -> EcgRecord:
    """Read one recording of any format that a hospital's daemon reads; the format is told by content.

    Parameters
    ----------
    path : the file; for WFDB its .hea, .dat, .mat or bare name; ``exams.hdf5#1234`` for one of many.
    fs_hz : samples per second of a file that does not state its own.

    Returns
    -------
    EcgRecord : ``p_signal``, float32 array, shape = (12, n), mV, in the order I, II, III, aVR, aVL, aVF, V1 to V6;
        ``fs``, Hz; ``age_years``, ``sex``, ``recorded_at``, ``device``, each None where the file does not say.

    Raises
    ------
    EcgFedError : the file is absent, of no known format, or damaged; the text says what is wrong with it.
    """
    from client.readers import read as read_record

    return read_record(Path(path), None, fs_hz)


def quality(record: EcgRecord) -> pd.DataFrame:
    """Return what is wrong with a recording, a row a finding; no row is a recording with nothing to find.

    Returns
    -------
    DataFrame : ``code``, ``lead`` (empty: all), ``value``, ``message``, and ``action``: what a site's default policy
        does about the code (accept, flag, refuse).
    """
    import pandas as pd

    from client.site.settings import QualityPolicy
    from ecgshared.ecg.quality import assess, decide

    policy = QualityPolicy()
    rows = [
        {
            "code": found.code,
            "lead": found.lead or "",
            "value": np.nan if found.value is None else found.value,
            "message": found.message,
            "action": decide((found,), policy.actions, policy.default, most_empty=policy.most_empty),
        }
        for found in assess(record)
    ]
    return pd.DataFrame(rows, columns=["code", "lead", "value", "message", "action"])


def features(record: EcgRecord) -> pd.Series[Any]:
    """Measure rate, intervals, axes and amplitudes of the median beat.

    Returns
    -------
    Series : by name, units in the name (``qrs_ms``, ``r_V5_mv``, ``qrs_axis_deg``); NaN where a thing cannot be
        measured. Its ``attrs["note"]`` says why.
    """
    import pandas as pd

    from ecgshared.ecg.features import NAMES, features_of

    found = features_of(record)
    values = np.full(len(NAMES), np.nan) if found is None else np.asarray(found.row(), dtype=np.float64)
    row: pd.Series[Any] = pd.Series(values, index=list(NAMES), name="features")
    row.attrs["note"] = "no two whole beats show" if found is None else found.note
    return row


def preprocess(
    record: EcgRecord,
    *,
    fs_hz: float = 500,
    seconds: float = 10,
    band_hz: tuple[float, float] | None = None,
    baseline: str = "median",
) -> NDArray[np.float32]:
    """Bring a recording to what a model sees, by the same code as a hospital's ``input:``.

    Returns
    -------
    float32 array, shape = (12, fs_hz * seconds), mV; what was not recorded is 0.

    Raises
    ------
    EcgFedError : an argument is out of its range.
    """
    from ecgshared.config import validate
    from ecgshared.ecg.input import InputConfig
    from ecgshared.ecg.preprocess import preprocess_record

    wanted = {"fs_hz": fs_hz, "seconds": seconds, "band_hz": band_hz, "baseline": baseline}
    return preprocess_record(record, validate(InputConfig, wanted, where="preprocess"))


def plot(record: EcgRecord, path: Name | None = None, *, title: str = "") -> Figure:
    """Draw the 12-lead sheet at 25 mm/s and 10 mm/mV; write it too where ``path`` is given (.png, .pdf, .svg)."""
    from ecgshared.ecg.plot import twelve_lead_sheet

    figure = twelve_lead_sheet(record, title=title)
    if path is not None:
        figure.savefig(path)
    return figure
