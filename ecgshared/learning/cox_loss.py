"""The negative Cox partial likelihood of a batch, spread over its items, for a log hazard that is learned.

An item's loss here depends on the batch: its risk set. Such a loss cannot be trained with privacy per patient.
"""

from __future__ import annotations

import torch


def cox_items(log_hazard: torch.Tensor, years: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Return each item's share of the mean negative partial log-likelihood of the batch's events, Efron's ties.

    The shares' MEAN over the batch is the mean over its events, so that batches with few events weigh as others do.

    Parameters
    ----------
    log_hazard, years, observed : shape = (B,); an item of unknown time (NaN) is in no risk set.

    Returns
    -------
    shape = (B,), 0 for items without an event.
    """
    known = ~torch.isnan(years) & ~torch.isnan(observed)
    event = known & (observed == 1)
    losses = torch.zeros_like(log_hazard)
    if not event.any():
        return losses
    shift = log_hazard[known].detach().max()
    hazard = torch.where(known, (log_hazard - shift).exp(), 0.0)
    time = torch.nan_to_num(years, nan=-1.0)
    tied = (time[:, None] == time[None]) & event[:, None] & event[None]
    at_risk = (time[None] >= time[:, None]) & known[None]
    rows = torch.nonzero(event)[:, 0]
    risk = at_risk[rows].to(hazard.dtype) @ hazard
    deaths = tied[rows].to(hazard.dtype) @ hazard
    # The l-th of d who die together is counted with (d - l) / d of their hazards in the risk set.
    place = torch.tril(tied.to(hazard.dtype), -1).sum(1)[rows] / tied[rows].sum(1)
    likelihood = log_hazard[rows] - shift - (risk - place * deaths).log()
    return losses.index_put((rows,), -likelihood * (len(losses) / len(rows)))


def published_cox_items(log_hazard: torch.Tensor, years: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Return the published form of :func:`cox_items`: rows sorted by falling time, a risk set is all rows before it.

    So of tied events only those that happen to stand before one are in its risk set.
    """
    known = ~torch.isnan(years) & ~torch.isnan(observed)
    rows = torch.nonzero(known)[:, 0]
    rows = rows[torch.argsort(years[rows], descending=True, stable=True)]
    event = observed[rows] == 1
    losses = torch.zeros_like(log_hazard)
    if not event.any():
        return losses
    likelihood = (log_hazard[rows] - torch.logcumsumexp(log_hazard[rows], 0))[event]
    return losses.index_put((rows[event],), -likelihood * (len(losses) / int(event.sum())))
