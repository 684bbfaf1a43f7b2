"""high_risk, at the coordinator: each site's profile of the risk, and those of training and of other sites together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.stages.high_risk import QUANTILES, Config, Result, Told, outcome_of, variables_of
from ecgshared.stages.overlap import fixed
from ecgshared.stages.results.base import Absences, Group, MeanSd
from ecgshared.stages.results.high_risk import Band, Captured, Distribution, Incidence, Profile, SiteProfile, Variable
from ecgshared.stats.influence import rate_estimate
from ecgshared.stats.kaplan_meier import log_log_interval
from ecgshared.stats.score_scale import HIGHEST, risk_of
from ecgshared.stats.small_samples import few_events
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, bare, est, number, numbers, quorum
from server.pooling.head import by_luck
from server.report.high_risk import sections
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Section
from server.rounds.step_context import Artefact, StepContext


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Ask every site once."""
    if not isinstance(step, Config):
        raise TypeError("a high_risk step's configuration was expected")
    study = context.study
    cut = float(context.inputs[fixed(step, study).id].arrays["cut"][0])
    replies = context.ask("tell", sites=context.sites, quorum=quorum(context, context.sites))
    absent: Absences = {}
    absences(replies, absent, "tell")
    names = variables_of(study)
    found: dict[str, Told] = {}
    for site, reply in replies.by_site.items():
        if _fits(reply, step, len(names)):
            found[site] = reply
        else:
            absent.setdefault(site, {})["tell"] = "wrong-shape"
    sites: dict[str, SiteProfile] = {}
    pooled: dict[Group, Profile] = {}
    groups: dict[Group, tuple[str, ...]] = {"training": study.sites.train, "zero_shot": study.sites.zero_shot}
    for group, members in groups.items():
        mine = {s: found[s] for s in members if s in found}
        if not mine:
            continue
        pooled[group] = Profile(**_profile(step, mine, names))
        for site, told in mine.items():
            own = _profile(step, {site: told}, names)
            left_out = number(told.counts[2])
            sites[site] = SiteProfile(group=group, left_out=left_out, **own)
    result = Result(
        cutoff=number(risk_of(cut)) if cut < HIGHEST else None,
        outcome=outcome_of(step, study),
        event=step.event,
        times_years=step.times_years,
        sites={s: sites[s] for s in context.sites if s in sites},
        pooled=pooled,
        absent=absent,
    )
    return Artefact(step.id, "high_risk", result, {})


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """The spread of the risk, its groups side by side, who has a device, what is flagged, and what becomes of them."""
    return sections(artefact.step, artefact.result, labels)


def _fits(t: Told, step: Config, n: int) -> bool:
    flags, times = len(step.rules), len(step.times_years)
    shapes = {
        "counts": (3,),
        "moments": (3,),
        "quantiles": (len(QUANTILES),),
        "groups": (2,),
        "variables": (2, n, 3),
        "devices_by_risk": (len(step.risk_bands) + 1, 2),
        "devices_by_lvef": (len(step.lvef_bands) + 2, 2),
        "flagged": (flags, 4),
        "captured": (flags, 4),
        "curve": (2, times, 3),
        "events": (2, 2),
    }
    return all(np.shape(getattr(t, name)) == shape for name, shape in shapes.items())


def _profile(step: Config, told: Mapping[str, Told], names: Sequence[str]) -> dict[str, Any]:
    """Return what some sites say together; each figure is of those that told it."""
    parts = list(told.values())
    ecgs, patients = (_sum(t.counts[i] for t in parts) for i in (0, 1))
    high = [t.groups for t in parts if np.isfinite(t.groups).all()]
    total = np.sum(high, axis=0) if high else np.full(2, np.nan)
    variables = np.array([t.variables for t in parts])
    return {
        "ecgs": number(ecgs),
        "patients": number(patients),
        "high_risk_share": number(total[0] / total.sum()) if total.sum() > 0 else None,
        "distribution": _distribution(parts),
        "variables": {
            name: Variable(high=_mean_sd(variables[:, 0, v]), others=_mean_sd(variables[:, 1, v]))
            for v, name in enumerate(names)
        },
        "devices_by_risk": _bands([t.devices_by_risk for t in parts], (0.0, *step.risk_bands), open_end=False),
        "devices_by_lvef": _bands([t.devices_by_lvef for t in parts], (0.0, *step.lvef_bands), open_end=True),
        "captured": {
            name: _captured({s: (t.flagged[m], t.captured[m]) for s, t in told.items()})
            for m, name in enumerate(step.rules)
        },
        "incidence": {name: _incidence(parts, g) for g, name in enumerate(("high", "others"))} if step.event else {},
    }


def _sum(values: Any) -> float:
    found = [float(v) for v in values if np.isfinite(v)]
    return sum(found) if found else np.nan


