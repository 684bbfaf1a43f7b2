"""Scores of this site's ECGs: logits of trained heads, and the calibrated risk. They never leave the site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.rows.context import SiteContext
from client.rows.inputs import ModelRows, seen_by
from ecgshared.errors import RefusalCode, Refused
from ecgshared.privacy.dominance import few_stand_out
from ecgshared.stages.train import Config as TrainConfig
from ecgshared.study.endpoints import ContinuousEndpoint

_KEPT = 16


def feature_matrix(
    site: SiteContext, inputs: tuple[str, ...], arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return score inputs for ``rows``, shape = (len(rows), len(inputs)).

    ``inputs`` names ``"<train step>.<head>"`` (a logit, or of a continuous head its number in the endpoint's unit, from
    ``arrays["<train step>.weights"]``), ``"age"``
    (years) or ``"male"`` (1/0) or another number of the study; NaN where unknown.
    """
    data = site.data
    columns: dict[str, NDArray[Any]] = {"age": data.age, "male": data.male, **data.columns, **data.covariates}
    matrix = np.empty((len(rows), len(inputs)))
    for i, name in enumerate(inputs):
        step, dot, head = name.partition(".")
        if dot:
            config = site.study.step(step)
            if not isinstance(config, TrainConfig) or head not in config.heads:
                raise Refused(RefusalCode.BAD_REQUEST, "no such trained head", value=name)
            told = head_logits(site, config, arrays, rows)[:, config.heads.index(head)]
            endpoint = site.study.endpoints[head]
            matrix[:, i] = endpoint.restore(told) if isinstance(endpoint, ContinuousEndpoint) else told
            known = np.isfinite(told)
            if few_stand_out(told[known], data.patient[rows[known]], site.settings.limits):
                raise Refused(
                    RefusalCode.TOO_FEW,
                    "a score that sets a few patients apart from all others tells of them",
                    value=name,
                )
        else:
            matrix[:, i] = columns[name][rows]
    return matrix


def head_logits(
    site: SiteContext, config: TrainConfig, arrays: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the logits of a trained step's heads for ``rows``, shape = (len(rows), H); a continuous head's number
    is on the net's scale."""
    weights, standardise = arrays[f"{config.id}.weights"], arrays[f"{config.id}.standardise"]
    return site.remembered(
        "logits",
        config.id,
        (weights, standardise, rows),
        lambda: _predict(site, config, weights, standardise, rows),
        most=_KEPT,
    )


def _predict(
    site: SiteContext,
    config: TrainConfig,
    weights: NDArray[Any],
    standardise: NDArray[Any],
    rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    from client.rows.model import load_model
    from ecgshared.learning.loop import predict

    model = load_model(site, config, weights)
    data = ModelRows(
        site.data,
        rows,
        covariates=config.model.side_inputs,
        standardise=standardise,
        heads=config.heads,
        signals=seen_by(config.model, site.data),
    )
    return predict(model, data, np.arange(len(rows)))
