"""Low-rank adapters: what a large frozen net learns, and sends, in a hundredth of its numbers.

A weight W seen as a matrix (outputs, rest) becomes W + U D with U (outputs, r) and D (r, rest) (LoRA; Hu et al. 2021,
arXiv:2106.09685). U begins at zero, so that the net begins as it was; U and D alone are trained and travel. A
convolution's matrix has its filters as rows.
"""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import nn
from torch.nn.utils import parametrize

ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d)


class LowRank(nn.Module):
    """W + U D, for one weight."""

    def __init__(self, weight: torch.Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rest = weight[0].numel()
        rank = min(rank, len(weight), rest)
        down = torch.empty(rank, rest).normal_(0.0, rest**-0.5, generator=generator)
        self.down = nn.Parameter(down.to(weight.dtype))
        self.up = nn.Parameter(torch.zeros(len(weight), rank, dtype=weight.dtype))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight with what was learnt added, shape kept."""
        return weight + (self.up @ self.down).view_as(weight)


def add_adapters(model: nn.Module, rank: int, seed: int, *, without: Collection[str]) -> tuple[str, ...]:
    """Put an adapter on each weight of a net's linear layers and convolutions; return the adapters' parameters.

    Parameters
    ----------
    seed : D is drawn from it, so that the coordinator and every site begin alike.
    without : names of the modules that have none, because they are trained whole.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = [
        module
        for name, module in model.named_modules()
        if isinstance(module, ADAPTED) and name.partition(".")[0] not in without
    ]
    for module in chosen:
        parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank, generator))
    return tuple(
        name for name, _ in model.named_parameters() if ".parametrizations." in name and not name.endswith(".original")
    )


def merged(model: nn.Module) -> nn.Module:
    """Return a copy of a net in which every adapter has become part of its weight."""
    plain = copy.deepcopy(model)
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return plain
