"""Curves of groups over the tables of several sites: survival, incidence, restricted means, the log-rank test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from ecgshared.arrays import Floats, Ints
from ecgshared.errors import ConfigError, StatisticsError
from ecgshared.stats.competing import Incidence, cumulative_incidence, restricted_mean
from ecgshared.stats.gray import gray_test
from ecgshared.stats.influence import CONFIDENCE, Estimate, by_patient
from ecgshared.stats.kaplan_meier import LogRank, log_rank
from ecgshared.tables.after import column, patients
from ecgshared.tables.tables import Tables


@dataclass(frozen=True)
class Followed:
    """All sites' rows, one after the other; arrays of shape = (n,).

    ``group``: number of the group, 0.. in the order of ``labels``; ``patient`` None where every row is one.
    """

    time: Floats
    cause: Ints
    entry: Floats | None
    weight: Floats | None
    patient: Ints | None
    group: Ints
    site: Ints
    labels: tuple[str, ...]

    @property
    def until(self) -> Floats:
        """Last follow-up of each group, shape = (groups,)."""
        return np.array([self.time[self.group == g].max() for g in range(len(self.labels))])

    @property
    def event(self) -> Ints:
        """1 where the event of interest ended the row."""
        return np.asarray(self.cause == 1, dtype=np.int64)


@dataclass(frozen=True)
class GroupCurve:
    """One group: its rows and events, its curve at every time of an event, and its median survival with interval."""

    label: str
    rows: int
    events: int
    competing: int
    curve: Incidence
    median: tuple[float, float, float]


def followed(tables: Tables, group: Ints | None = None, labels: tuple[str, ...] = ("",)) -> Followed:
    """Put the sites' rows together; ``group`` None: the levels of the tables' strata."""
    sites = tables.sites
    if group is None:
        labels = next((found.labels for found in tables.levels), ("",))
        number = {label: i for i, label in enumerate(labels)}
        group = np.array([number[str(label)] for site in sites for label in site.strata], dtype=np.int64)
    cause = [s.event.astype(np.int64) if s.cause is None else s.cause for s in sites]
    return Followed(
        time=np.concatenate([s.time for s in sites]),
        cause=np.concatenate(cause),
        entry=column(sites, "entry", -1.0),
        weight=column(sites, "weight", 1.0),
        patient=None if sites[0].cluster is None else patients(sites),
        group=group,
        site=np.repeat(np.arange(len(sites)), [len(s.time) for s in sites]),
        labels=labels,
    )


def curves(rows: Followed) -> list[GroupCurve]:
    """Return the curve of each group: 1 - Kaplan-Meier, or Aalen-Johansen's where another event forestalls it."""
    found = []
    for g, label in enumerate(rows.labels):
        mine = rows.group == g
        entry, weight, patient = (
            None if values is None else values[mine] for values in (rows.entry, rows.weight, rows.patient)
        )
        curve = cumulative_incidence(rows.time[mine], rows.cause[mine], patient=patient, entry=entry, weight=weight)
        kinds = np.bincount(rows.cause[mine], minlength=3)
        found.append(GroupCurve(label, int(mine.sum()), int(kinds[1]), int(kinds[2]), curve, _median(curve)))
    return found


def _median(curve: Incidence) -> tuple[float, float, float]:
    """First time at which half have had the event, and where the bounds of the curve reach it; NaN where never."""

    def reached(risk: Floats) -> float:
        with np.errstate(invalid="ignore"):
            over = np.flatnonzero(risk >= 0.5 - 1e-9)
        if not len(over):
            return np.nan
        first = int(over[0])
        # On a stretch at exactly one half: its middle.
        flat = abs(risk[first] - 0.5) < 1e-9 and first + 1 < len(risk)
        return float((curve.time[first] + curve.time[first + 1]) / 2 if flat else curve.time[first])

    return reached(curve.risk), reached(curve.high), reached(curve.low)


@dataclass(frozen=True)
class MeanTime:
    """Mean time free of the event up to a limit, of each group, and its difference to the first group."""

    label: str
    value: Estimate
    difference: Estimate | None
    p: float


def restricted_means(rows: Followed, until: float) -> list[MeanTime]:
    """Return the restricted mean of each group and its difference to the first.

    Raises
    ------
    ConfigError : another event forestalls the one of interest: the area under 1 - Kaplan-Meier means nothing then.
    StatisticsError : a group is not followed to ``until``.
    """
    if (rows.cause == 2).any():
        raise ConfigError(
            "a restricted mean is of survival without any event", remedy="without --cause, with an event of any kind"
        )
    found, shares = [], []
    for g, label in enumerate(rows.labels):
        mine = rows.group == g
        entry, weight = (None if values is None else values[mine] for values in (rows.entry, rows.weight))
        try:
            mean = restricted_mean(rows.time[mine], rows.event[mine], until, entry=entry, weight=weight)
        except StatisticsError as error:
            raise StatisticsError(f"{label or 'all'}: {error.what}", value=until, remedy="a smaller --rmst") from error
        share = np.zeros(len(rows.time))
        share[mine] = mean.influence
        found.append(mean.value)
        shares.append(by_patient(share, np.arange(len(share)) if rows.patient is None else rows.patient))
    out = []
    for g, label in enumerate(rows.labels):
        own = _plain(found[g], float(np.sqrt(shares[g] @ shares[g])))
        # Over patients: one who is in two groups moves both.
        apart = shares[g] - shares[0]
        difference = _plain(found[g] - found[0], float(np.sqrt(apart @ apart))) if g else None
        p = 2 * float(norm.sf(abs(difference.value) / difference.se)) if difference and difference.se > 0 else np.nan
        out.append(MeanTime(label, own, difference, p))
    return out


def _plain(value: float, se: float) -> Estimate:
    half = float(norm.ppf(0.5 + CONFIDENCE / 2)) * se
    return Estimate(value, se, value - half, value + half)


def compare_over_sites(rows: Followed, strata: Ints | None, *, by_site: bool, incidence: bool = False) -> LogRank:
    """Return the log-rank test of the groups, within each stratum (and each site, where ``by_site``).

    ``incidence`` : Gray's test, of cumulative incidences, instead.

    Raises
    ------
    ConfigError : rows enter late or have weights, or there is one group.
    """
    if rows.entry is not None or rows.weight is not None:
        raise ConfigError(
            "a test of groups takes no entry times or weights", remedy="survival fit: its score test takes both"
        )
    if len(rows.labels) < 2:
        raise ConfigError("there is one group only", value=rows.labels[0], remedy="another column for --by")
    level = np.zeros(len(rows.time), dtype=np.int64)
    if strata is not None:
        level = strata
    if by_site:
        level = level * (int(rows.site.max()) + 1) + rows.site
    inside = [level == key for key in np.unique(level)]
    groups = len(rows.labels)
    if incidence:
        return LogRank.total(gray_test(rows.time[i], rows.cause[i], rows.group[i], groups) for i in inside)
    return LogRank.total(log_rank(rows.time[i], rows.event[i], rows.group[i], groups) for i in inside)
