"""A model as ONE flat vector, with a hash that names the order of its parts.

Parameters first, then floating buffers (running statistics); integer buffers are left out. In mode ``fedbn`` all
that belongs to a normalisation layer stays at its site and is no part of the vector.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ecgshared.errors import ModelError

Mode = Literal["full", "fedbn"]

NORM_LAYERS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.modules.instancenorm._InstanceNorm,
)


@dataclass(frozen=True)
class Layout:
    """The order of a model's parts in the vector that travels.

    Attributes
    ----------
    names, shapes : of the shared parts, in order.
    parameters : how many leading numbers of the vector are parameters; the rest are running statistics.
    local : names of the parts that stay at the site (mode ``fedbn``), else empty.

    With ``only`` nothing but those parameters travels: the rest of the net is frozen and known to both sides.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    parameters: int
    local: tuple[str, ...]

    @classmethod
    def of(cls, model: nn.Module, mode: Mode = "full", *, only: Collection[str] | None = None) -> Layout:
        """Return the layout of a model; models built from one configuration have the same."""
        kept = _norm_parts(model) if mode == "fedbn" else set()
        parts = dict(_parts(model))
        shared = [name for name in parts if name not in kept and (only is None or name in only)]
        parameter_names = {name for name, _ in model.named_parameters()}
        return cls(
            names=tuple(shared),
            shapes=tuple(tuple(parts[name].shape) for name in shared),
            parameters=sum(parts[name].numel() for name in shared if name in parameter_names),
            local=tuple(name for name in parts if name in kept),
        )

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(prod(shape) for shape in self.shapes)

    @property
    def hash(self) -> str:
        """SHA-256 of names and shapes in order, in hexadecimal."""
        text = json.dumps([self.names, self.shapes, self.parameters], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def flatten(self, model: nn.Module) -> NDArray[Any]:
        """Return the shared parts as one vector: float64 for a float64 model, else float32."""
        parts = dict(_parts(model))
        double = any(parts[name].dtype == torch.float64 for name in self.names)
        dtype = torch.float64 if double else torch.float32
        flat = torch.cat([parts[name].detach().reshape(-1).to(dtype) for name in self.names])
        return np.array(flat.cpu().numpy())

    def load(self, model: nn.Module, vector: NDArray[Any]) -> None:
        """Write a vector into a model, in the model's own precision; raise ModelError where it does not fit."""
        vector = np.asarray(vector)
        if vector.shape != (self.size,) or vector.dtype not in (np.float32, np.float64):
            raise ModelError(
                "the weights do not fit the model",
                value=f"{vector.dtype} {vector.shape}",
                allowed=f"float32 or float64 ({self.size},)",
            )
        if not np.isfinite(vector).all():
            raise ModelError("the weights hold a value that is not finite")
        parts = dict(_parts(model))
        with torch.no_grad():
            at = 0
            for name, shape in zip(self.names, self.shapes, strict=True):
                if name not in parts or tuple(parts[name].shape) != shape:
                    raise ModelError("the model has another layout", where=name, allowed=str(shape))
                piece = torch.from_numpy(np.ascontiguousarray(vector[at : at + prod(shape)]))
                parts[name].copy_(piece.reshape(shape))
                at += prod(shape)

    def local_state(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Return copies of the parts that stay at the site."""
        parts = dict(_parts(model))
        return {name: parts[name].detach().cpu().clone() for name in self.local}

    def load_local_state(self, model: nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Write back what :meth:`local_state` gave; raise ModelError where names or shapes differ."""
        parts = dict(_parts(model))
        if set(state) != set(self.local):
            raise ModelError("the site's own normalisation does not fit the model", value=sorted(state)[:3])
        with torch.no_grad():
            for name, value in state.items():
                if parts[name].shape != value.shape:
                    raise ModelError("the site's own normalisation has another shape", where=name)
                parts[name].copy_(value)


def _parts(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point())


def _norm_parts(model: nn.Module) -> set[str]:
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, NORM_LAYERS)
        for name, _ in _parts(module)
    }
