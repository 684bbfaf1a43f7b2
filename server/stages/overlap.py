"""overlap, at the coordinator: every site's groups, then those over sites, at the fixed cut and at one of like size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.stages.overlap import (
    GROUPS,
    PAIRS,
    CellCounts,
    Config,
    Errors,
    Matched,
    Result,
    Scale,
    fixed,
    outcome_of,
)
from ecgshared.stages.results.base import Absences, Group
from ecgshared.stages.results.overlap import AtCut, Difference, GroupOverlap, Overlap, SiteOverlap
from ecgshared.stats.influence import ratio_estimate
from ecgshared.stats.rate_difference import difference_estimate
from ecgshared.stats.score_scale import HIGHEST, pooled_sketch, quantile_cut, risk_of
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, bare, est, number, quorum
from server.pooling.cuts import released_sketches
from server.pooling.head import by_luck
from server.report.labels import NO_LABELS, Labels
from server.report.overlap import sections
from server.report.sections import Section
from server.rounds.step_context import Artefact, StepContext

_G, _D = len(GROUPS), len(PAIRS)
_ALL, _MARKER = GROUPS.index("all"), GROUPS.index("marker")


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Ask the cells, choose a cut of the marker's size, ask there, then the errors; training sites and others apart."""
    if not isinstance(step, Config):
        raise TypeError("an overlap step's configuration was expected")
    study, threshold = context.study, fixed(step, context.study)
    cut = float(context.inputs[threshold.id].arrays["cut"][0])
    absent: Absences = {}
    context.progress(0, 4, "who is at high risk, and who has the marker")
    asked = _Asked(context, absent, cut)
    cells = asked.counts("cells", context.sites, {})
    sites: dict[str, SiteOverlap] = {}
    pooled: dict[Group, Overlap] = {}
    groups: dict[Group, tuple[str, ...]] = {"training": study.sites.train, "zero_shot": study.sites.zero_shot}
    for i, (group, names) in enumerate(groups.items()):
        mine = {s: cells[s] for s in names if s in cells}
        if not mine:
            continue
        context.progress(1 + i, 4, f"pooled, {group.replace('_', '-')}")
        other, matched = asked.matched(step, mine) if cut < HIGHEST else (HIGHEST, {})
        errors = asked.errors(mine, matched, other) if cut < HIGHEST else {}
        pooled[group] = Overlap(
            fixed=_at_cut(mine, errors, 0, cut), matched=_at_cut(matched, errors, 1, other) if matched else None
        )
        for site, found in mine.items():
            sites[site] = SiteOverlap(
                group=group,
                left_out=number(found.left_out[0]),
                overlap=Overlap(
                    fixed=_own(site, found, cut),
                    matched=_own(site, matched[site], other) if site in matched else None,
                ),
            )
    result = Result(
        outcome=outcome_of(step, study),
        marker=step.marker,
        label=step.marker_label or "",
        cutoff=number(risk_of(cut)) if cut < HIGHEST else None,
        sites={s: sites[s] for s in context.sites if s in sites},
        pooled=pooled,
        absent=absent,
    )
    return Artefact(step.id, "overlap", result, {})


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """The circles, the table of groups, and the comparisons."""
    return sections(artefact.step, artefact.result, labels)


@dataclass(frozen=True)
class Counted:
    """One site's counts at a cut; NaN where withheld. See :class:`ecgshared.stages.overlap.CellCounts`."""

    sizes: Floats
    events: Floats
    rate: Floats
    difference: Floats
    left_out: Floats = field(default_factory=lambda: np.full(1, np.nan))

    @classmethod
    def of(cls, reply: CellCounts | Matched) -> Counted | None:
        """Read a reply; None where it has other shapes."""
        shapes = tuple(np.shape(value) for value in (reply.sizes, reply.events, reply.rate, reply.difference))
        if shapes != ((_G, 2), (_G, 2), (_G, 4), (_D, 5)):
            return None
        left_out = reply.left_out if isinstance(reply, CellCounts) else np.full(1, np.nan)
        return cls(reply.sizes, reply.events, reply.rate, reply.difference, left_out)


