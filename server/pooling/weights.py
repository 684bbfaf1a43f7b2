"""Aggregation by name, from Flower's strategies, over one flat vector a site.

Only ``aggregate_train`` of a strategy is used: who is asked, how long one waits and what is refused is decided in
``server/rounds/federation.py``. The weights a_k are fixed, public numbers of the study's run, never what a site claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedTrimmedAvg, Krum
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from numpy.typing import NDArray

from ecgshared.errors import ModelError
from ecgshared.stages.train import StrategyConfig

_KEY = "weights"


class Aggregator:
    """A Flower strategy with the state it carries between rounds, in and out as arrays (for checkpoints)."""

    def __init__(self, config: StrategyConfig) -> None:
        self._config = config
        self._strategy = _build(config)

    def aggregate(
        self,
        round_number: int,
        current: NDArray[Any],
        updates: Mapping[str, NDArray[Any]],
        weights: Mapping[str, float],
    ) -> NDArray[Any]:
        """Return the next global vector from the sites' vectors.

        Parameters
        ----------
        current, updates : arrays, shape = (n_parameters,), of one dtype; updates by site.
        weights : a_k by site; those present are scaled to one by the strategy.
        """
        for site, update in updates.items():
            if update.shape != current.shape or update.dtype != current.dtype:
                raise ModelError(f"site {site!r} sent {update.dtype}{update.shape}, not {current.dtype}{current.shape}")
        if isinstance(self._strategy, FedAdam):
            # What its configure_train would have kept; we don't let a strategy send messages.
            self._strategy.current_arrays = {_KEY: current}
        replies = [_as_reply(update, weights[site]) for site, update in sorted(updates.items()) if weights[site] > 0]
        arrays, _ = self._strategy.aggregate_train(round_number, replies)
        if arrays is None:
            raise ModelError("no site with a positive weight sent an update")
        return np.asarray(arrays[_KEY].numpy(), dtype=current.dtype)

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """The strategy's own state: the moments of FedAdam, empty for the others."""
        if isinstance(self._strategy, FedAdam):
            moments = {"m": self._strategy.m_t, "v": self._strategy.v_t}
            return {name: moment[_KEY] for name, moment in moments.items() if moment}
        return {}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Put back what :attr:`state` gave."""
        if isinstance(self._strategy, FedAdam) and state:
            self._strategy.m_t, self._strategy.v_t = {_KEY: state["m"]}, {_KEY: state["v"]}


def _build(config: StrategyConfig) -> FlowerStrategy:
    match config.name:
        case "fedavg" | "fedprox" | "fedbn":
            # FedProx acts in the local objective, FedBN in what the flat vector leaves out: both average here.
            return FedAvg()
        case "fedadam":
            return FedAdam(eta=config.server_learning_rate, beta_1=config.beta_1, beta_2=config.beta_2, tau=config.tau)
        case "fedmedian":
            return FedMedian()
        case "fedtrimmedavg":
            return FedTrimmedAvg(beta=config.trim)
        case "krum":
            return Krum(num_malicious_nodes=config.malicious)


def _as_reply(vector: NDArray[Any], weight: float) -> Message:
    content = RecordDict(
        {"arrays": ArrayRecord({_KEY: Array(vector)}), "metrics": MetricRecord({"num-examples": weight})}
    )
    instruction = Message(RecordDict(), 1, "train")
    return Message(content, reply_to=instruction)
