"""The registry of models. A model is one file here, with its configuration and ``build``, and a line in :data:`MODELS`.

The configuration is a :class:`~ecgshared.models.config.BaseModelConfig` that says what the model sees, what it learns
by and what it gives. Torch is imported inside ``build``, as a study is checked without it; a large net may have a file
of its own, named by ``net``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Tag

from ecgshared.ecg.leads import LEADS
from ecgshared.errors import ModelError
from ecgshared.models.config import BaseModelConfig, HeadedConfig, HeadSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

MODELS: dict[str, str] = {
    "resnet1d": "Resnet1dConfig",
    "cvae": "CvaeConfig",
    "beat_risk": "BeatRiskConfig",
    "beat_vae": "BeatVaeConfig",
    "crnn": "CrnnConfig",
    "attia_cnn": "AttiaCnnConfig",
    "s4": "S4Config",
    "waves": "WavesConfig",
}
"""Name in the study, and of the file -> its configuration's class; where a study names none it is the first."""

DEFAULT = next(iter(MODELS))

__all__ = ["DEFAULT", "MODELS", "BaseModelConfig", "HeadSpec", "ModelConfig", "build", "config_class"]


def config_class(name: str) -> type[BaseModelConfig]:
    """Return the configuration's class of a model; raise ModelError where there is no such model."""
    if name not in MODELS:
        raise ModelError("there is no such model", value=name, allowed=", ".join(MODELS))
    found: type[BaseModelConfig] = getattr(import_module(f"ecgshared.models.{name}"), MODELS[name])
    return found


def _name_of(data: Any) -> str:
    found = data.get("name", DEFAULT) if isinstance(data, dict) else getattr(data, "name", DEFAULT)
    return str(found)


if TYPE_CHECKING:
    ModelConfig = BaseModelConfig
else:
    ModelConfig = Annotated[
        Union[tuple(Annotated[config_class(name), Tag(name)] for name in MODELS)],  # noqa: UP007
        Discriminator(
            _name_of,
            custom_error_type="no_such_model",
            custom_error_message=f"name must be one of {', '.join(MODELS)}",
        ),
    ]
"""The configuration of any model, told apart by ``name``."""


def build(
    config: BaseModelConfig,
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
    the order of ``config.side_inputs``, standardised, NaN where missing; logits of shape (B, H).

    A model with ``config.own_objective`` has no heads: ``item_losses(x, covariates, labels)`` gives the loss of each
    item, shape (B,), ``judged(x, covariates)`` the figures named by ``config.figures``, shape (B, F), and ``forward``
    what later steps take from it (a latent). Where ``config.judge`` names a frozen head, ``take_judge(net, number)`` is
    given it before training. ``begin_round(number, rounds)`` is told of each global round. What an
    item's loss draws comes from the modules that :func:`ecgshared.learning.draws.seed_draws` seeds.
    """
    if config.name not in MODELS:
        raise ModelError("there is no such model", value=config.name, allowed=", ".join(MODELS))
    module = import_module(config.net or type(config).__module__)
    model: nn.Module = module.build(config, tuple(heads), samples, seed, dtype)
    if isinstance(config, HeadedConfig) and (seen := config.leads) is not None:
        model.register_forward_pre_hook(_SeesLeads([LEADS.index(lead) for lead in seen]))
    return model


class _SeesLeads:
    """Holds the leads that a model does not see at zero, before its forward; it adds nothing to the model's weights."""

    def __init__(self, seen: Sequence[int]) -> None:
        self._seen = tuple(seen)

    def __call__(self, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x, *rest = inputs
        shown = x.new_zeros(x.shape[-2])
        shown[list(self._seen)] = 1
        return (x * shown[:, None], *rest)