@dataclass(frozen=True)
class _Asked:
    """The questions of a step."""

    context: StepContext
    absent: Absences
    cut: float

    def _ask(self, phase: str, sites: tuple[str, ...], arrays: Mapping[str, Floats]) -> Mapping[str, object]:
        if not sites:
            return {}
        replies = self.context.ask(phase, arrays=arrays, sites=sites, quorum=quorum(self.context, sites))
        absences(replies, self.absent, phase)
        return replies.by_site

    def counts(self, phase: str, sites: tuple[str, ...], arrays: Mapping[str, Floats]) -> dict[str, Counted]:
        """Ask for the counts at a cut."""
        found = {}
        for site, reply in self._ask(phase, sites, arrays).items():
            read = Counted.of(reply) if isinstance(reply, CellCounts | Matched) else None
            if read is None:
                self.absent.setdefault(site, {})[phase] = "wrong-shape"
            else:
                found[site] = read
        return found

    def matched(self, step: Config, cells: Mapping[str, Counted]) -> tuple[float, dict[str, Counted]]:
        """Ask at the cut above which about as many ECGs lie as have the marker; nobody where that is not known."""
        told = [c for c in cells.values() if np.isfinite(c.sizes[[_ALL, _MARKER], 0]).all()]
        share = sum(c.sizes[_MARKER, 0] for c in told) / max(sum(c.sizes[_ALL, 0] for c in told), 1.0)
        if not step.size_matched or not 0 < share < 1:
            return HIGHEST, {}
        sketches = [
            part
            for reply in self._ask("scale", tuple(cells), {}).values()
            if isinstance(reply, Scale)
            for part in released_sketches(reply.head, reply.case, reply.mean, reply.ecgs, 0)
        ]
        mean, ecgs = pooled_sketch(sketches)
        if not len(mean):
            return HIGHEST, {}
        other = quantile_cut(mean, ecgs, share)
        return other, self.counts("matched", tuple(cells), {"other": np.array([other])})

    def errors(self, cells: Mapping[str, Counted], matched: Mapping[str, Counted], other: float) -> dict[str, Errors]:
        """Ask for the squared influences at the pooled rates."""
        rates, pair_rates, pair_ecgs = np.zeros((2, _G)), np.zeros((2, _D, 2)), np.zeros((2, _D, 2))
        for i, counted in enumerate((cells, matched)):
            for g in range(_G):
                rates[i, g] = _rate(counted, g, _with_events(counted, g))
            for d, pair in enumerate(_pairs()):
                sites = _with_both(counted, pair)
                for side, g in enumerate(pair):
                    pair_rates[i, d, side] = _rate(counted, g, sites)
                    pair_ecgs[i, d, side] = sum(counted[s].sizes[g, 0] for s in sites)
        arrays = {"other": np.array([other]), "rates": rates, "pair_rates": pair_rates, "pair_ecgs": pair_ecgs}
        found = {}
        for site, reply in self._ask("errors", tuple(cells), arrays).items():
            assert isinstance(reply, Errors)
            if (np.shape(reply.squares), np.shape(reply.pair_squares)) == ((2, _G), (2, _D)):
                found[site] = reply
            else:
                self.absent.setdefault(site, {})["errors"] = "wrong-shape"
        return found


def _pairs() -> list[tuple[int, int]]:
    return [(GROUPS.index(first), GROUPS.index(second)) for first, second in PAIRS]


def _sized(counted: Mapping[str, Counted], g: int) -> tuple[str, ...]:
    return tuple(s for s, c in counted.items() if np.isfinite(c.sizes[[g, _ALL], 0]).all())


def _with_events(counted: Mapping[str, Counted], g: int) -> tuple[str, ...]:
    return tuple(s for s in _sized(counted, g) if np.isfinite(counted[s].events[g, 0]))


def _with_both(counted: Mapping[str, Counted], pair: tuple[int, int]) -> tuple[str, ...]:
    return tuple(s for s in _with_events(counted, pair[0]) if s in _with_events(counted, pair[1]))


def _rate(counted: Mapping[str, Counted], g: int, sites: tuple[str, ...]) -> float:
    ecgs = sum(counted[s].sizes[g, 0] for s in sites)
    return float(sum(counted[s].events[g, 0] for s in sites) / ecgs) if ecgs > 0 else 0.0


def _at_cut(counted: Mapping[str, Counted], errors: Mapping[str, Errors], i: int, cut: float) -> AtCut:
    """Put the sites of one group together, each group of ECGs over those that told it."""
    return AtCut(
        cutoff=number(risk_of(cut)) if cut < HIGHEST else None,
        groups={name: _group(counted, errors, i, g) for g, name in enumerate(GROUPS)},
        differences=tuple(_difference(counted, errors, i, d) for d in range(_D)),
    )


