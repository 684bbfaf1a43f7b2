"""overlap, at the site: who is at high risk, who has the marker, and how often the event follows in each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.rows.allowance import spend, spend_score
from client.rows.binned import sketches
from client.rows.context import SiteContext
from client.rows.cut_sets import open_cuts, open_group, outcome_parts
from client.rows.risk import Scored, received, rows_under, score_rows, with_outcome
from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import RefusalCode, Refused, StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.privacy.unions import Cells, told_unions
from ecgshared.stages.overlap import (
    GROUPS,
    PAIRS,
    UNKNOWN,
    YES,
    CellCounts,
    Config,
    Errors,
    Matched,
    Scale,
    fixed,
    groups_of_cells,
    outcome_of,
    partitions,
)
from ecgshared.stats.influence import UNDEFINED, by_patient, clustered_ratio, ratio_square_sum
from ecgshared.stats.rate_difference import rate_difference, rate_difference_influence
from ecgshared.stats.score_scale import HIGHEST, score_of
from ecgshared.wire.protocol import Answer, Evidence, Request

_G, _D = len(GROUPS), len(PAIRS)


@dataclass(frozen=True)
class OverlapRows:
    """ECGs with a risk and the outcome.

    Attributes
    ----------
    level : int array, shape = (n,): NO, YES or UNKNOWN. cut : score at which high risk begins.
    other : the second cut; HIGHEST where there is none.
    closed : cuts of which nothing may be told beside those of other steps.
    """

    scored: Scored
    level: Ints
    cut: float
    limits: DisclosureLimits
    other: float = HIGHEST
    closed: frozenset[float] = frozenset()

    @cached_property
    def _score(self) -> Floats:
        return score_of(self.scored.risk)

    @cached_property
    def cell(self) -> Ints:
        """3 x band + level; bands ascend from below all cuts."""
        cuts = sorted({cut for cut in (self.cut, self.other) if cut < HIGHEST})
        return np.asarray(3 * np.searchsorted(cuts, self._score, side="right") + self.level, dtype=np.int64)

    def groups(self, cut: float) -> list[Cells]:
        """Return the cells of each group with high risk from ``cut`` on."""
        return groups_of_cells(*self._bands(cut))

    def _bands(self, cut: float) -> tuple[tuple[int, ...], int]:
        cuts = sorted({known for known in (self.cut, self.other) if known < HIGHEST})
        return tuple(range(cuts.index(cut) + 1, len(cuts) + 1)) if cut in cuts else (), len(cuts) + 1

    def inside(self, cut: float) -> list[Bools]:
        """Mark the ECGs of each group."""
        return [np.asarray(np.isin(self.cell, list(group)), dtype=np.bool_) for group in self.groups(cut)]

    def told(self, cut: float) -> tuple[Bools, Bools]:
        """Return of which groups sizes may be told, and of which events; shape = (G,) each."""
        if cut in self.closed:
            return np.zeros(_G, dtype=np.bool_), np.zeros(_G, dtype=np.bool_)
        unions, parts = self.groups(cut), partitions(self._bands(cut)[1])
        patient, y = self.scored.patient, self.scored.y
        sizes = told_unions(unions, parts, self.cell, patient, self.limits)
        return sizes, sizes & told_unions(unions, parts, self.cell, patient, self.limits, y)


def cells(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``cells``."""
    rows = _rows(site, request)
    counted, evidence = counts(rows, rows.cut, patients_known=site.data.patients_known)
    left_out = Evidence(np.array([rows.scored.left_out_patients]))
    return Answer(
        CellCounts(**counted, left_out=np.array([float(rows.scored.left_out)])), {**evidence, "left_out": left_out}
    )


