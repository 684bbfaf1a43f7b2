"""One outcome over the sites of one group: what they released of it, and what is asked of them next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.stages.evaluate import LocalResults
from ecgshared.stats.placement import pooled_curve
from ecgshared.stats.score_scale import LOWEST
from server.pooling.cuts import PooledCuts, SiteCuts
from server.pooling.points import SiteRates

BY_LUCK = 20
"""Patients with the event a hospital, on average, from which on the least number of events chooses nobody.

That is where some withheld. Where all told, they may all have had their five by luck, and ten on average are enough."""
_ALL_BY_LUCK = 10


def by_luck(events: float, telling: int, asked: int) -> bool:
    """Say whether hospitals are put together for the events they happened to have.

    Parameters
    ----------
    events : patients with the event at those that tell (ECGs where patients are not known).
    telling, asked : hospitals that tell, and those that were asked. One hospital by itself is not put together.
    """
    if asked < 2:
        return False
    return events < (BY_LUCK if telling < asked else _ALL_BY_LUCK) * telling


@dataclass(frozen=True)
class PooledHead:
    """One outcome over the sites of one group that released counts of it.

    Attributes
    ----------
    local, counts, rates, cases : by site; ``rates`` at its own cuts, ``cases`` its sketch of cases (mean, ECGs).
    h : the outcome's number among the heads. cuts : those asked for, and ``fixed``, the threshold's.
    withheld : sites of the group that answered and released no counts.
    """

    local: Mapping[str, LocalResults]
    counts: Mapping[str, SiteCuts]
    rates: Mapping[str, SiteRates]
    cases: Mapping[str, tuple[Floats, Floats]]
    h: int
    cuts: tuple[float, ...]
    fixed: float | None
    withheld: tuple[str, ...] = ()

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that are pooled."""
        return tuple(self.counts)

    @cached_property
    def at_cuts(self) -> PooledCuts:
        """Pooled counts at every cut some site answered."""
        answered = np.concatenate([s.cuts for s in self.counts.values()])
        asked = [c for c in (*self.cuts, *([self.fixed] if self.fixed is not None else [])) if c in answered]
        return PooledCuts(self.counts, np.array(sorted({*asked, LOWEST}, reverse=True)))

    def of(self, name: str, site: str) -> Floats:
        """Return one field of a site's own figures."""
        return np.asarray(getattr(self.local[site], name)[self.h], dtype=np.float64)

    @property
    def chosen_by_events(self) -> bool:
        """Whether sites are pooled because they happened to have enough events, beside others that had too few or not.

        What tells how often the event is (expected over observed, PPV) is then too high or too low by the choice, and
        its interval too narrow: at three hospitals of 45 with five events expected, 0.83 in the median where 1 is true,
        and 95% intervals hold it 90 times in 100. From some 20 events a hospital on, none is there by luck. Where all
        three have five it is 0.85, and they hold it 86 times in 100 (``tests/benchmarks/test_pooled_auc.py``).
        """
        sites = len(self.sites)
        return sites > 1 and by_luck(self.patients_with_event, sites, sites + len(self.withheld))

    @property
    def threshold_sites(self) -> tuple[str, ...]:
        """Sites that released their counts at the threshold."""
        return tuple(s for s in self.sites if np.isfinite(self.of("at_threshold", s)[:3, 0]).all())

    @property
    def threshold_counts(self) -> Floats:
        """ECGs, flagged ECGs, events and flagged events of those sites, shape = (4,)."""
        total = np.zeros(4)
        for site in self.threshold_sites:
            ecgs, _, events, _ = self.of("counts", site)
            share, ppv, _ = self.of("at_threshold", site)[:3, 0]
            flagged = round(share * ecgs)
            total += [ecgs, flagged, events, round(ppv * flagged) if np.isfinite(ppv) else 0]
        return total

    @property
    def threshold_chosen(self) -> bool:
        """Whether sites stand at the threshold for the events they happened to have on either side of it.

        Three sites of 30 events and a sensitivity of 0.9 miss three each; who misses five may tell, and together they
        say 0.82, with a 95% interval that holds the truth 76 times in 100.
        """
        _, _, events, both = self.threshold_counts
        sites = self.threshold_sites
        patients = min(both, events - both) * self.patients_with_event / max(self.at_cuts.n_cases, 1.0)
        return len(sites) < len(self.sites) and patients < BY_LUCK * len(sites)

    @property
    def expected_over_observed(self) -> float:
        """Predicted over observed events; 0 where there are none, NaN where a site withheld its predicted ones."""
        predicted = sum(float(r.predicted[-1]) for r in self.rates.values())
        return predicted / self.at_cuts.n_cases if self.at_cuts.n_cases else 0.0

    @property
    def patients_with_event(self) -> float:
        """Patients with the event; ECGs where a site does not know its patients."""
        found = 0.0
        for site in self.sites:
            counts = self.of("counts", site)
            found += float(counts[3]) if np.isfinite(counts[3]) else float(counts[2])
        return found


def request_arrays(head: PooledHead) -> dict[str, Floats]:
    """Return what sites need to place the pooled curves over their ECGs."""
    curve = pooled_curve([s.bins for s in head.counts.values()])
    position, weight = (np.concatenate([c[i] for c in head.cases.values()]) for i in (0, 1))
    order = np.argsort(position, kind="stable")
    at, rate = head.at_cuts, head.at_cuts.rate()[0]
    known = dict(zip(at.cuts.tolist(), np.nan_to_num(rate).tolist(), strict=True))
    _, flagged, events, both = head.threshold_counts
    return {
        "head": np.array([float(head.h)]),
        "lower": curve.lower,
        "by_lower": curve.by_lower,
        "upper": curve.upper,
        "by_upper": curve.by_upper,
        "case_position": position[order],
        "case_weight": weight[order],
        "rates": np.array([*(known.get(c, 0.0) for c in head.cuts), both / flagged if flagged else 0.0, known[LOWEST]]),
        # Where a site withheld its sum of risks there is no ratio, and the squares about it are asked for in vain.
        "expected_over_observed": np.nan_to_num(np.array([head.expected_over_observed])),
        "sensitivity": np.array([both / events if events else 0.0]),
    }
