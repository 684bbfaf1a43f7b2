"""From raw outputs to logits: heads of one event at growing horizons are made monotone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ecgshared.errors import ModelError
from ecgshared.models.config import HeadSpec


def cumulative_logits(raw: torch.Tensor) -> torch.Tensor:
    """Return logits of 1 - exp(-H_j), where H_j sums the interval hazards softplus(raw_1..j).

    Since exp(H_j) is the product of (1 + exp(raw_i)), the odds exp(H_j) - 1 follow
    ``odds_j = odds_(j-1) (1 + exp(raw_j)) + exp(raw_j)``, which in logs neither over- nor underflows; the first
    logit is the raw output itself.

    Parameters
    ----------
    raw : shape (..., J), intervals in order of time.

    Returns
    -------
    shape (..., J), never falling along the last axis.
    """
    first, *later = raw.unbind(-1)
    logits = [first]
    for interval in later:
        logits.append(torch.logaddexp(logits[-1] + F.softplus(interval), interval))
    return torch.stack(logits, -1)


class LearnedCumulative(nn.Module):
    """The published layer: a learned base logit plus the running sum of non-negative learned increments.

    Four horizons give 25 parameters (4 x 4 + 4, and 4 + 1). Horizons are monotone in the logit.
    """

    def __init__(self, horizons: int) -> None:
        super().__init__()
        self.increment = nn.Linear(horizons, horizons)
        self.base = nn.Linear(horizons, 1)

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """Map interval outputs (B, J) to logits (B, J)."""
        logits: torch.Tensor = self.base(raw) + F.relu(self.increment(raw)).cumsum(-1)
        return logits


class MonotoneHeads(nn.Module):
    """Apply :func:`cumulative_logits` to each group of heads; pass the others through.

    With ``learned`` the first group of four horizons takes :class:`LearnedCumulative` instead. Where no group has
    four, the layer is kept for the published parameter count, frozen and unused.
    """

    def __init__(self, heads: Sequence[HeadSpec], *, learned: bool = False) -> None:
        super().__init__()
        self.groups = _groups(heads)
        self.order = torch.tensor([i for columns in self.groups for i in columns])
        inverse = torch.empty(len(heads), dtype=torch.long)
        self.inverse = inverse.scatter(0, self.order, torch.arange(len(heads)))
        self.learned = LearnedCumulative(4) if learned else None
        self.learned_group = next((i for i, g in enumerate(self.groups) if learned and len(g) == 4), None)
        if self.learned is not None and self.learned_group is None:
            self.learned.requires_grad_(False)

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """Map raw outputs (B, H) to logits (B, H)."""
        if all(len(columns) == 1 for columns in self.groups):
            return raw
        parts = []
        for i, columns in enumerate(self.groups):
            part = raw[:, list(columns)]
            if i == self.learned_group and self.learned is not None:
                part = self.learned(part)
            elif len(columns) > 1:
                part = cumulative_logits(part)
            parts.append(part)
        return torch.cat(parts, 1)[:, self.inverse.to(raw.device)]


def _groups(heads: Sequence[HeadSpec]) -> tuple[tuple[int, ...], ...]:
    """Return the columns of each group by growing horizon; a head on its own is a group of one."""
    if not heads:
        raise ModelError("a model needs at least one head")
    names = [head.name for head in heads]
    if len(set(names)) != len(names):
        raise ModelError("two heads have the same name", value=names)
    groups: dict[str, list[int]] = {}
    for i, head in enumerate(heads):
        if head.group is not None and head.horizon_years is None:
            raise ModelError("a head of a group needs a horizon", where=head.name, remedy="give horizon_years")
        groups.setdefault(f"head {i}" if head.group is None else f"group {head.group}", []).append(i)
    for key, columns in groups.items():
        horizons = [heads[i].horizon_years for i in columns]
        if len(set(horizons)) != len(horizons):
            raise ModelError("two heads have the same horizon", where=key, value=horizons)
    return tuple(tuple(sorted(columns, key=lambda i: heads[i].horizon_years or 0.0)) for columns in groups.values())