def _group(counted: Mapping[str, Counted], errors: Mapping[str, Errors], i: int, g: int) -> GroupOverlap:
    sized, told = _sized(counted, g), _with_events(counted, g)
    ecgs, patients = (sum(counted[s].sizes[g, k] for s in sized) for k in (0, 1))
    everybody = sum(counted[s].sizes[_ALL, 0] for s in sized)
    events, cases = (sum(counted[s].events[g, k] for s in told) for k in (0, 1))
    n, people = (sum(counted[s].sizes[g, k] for s in told) for k in (0, 1))
    # A site without patient identifiers counts each ECG as one.
    people = people if np.isfinite(people) else n
    squares = sum(float(errors[s].squares[i, g]) if s in errors else np.nan for s in told)
    rate = est(
        ratio_estimate(_rate(counted, g, told), squares, n, people, scale="logit", patients_in=people)
        if n > 0 and np.isfinite(squares)
        else np.array([_rate(counted, g, told) if n > 0 else np.nan, np.nan, np.nan, np.nan])
    )
    return GroupOverlap(
        sites=sized,
        ecgs=number(ecgs) if sized else None,
        patients=number(patients) if sized else None,
        share=number(ecgs / everybody) if sized and everybody > 0 else None,
        rate_sites=told,
        events=number(events) if told else None,
        event_patients=number(cases) if told else None,
        rate=bare(rate) if _by_luck(counted, told, events) else rate,
    )


def _by_luck(counted: Mapping[str, Counted], told: tuple[str, ...], events: float) -> bool:
    """Say whether sites are put together for the events they happened to have, whether or not another had too few."""
    return by_luck(events, len(told), len(counted))


def _difference(counted: Mapping[str, Counted], errors: Mapping[str, Errors], i: int, d: int) -> Difference:
    pair = _pairs()[d]
    sites = _with_both(counted, pair)
    ecgs = [sum(counted[s].sizes[g, 0] for s in sites) for g in pair]
    value = _rate(counted, pair[0], sites) - _rate(counted, pair[1], sites) if min(ecgs, default=0) > 0 else np.nan
    parts = [
        (float(errors[s].pair_squares[i, d]), float(errors[s].pair_fourths[i, d])) if s in errors else (np.nan, np.nan)
        for s in sites
    ]
    squares, fourths = (sum(part[k] for part in parts) for k in (0, 1))
    people = max((sum(_people(counted[s].sizes[g]) for s in sites) for g in pair), default=0.0)
    cases = [sum(_people(counted[s].events[g]) for s in sites) for g in pair]
    found, p = difference_estimate(value, squares, fourths, people, min(cases))
    told = est(found)
    chosen = any(_by_luck(counted, sites, sum(counted[s].events[g, 0] for s in sites)) for g in pair)
    first, second = PAIRS[d]
    return Difference(
        first=first,
        second=second,
        sites=sites,
        difference=bare(told) if chosen else told,
        p=None if chosen else number(p),
    )


def _people(counts: Floats) -> float:
    """Patients, or ECGs where they are not known."""
    return float(counts[1]) if np.isfinite(counts[1]) else float(counts[0])


def _own(site: str, c: Counted, cut: float) -> AtCut:
    """One site's own groups, as it told them."""
    groups = {}
    for g, name in enumerate(GROUPS):
        sized, told = bool(_sized({site: c}, g)), bool(_with_events({site: c}, g))
        groups[name] = GroupOverlap(
            sites=(site,) if sized else (),
            ecgs=number(c.sizes[g, 0]),
            patients=number(c.sizes[g, 1]),
            share=number(c.sizes[g, 0] / c.sizes[_ALL, 0]) if sized and c.sizes[_ALL, 0] > 0 else None,
            rate_sites=(site,) if told else (),
            events=number(c.events[g, 0]),
            event_patients=number(c.events[g, 1]),
            rate=est(c.rate[g]),
        )
    differences = tuple(
        Difference(
            first=first,
            second=second,
            sites=(site,) if np.isfinite(c.difference[d, 0]) else (),
            difference=est(c.difference[d, :4]),
            p=number(c.difference[d, 4]),
        )
        for d, (first, second) in enumerate(PAIRS)
    )
    return AtCut(cutoff=number(risk_of(cut)) if cut < HIGHEST else None, groups=groups, differences=differences)
