"""What ``ecgfed survival km`` and ``logrank`` say, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.stats.influence import Estimate
from ecgshared.tables.curves import Followed, GroupCurve, compare_over_sites, followed, restricted_means
from ecgshared.tables.facts import counts, levels, number
from ecgshared.tables.tables import Tables


def curve_facts(
    tables: Tables,
    rows: Followed,
    groups: Sequence[GroupCurve],
    at: Floats | None,
    until: float | None,
    *,
    incidence: bool,
) -> dict[str, Any]:
    """Return the curves read at ``at`` (None: ten times over the follow-up), whole curves, and restricted means."""
    if at is None:
        at = np.linspace(0, float(rows.time.max()), 11)[1:]
    means = [] if until is None else restricted_means(rows, until)
    return {
        "sites": [counts(site) for site in tables.sites],
        "levels": levels(tables.levels),
        "incidence": incidence,
        "rmst": until,
        "groups": [_group(rows, g, group, at, incidence) for g, group in enumerate(groups)],
        "restricted_means": [
            {
                "group": mean.label,
                "mean": _estimate(mean.value),
                "difference": None if mean.difference is None else _estimate(mean.difference),
                "p": number(mean.p),
            }
            for mean in means
        ],
        "notes": [*tables.reference_levels, *tables.notes],
    }


def _group(rows: Followed, g: int, group: GroupCurve, at: Floats, incidence: bool) -> dict[str, Any]:
    mine = rows.group == g
    c = group.curve
    weight = np.ones(int(mine.sum())) if rows.weight is None else rows.weight[mine]
    at_risk = np.array([float(weight[rows.time[mine] >= t].sum()) for t in at])
    if rows.entry is not None:
        at_risk -= np.array([float(weight[rows.entry[mine] >= t].sum()) for t in at])
    k = np.searchsorted(c.time, at, side="right")
    risk, se = (np.concatenate([[0.0], values])[k] for values in (c.risk, c.se))
    low, high = (np.concatenate([[np.nan], values])[k] for values in (c.low, c.high))
    # Nobody is known beyond the last follow-up.
    risk, low, high = (np.where(at <= rows.until[g], values, np.nan) for values in (risk, low, high))
    value, low, high = (risk, low, high) if incidence else (1 - risk, 1 - high, 1 - low)
    columns = dict(
        zip(
            ("time", "at_risk", "value", "standard_error", "low", "high"),
            (at, at_risk, value, se, low, high),
            strict=True,
        )
    )
    middle, first, last = (None if incidence else number(v) for v in group.median)
    return {
        "group": group.label,
        "rows": group.rows,
        "events": group.events,
        "competing": group.competing,
        "median": middle,
        "median_low": first,
        "median_high": last,
        "at": [{name: number(values[i]) for name, values in columns.items()} for i in range(len(at))],
        "curve": {
            "time": c.time.tolist(),
            "value": (c.risk if incidence else 1 - c.risk).tolist(),
            "low": [number(v) for v in (c.low if incidence else 1 - c.high)],
            "high": [number(v) for v in (c.high if incidence else 1 - c.low)],
        },
    }


def _estimate(found: Estimate) -> dict[str, float | None]:
    return dict(zip(("value", "standard_error", "low", "high"), map(number, found.as_array()), strict=True))


def comparison_facts(
    tables: Tables, by: str, strata: str | None, *, by_site: bool, incidence: bool = False
) -> dict[str, Any]:
    """Return the log-rank (or Gray's) test of the levels of ``by``, within those of ``strata`` and within sites."""
    found = {one.name: one for one in tables.levels}
    names = list(tables.names)
    codes = {}
    for name in (by, strata):
        if name is not None:
            wanted = [names.index(f"{name}[{label}]") for label in found[name].labels[1:]]
            x = np.concatenate([site.x[:, wanted] for site in tables.sites])
            codes[name] = (x @ np.arange(1, len(wanted) + 1)).astype(np.int64)
    rows = followed(tables, codes[by], found[by].labels)
    test = compare_over_sites(rows, None if strata is None else codes[strata], by_site=by_site, incidence=incidence)
    sizes = np.bincount(rows.group, minlength=len(rows.labels))
    return {
        "test": "gray" if incidence else "log_rank",
        "sites": [counts(site) for site in tables.sites],
        "levels": levels(tables.levels),
        "within": [*(["site"] if by_site else []), *([strata] if strata else [])],
        "groups": [
            {
                "group": label,
                "rows": int(sizes[g]),
                "observed": float(test.observed[g]),
                "expected": float(test.expected[g]),
            }
            for g, label in enumerate(rows.labels)
        ],
        "chi_squared": test.statistic,
        "degrees": test.degrees,
        "p": number(test.p),
        "notes": list(tables.notes),
    }
