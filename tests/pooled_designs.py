"""Hospitals drawn from a known truth, evaluated through the real handlers and the real gate, many times over.

Risks are binormal: a control's score is normal, a case's lies ``distance`` higher, so that the true AUC is known. Each
draw is one consortium: every site sketches, bins, places, and what leaves passes the egress gate under its limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.stats import norm

from client.egress.gate import release
from client.rows.binned import read_cuts
from client.rows.for_pooling import histogram_answer, placement_answer, scale_answer
from client.rows.own_figures import local_answer
from client.rows.risk import Scored
from client.site.settings import SiteSettings
from ecgshared.arrays import Floats
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.evaluate import Config, LocalResults, Placement
from ecgshared.stats.influence import Estimate, clustered_auc
from ecgshared.wire.bytes import decode_payload, stamp_of
from ecgshared.wire.protocol import Answer, Request, payload_type
from server.pooling.auc import Bounded, auc_within, pooled_auc
from server.pooling.cuts import evaluation_cuts, padded, released_sketches, site_cuts
from server.pooling.head import PooledHead, request_arrays
from server.pooling.points import SiteRates

DISTANCE = 1.5
TRUE_AUC = float(norm.cdf(DISTANCE / np.sqrt(2)))
LIMITS = DisclosureLimits()
STEP = Config(id="judge", stage="evaluate", score="net.event", subgroups=())


@dataclass(frozen=True)
class Design:
    """``sites`` hospitals of ``patients`` each, of whom ``rate`` have the event; one ECG a patient."""

    rate: float
    sites: int
    patients: int

    def __str__(self) -> str:
        return f"{100 * self.rate:g}%, {self.sites} x {self.patients:,}"

    def draw(self, rng: np.random.Generator) -> list[Scored]:
        """Draw the hospitals' scored ECGs."""
        heads = []
        for _ in range(self.sites):
            y = (rng.random(self.patients) < self.rate).astype(np.int64)
            score = rng.normal(size=self.patients) + DISTANCE * y + np.log(self.rate / (1 - self.rate))
            heads.append(scored(score, y))
        return heads


def scored(score: Floats, y: np.ndarray[Any, Any], patient: np.ndarray[Any, Any] | None = None) -> Scored:
    """ECGs with this score (logit of the risk) and outcome."""
    blank = np.full(len(y), np.nan, dtype=np.float32)
    who = np.arange(len(y)) if patient is None else patient
    return Scored(1 / (1 + np.exp(-score)), y, who, blank, blank, 0, 0)


def request(phase: str, **arrays: Floats) -> Request:
    return Request("", "run", "judge", phase, 0, arrays)


@cache
def settings(limits: DisclosureLimits) -> SiteSettings:
    """A site with these limits."""
    return SiteSettings.model_validate(
        {
            "site": "a",
            "records": {"folder": "records"},
            "table": {"path": "table.csv", "columns": {"file": "file"}},
            "limits": limits.model_dump(),
        }
    )


def gated(answer: Answer, asked: Request, limits: DisclosureLimits, stage: str = "evaluate") -> Any:
    """Pass an answer through the gate and read what came out."""
    made = release(answer, asked, stage=stage, settings=settings(limits))
    declared = payload_type(stage, asked.phase)
    assert declared is not None
    return decode_payload(made.body, declared, stamp_of(asked, "a"))


@dataclass(frozen=True)
class Evaluated:
    """What the coordinator knows of one draw, and the exact AUC of all ECGs of the sites that are pooled."""

    head: PooledHead
    placements: dict[str, Placement]
    bounds: Bounded
    auc: Estimate
    within: Estimate
    exact: float


def evaluated(heads: list[Scored], limits: DisclosureLimits = LIMITS) -> Evaluated | None:
    """Evaluate one draw; None where no site may release its counts."""
    local: dict[str, LocalResults] = {}
    sketches, cases = {}, {}
    for i, head in enumerate(heads):
        local[str(i)] = gated(
            local_answer([head], STEP, limits, cuts=[None], patients_known=True), request("local"), limits
        )
        reply = gated(scale_answer([head], limits), request("scale"), limits)
        sketches[str(i)] = released_sketches(reply.head, reply.case, reply.mean, reply.ecgs, 0)
        cases[str(i)] = (sketches[str(i)][1].mean, sketches[str(i)][1].ecgs)
    cuts = padded([evaluation_cuts(list(sketches.values()), STEP.top_shares)])
    asked = request("histogram", cuts=cuts)
    counts, rates = {}, {}
    for i, head in enumerate(heads):
        reply = gated(histogram_answer([head], limits, read_cuts(asked, 1)), asked, limits)
        found = site_cuts(reply.lower, reply.upper, reply.controls, reply.cut, reply.cases)
        if found is not None:
            counts[str(i)] = found
            rates[str(i)] = SiteRates(reply.predicted, reply.rate.reshape(-1, 4), reply.group.reshape(-1, 6))
    if not counts:
        return None
    pooled = PooledHead(
        {s: local[s] for s in counts},
        counts,
        rates,
        {s: cases[s] for s in counts},
        0,
        tuple(cuts[0].tolist()),
        None,
        tuple(s for s in local if s not in counts),
    )
    placements = {}
    if len(counts) > 1:
        curve = request("placement", cuts=cuts, **request_arrays(pooled))
        for s in counts:
            answer = placement_answer(heads[int(s)], curve, read_cuts(curve, 1)[0], limits)
            placements[s] = gated(answer, curve, limits)
    bounds, auc = pooled_auc(pooled, placements)
    members = [heads[int(s)] for s in counts]
    risk, y = (np.concatenate([getattr(h, name) for h in members]) for name in ("risk", "y"))
    return Evaluated(
        pooled, placements, bounds, auc, auc_within(pooled), clustered_auc(risk, y, np.arange(len(y))).value
    )


def draws(design: Design, n: int, seed: int = 0) -> Iterator[Evaluated | None]:
    """Evaluate ``n`` draws of a design."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield evaluated(design.draw(rng))


@dataclass(frozen=True)
class Row:
    """Bias and coverage of one figure over draws; ``shown``, ``judged``: share with a value, with an interval."""

    shown: float
    bias: float
    judged: float
    coverage: float
    width: float

    @classmethod
    def of(cls, figures: list[tuple[Estimate, float]], widths: list[float], n: int) -> Row:
        """Summarise (estimate, exact value) of the draws that have one."""
        with_value = [(e, x) for e, x in figures if np.isfinite(e.value)]
        with_interval = [e for e, _ in with_value if np.isfinite(e.low)]
        return cls(
            len(with_value) / n,
            float(np.mean([e.value - x for e, x in with_value])) if with_value else np.nan,
            len(with_interval) / n,
            float(np.mean([e.low <= TRUE_AUC <= e.high for e in with_interval])) if with_interval else np.nan,
            float(np.mean(widths)) if widths else np.nan,
        )


def table_row(design: Design, n: int, seed: int = 0) -> tuple[Row, Row]:
    """Return the rows of the pooled AUC and of the AUC within sites; the bounds hold the exact value every time."""
    pooled, within, widths = [], [], []
    for found in draws(design, n, seed):
        if found is None:
            continue
        assert found.bounds.low - 1e-12 <= found.exact <= found.bounds.high + 1e-12
        pooled.append((found.auc, found.exact))
        within.append((found.within, found.exact))
        if np.isfinite(found.auc.value):
            widths.append(found.bounds.high - found.bounds.low)
    return Row.of(pooled, widths, n), Row.of(within, [], n)
