"""Coverage of what the judging stages print, at hospitals so small that a few events decide who may tell.

Three hospitals drawn from a known truth, many times; each answers through its own handlers and the gate under default
limits, and the coordinator's own functions put the answers together. An interval that is printed must hold the truth
as often as it says, and where hospitals tell by luck (five events expected, of which five are asked) there must be
none: of all draws, no more may print an interval that misses than a 95% interval may.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pooled_designs import DISTANCE, LIMITS, TRUE_AUC, gated, request, scored
from scipy.stats import norm

from client.rows.binned import sketches
from client.stages.arrhythmia import ArrhythmiaRows, curve_answer, errors_answer
from client.stages.high_risk import ProfileRows, tell_answer
from client.stages.overlap import OverlapRows, counts
from client.stages.overlap import errors_answer as overlap_errors
from ecgshared.arrays import Floats
from ecgshared.stages.high_risk import Config as HighRisk
from ecgshared.stages.high_risk import Told
from ecgshared.stages.overlap import GROUPS, PAIRS, CellCounts, groups_of_cells
from ecgshared.stats.influence import by_patient
from ecgshared.stats.score_scale import HIGHEST, normal_cuts, score_of
from ecgshared.study.endpoints import EventTimes
from ecgshared.wire.protocol import Answer
from server.pooling.arrhythmia import Curves, own, pooled
from server.pooling.cuts import evaluation_cuts, released_sketches
from server.pooling.summed_evaluation import _area_estimate
from server.stages.high_risk import _profile
from server.stages.overlap import Counted, _at_cut, _own, _rate, _with_both, _with_events

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

SITES, DRAWS = 3, 400
SIZES = ((5, 45), (7, 45), (10, 60), (20, 120), (40, 400))
"""Events expected at each hospital, of so many patients."""
Printed = tuple[str, float, Any]
"""A figure's name, its true value, and the estimate that is printed."""


@dataclass(frozen=True)
class Truth:
    """Scores are binormal: a case's lies ``DISTANCE`` higher; ``rate`` have the event, and a marker goes with it."""

    rate: float
    cut: float = 1.0
    marker: tuple[float, float] = (0.25, 0.55)

    def draw(self, rng: np.random.Generator, n: int) -> tuple[Floats, Floats, Floats]:
        """Return scores, outcomes and markers, shape = (n,) each."""
        y = (rng.random(n) < self.rate).astype(np.float64)
        mark = (rng.random(n) < np.where(y == 1, self.marker[1], self.marker[0])).astype(np.float64)
        return rng.normal(size=n) + DISTANCE * y, y, mark

    @property
    def flagged(self) -> tuple[float, float]:
        """Shares of controls and of cases above the cut."""
        return float(norm.sf(self.cut)), float(norm.sf(self.cut - DISTANCE))

    def rate_of(self, controls: float, cases: float) -> float:
        """Return the event rate of a group that holds these shares of controls and of cases."""
        return self.rate * cases / (self.rate * cases + (1 - self.rate) * controls)


def high_risk(truth: Truth, rng: np.random.Generator, patients: int) -> Iterator[Printed]:
    """Share of events flagged, and cumulative incidence at two years, exponential times, a tenth lost a year."""
    step = HighRisk(id="p", stage="high_risk", event="scd", uses=("cut",), times_years=(1.0, 2.0))
    told: dict[str, Told] = {}
    for s in range(SITES):
        score, y, mark = truth.draw(rng, patients)
        # Who has the event has it evenly within two years; who is lost earlier is not seen to have it.
        event, lost = np.where(y == 1, 2 * rng.random(patients), 9.0), rng.exponential(10.0, patients)
        years, seen = np.minimum(np.minimum(event, lost), 3.0), event <= lost
        blank = np.full(patients, np.nan)
        rows = ProfileRows(
            1 / (1 + np.exp(-score)), score >= truth.cut, np.arange(patients), {"male": mark}, blank, blank, y, (),
            EventTimes(years, seen & (event <= 3.0)), np.zeros(0, dtype=np.int64),
        )  # fmt: skip
        told[str(s)] = gated(tell_answer(rows, step, LIMITS, patients_known=True), request("tell"), LIMITS, "high_risk")
    controls, cases = truth.flagged
    true = {"high": truth.rate_of(controls, cases), "others": truth.rate_of(1 - controls, 1 - cases)}
    for who, mine in [("pooled", told), *((f"site {s}", {s: told[s]}) for s in told)]:
        profile = _profile(step, mine, ["male"])
        name = who.split()[0]
        yield f"{name}: events flagged", cases, profile["captured"]["high_risk"].captured
        for group, incidence in profile["incidence"].items():
            for k, share in ((0, 0.5), (1, 1.0)):
                yield f"{name}: incidence, {group}", share * true[group], _at(incidence, k)


