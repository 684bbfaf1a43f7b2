"""describe, at the site: counts, Table 1, follow-up, devices, and the flow of exclusions."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.dataset.data import SiteData
from client.rows.context import SiteContext
from client.rows.groups import event_topics, sums_of
from client.site.lockbox import lockbox_openings
from ecgshared.arrays import Bools
from ecgshared.errors import PrivacyError, RefusalCode, Refused
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.stages.describe import Config, SiteCounts, variables_of
from ecgshared.study.declared import number_names
from ecgshared.wire.protocol import SPLITS, Answer, Evidence, Request

_MAX_NAMES = 12


def counts(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``counts``."""
    if isinstance(site.step, Config) and site.step.lockbox:
        site = replace(site, data=site.data.subset(site.data.rows("lockbox")))
    counted = [h for h, head in enumerate(site.data.heads) if site.study.endpoints[head].kind != "continuous"]
    data, limits = _labelled_yes_or_no(site.data, counted), site.settings.limits
    n_heads = len(data.heads)
    ecgs, patients = np.zeros(3), np.zeros(3)
    labelled, events = np.zeros((n_heads, 3)), np.zeros((n_heads, 3))
    labelled_patients, event_patients = np.zeros((n_heads, 3)), np.zeros((n_heads, 3))
    for s, split in enumerate(SPLITS):
        rows = data.rows(split)
        ecgs[s], patients[s] = len(rows), _patients(data, rows)
        for h, head in enumerate(data.heads):
            known = rows[~np.isnan(site.data.labels[rows, h])]
            y = data.labels[rows, h]
            with_event, without = rows[y == 1], rows[y == 0]
            labelled[h, s], events[h, s] = len(known), len(with_event) if h in counted else np.nan
            labelled_patients[h, s] = _patients(data, known)
            parts = dict.fromkeys(event_topics(site.study, head), _marked(data, with_event))
            if site.cells.admit_group(data, parts, f"{split}, with the event {head}"):
                event_patients[h, s] = min(_patients(data, with_event), _patients(data, without))
    sums = _Sums.of(site, data)
    devices, device_ecgs, device_patients = _named(data, "device", limits)
    rates, rate_ecgs, rate_patients = _named(data, "fs", limits)
    flow_ecgs = np.array([float(e) for _, e, _ in data.flow])
    flow_patients = np.array([float(p) for _, _, p in data.flow])
    followed = ~np.isnan(data.follow_up_years)
    seen = data.follow_up_years[followed]
    told_of = site.cells.admit("length of follow-up", data, followed[None], ["followed"])[0]
    payload = SiteCounts(
        heads_offered=tuple(h for i, h in enumerate(data.heads) if not np.isnan(site.data.labels[:, i]).all()),
        patients_known=int(data.patients_known),
        design=site.settings.design,
        lockbox_openings=_opened_before(site),
        ecgs=ecgs,
        patients=patients,
        labelled=labelled,
        events=events,
        table1=sums.table1,
        follow_up=np.array([seen.mean(), seen.std()]) if len(seen) else np.full(2, np.nan),
        # Rounded: a quartile is somebody's.
        follow_up_quartiles=np.round(np.quantile(seen, (0.25, 0.5, 0.75)), 1) if len(seen) else np.full(3, np.nan),
        age_sums=sums.train["age"],
        male_sums=sums.train["male"],
        covariate_sums=np.array([sums.train[name] for name in site.study.covariates]).reshape(-1, 3),
        devices=devices,
        device_ecgs=device_ecgs,
        rates=rates,
        rate_ecgs=rate_ecgs,
        flow_reasons=tuple(reason for reason, _, _ in data.flow),
        flow_ecgs=flow_ecgs,
        flow_patients=flow_patients,
    )
    flow_evidence = _flow_evidence(flow_patients, limits.min_patients, flow_ecgs)
    return Answer(
        payload,
        {
            "ecgs": Evidence(patients),
            "patients": Evidence(patients),
            "labelled": Evidence(labelled_patients),
            "events": Evidence(labelled_patients, event_patients),
            "table1": Evidence(sums.table1_patients),
            "follow_up": Evidence(np.array(_patients(data, np.flatnonzero(followed)) if told_of else 0)),
            "follow_up_quartiles": Evidence(
                np.full(3, _patients(data, np.flatnonzero(followed)) // 4 if told_of else 0)
            ),
            "age_sums": Evidence(np.array(sums.patients["age"])),
            "male_sums": Evidence(np.array(sums.patients["male"]), np.array(sums.patients["male"])),
            "covariate_sums": Evidence(np.array([sums.patients[name] for name in site.study.covariates], dtype=int)),
            "device_ecgs": Evidence(device_patients),
            "rate_ecgs": Evidence(rate_patients),
            "flow_ecgs": Evidence(flow_evidence),
            "flow_patients": Evidence(flow_evidence),
        },
    )


PHASES = {"counts": counts}


def _opened_before(site: SiteContext) -> int:
    """Runs of any study that saw the lockbox before this one; of a site that never trains, which has none, 0."""
    if not site.trains:
        return 0
    try:
        openings = lockbox_openings(site.settings.state)
    except PrivacyError as error:
        raise Refused(RefusalCode.GATE_CLOSED, error.what, where=error.where) from error
    return len({opening.by for opening in openings} - {(site.study.sha256, site.run)})


def _labelled_yes_or_no(data: SiteData, counted: list[int]) -> SiteData:
    """Return the data with no label in the columns that are not ``counted``: an age of 1 is no event."""
    labels = np.full_like(data.labels, np.nan)
    labels[:, counted] = data.labels[:, counted]
    return replace(data, labels=labels)


def _patients(data: SiteData, rows: NDArray[np.int64]) -> int:
    return len(np.unique(data.patient[rows]))


def _marked(data: SiteData, rows: NDArray[np.int64]) -> Bools:
    marked = np.zeros(len(data), dtype=np.bool_)
    marked[rows] = True
    return marked


@dataclass(frozen=True)
class _Sums:
    """Sums of age, sex and covariates over training ECGs, and Table 1; patients of 0 where a number is withheld.

    What is summed for training comes first, then everybody, then those with and without each head's event: a group is
    told of where, with all before it, it leaves nothing small to be solved for. Of a yes/no variable the patients are
    those of the rarer answer.
    """

    train: dict[str, NDArray[np.float64]]
    patients: dict[str, int]
    table1: NDArray[np.float64]
    table1_patients: NDArray[np.float64]

    @classmethod
    def of(cls, site: SiteContext, data: SiteData) -> _Sums:
        columns = {"age": data.age, "male": data.male, **data.covariates}
        variables, more = variables_of(site.study), _derived(site, data)
        training = data.split == SPLITS.index("train")
        groups = [("everybody", np.ones(len(data), dtype=np.bool_))]
        for h, head in enumerate(data.heads):
            groups += [(f"with {head}", data.labels[:, h] == 1), (f"without {head}", data.labels[:, h] == 0)]
        values = np.full((len(groups), len(variables), 2), np.nan)
        patients = np.zeros((len(groups), len(variables)))
        train, behind = dict[str, NDArray[np.float64]](), dict[str, int]()
        for name, column in columns.items():
            behind[name] = _behind(site, name, column, "training", training & ~np.isnan(column))
            exact = column[training & ~np.isnan(column)].astype(np.float64)
            train[name] = np.array([len(exact), exact.sum(), (exact**2).sum()])
        for name, column in (columns | more).items():
            if name not in variables:
                continue
            v = variables.index(name)
            for g, (who, rows) in enumerate(groups):
                size = _behind(site, name, column, who, rows & ~np.isnan(column))
                known = column[rows & ~np.isnan(column)].astype(np.float64)
                if size:
                    values[g, v], patients[g, v] = (known.mean(), known.std()), size
        return cls(train, behind, values, patients)


def _derived(site: SiteContext, data: SiteData) -> dict[str, NDArray[np.float32]]:
    """Columns of Table 1 beside age, sex and covariates: declared numbers, a defibrillator, whether LVEF is known."""
    named = (*number_names(site.study.columns), "defibrillator")
    found = {name: data.columns[name].astype(np.float32) for name in named if name in data.columns}
    if "lvef" in data.covariates:
        found["lvef_measured"] = np.isfinite(data.covariates["lvef"]).astype(np.float32)
    return found


def _behind(site: SiteContext, name: str, column: NDArray[np.float32], who: str, rows: Bools) -> int:
    """Patients behind a sum of a column over rows, of a yes/no column those of the rarer answer; 0: not to be told."""
    if not rows.any():
        return 0
    cells = sums_of(name, column, rows)
    told = [site.cells.admit(topic, site.data, cell[None], [who])[0] for topic, cell in cells]
    return min(_patients(site.data, np.flatnonzero(cell)) for _, cell in cells) if all(told) else 0


def _named(
    data: SiteData, kind: str, limits: DisclosureLimits
) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Names, ECGs and patients of the commonest; the rest, names of few patients and odd ones go into "other".

    Where "other" is a few patients' too, the rarest name that stands joins it: all ECGs less the named ones are its.
    """
    by_name, by_patients = data.descriptions.get(kind, {}), data.descriptions.get(f"{kind} patients", {})
    ranked = sorted(by_name.items(), key=lambda item: (-item[1], item[0]))
    plain = {name: re.sub(r"\s+", " ", name.strip()) for name, _ in ranked}
    people = {name: int(by_patients.get(name, 0)) for name, _ in ranked}
    shown = [
        name
        for rank, (name, _) in enumerate(ranked)
        if rank < _MAX_NAMES
        and re.fullmatch(r"[A-Za-z0-9 ._/+-]{1,40}", plain[name])
        and people[name] >= limits.min_patients
    ]
    rest = [name for name, _ in ranked if name not in shown]
    # Of names put together only the largest group is sure: one patient may have used them all.
    if rest and shown and max(people[name] for name in rest) < limits.min_patients:
        rest.append(shown.pop())
    ecgs: dict[str, float] = {}
    patients: dict[str, float] = {}
    for name in (*shown, *rest):
        key = plain[name] if name in shown else "other"
        ecgs[key] = ecgs.get(key, 0.0) + by_name[name]
        patients[key] = max(patients.get(key, 0.0), float(people[name]))
    return tuple(ecgs), np.array(list(ecgs.values())), np.array(list(patients.values()))


def _flow_evidence(
    patients: NDArray[np.float64], min_patients: int, ecgs: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """The group behind each line of the flow, so that no two lines that leave differ by a small group.

    The first and the last line come first: who was there, and who is in the cohort. A line between leaves where it
    equals, or is far enough from, the last line told before it and the last line of all; in ECGs too, as the few that a
    rule took out may be one patient's.
    """
    ecgs = patients if ecgs is None else ecgs
    evidence = np.zeros(len(patients))
    if not len(patients):
        return evidence
    evidence[0], told = patients[0], 0
    for i in range(1, len(patients)):
        pairs = [counts[a] - counts[b] for counts in (patients, ecgs) for a, b in ((told, i), (i, len(patients) - 1))]
        evidence[i] = min([patients[i], *(step for step in pairs if step > 0)])
        if evidence[i] >= min_patients:
            told = i
    return evidence
