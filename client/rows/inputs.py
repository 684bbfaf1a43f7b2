"""A site's rows as the training loop and the scores see them: signals, standardised covariates, labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.dataset.data import SiteData
from client.dataset.median_beats import MedianBeats
from client.dataset.single_beats import SingleBeats
from ecgshared.models.config import BaseModelConfig
from ecgshared.study.endpoints import ContinuousEndpoint


class Recordings:
    """Whole recordings by row of a cohort, as :class:`~client.dataset.median_beats.MedianBeats` gives beats."""

    every = None
    """An ECG is one recording; of single beats it has several."""

    def __init__(self, data: SiteData) -> None:
        self.batch = data.batch

    def known(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark the rows that have one: all."""
        return np.ones(len(rows), dtype=bool)


Seen = Recordings | MedianBeats | SingleBeats


def seen_by(model: BaseModelConfig, data: SiteData, rng: np.random.Generator | None = None) -> Seen:
    """Return what a model sees of a cohort; ``batch`` gives NaN where a row is not ``known``.

    Parameters
    ----------
    rng : of training: where an ECG has several beats, which of them it is that time is drawn from it.
    """
    if model.sees == "single_beat":
        return SingleBeats(data, rng)
    return MedianBeats(data) if model.sees == "median_beat" else Recordings(data)


class ModelRows:
    """Rows of a cohort, renumbered from 0.

    Parameters
    ----------
    rows : row numbers of ``data``, shape = (n,).
    covariates : of ``age``, ``male`` and the study's covariates, in the model's order.
    standardise : mean and SD of age (years), of male and of the study's covariates, shape = (2 + C, 2).
    heads : names of the heads to label, in the model's order.
    numbers : the continuous ones among them; their labels are on the net's scale.
    signals : what the model sees (:func:`seen_by`), or from row numbers of ``data`` to that, (B, 12, T) mV; the
        recordings unless told.
    event : its time (years) and status are the labels instead of heads.
    """

    def __init__(
        self,
        data: SiteData,
        rows: NDArray[np.int64],
        *,
        covariates: tuple[str, ...],
        standardise: NDArray[np.float64],
        heads: tuple[str, ...],
        numbers: Mapping[str, ContinuousEndpoint] | None = None,
        signals: Seen | Callable[[NDArray[np.int64]], NDArray[np.float32]] | None = None,
        event: str | None = None,
    ) -> None:
        seen: Any = Recordings(data) if signals is None else signals
        self._rows, self._signals = rows, getattr(seen, "batch", seen)
        self._every = getattr(seen, "every", None)
        columns = {"age": data.age, "male": data.male, **data.covariates}
        order = {name: i for i, name in enumerate(columns)}
        scaled = [(columns[c][rows] - standardise[i, 0]) / standardise[i, 1] for c in covariates for i in [order[c]]]
        self._covariates = np.stack(scaled, axis=1) if scaled else np.empty((len(rows), 0))
        self._labels = data.labels[rows][:, [data.heads.index(head) for head in heads]]
        for head, endpoint in (numbers or {}).items():
            column = heads.index(head)
            self._labels[:, column] = endpoint.standardise(self._labels[:, column])
        if event is not None:
            times = data.event_times[event].take(rows)
            status = np.where(np.isnan(times.years), np.nan, times.observed)
            self._labels = np.stack([times.years, status], axis=1).astype(np.float32)
        # Patients renumbered, as a private step draws from 0 to n - 1 without gaps.
        self.patient: NDArray[np.int64] = np.unique(data.patient[rows], return_inverse=True)[1].astype(np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def of_data(self) -> NDArray[np.int64]:
        """Row numbers of the cohort, shape = (n,)."""
        return self._rows

    @property
    def labels(self) -> NDArray[np.float32]:
        """Labels, shape = (n, H), NaN where not known."""
        return self._labels

    def fetch(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return ECGs (B, 12, T) in mV, covariates (B, C), labels (B, H)."""
        return self._signals(self._rows[rows]), self._covariates[rows], self._labels[rows]

    def views(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]] | None:
        """Return all that is seen of ECGs with several beats; None of others.

        The beats (N, 12, W) in mV, covariates (N, C) and of which of ``rows`` each is, (N,).
        """
        if self._every is None:
            return None
        x, of = self._every(self._rows[rows])
        return x, self._covariates[rows][of], of