@dataclass(frozen=True)
class _Plain:
    value: float | None
    low: float | None
    high: float | None


def _at(incidence: Any, k: int) -> _Plain:
    return _Plain(incidence.risk[k], incidence.low[k], incidence.high[k])


def overlap(truth: Truth, rng: np.random.Generator, patients: int) -> Iterator[Printed]:
    """Event rates of those at high risk, with the marker, both and neither, and their differences."""
    rows: dict[str, OverlapRows] = {}
    cells: dict[str, Counted] = {}
    for s in range(SITES):
        score, y, mark = truth.draw(rng, patients)
        rows[str(s)] = OverlapRows(scored(score, y.astype(np.int64)), mark.astype(np.int64), truth.cut, LIMITS)
        counted, evidence = counts(rows[str(s)], truth.cut, patients_known=True)
        answer = Answer(CellCounts(**counted, left_out=np.zeros(1)), {**evidence, "left_out": _nobody()})
        found = Counted.of(gated(answer, request("cells"), LIMITS, "overlap"))
        assert found is not None
        cells[str(s)] = found
    rates, pair_rates, pair_ecgs = np.zeros((2, len(GROUPS))), *(np.zeros((2, len(PAIRS), 2)) for _ in range(2))
    pairs = [tuple(GROUPS.index(g) for g in pair) for pair in PAIRS]
    for g in range(len(GROUPS)):
        rates[0, g] = _rate(cells, g, _with_events(cells, g))
    for d, (first, second) in enumerate(pairs):
        sites = _with_both(cells, (first, second))
        for side, g in enumerate((first, second)):
            pair_rates[0, d, side] = _rate(cells, g, sites)
            pair_ecgs[0, d, side] = sum(cells[s].sizes[g, 0] for s in sites)
    errors = {
        s: gated(overlap_errors(r, r, rates, (pair_rates, pair_ecgs)), request("errors"), LIMITS, "overlap")
        for s, r in rows.items()
    }
    true = dict(zip(GROUPS, _true_rates(truth), strict=True))
    for who, at in [
        ("pooled", _at_cut(cells, errors, 0, truth.cut)),
        *(("site", _own(s, cells[s], truth.cut)) for s in cells),
    ]:
        for name in ("high", "marker", "both", "high_only", "neither"):
            yield f"{who}: rate", true[name], at.groups[name].rate
        for one in at.differences:
            yield f"{who}: difference", true[one.first] - true[one.second], one.difference


def _true_rates(truth: Truth) -> list[float]:
    rates = []
    above, marked = truth.flagged, truth.marker
    for cells in groups_of_cells((1,), 2):
        shares = [0.0, 0.0]
        for cell in cells:
            band, level = divmod(cell, 3)
            for y in (0, 1):
                high = above[y] if band else 1 - above[y]
                shares[y] += high * {0: 1 - marked[y], 1: marked[y], 2: 0.0}[level]
        rates.append(truth.rate_of(*shares) if sum(shares) > 0 else np.nan)
    return rates


def _nobody() -> Any:
    from ecgshared.wire.protocol import Evidence

    return Evidence(np.zeros(1, dtype=np.int64))


