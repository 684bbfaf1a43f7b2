"""What a model of in-silico hospitals is judged against: the planted truth, and a regression on amplitudes.

Both speak of exactly the ECGs that a study selects at a site. Only a simulation can ask for either: one process opens
every site, and the truth is known.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.dataset.data import SiteData
from client.dataset.opening import open_site
from client.site.settings import SiteSettings, load_site
from ecgshared.errors import ConfigError
from ecgshared.study.study import Study
from ecgshared.wire.protocol import Split

F64 = NDArray[np.float64]

WINDOW_SECONDS = 1.0
PENALTIES = tuple(np.logspace(-3, 1, 9))
"""Inverse strengths of the penalty tried on validation patients."""
_CARRIER, _LOW, _SPAN = "bmi", 10.0, 100.0


@dataclass(frozen=True)
class Predicted:
    """Predictions for ECGs with a known outcome, shape = (n,) each; a higher ``risk`` means likelier."""

    risk: F64
    event: NDArray[np.int64]


def amplitudes(signals: NDArray[Any], fs_hz: float) -> F64:
    """Return R, S, peak-to-peak and RMS of every lead.

    R and S are the medians, over windows of one second, of the highest and the lowest value: about one beat falls
    into each, and no single artefact decides.

    Parameters
    ----------
    signals : array, shape = (n, 12, T), mV.

    Returns
    -------
    array, shape = (n, 48): twelve of each in turn, mV.
    """
    n, leads, samples = signals.shape
    window = min(round(WINDOW_SECONDS * fs_hz), samples)
    beats = np.asarray(signals[..., : samples // window * window], dtype=np.float64).reshape(n, leads, -1, window)
    r, s = np.median(beats.max(-1), axis=-1), np.median(beats.min(-1), axis=-1)
    rms = np.sqrt(np.mean(np.square(signals, dtype=np.float64), axis=-1))
    return np.concatenate([r, s, r - s, rms], axis=1)


def amplitude_regression(study: Study, train: Iterable[Path], judged: Path, head: str) -> Predicted:
    """Fit a logistic regression on age, sex and lead amplitudes at the training sites; predict at another.

    Fitted on the training split of all sites together; its ridge penalty is the one with the least cross-entropy on
    their validation split. Inputs are standardised by the training split. Age and sex must be known, which a study
    can ask for. Needs scikit-learn.

    Parameters
    ----------
    train, judged : site files. ``head`` : an endpoint of the study.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sites = [open_site(load_site(path), study) for path in train]
    fitted, held = (_stack([_table(site, head, split) for site in sites]) for split in ("train", "validation"))
    models = [
        make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=2000)).fit(*fitted)
        for penalty in PENALTIES
    ]
    best = min(models, key=lambda model: log_loss(held[1], model.predict_proba(held[0])))
    x, y = _table(open_site(load_site(judged), study), head, "lockbox")
    return Predicted(best.predict_proba(x)[:, 1], y)


def true_risk(study: Study, hospitals: Path, site_file: Path, head: str) -> Predicted:
    """Return the planted event probability of the ECGs that a study selects at a zero-shot site, and their outcomes.

    ``hospitals`` is what :func:`simulations.hospitals.make.make_hospitals` wrote. The site is opened by the code of
    every study; the truth travels in the place of a covariate of its table, since rows of an opened site bear no
    identifiers.

    Raises
    ------
    ConfigError : the study does not ask for the covariate in whose place it travels.
    """
    if _CARRIER not in study.covariates:
        raise ConfigError("the truth takes a covariate's place, which the study lacks", allowed=_CARRIER)
    settings = load_site(site_file)
    with tempfile.TemporaryDirectory() as folder:
        table = _with_truth(settings, hospitals / "truth" / f"{settings.site}.csv", Path(folder) / "cohort.csv")
        data = open_site(settings.model_copy(update={"table": table}), study)
    rows, y = _known(data, head, "lockbox")
    return Predicted((data.covariates[_CARRIER][rows].astype(np.float64) - _LOW) / _SPAN, y)


def _with_truth(settings: SiteSettings, truth: Path, out: Path) -> Any:
    """Write the site's table with a column of true probabilities; return the table's settings that read it."""
    config = settings.table
    separator, encoding = config.separator or ",", config.encoding
    table = pd.read_csv(config.path, sep=separator, encoding=encoding, dtype=str, keep_default_na=False)
    risk = pd.read_csv(truth).set_index("ecg_id")["true_scd_probability"]
    scaled = _LOW + _SPAN * risk.loc[table[str(config.columns["ecg_id"])]].to_numpy()
    table["true_risk"] = [f"{value:.7f}".replace(".", config.decimal or ".") for value in scaled]
    table.to_csv(out, sep=separator, encoding=encoding, index=False)
    return config.model_copy(update={"path": out, "columns": {**config.columns, _CARRIER: "true_risk"}})


def _table(data: SiteData, head: str, split: Split) -> tuple[F64, NDArray[np.int64]]:
    rows, y = _known(data, head, split)
    covariates = np.stack([data.age[rows], data.male[rows]], axis=1)
    return np.concatenate([covariates, amplitudes(data.batch(rows), data.fs_hz)], axis=1), y


def _known(data: SiteData, head: str, split: Split) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of a split whose outcome is known, and the outcomes."""
    rows = data.rows(split)
    y = data.labels[rows, data.heads.index(head)]
    known = ~np.isnan(y)
    return rows[known], y[known].astype(np.int64)


def _stack(tables: list[tuple[F64, NDArray[np.int64]]]) -> tuple[F64, NDArray[np.int64]]:
    return np.concatenate([x for x, _ in tables]), np.concatenate([y for _, y in tables])
