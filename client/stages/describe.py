"""describe, at the site: counts, Table 1, follow-up, devices, and the flow of exclusions."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.dataset.data import SiteData
from client.rows.context import SiteContext
from ecgshared.privacy.groups import close_groups
from ecgshared.stages.describe import VARIABLES, YES_NO, SiteCounts
from ecgshared.study.columns import FLAGS
from ecgshared.wire.protocol import SPLITS, Answer, Evidence, Request

_MAX_NAMES = 12


def counts(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``counts``."""
    counted = [h for h, head in enumerate(site.data.heads) if site.study.endpoints[head].kind != "continuous"]
    data = _labelled_yes_or_no(site.data, counted)
    n_heads = len(data.heads)
    ecgs, patients = np.zeros(3), np.zeros(3)
    labelled, events = np.zeros((n_heads, 3)), np.zeros((n_heads, 3))
    labelled_patients, event_patients = np.zeros((n_heads, 3)), np.zeros((n_heads, 3))
    for s, split in enumerate(SPLITS):
        rows = data.rows(split)
        ecgs[s], patients[s] = len(rows), _patients(data, rows)
        for h in range(n_heads):
            known = rows[~np.isnan(site.data.labels[rows, h])]
            y = data.labels[rows, h]
            with_event, without = rows[y == 1], rows[y == 0]
            labelled[h, s], events[h, s] = len(known), len(with_event) if h in counted else np.nan
            labelled_patients[h, s] = _patients(data, known)
            event_patients[h, s] = min(_patients(data, with_event), _patients(data, without))
    table1, table1_patients = _table1(data, site.settings.limits.min_patients)
    devices, device_ecgs, device_patients = _named(data, "device")
    rates, rate_ecgs, rate_patients = _named(data, "fs")
    flow_patients = np.array([float(p) for _, _, p in data.flow])
    seen = data.follow_up_years[~np.isnan(data.follow_up_years)]
    train = data.rows("train")
    with_age, with_sex = train[~np.isnan(data.age[train])], train[~np.isnan(data.male[train])]
    flags = {*FLAGS, *(name for name, column in site.study.columns.items() if column.kind == "flag")}
    covariates = [_known(data, train, name, flags) for name in site.study.covariates]
    payload = SiteCounts(
        heads_offered=tuple(h for i, h in enumerate(data.heads) if not np.isnan(site.data.labels[:, i]).all()),
        patients_known=int(data.patients_known),
        ecgs=ecgs,
        patients=patients,
        labelled=labelled,
        events=events,
        table1=table1,
        follow_up=np.array([seen.mean(), seen.std()]) if len(seen) else np.full(2, np.nan),
        age_sums=_sums(data.age[with_age]),
        male_sums=_sums(data.male[with_sex]),
        covariate_sums=np.array([_sums(known) for known, _ in covariates]).reshape(-1, 3),
        devices=devices,
        device_ecgs=device_ecgs,
        rates=rates,
        rate_ecgs=rate_ecgs,
        flow_reasons=tuple(reason for reason, _, _ in data.flow),
        flow_ecgs=np.array([float(e) for _, e, _ in data.flow]),
        flow_patients=flow_patients,
    )
    flow_evidence = _flow_evidence(flow_patients, site.settings.limits.min_patients)
    return Answer(
        payload,
        {
            "ecgs": Evidence(patients),
            "patients": Evidence(patients),
            "labelled": Evidence(labelled_patients),
            "events": Evidence(labelled_patients, event_patients),
            "table1": Evidence(table1_patients),
            "follow_up": Evidence(np.array(_patients(data, np.flatnonzero(~np.isnan(data.follow_up_years))))),
            "age_sums": Evidence(np.array(_patients(data, with_age))),
            "male_sums": Evidence(
                np.array(_patients(data, with_sex)),
                np.array(min(_patients(data, with_sex[data.male[with_sex] == m]) for m in (0, 1))),
            ),
            "covariate_sums": Evidence(np.array([patients for _, patients in covariates], dtype=np.int64)),
            "device_ecgs": Evidence(device_patients),
            "rate_ecgs": Evidence(rate_patients),
            "flow_ecgs": Evidence(flow_evidence),
            "flow_patients": Evidence(flow_evidence),
        },
    )


PHASES = {"counts": counts}