def scale(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``scale``."""
    columns, patients = sketches([_rows(site, request).scored], site.settings.limits)
    return Answer(Scale(**columns), dict.fromkeys(columns, Evidence(patients)))


def matched(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``matched``: at one other cut, whatever a coordinator asks for."""
    other = float(received(request, "other", (1,))[0])
    spend(site, request, "matched", cap=1, of=["other"])
    rows = _rows(site, request, other)
    counted, evidence = counts(rows, other, patients_known=site.data.patients_known)
    return Answer(Matched(**counted), evidence)


def errors(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``errors``: at the pooled rates sent."""
    other = float(received(request, "other", (1,))[0])
    rates = received(request, "rates", (2, _G))
    pairs = received(request, "pair_rates", (2, _D, 2)), received(request, "pair_ecgs", (2, _D, 2))
    if other < HIGHEST:
        spend(site, request, "matched", cap=1, of=["other"])
    spend(site, request, "errors", cap=1, of=["other", "rates", "pair_rates", "pair_ecgs"])
    return errors_answer(_rows(site, request), _rows(site, request, other), rates, pairs)


def errors_answer(fixed: OverlapRows, matched: OverlapRows, rates: Floats, pairs: tuple[Floats, Floats]) -> Answer:
    """Sum squared influences on the pooled rates and on their differences.

    Parameters
    ----------
    matched : the same ECGs with the other cut too; HIGHEST where there is none.
    rates : shape = (2, G), at the fixed cut and at the other. pairs : pooled rates and ECGs, shape = (2, D, 2) each.
    """
    squares, pair_squares, pair_fourths = np.zeros((2, _G)), np.zeros((2, _D)), np.zeros((2, _D))
    of_groups, of_pairs = np.zeros((2, _G), dtype=np.int64), np.zeros((2, _D), dtype=np.int64)
    for i, (at, cut) in enumerate(((fixed, fixed.cut), (matched, matched.other))):
        if cut >= HIGHEST:
            continue
        inside, (_, told) = at.inside(cut), at.told(cut)
        for g in range(_G):
            flags = inside[g].astype(np.float64)
            squares[i, g] = ratio_square_sum(flags * at.scored.y, flags, at.scored.patient, float(rates[i, g]))
            of_groups[i, g] = _people(at.scored.patient, inside[g]) if told[g] else 0
        for d, (first, second) in enumerate(_numbers()):
            each = rate_difference_influence(
                at.scored.y,
                (inside[first], inside[second]),
                (pairs[0][i, d, 0], pairs[0][i, d, 1]),
                (pairs[1][i, d, 0], pairs[1][i, d, 1]),
            )
            person = by_patient(each, at.scored.patient)
            pair_squares[i, d], pair_fourths[i, d] = (person**2).sum(), (person**4).sum()
            of_pairs[i, d] = min(of_groups[i, first], of_groups[i, second])
    evidence = dict.fromkeys(("pair_squares", "pair_fourths"), Evidence(of_pairs))
    return Answer(Errors(squares, pair_squares, pair_fourths), {"squares": Evidence(of_groups), **evidence})


PHASES = {"cells": cells, "scale": scale, "matched": matched, "errors": errors}


def counts(rows: OverlapRows, cut: float, *, patients_known: bool) -> tuple[dict[str, Floats], dict[str, Evidence]]:
    """Return every group's counts and the site's own rates, with high risk from ``cut`` on, and what stands behind."""
    patient, y = rows.scored.patient, rows.scored.y
    inside, (sized, told) = rows.inside(cut), rows.told(cut)
    sizes, events, rate = np.zeros((_G, 2)), np.zeros((_G, 2)), np.full((_G, 4), np.nan)
    people, rarer = np.zeros(_G, dtype=np.int64), np.zeros(_G, dtype=np.int64)
    for g, group in enumerate(inside):
        n, with_event = _people(patient, group), _people(patient, group & (y == 1))
        people[g], rarer[g] = n, min(with_event, n - with_event)
        sizes[g] = group.sum(), n if patients_known else np.nan
        events[g] = (group & (y == 1)).sum(), with_event if patients_known else np.nan
        rate[g] = (clustered_ratio(group * y, group * 1.0, patient) if n else UNDEFINED).as_array()
    difference, of_pairs = np.full((_D, 5), np.nan), np.zeros((2, _D), dtype=np.int64)
    for d, (first, second) in enumerate(_numbers()):
        try:
            difference[d] = rate_difference(y, inside[first], inside[second], patient)
        except StatisticsError:
            continue
        both = told[first] & told[second]
        of_pairs[:, d] = (min(people[first], people[second]), min(rarer[first], rarer[second])) if both else (0, 0)
    # A group with nobody in it is told as such where its table is: the other cells add up to all.
    nobody = people == 0
    least = np.where(nobody, people[0], people)
    return (
        {"sizes": sizes, "events": events, "rate": rate, "difference": difference},
        {
            "sizes": Evidence(np.where(sized, least, 0)),
            "events": Evidence(np.where(told, least, 0), np.where(nobody, rarer[0], rarer)),
            "rate": Evidence(np.where(told & ~nobody, people, 0), rarer),
            "difference": Evidence(of_pairs[0], of_pairs[1]),
        },
    )


def _numbers() -> Sequence[tuple[int, int]]:
    return [(GROUPS.index(first), GROUPS.index(second)) for first, second in PAIRS]


def _people(patient: Ints, inside: Bools) -> int:
    return len(np.unique(patient[inside]))


def _rows(site: SiteContext, request: Request, other: float = HIGHEST) -> OverlapRows:
    step = site.step
    if not isinstance(step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step tells no overlap", value=step.stage)
    data, threshold = site.data, fixed(step, site.study)
    rows = rows_under(site, data.rows("lockbox"), step.max_age)
    risk = score_rows(site, request, threshold, rows)
    spend_score(site, request)
    cut = float(received(request, f"{threshold.id}.cut", (1,))[0])
    label = data.labels[rows, data.heads.index(outcome_of(step, site.study))]
    kept = rows[np.isfinite(risk) & np.isfinite(label)]
    columns: dict[str, NDArray[Any]] = {"age": data.age, "male": data.male, **data.covariates, **data.columns}
    yes = step.factor.of({step.factor.column: np.asarray(columns[step.factor.column][kept], dtype=np.float64)})
    level = np.where(np.isnan(yes), UNKNOWN, np.nan_to_num(yes)).astype(np.int64)
    scored = with_outcome(site, rows, risk, outcome_of(step, site.study))
    return OverlapRows(
        scored, level, cut, site.settings.limits, other, _closed(site, request, step, scored, level, (cut, other))
    )


def _closed(
    site: SiteContext, request: Request, step: Config, scored: Scored, level: Ints, cuts: Sequence[float]
) -> frozenset[float]:
    """Return the cuts that are closed by those of other steps; all of them where the marker's bound is."""
    assert scored.rows is not None
    parts = outcome_parts(site.study, {outcome_of(step, site.study): scored.y.astype(np.float64)})
    marked = {f"{topic} within bounds of {step.factor.column}": part & (level == YES) for topic, part in parts.items()}
    if not open_group(site, scored.rows, marked, step.factor.text):
        return frozenset(cuts)
    known = [cut for cut in dict.fromkeys(cuts) if cut < HIGHEST]
    told = open_cuts(site, request, scored.rows, score_of(scored.risk), known, parts, any_score=True)
    return frozenset(cut for cut, is_told in zip(known, told, strict=True) if not is_told)
