"""The registry of models. A model is one file here with ``build`` and one line in :data:`MODELS`.

The module of a model is imported when one is built, so that a study can be checked without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from ecgshared.errors import ModelError
from ecgshared.models.config import CvaeConfig, HeadSpec, ModelConfig, Resnet1dConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

MODELS: dict[str, str] = {"resnet1d": "ecgshared.models.resnet1d", "cvae": "ecgshared.models.cvae"}
"""Name in the study -> module."""

__all__ = ["MODELS", "CvaeConfig", "HeadSpec", "ModelConfig", "Resnet1dConfig", "build"]


def build(
    config: ModelConfig,
    heads: Sequence[HeadSpec],
    samples: int,
    seed: int,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Build the model a study names; its initial weights depend on ``seed`` (and the shapes) alone.

    Parameters
    ----------
    heads : the outputs, in order.
    samples : T, samples per lead of every input.
    dtype : of the weights, float32 unless told; a float64 model starts from the float32 one's weights.

    Returns
    -------
    module with ``forward(x, covariates) -> logits``: x of shape (B, 12, T) in mV, covariates of shape (B, C) in
    the order of ``config.covariates``, standardised, NaN where missing; logits of shape (B, H).

    A model that has no heads brings its own objective: ``item_losses(x, covariates, labels)`` gives the loss of each
    item, shape (B,), ``judged(x, covariates)`` the figures named by ``config.figures``, shape (B, F), and ``forward``
    what later steps take from it (a latent). ``begin_round(number, rounds)`` is told of each global round. What an
    item's loss draws comes from the modules that :func:`ecgshared.learning.draws.seed_draws` seeds.
    """
    if config.name not in MODELS:
        raise ModelError("there is no such model", value=config.name, allowed=", ".join(MODELS))
    module = import_module(MODELS[config.name])
    model: nn.Module = module.build(config, tuple(heads), samples, seed, dtype)
    return model
