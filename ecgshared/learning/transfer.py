"""Training that begins with the weights of another training: what is taken over, and what of it goes on being trained.

The trunk is every part of a net that is not named as its head. It is taken over whole; parts of the head are where
they have the same shape, the last of them where the outputs are the same. A frozen part neither drops nor learns.
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from ecgshared.errors import ModelError
from ecgshared.learning.draws import Dropout
from ecgshared.learning.layout import Layout


def parts_of(model: nn.Module, modules: Collection[str]) -> tuple[str, ...]:
    """Return the names of the parameters in the named modules of a net, in its order."""
    return tuple(name for name, _ in model.named_parameters() if name.partition(".")[0] in modules)


def take_over(
    model: nn.Module,
    source: Layout,
    vector: NDArray[Any],
    *,
    head: Collection[str],
    outputs: Collection[str],
    same_outputs: bool,
) -> tuple[str, ...]:
    """Write the weights of another net into ``model``; return the names of the parts that stay as they were.

    Parameters
    ----------
    source : of the other net, whose weights ``vector`` holds in this order.
    head : names of the modules that may have another shape there: they begin anew then.
    outputs : the last of them, which begin anew as well where the nets' outputs are not the same.

    Raises
    ------
    ModelError : a part of the trunk is missing there or has another shape.
    """
    if vector.shape != (source.size,):
        raise ModelError(
            "the weights to start from do not fit their model", value=vector.shape, allowed=str(source.size)
        )
    held: dict[str, NDArray[Any]] = {}
    at = 0
    for name, shape in zip(source.names, source.shapes, strict=True):
        held[name] = vector[at : at + prod(shape)].reshape(shape)
        at += prod(shape)
    own = {**dict(model.named_parameters()), **{n: b for n, b in model.named_buffers() if b.is_floating_point()}}
    anew = []
    with torch.no_grad():
        for name, part in own.items():
            module = name.partition(".")[0]
            fits = name in held and held[name].shape == tuple(part.shape)
            if fits and (same_outputs or module not in outputs):
                part.copy_(torch.tensor(held[name]))
            elif module in head or module in outputs:
                anew.append(name)
            else:
                raise ModelError(
                    "the net to start from has another trunk",
                    where=name,
                    value=held[name].shape if name in held else "(it has no such part)",
                    allowed=str(tuple(part.shape)),
                    remedy="give both steps the same model; heads and covariates may differ",
                )
    return tuple(anew)


def freeze(model: nn.Module, trained: Collection[str]) -> None:
    """Let nothing but the parameters named change, nor the frozen modules draw anything."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    alive = {name.partition(".")[0] for name in trained}
    for name, module in model.named_modules():
        if isinstance(module, Dropout) and name.partition(".")[0] not in alive:
            module.p = 0.0


def count_trained(model: nn.Module) -> int:
    """Return how many numbers of a net a gradient changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
