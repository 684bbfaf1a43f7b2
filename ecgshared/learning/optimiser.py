"""Optimisers by name, and their state as plain tensors that a site can store between rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from ecgshared.errors import ModelError
from ecgshared.learning.plan import OptimiserConfig


def make_optimiser(config: OptimiserConfig, parameters: Iterable[nn.Parameter], *, lr: float) -> torch.optim.Optimizer:
    """Return the configured optimiser over the parameters that are trained, at learning rate ``lr``."""
    trained = [p for p in parameters if p.requires_grad]
    if config.name == "sgd":
        return torch.optim.SGD(trained, lr=lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(trained, lr=lr, betas=config.betas, weight_decay=config.weight_decay)


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the state as ``{"<parameter number>.<name>": tensor}``, on the CPU, fit for safetensors."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": value.detach().cpu().clone()
        for number, entries in state.items()
        for name, value in entries.items()
        if isinstance(value, torch.Tensor)
    }


def load_optimiser_state(optimiser: torch.optim.Optimizer, state: Mapping[str, torch.Tensor]) -> None:
    """Put back what :func:`optimiser_state` gave; the learning rate stays the optimiser's.

    Raises
    ------
    ModelError : a name or shape does not belong to this optimiser.
    """
    held = optimiser.state_dict()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        number, _, name = key.partition(".")
        fits = number.isdigit() and int(number) < len(parameters) and name
        if not fits or value.shape not in (torch.Size(()), parameters[int(number)].shape):
            raise ModelError("the stored optimiser state does not fit", where=key, value=tuple(value.shape))
        entries.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({**held, "state": entries})
