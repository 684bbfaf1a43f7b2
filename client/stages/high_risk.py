"""high_risk, at the site: the spread of the risk, and those at high risk beside the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.rows.allowance import spend_score
from client.rows.context import SiteContext
from client.rows.curve import told_curve
from client.rows.cut_sets import open_cuts, open_group, open_times, outcome_parts
from client.rows.groups import events_of
from client.rows.risk import label_column, received, rows_under, score_rows
from ecgshared.arrays import Bools, Floats, Ints
from ecgshared.errors import RefusalCode, Refused, StatisticsError
from ecgshared.privacy.disclosure import DisclosureLimits, group_size, release_partition
from ecgshared.stages.high_risk import QUANTILES, Config, Told, outcome_of, variables_of
from ecgshared.stages.overlap import fixed
from ecgshared.stages.survival import cox_limits
from ecgshared.stats.influence import UNDEFINED, by_patient, clustered_ratio
from ecgshared.stats.score_scale import HIGHEST, score_of
from ecgshared.study.endpoints import EventTimes
from ecgshared.wire.protocol import Answer, Evidence, Request


@dataclass(frozen=True)
class ProfileRows:
    """ECGs with a risk.

    Attributes
    ----------
    risk, patient : shape = (n,). high : bool, shape = (n,). rows : row numbers in the cohort. cut : where high begins.
    columns : variables by name, shape = (n,), NaN where unknown. lvef, device : the same.
    y : the outcome, NaN where not known. markers : bool arrays, unknown is no. times : of the event, or None.
    left_out : patients of the ECGs without a risk, one an ECG.
    """

    risk: Floats
    high: Bools
    patient: Ints
    columns: dict[str, Floats]
    lvef: Floats
    device: Floats
    y: Floats
    markers: tuple[Bools, ...]
    times: EventTimes | None
    left_out: Ints
    rows: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    cut: float = HIGHEST


def tell(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``tell``."""
    step = site.step
    if not isinstance(step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step profiles no risk", value=step.stage)
    rows = _rows(site, request, step)
    open_tables = _open_tables(site, request, rows, step)
    answer = tell_answer(
        rows, step, site.settings.limits, patients_known=site.data.patients_known, open_tables=open_tables
    )
    curve = answer.payload.curve.copy()
    for g, side in enumerate((rows.high, ~rows.high) if rows.times is not None else ()):
        assert rows.times is not None
        at = np.where(np.isfinite(curve[g, :, 0]), step.times_years, np.nan)
        mine = rows.times.take(np.flatnonzero(side))
        curve[g, ~open_times(site, rows.rows[side], mine.years, mine.observed, str(step.event), at)] = np.nan
    return replace(answer, payload=replace(answer.payload, curve=curve))


PHASES = {"tell": tell}


@dataclass(frozen=True)
class OpenTables:
    """What may be told beside figures of other steps: of high risk and the others, of bands, of each marker."""

    high: bool = True
    risk_bands: bool = True
    lvef_bands: bool = True
    markers: tuple[bool, ...] | None = None


def _open_tables(site: SiteContext, request: Request, rows: ProfileRows, step: Config) -> OpenTables:
    flags = {
        name: column for name, column in rows.columns.items() if np.isin(column[np.isfinite(column)], (0, 1)).all()
    }
    parts = {f"{'yes' if answer else 'no'} to {name}": c == answer for name, c in flags.items() for answer in (0, 1)}
    parts |= {"everybody": np.ones(len(rows.y), dtype=np.bool_)}
    outcome = outcome_of(step, site.study)
    parts |= outcome_parts(site.study, {outcome: rows.y})
    event, ill = events_of(site.study, outcome), rows.y == 1
    score, device = score_of(rows.risk), np.asarray(rows.device == 1)
    high = open_cuts(site, request, rows.rows, score, [rows.cut], parts, any_score=True)
    # Bands are the study's, and those of the next study may lie a hair beside them.
    known = np.isfinite(rows.device)
    edges = [float(one) for one in score_of(np.asarray(step.risk_bands, dtype=np.float64))]
    bands = open_cuts(
        site, request, rows.rows[known], score[known], edges, {"device": known[known], "event device": device[known]}
    )
    of_lvef = [
        open_group(site, rows.rows, {"device by LVEF": known & part, "event device by LVEF": device & part}, str(edge))
        for edge in step.lvef_bands
        if (part := rows.lvef <= edge).any()
    ]
    within = "within bounds of"
    markers = [
        open_group(
            site,
            rows.rows,
            {f"everybody {within} {factor.column}": flag, f"{event} {within} {factor.column}": flag & ill},
            factor.text,
        )
        for factor, flag in zip(step.factors, rows.markers, strict=True)
    ]
    return OpenTables(bool(high.all()), bool(bands.all()), all(of_lvef), tuple(markers))


def tell_answer(
    rows: ProfileRows,
    step: Config,
    limits: DisclosureLimits,
    *,
    patients_known: bool,
    open_tables: OpenTables = OpenTables(),
) -> Answer:
    """Compute every figure and the group behind each of its cells."""
    whole = group_size(rows.patient).patients
    sides = [group_size(rows.patient, None, side).patients for side in (rows.high, ~rows.high)]
    # All and one side give the other.
    told = bool(release_partition(np.array(sides), None, limits)[[n > 0 for n in sides]].all())
    told = told and open_tables.high
    sides = sides if told else [0, 0]
    carried = min(whole, _carriers(rows.risk, rows.patient))
    variables, of_variables = _variables(rows, limits, told=told)
    by_risk, of_risk = _devices(
        _band(rows.risk, step.risk_bands), len(step.risk_bands) + 1, rows, limits, told=open_tables.risk_bands
    )
    measured = np.where(np.isnan(rows.lvef), len(step.lvef_bands) + 1, _band(rows.lvef, step.lvef_bands, closed=True))
    by_lvef, of_lvef = _devices(
        measured.astype(np.int64), len(step.lvef_bands) + 2, rows, limits, told=open_tables.lvef_bands
    )
    flagged, captured, of_flags = _captured(rows, limits, open_tables)
    curve, events, of_curve = _curves(rows, step, limits, told=told)
    share = np.array([min(q, 1 - q) for q in QUANTILES])
    quantiles = np.quantile(rows.risk, QUANTILES) if len(rows.risk) else np.full(len(QUANTILES), np.nan)
    return Answer(
        Told(
            counts=np.array(
                [len(rows.risk), whole if patients_known else np.nan, len(rows.left_out)], dtype=np.float64
            ),
            moments=np.array([len(rows.risk), rows.risk.sum(), (rows.risk**2).sum()]),
            quantiles=np.array([float(f"{q:.2g}") for q in quantiles]),
            groups=np.array([rows.high.sum(), (~rows.high).sum()], dtype=np.float64),
            variables=variables,
            devices_by_risk=by_risk,
            devices_by_lvef=by_lvef,
            flagged=flagged,
            captured=captured,
            curve=curve,
            events=events,
            patients_known=int(patients_known),
        ),
        {
            "counts": Evidence(np.array([whole, whole, len(np.unique(rows.left_out))])),
            "moments": Evidence(np.array(carried)),
            "quantiles": Evidence((whole * share).astype(np.int64)),
            "groups": Evidence(np.array(sides)),
            "variables": Evidence(of_variables),
            "devices_by_risk": of_risk,
            "devices_by_lvef": of_lvef,
            "flagged": of_flags,
            "captured": of_flags,
            "curve": Evidence(*of_curve),
            "events": Evidence(of_curve[0][:, 0], of_curve[1][:, 0]),
        },
    )


def _band(values: Floats, edges: Sequence[float], *, closed: bool = False) -> Ints:
    """Number the band of each value from 0; ``closed``: an edge belongs to the band below it."""
    bounds = np.asarray(edges, dtype=np.float32 if closed else np.float64)
    side = "left" if closed else "right"
    return np.searchsorted(bounds, values.astype(bounds.dtype), side=side).astype(np.int64)  # type: ignore[call-overload, no-any-return]


def _carriers(values: Floats, patient: Ints) -> int:
    """Effective number of patients behind a sum of squares (Kish 1965)."""
    each = by_patient(values**2, patient)
    square = float(each @ each)
    return int(float(each.sum()) ** 2 / square + 1e-9) if square > 0 else len(each)


def _variables(rows: ProfileRows, limits: DisclosureLimits, *, told: bool) -> tuple[Floats, Ints]:
    """Sums of each variable at high risk and not; of a yes/no one both answers must be common enough in both."""
    found = np.zeros((2, len(rows.columns), 3))
    people = np.zeros(found.shape[:2], dtype=np.int64)
    for v, column in enumerate(rows.columns.values()):
        for g, side in enumerate((rows.high, ~rows.high)):
            inside = side & np.isfinite(column)
            values = column[inside]
            found[g, v] = len(values), values.sum(), (values**2).sum()
            flag = np.isin(values, (0.0, 1.0)).all()
            parts = [inside & (column == answer) for answer in (0, 1)] if flag else [inside]
            sizes = [len(np.unique(rows.patient[part])) for part in parts]
            # Nobody with it, or nobody without: that tells of all of them.
            people[g, v] = min(sizes) if len(values) else 0
            hidden = len(np.unique(rows.patient[side & np.isnan(column)]))
            if 0 < hidden < limits.min_patients:
                people[g, v] = 0
    if not told or not limits.withhold_nothing:
        lacking = (people < limits.min_patients).any(axis=0)
        people[:, lacking] = 0
    return found, people if told else np.zeros_like(people)


def _devices(band: Ints, n: int, rows: ProfileRows, limits: DisclosureLimits, *, told: bool) -> tuple[Floats, Evidence]:
    known = np.isfinite(rows.device)
    table = np.zeros((n, 2))
    people, rarer = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for b in range(n):
        inside = np.asarray(known & (band == b), dtype=np.bool_)
        table[b] = inside.sum(), (rows.device[inside] == 1).sum()
        size = group_size(rows.patient, np.nan_to_num(rows.device), inside)
        people[b], rarer[b] = size.patients, size.events
    shown = release_partition(people, rarer, limits)
    return table, Evidence(np.where(shown & told, people, 0), rarer)


def _captured(rows: ProfileRows, limits: DisclosureLimits, open_tables: OpenTables) -> tuple[Floats, Floats, Evidence]:
    """What high risk and each marker flag of all, and of the events."""
    known = np.asarray(np.isfinite(rows.y), dtype=np.bool_)
    y, patient = rows.y[known], rows.patient[known]
    flags = [flag[known] for flag in (rows.high, *rows.markers)]
    several = np.sum(flags[1:], axis=0) if len(flags) > 2 else None
    flags += [] if several is None else [several > 0]
    counts, estimates = np.zeros((len(flags), 4)), np.full((len(flags), 4), np.nan)
    people, rarer = np.zeros(len(flags), dtype=np.int64), np.zeros(len(flags), dtype=np.int64)
    for m, flag in enumerate(flags):
        counts[m] = len(y), flag.sum(), y.sum(), (flag & (y == 1)).sum()
        sizes = [group_size(patient, y, np.asarray(side, dtype=np.bool_)) for side in (flag, ~flag)]
        ill = [len(np.unique(patient[side & (y == 1)])) for side in (flag, ~flag)]
        people[m], rarer[m] = min(s.patients for s in sizes), min(*(s.events for s in sizes), *ill)
        try:
            estimates[m] = clustered_ratio((flag & (y == 1)) * 1.0, (y == 1) * 1.0, patient).as_array()
        except StatisticsError:
            estimates[m] = UNDEFINED.as_array()
    for later in range(1, len(flags)):
        for earlier in range(later):
            # Two rules that flag nearly the same tell, subtracted, of those between.
            between = [len(np.unique(patient[part])) for part in _apart(flags[later], flags[earlier])]
            if any(0 < few < limits.min_patients for few in between) and people[earlier]:
                people[later] = 0
    open_ones = open_tables.markers if open_tables.markers is not None else (True,) * len(rows.markers)
    people[: 1 + len(open_ones)] *= np.array([open_tables.high, *open_ones])
    if several is not None and not all(open_ones):
        people[-1] = 0
    if several is not None and 0 < len(np.unique(patient[several > 1])) < limits.min_patients:
        # The markers' counts less that of any of them are of those who have two or more.
        people[-1] = 0
    return counts, estimates, Evidence(people, rarer)


def _apart(a: Bools, b: Bools) -> tuple[Bools, Bools]:
    if not (a & b).any():
        nobody = np.zeros(len(a), dtype=np.bool_)
        return nobody, nobody
    return a & ~b, b & ~a


def _curves(
    rows: ProfileRows, step: Config, limits: DisclosureLimits, *, told: bool
) -> tuple[Floats, Floats, tuple[Ints, Ints]]:
    times = np.asarray(step.times_years, dtype=np.float64)
    curve, events = np.full((2, len(times), 3), np.nan), np.full((2, 2), np.nan)
    people, rarer = (np.zeros((2, len(times)), dtype=np.int64) for _ in range(2))
    if rows.times is None or not told:
        return curve, events, (people, rarer)
    years = rows.times.years
    for g, side in enumerate((rows.high, ~rows.high)):
        inside = side & np.isfinite(years)
        if not inside.any():
            continue
        mine = rows.times.take(np.flatnonzero(inside))
        patient = rows.patient[inside]
        size = group_size(patient, mine.observed)
        people[g], rarer[g] = size.patients, size.events
        events[g] = inside.sum(), mine.observed.sum()
        leavers = cox_limits(limits).min_leavers
        curve[g] = told_curve(mine.years, mine.observed, mine.cause, patient, times, limits, leavers)
    return curve, events, (people, rarer)


def _rows(site: SiteContext, request: Request, step: Config) -> ProfileRows:
    data, study, threshold = site.data, site.study, fixed(step, site.study)
    rows = rows_under(site, data.rows("lockbox"), step.max_age)
    risk = score_rows(site, request, threshold, rows)
    spend_score(site, request)
    cut = float(received(request, f"{threshold.id}.cut", (1,))[0])
    known = np.isfinite(risk)
    kept = rows[known]
    every: dict[str, NDArray[Any]] = {"age": data.age, "male": data.male, **data.columns, **data.covariates}
    blank = np.full(len(data), np.nan)
    lvef = np.asarray(every.get("lvef", blank)[kept], dtype=np.float64)
    device = np.asarray(every.get("defibrillator", blank)[kept], dtype=np.float64)
    made = {"lvef_measured": np.isfinite(lvef).astype(np.float64), "defibrillator": device}
    columns = {
        name: made.get(name, np.asarray(every.get(name, blank)[kept], dtype=np.float64)) for name in variables_of(study)
    }
    markers = tuple(
        np.asarray(f.of({f.column: np.asarray(every[f.column][kept], dtype=np.float64)}) == 1, dtype=np.bool_)
        for f in step.factors
    )
    times = data.event_times[step.event].take(kept) if step.event is not None else None
    return ProfileRows(
        risk=risk[known],
        high=np.asarray(score_of(risk[known]) >= cut, dtype=np.bool_),
        patient=data.patient[kept],
        columns=columns,
        lvef=lvef,
        device=device,
        y=label_column(site, outcome_of(step, study))[kept].astype(np.float64),
        markers=markers,
        times=times,
        left_out=data.patient[rows[~known]],
        rows=kept,
        cut=cut,
    )
