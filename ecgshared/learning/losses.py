"""The masked multi-task loss, weighted so that the sites' gradients add up to the pooled one.

The pooled objective averages each head over all its known cells: L = sum_h (w_h / N_h) sum_cells BCE. Site k
minimises L_k, its own cells' share divided by its aggregation weight a_k; then sum_k a_k grad L_k = grad L.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn import functional as F

from ecgshared.errors import ModelError


def cell_weights(
    head_weights: ArrayLike, global_counts: ArrayLike, *, aggregation_weight: float
) -> NDArray[np.float64]:
    """Return the weight of one cell of each head at a site: w_h / (a_k N_h), and 0 for a head nobody has.

    Parameters
    ----------
    head_weights : w, shape (H,), the study's.
    global_counts : N, shape (H,): known cells of each head over ALL training sites.
    aggregation_weight : a_k, the share with which the coordinator weighs this site; they sum to 1.

    Raises
    ------
    ModelError : shapes differ, a count or weight is negative, or the aggregation weight is not in (0, 1].
    """
    w, n = _checked(head_weights, global_counts)
    if not 0 < aggregation_weight <= 1:
        raise ModelError("an aggregation weight lies in (0, 1]", value=aggregation_weight)
    weights: NDArray[np.float64] = np.divide(w, aggregation_weight * n, out=np.zeros_like(w), where=n > 0)
    return weights


def private_cell_weights(head_weights: ArrayLike, global_counts: ArrayLike) -> NDArray[np.float64]:
    """Return cell weights w_h max(N) / N_h for private training, from public numbers alone.

    The scale keeps one patient's gradient near that of a plain cross-entropy, so that the clipping bound means
    the same in every study; a constant factor on the loss would otherwise turn clipping on or off.
    """
    w, n = _checked(head_weights, global_counts)
    weights: NDArray[np.float64] = np.divide(w * n.max(initial=0.0), n, out=np.zeros_like(w), where=n > 0)
    return weights


SMOOTH_BELOW = 0.05
"""Errors of a continuous head below this share of half its range are squared, so that its loss has no corner."""


def cell_losses(logits: torch.Tensor, labels: torch.Tensor, continuous: Sequence[bool] | None = None) -> torch.Tensor:
    """Return the loss of each cell, shape (B, H), 0 where the label is NaN.

    It is the binary cross-entropy; of a head that is ``continuous`` (H of them) the absolute error on the net's scale,
    smooth at zero (Huber's, divided by its corner), which the median minimises and no outlier rules.
    Computed in float32 at least: under autocast the logits arrive in bfloat16.
    """
    known = ~torch.isnan(labels)
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    target = torch.where(known, labels, 0.0).to(logits.dtype)
    numbers = () if continuous is None else tuple(h for h, is_number in enumerate(continuous) if is_number)
    if not numbers:
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return torch.where(known, losses, 0.0)
    columns = [
        F.smooth_l1_loss(logits[:, h], target[:, h], reduction="none", beta=SMOOTH_BELOW)
        if h in numbers
        else F.binary_cross_entropy_with_logits(logits[:, h], target[:, h], reduction="none")
        for h in range(logits.shape[1])
    ]
    return torch.where(known, torch.stack(columns, 1), 0.0)


def item_losses(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, continuous: Sequence[bool] | None = None
) -> torch.Tensor:
    """Return the weighted loss of each item, shape (B,); ``weights`` (H,) are those of :func:`cell_weights`."""
    cells = cell_losses(logits, labels, continuous)
    return cells @ weights.to(logits.device, torch.promote_types(logits.dtype, torch.float32))


def objective(
    model: nn.Module, x: torch.Tensor, covariates: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted loss of each item, shape (B,): the model's own where it brings one, else that of its heads.

    Parameters
    ----------
    weights : (H,) of the heads' cells, or (1,), of an item, where the model has ``item_losses``.
    """
    own = getattr(model, "item_losses", None)
    if own is None:
        continuous = [head.continuous for head in getattr(model, "heads", ())]
        return item_losses(model(x, covariates), labels, weights, continuous)
    losses: torch.Tensor = own(x, covariates, labels)
    return losses * weights[0].to(losses.device, losses.dtype)


def site_loss(items: torch.Tensor, *, site_items: int, batch: int | None = None) -> torch.Tensor:
    """Estimate L_k without bias from a uniformly drawn batch: the batch's sum times n_k / B.

    Parameters
    ----------
    items : weighted losses of the batch's items, shape (B,).
    site_items : n_k, training items of the site; with all of them in the batch this is L_k itself.
    batch : B, where ``items`` are a part of the batch only: the parts' losses add up to the batch's.
    """
    return items.sum() * (site_items / max(len(items) if batch is None else batch, 1))


def _checked(head_weights: ArrayLike, global_counts: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    w, n = np.asarray(head_weights, dtype=np.float64), np.asarray(global_counts, dtype=np.float64)
    if w.shape != n.shape or w.ndim != 1:
        raise ModelError("one weight and one count per head", value=f"{w.shape} and {n.shape}")
    if not (np.isfinite(w) & np.isfinite(n) & (w >= 0) & (n >= 0)).all():
        raise ModelError("weights and counts must be numbers, none negative", value=(w.tolist(), n.tolist()))
    return w, n
