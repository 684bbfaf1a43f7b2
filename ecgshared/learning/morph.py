"""Morphing: a beat moved along the gradient of its predicted risk, in the latent space of a VAE of beats.

After Nature 2026 (doi 10.1038/s41586-026-10674-6): from the posterior mean of a real beat, ``z += rate d logit / d z``
through decoder and frozen net, until the risk is that of a given percentile or the steps are spent. All beats move at
once, each until it arrives; those that have are taken out of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import ModelError
from ecgshared.learning.half import HalfConvolutions

F32 = NDArray[np.float32]

PATH_POINTS = 21
"""Where along its own way a beat's risk is told: from 0, the reconstruction, to 1, the morph."""


@dataclass(frozen=True)
class Morphs:
    """Beats and what became of them; n beats, W samples.

    Attributes
    ----------
    start : float32 array, shape = (n, 12, W), mV: the reconstruction of each beat, from the posterior mean.
    end : the same, of its morph.
    z : float64 array, shape = (n, latent): the latent of the morph.
    path : float64 array, shape = (n, PATH_POINTS): logit along the way, the first of ``start``, the last of ``end``.
    steps : int array, shape = (n,), taken. arrived : bool array, shape = (n,): the target was reached.
    """

    start: F32
    end: F32
    z: Floats
    path: Floats
    steps: Ints
    arrived: Bools


def morph(
    vae: Any,
    net: torch.nn.Module,
    head: int,
    z: Floats,
    *,
    target: float,
    up: bool,
    steps: int,
    rate: float,
    prior: float = 0.0,
    bf16: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Morphs:
    """Move latents until the net sees a risk of at least (``up``) or at most ``target``, a logit.

    Parameters
    ----------
    vae : has ``decode(z, conditions)`` and ``samples``; ``net``: sees beats alone; ``head``: number of its output.
    z : float array, shape = (n, latent): posterior means.
    steps : at most. rate : of a step along the gradient. prior : pull towards the prior, added to the gradient as
        ``-prior z``; it keeps a path where beats are.
    bf16 : the net's convolutions take bfloat16 (:mod:`ecgshared.learning.half`), in 0.6 of the time where a processor
        has it; a way is then off by some of its steps.
    """
    if not (steps >= 1 and rate > 0 and prior >= 0):
        raise ModelError("a morph needs a step, a positive rate and no negative prior", value=(steps, rate, prior))
    if not len(z):
        none = np.empty((0, 12, vae.samples), dtype=np.float32)
        nobody = np.zeros(0, dtype=np.int64)
        return Morphs(none, none, np.asarray(z), np.empty((0, PATH_POINTS)), nobody, nobody.astype(bool))
    first = next(net.parameters())
    place: dict[str, Any] = {"device": first.device, "dtype": first.dtype}
    model = _Climbed(vae, net, head, bf16)
    n, sign = len(z), 1.0 if up else -1.0
    at = torch.as_tensor(z, **place).clone()
    logits = np.full((n, steps + 1), np.nan)
    taken, arrived = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
    left = np.arange(n)
    # Nobody's parameters take part: only the way of the latent is differentiated.
    wanted = [p for p in (*vae.parameters(), *net.parameters()) if p.requires_grad]
    for p in wanted:
        p.requires_grad_(False)
    try:
        start = model.beats(at)
        for step in range(steps + 1):
            here = at[left].requires_grad_(True)
            logit = model(here)
            told = logit.detach().double().cpu().numpy()
            logits[left, step] = told
            arrived[left] = sign * told >= sign * target
            moving = ~arrived[left]
            if step == steps or not moving.any():
                break
            (gradient,) = torch.autograd.grad(logit.sum(), here)
            way = sign * gradient - prior * here.detach()
            keep = torch.as_tensor(moving, device=first.device)
            left = left[moving]
            at[left] = here.detach()[keep] + rate * way[keep]
            taken[left] += 1
            if progress is not None and step % 50 == 0:
                progress(step, steps)
        end = model.beats(at)
    finally:
        for p in wanted:
            p.requires_grad_(True)
    return Morphs(start, end, at.double().cpu().numpy(), _along(logits, taken), taken, arrived)


class _Climbed:
    """From latents to logits, in the precision of the net, one backward pass for all."""

    def __init__(self, vae: Any, net: torch.nn.Module, head: int, bf16: bool) -> None:
        self.vae, self.net, self.head, self.bf16 = vae.eval(), net.eval(), head, bf16

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        beats = self.vae.decode(z, z.new_zeros((len(z), 0)))
        with HalfConvolutions() if self.bf16 else nullcontext():
            out: torch.Tensor = self.net(beats, z.new_zeros((len(z), 0)))[:, self.head]
        return out

    @torch.no_grad()
    def beats(self, z: torch.Tensor) -> F32:
        found: F32 = self.vae.decode(z, z.new_zeros((len(z), 0))).float().cpu().numpy()
        return found


def _along(logits: Floats, taken: Ints) -> Floats:
    """Return each way's logits at PATH_POINTS places from its beginning to its end, linear in between."""
    out = np.empty((len(logits), PATH_POINTS))
    for i, steps in enumerate(taken.tolist()):
        out[i] = np.interp(np.linspace(0, steps, PATH_POINTS), np.arange(steps + 1), logits[i, : steps + 1])
    return out
