"""Training sites that were away when the cohorts were described: asked for their counts once they are back, and let in.

What the others were sent at first stays as it is, since a run may not change its artefacts: the count of each head, and
the standardisation. A latecomer's share is its ECGs over those of the sites that were there. Each site's loss and its
weight in the mean hold the same share, so that the round's direction is that of all ECGs pooled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.errors import RefusalCode
from ecgshared.stages.train import LATE_WEIGHTS, Config
from ecgshared.wire.protocol import SPLITS
from server.rounds.replies import FINAL
from server.rounds.step_context import Artefact, StepContext


@dataclass
class Latecomers:
    """The latecomers of one train step.

    Parameters
    ----------
    described : the step that counted the cohorts.
    shares : of those that were let in before, by site.

    Attributes
    ----------
    away : reasons of those that are still away, by site.
    """

    step: Config
    context: StepContext
    described: Artefact[Any]
    shares: dict[str, float]
    away: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        absent = self.described.result.absent
        self.away = {s: why for s, why in absent.items() if s in self.context.sites and s not in self.shares}

    def look(self, round_number: int) -> None:
        """Ask those that are back by now, and let in who has answered."""
        wanted = tuple(site for site, why in self.away.items() if why not in FINAL)
        ecgs = self._ecgs_described()
        if not wanted or not ecgs > 0:
            return
        replies = self.context.ask_aside(self.described.step, "counts", wanted)
        for site, why in replies.absent.items():
            self.away[site] = why
        for site, counts in replies.by_site.items():
            own = float(sum(counts.ecgs[SPLITS.index(split)] for split in self.step.on))
            if np.isfinite(own) and own > 0:
                self.shares[site] = own / ecgs
                del self.away[site]
                self.context.note("joined late", f"{site} was away when the cohorts were described; it trains from "
                                  f"round {round_number}")  # fmt: skip
            else:
                self.away[site] = RefusalCode.TOO_FEW.value

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return what is sent beside the weights: the latecomers' shares in the study's order; nothing without any."""
        if not self.shares:
            return {}
        return {LATE_WEIGHTS: np.array([self.shares.get(s, 0.0) for s in self.context.study.sites.train])}

    def absences(self) -> Mapping[str, str]:
        """Return why each that takes no part yet takes none."""
        return {
            site: why if why in FINAL else f"did not answer step {self.described.step!r}: {why}"
            for site, why in self.away.items()
        }

    def _ecgs_described(self) -> float:
        """Return the ECGs that the shares of those who were there are of; a site that withheld any has none."""
        told = [self.described.result.sites.get(site) for site in self.context.study.sites.train]
        counts = np.array([[one.ecgs[split] for split in self.step.on] for one in told if one is not None], dtype=float)
        return float(np.nansum(counts.sum(axis=1))) if counts.size else 0.0