def arrhythmia(truth: Truth, rng: np.random.Generator, patients: int) -> Iterator[Printed]:
    """Rates above shared cuts of one outcome, VF/VT."""
    sites: dict[str, ArrhythmiaRows] = {}
    sketched = []
    for s in range(SITES):
        score, y, _ = truth.draw(rng, patients)
        rows = ArrhythmiaRows(score, 1 / (1 + np.exp(-score)), np.arange(patients), {"vfvt": y})
        sites[str(s)] = rows
        columns, _ = sketches([rows.whole()], LIMITS)
        sketched.append(released_sketches(columns["head"], columns["case"], columns["mean"], columns["ecgs"], 0))
    cuts = tuple(dict.fromkeys([truth.cut, *evaluation_cuts(sketched, (0.05, 0.1, 0.2, 0.5))]))
    curve = request("curve", cuts=np.array(cuts))
    replies = {}
    for s, rows in sites.items():
        reply = gated(curve_answer(rows, cuts, LIMITS, patients_known=True), curve, LIMITS, "arrhythmia")
        if len(reply.cut) and np.isfinite(reply.cut).all():
            replies[s] = reply
    if not replies:
        return
    curves = Curves(cuts, replies, {}, truth.cut, HIGHEST)
    asked = request("errors", cuts=np.array(cuts), rates=curves.rates())
    errors = {
        s: gated(errors_answer(sites[s], cuts, curves.rates(), LIMITS), asked, LIMITS, "arrhythmia") for s in replies
    }
    # The group was asked of all its sites; who told nothing of the whole is not in the curves.
    curves = Curves(cuts, replies, errors, truth.cut, HIGHEST, asked=SITES)
    for who, incidence in [("pooled", pooled(curves)["vfvt"]), *(("site", own(s, curves)["vfvt"]) for s in replies)]:
        for point in incidence.points:
            at = -np.inf if not point.cutoff else float(score_of(np.array([point.cutoff]))[0])
            true = truth.rate_of(float(norm.sf(at)), float(norm.sf(at - DISTANCE)))
            yield f"{who}: rate", true, point.rate


def summed_evaluate(truth: Truth, rng: np.random.Generator, patients: int) -> Iterator[Printed]:
    """The AUC of sums over all hospitals, under the limits of all of them together, as the stage makes it."""
    score, y, _ = truth.draw(rng, SITES * patients)
    who, free, case = np.arange(len(y)), score[y == 0], score[y == 1]
    if len(case) < LIMITS.min_events:
        return
    bins = 64
    while True:
        cuts = normal_cuts(np.array([len(free), free.sum(), free @ free]), bins)
        held = np.bincount(np.searchsorted(cuts, free, side="right"), minlength=bins)
        if held.min() >= LIMITS.min_patients or bins < 4:
            break
        bins = bins * 3 // 4
    if held.min() < LIMITS.min_patients:
        return
    below = np.concatenate([[0.0], np.cumsum(held)]) / held.sum()
    group = np.searchsorted(cuts, case, side="right")
    low, high = below[group], below[group + 1]
    summed, ecgs = (by_patient(values, who[y == 1]) for values in ((low + high) / 2, np.ones(len(case))))
    squares = np.array([summed @ summed, summed @ ecgs, ecgs @ ecgs])
    found = _area_estimate((low.mean(), high.mean()), squares, len(case), len(case), len(free))
    yield "together: AUC", TRUE_AUC, _Plain(found.value, _known(found.low), _known(found.high))


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


STAGES: dict[str, Callable[[Truth, np.random.Generator, int], Iterator[Printed]]] = {
    "high_risk": high_risk,
    "overlap": overlap,
    "arrhythmia": arrhythmia,
    "summed_evaluate": summed_evaluate,
}


@pytest.mark.parametrize(("events", "patients"), SIZES)
@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_prints_at_small_hospitals_holds_the_truth(stage: str, events: int, patients: int) -> None:
    rng, truth = np.random.default_rng(events), Truth(events / patients)
    told: dict[str, list[list[bool]]] = defaultdict(list)
    for _ in range(DRAWS):
        drawn: dict[str, list[bool]] = defaultdict(list)
        for name, true, found in STAGES[stage](truth, rng, patients):
            if found.low is not None and found.high is not None:
                drawn[name].append(bool(found.low - 1e-12 <= true <= found.high + 1e-12))
        for name, held in drawn.items():
            told[name].append(held)
    print(f"\n{stage}, {SITES} x {patients}, {events} events expected at each, {DRAWS} draws")
    wrong = []
    for name, per_draw in sorted(told.items()):
        # Figures of one draw are told of the same patients: the draws are independent, not the figures.
        held = np.array([np.mean(one) for one in per_draw])
        coverage, draws = float(held.mean()), len(held)
        error = max(float(held.std(ddof=1)) if draws > 1 else 0.0, 0.03) / np.sqrt(draws)
        missed = float((1 - held).sum()) / DRAWS
        print(f"  {name:<28}{draws:>5} draws with an interval, which holds {100 * coverage:5.1f}%")
        if coverage < 0.93 - 3 * error and missed > 0.02:
            wrong.append(name)
    assert not wrong
