"""A site's model: built from the study, loaded with the weights received, and what stays at the site between rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import nn

from client.rows.context import SiteContext
from ecgshared.errors import ModelError, RefusalCode, Refused
from ecgshared.learning.layout import Layout
from ecgshared.learning.loop import place
from ecgshared.service.files import private_folder, write_atomically
from ecgshared.stages.train import Config
from ecgshared.stages.train_net import built, starting_point
from ecgshared.wire.protocol import Request

_KEPT_ROUNDS = 3


def load_model(site: SiteContext, config: Config, weights: NDArray[Any]) -> nn.Module:
    """Return the step's model on the site's device, with the weights received (and the site's own normalisation)."""
    model = built(config, site.study)
    return _loaded(site, config, model, Layout.of(model, config.layout_mode), weights)


def load_in_training(site: SiteContext, config: Config, request: Request) -> tuple[nn.Module, Layout]:
    """Return the step's model as a round begins with it, and the layout of what travels; frozen parts stay as they are.

    The round's weights are ``request.arrays["weights"]``; those of the step it starts from stand beside them.
    """
    try:
        start = starting_point(config, site.study, request.arrays)
    except (ModelError, KeyError) as error:
        raise Refused(RefusalCode.BAD_REQUEST, f"the weights to start from do not fit: {error}") from error
    weights = request.arrays["weights"]
    if request.phase == "fit" and request.round == 1:
        _require_first_weights(start.layout.flatten(start.model), weights)
    return _loaded(site, config, start.model, start.layout, weights), start.layout


def _require_first_weights(own: NDArray[Any], sent: NDArray[Any]) -> None:
    """Refuse a first round that does not begin where the study's seed (or the step it starts from) puts it."""
    if own.shape != np.shape(sent) or not np.allclose(own, sent, rtol=1e-4, atol=1e-6):
        raise Refused(RefusalCode.BAD_REQUEST, "the first round's weights are not those of the study's seed")


def _loaded(site: SiteContext, config: Config, model: nn.Module, layout: Layout, weights: NDArray[Any]) -> nn.Module:
    compute = site.settings.compute
    if compute.threads is not None:
        torch.set_num_threads(compute.threads)
    try:
        layout.load(model, weights)
    except ModelError as error:
        raise Refused(RefusalCode.BAD_REQUEST, f"the weights received do not fit: {error.what}") from error
    if layout.local:
        own = SiteState(site, config).latest("normalisation")
        if own is not None:
            layout.load_local_state(model, own)
    return place(model, device=compute.device, precision="fp64" if config.precision == "fp64" else compute.precision)


class SiteState:
    """Tensors a step keeps at the site from round to round (optimiser moments, FedBN's normalisation).

    Each is stored under the round that made it, so that a round asked for again starts where it started before.
    """

    def __init__(self, site: SiteContext, config: Config) -> None:
        self._folder = site.state / config.id

    def before(self, name: str, round_number: int) -> dict[str, torch.Tensor] | None:
        """Return what the newest round before ``round_number`` left, or None."""
        rounds = [r for r in self._rounds(name) if r < round_number]
        return load_file(self._path(name, max(rounds))) if rounds else None

    def latest(self, name: str) -> dict[str, torch.Tensor] | None:
        """Return what the newest round left, or None."""
        rounds = self._rounds(name)
        return load_file(self._path(name, max(rounds))) if rounds else None

    def keep(self, name: str, round_number: int, tensors: dict[str, torch.Tensor]) -> None:
        """Store what this round leaves, owner-only; drop what is older than the last few."""
        private_folder(self._folder)
        path = self._path(name, round_number)
        write_atomically(path, save({key: value.contiguous() for key, value in tensors.items()}), private=True)
        for old in self._rounds(name):
            if old <= round_number - _KEPT_ROUNDS:
                self._path(name, old).unlink()

    def _rounds(self, name: str) -> list[int]:
        return [int(p.stem.rpartition("-")[2]) for p in self._folder.glob(f"{name}-*.safetensors")]

    def _path(self, name: str, round_number: int) -> Path:
        return self._folder / f"{name}-{round_number}.safetensors"
