"""Latents of this site's ECGs: posterior means of a trained conditional VAE. They never leave the site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.rows.context import SiteContext
from client.rows.inputs import ModelRows, seen_by
from client.rows.model import load_model
from ecgshared.errors import RefusalCode, Refused
from ecgshared.learning.loop import predict
from ecgshared.stages.train import Config as TrainConfig

_KEPT = 4


def posterior_means(
    site: SiteContext, config: TrainConfig, arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the posterior mean of the latent of each row's median beat, shape = (len(rows), latent).

    NaN where the recording has no median beat.

    Parameters
    ----------
    config : of a train step whose model has a latent.
    arrays : of the request: ``"<step>.weights"`` and ``"<step>.standardise"``.
    rows : row numbers of ``site.data``.

    Raises
    ------
    Refused : the step trains another model, or its arrays are missing or do not fit.
    """
    if not config.model.latent_size:
        raise Refused(RefusalCode.BAD_REQUEST, "this step's model has no latent", value=config.id)
    try:
        weights, standardise = arrays[f"{config.id}.weights"], arrays[f"{config.id}.standardise"]
    except KeyError as error:
        raise Refused(RefusalCode.BAD_REQUEST, f"the request lacks {error}") from None
    if standardise.shape != (2 + len(site.study.covariates), 2):
        raise Refused(RefusalCode.BAD_REQUEST, "totals of another shape than the study's")
    return site.remembered(
        "latents",
        config.id,
        (weights, standardise, rows),
        lambda: _encode(site, config, weights, standardise, rows),
        most=_KEPT,
    )


def _encode(
    site: SiteContext,
    config: TrainConfig,
    weights: NDArray[Any],
    standardise: NDArray[Any],
    rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    seen = seen_by(config.model, site.data)
    model = load_model(site, config, weights)
    means = np.full((len(rows), config.model.latent_size), np.nan)
    known = np.flatnonzero(seen.known(rows))
    if len(known):
        data = ModelRows(
            site.data,
            rows[known],
            covariates=config.model.side_inputs,
            standardise=standardise,
            heads=(),
            signals=seen,
        )
        means[known] = predict(model, data, np.arange(len(known)))
    return means