def _labelled_yes_or_no(data: SiteData, counted: list[int]) -> SiteData:
    """Return the data with no label in the columns that are not ``counted``: an age of 1 is no event."""
    labels = np.full_like(data.labels, np.nan)
    labels[:, counted] = data.labels[:, counted]
    return replace(data, labels=labels)


def _patients(data: SiteData, rows: NDArray[np.int64]) -> int:
    return len(np.unique(data.patient[rows]))


def _sums(values: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = values.astype(np.float64)
    return np.array([len(exact), exact.sum(), (exact**2).sum()])


def _known(
    data: SiteData, rows: NDArray[np.int64], name: str, flags: Collection[str]
) -> tuple[NDArray[np.float32], int]:
    """Known values of a covariate, and the patients behind their sums; of a yes/no variable, of the rarer answer."""
    rows = rows[~np.isnan(data.covariates[name][rows])]
    column = data.covariates[name][rows]
    if name in flags:
        return column, min(_patients(data, rows[column == answer]) for answer in (0, 1))
    return column, _patients(data, rows)


def _table1(data: SiteData, min_patients: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and SD of each variable for everybody, and for those with and without each head's event.

    Those with and without it make up those whose label is known: where they are everybody (or those of another head)
    but for a few, the sums of the parts taken from the whole are those few's. Then one part is told of nobody.
    """
    columns = {"age": data.age, "male": data.male, **data.covariates}
    groups = [np.ones(len(data.age), dtype=bool)]
    for h in range(len(data.heads)):
        groups += [data.labels[:, h] == 1, data.labels[:, h] == 0]
    values = np.full((len(groups), len(VARIABLES), 2), np.nan)
    patients = np.zeros((len(groups), len(VARIABLES)))
    for v, name in enumerate(VARIABLES):
        if name not in columns:
            continue
        known = ~np.isnan(columns[name])
        labelled = {head: ~np.isnan(data.labels[known, h]) for h, head in enumerate(data.heads)}
        closed = close_groups(labelled, data.patient[known], min_patients)
        for g, group in enumerate(groups):
            if g > 0 and g % 2 == 0 and data.heads[g // 2 - 1] in closed:
                continue
            rows = np.flatnonzero(group & known)
            if len(rows):
                column = columns[name][rows].astype(np.float64)
                values[g, v] = column.mean(), column.std()
                # The share of a yes/no variable is a count: both answers must be common enough.
                patients[g, v] = (
                    min(_patients(data, rows[column == answer]) for answer in (0, 1))
                    if name in YES_NO
                    else _patients(data, rows)
                )
    return values, patients


def _named(data: SiteData, kind: str) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Names, ECGs and patients of the commonest; the rest, and names with odd characters, go into "other"."""
    ecgs: dict[str, float] = {}
    patients: dict[str, float] = {}
    by_patients = data.descriptions.get(f"{kind} patients", {})
    ranked = sorted(data.descriptions.get(kind, {}).items(), key=lambda item: (-item[1], item[0]))
    for rank, (name, n) in enumerate(ranked):
        plain = re.sub(r"\s+", " ", name.strip())
        known = rank < _MAX_NAMES and re.fullmatch(r"[A-Za-z0-9 ._/+-]{1,40}", plain)
        key = plain if known else "other"
        ecgs[key] = ecgs.get(key, 0.0) + n
        # Of names put together only the largest group is sure: one patient may have used them all.
        patients[key] = max(patients.get(key, 0.0), float(by_patients.get(name, 0)))
    return tuple(ecgs), np.array(list(ecgs.values())), np.array(list(patients.values()))


def _flow_evidence(patients: NDArray[np.float64], min_patients: int) -> NDArray[np.float64]:
    """The group behind each line of the flow, so that no two lines that leave differ by a small group.

    The first and the last line come first: who was there, and who is in the cohort. A line between leaves where it
    equals, or is far enough from, the last line told before it and the last line of all.
    """
    evidence = np.zeros(len(patients))
    if not len(patients):
        return evidence
    told, cohort = patients[0], patients[-1]
    evidence[0] = told
    for i, left in enumerate(patients[1:], start=1):
        steps = [step for step in (told - left, left - cohort) if step > 0]
        evidence[i] = min([left, *steps])
        if evidence[i] >= min_patients:
            told = left
    return evidence