def _mean_sd(sums: Floats) -> MeanSd:
    """Mean and SD of sums (sites, 3), over the sites that told them."""
    told = sums[np.isfinite(sums).all(axis=1)]
    n, total, squares = told.sum(axis=0)
    if not n > 0:
        return MeanSd(mean=None, sd=None)
    mean = total / n
    return MeanSd(mean=number(mean), sd=number(max(squares / n - mean**2, 0.0) ** 0.5))


def _distribution(parts: Sequence[Told]) -> Distribution:
    sums = np.array([t.moments for t in parts])
    told = sums[np.isfinite(sums).all(axis=1)]
    spread = _mean_sd(sums)
    quantiles = numbers(parts[0].quantiles) if len(parts) == 1 else (None,) * len(QUANTILES)
    return Distribution(
        ecgs=number(told[:, 0].sum()) if len(told) else None,
        mean=spread.mean,
        sd=spread.sd,
        quantiles={f"{100 * q:g}": value for q, value in zip(QUANTILES, quantiles, strict=True)},
    )


def _bands(tables: Sequence[Floats], edges: tuple[float, ...], *, open_end: bool) -> tuple[Band, ...]:
    """Add up tables (bands, 2) over the sites that told a band; ``open_end``: the last row is of those not measured."""
    rows = np.array(tables)
    ends: list[tuple[float | None, float | None, bool]] = [
        (low, high, True) for low, high in zip(edges, (*edges[1:], None), strict=True)
    ]
    if open_end:
        ends.append((None, None, False))
    found = []
    for b, (low, high, measured) in enumerate(ends):
        told = rows[np.isfinite(rows[:, b]).all(axis=1), b]
        ecgs, devices = told.sum(axis=0) if len(told) else (np.nan, np.nan)
        found.append(
            Band(
                low=low,
                high=high,
                measured=measured,
                ecgs=number(ecgs),
                share_with_device=number(devices / ecgs) if ecgs > 0 else None,
            )
        )
    return tuple(found)


def _captured(rows: Mapping[str, tuple[Floats, Floats]]) -> Captured:
    """Add up counts; the interval is that of sites as strata, their errors clustered by patient."""
    told = {s: row for s, row in rows.items() if np.isfinite(row[0]).all()}
    if not told:
        return Captured(sites=(), flagged_share=None, events=None, captured=est(np.full(4, np.nan)))
    ecgs, flagged, events, both = np.sum([counts for counts, _ in told.values()], axis=0)
    own = [(counts[2], estimate[1]) for counts, estimate in told.values()]
    if len(rows) == 1:
        found = est(next(iter(told.values()))[1])
    else:
        variance = sum((n * np.nan_to_num(se)) ** 2 for n, se in own) / max(events, 1.0) ** 2
        found = (
            est(rate_estimate(both / events, float(variance), float(events))) if events > 0 else est(np.full(4, np.nan))
        )
        # Who has enough events on either side of a cut is there by luck where events are few.
        if by_luck(float(min(both, events - both)), len(told), len(rows)):
            found = bare(found)
    return Captured(sites=tuple(told), flagged_share=number(flagged / ecgs), events=number(events), captured=found)


def _incidence(parts: Sequence[Told], g: int) -> Incidence:
    """Mean of the sites' curves weighted by ECGs; a time is told where sites with four fifths of the ECGs told it."""
    counted = [t for t in parts if np.isfinite(t.events[g]).all()]
    times = parts[0].curve.shape[1]
    none = (None,) * times
    if not counted:
        return Incidence(ecgs=None, events=None, risk=none, low=none, high=none, at_risk=none)
    ecgs = np.array([t.events[g, 0] for t in counted])
    columns: dict[str, list[float]] = {"risk": [], "low": [], "high": [], "at_risk": []}
    for k in range(times):
        rows = np.array([t.curve[g, k] for t in counted])
        told = np.isfinite(rows[:, [0, 2]]).all(axis=1)
        if ecgs[told].sum() < 0.8 * ecgs.sum():
            for column in columns.values():
                column.append(np.nan)
            continue
        weight = ecgs[told] / ecgs[told].sum()
        free = float(weight @ rows[told, 0])
        error = float(np.sqrt(((weight * np.nan_to_num(rows[told, 1]) * rows[told, 0]) ** 2).sum()))
        log_se = error / free if free > 0 else np.nan
        low, high = (float(x[0]) for x in log_log_interval(np.array([free]), np.array([log_se])))
        # One hospital, too, tells of a group where five happened to have the event: there and together, ten on average.
        seen = float(sum(t.events[g, 1] for t in counted))
        if few_events(seen) or by_luck(seen, int(told.sum()), len(parts)):
            low = high = np.nan
        columns["risk"].append(1 - free)
        columns["low"].append(1 - high)
        columns["high"].append(1 - low)
        columns["at_risk"].append(float(rows[told, 2].sum()))
    events = float(sum(t.events[g, 1] for t in counted))
    return Incidence(
        ecgs=number(ecgs.sum()), events=number(events), **{name: numbers(column) for name, column in columns.items()}
    )
