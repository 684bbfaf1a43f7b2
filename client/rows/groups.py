"""Whom a step speaks of at this site: read from the study, so that a new stage is held to it without doing a thing.

Two things are held against what was told before:

* the group: who of the cohort (its eligibility, the opt-outs) is in the step's population and under its age limit, in
  each split that the stage reads;
* of it the complete cases, by what is summed over them: each column the step names, the score it judges; and those with
  the event, by event, since a horizon moved by a day differs by whom it happened to on that day.

``describe``, ``train`` and ``evaluate`` speak of many groups in one answer and withhold cells, not answers: the second
part is theirs (:meth:`client.rows.told.Told.admit`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.dataset.data import SiteData
from client.egress.memory import Asked, Keys
from client.site.settings import SiteSettings
from ecgshared.arrays import Bools
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.privacy.groups import close_groups
from ecgshared.study.endpoints import TimeToEventEndpoint
from ecgshared.study.score import calibrate_inputs, used_steps
from ecgshared.study.study import Study
from ecgshared.wire.protocol import SPLITS, StepConfig

GROUP = "group"
_BY_CELLS = ("describe", "train", "evaluate")
_SAYS_NOTHING_OF_PEOPLE = {"id", "stage", "label", "uses", "sites", "population", "frozen", "model", "privacy"}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def keys_of(data: SiteData) -> tuple[Keys, Keys]:
    """Return the lasting keys of recordings and patients; of a cohort held in memory, its row and patient numbers."""
    records = np.arange(len(data), dtype=np.uint64) if data.record_keys is None else data.record_keys
    patients = data.patient.astype(np.uint64) if data.patient_keys is None else data.patient_keys
    return records, patients


def here_of(data: SiteData) -> Keys:
    """Return the recordings that are still at the site, in a study's cohort or not; who is not among them has left."""
    return keys_of(data)[0] if data.table_keys is None else data.table_keys


def groups_of(
    data: SiteData,
    study: Study,
    step: StepConfig,
    limits: DisclosureLimits,
    *,
    trains: bool,
    phase: str = "",
    round_number: int = 0,
) -> list[Asked]:
    """Return the sets that an answer of a step speaks of.

    Parameters
    ----------
    data : the whole cohort under the study. trains : whether the site trains in it, and so has a lockbox.
    phase, round_number : of the request; a round of training is asked about once.
    """
    of_step = _base(data, step, trains=trains)
    figures = f"train {phase} {round_number}" if step.stage == "train" else step.stage
    whom = step.population or "everybody eligible"
    age = getattr(step, "max_age", None)
    whom += "" if age is None else f" under {age:g} years"
    found = []
    records, patients = keys_of(data)
    splits = [split for split in SPLITS if split in step.reads_splits] if trains else list(SPLITS)
    for split in splits:
        inside = of_step & (data.split == SPLITS.index(split))
        where = f"{whom}, {split}" if trains else whom
        for topic, name, rows in [(GROUP, where, inside), *_parts(data, study, step, inside, where)]:
            if rows.any():
                few = few_of(topic, limits)
                found.append(Asked(topic, name, figures, records[rows], patients[rows], few))
    return found


def closed_in_study(data: SiteData, study: Study, step: StepConfig, settings: SiteSettings) -> str:
    """Say why a step's group (a population, an age limit) is closed: it differs from another of the study by a few
    patients; "" where it is not."""
    groups: dict[str, Bools] = dict(data.populations)
    for other in study.steps:
        age_limit = getattr(other, "max_age", None)
        if age_limit is not None and settings.site in study.members(other):
            of = np.ones(len(data.patient), dtype=np.bool_) if other.population is None else groups[other.population]
            groups[_under_age(other, age_limit)] = of & (data.age < age_limit)
    own = [step.population] if step.population is not None else []
    if (age_limit := getattr(step, "max_age", None)) is not None:
        own.append(_under_age(step, age_limit))
    if not own:
        return ""
    # Figures are of one split, and of those whose outcome is known: nearness counts within each.
    splits = [data.split == split for split in np.unique(data.split)]
    known = ~np.isnan(data.labels.T)
    for part in (*splits, *(split & labelled for split in splits for labelled in known)):
        inside = {name: belongs[part] for name, belongs in groups.items()}
        closed = close_groups(inside, data.patient[part], settings.limits.min_patients)
        for name in own:
            if name in closed:
                return f"population {name!r} {closed[name]}"
    return ""


def _under_age(step: StepConfig, age_limit: float) -> str:
    return f"{step.population or 'everybody'} under {age_limit:g} years"


def planned(data: SiteData, study: Study, settings: SiteSettings, *, but: str) -> list[Asked]:
    """Return the sets that a study's steps at a site would speak of, all but one step's."""
    trains, found = settings.site in study.sites.train, list[Asked]()
    for step in study.steps:
        if step.id != but and step.frozen is None and settings.site in study.members(step):
            found += groups_of(data, study, step, settings.limits, trains=trains)
    return found


def _base(data: SiteData, step: StepConfig, *, trains: bool) -> Bools:
    inside = np.ones(len(data), dtype=np.bool_) if step.population is None else data.populations[step.population].copy()
    if trains and not step.opens_lockbox:
        inside &= data.split != SPLITS.index("lockbox")
    if (limit := getattr(step, "max_age", None)) is not None:
        inside &= data.age < limit
    return inside


def _parts(
    data: SiteData, study: Study, step: StepConfig, inside: Bools, where: str
) -> Iterator[tuple[str, str, Bools]]:
    if step.stage in _BY_CELLS:
        return
    named = set(_words(step, study))
    columns: dict[str, Any] = {"age": data.age, "male": data.male, **data.covariates, **data.columns}
    inputs = sorted(named & set(columns))
    complete = inside.copy()
    for name in inputs:
        # A column nobody here has closes itself at the stage; it takes nobody out.
        if np.isfinite(columns[name][inside]).any():
            complete = complete & np.isfinite(columns[name])
    targets = [head for head in data.heads if head in named]
    score = str(getattr(step, "score", None))
    for head in targets or [""]:
        rows = complete if not head else complete & ~np.isnan(data.labels[:, data.heads.index(head)])
        words = f"{where}, with {', '.join([*inputs, *([head] if head else [])]) or 'all inputs'}"
        for name in inputs:
            for topic, cell in sums_of(name, columns[name], rows):
                yield topic, words, cell
        yield f"score {score} {sorted(used_steps(step, study))}", words, rows
        if head and study.endpoints[head].kind == "continuous":
            for topic, cell in sums_of(head, data.labels[:, data.heads.index(head)], rows):
                yield topic, words, cell
        elif head:
            for topic in event_topics(study, head):
                yield topic, f"{where}, with the event {head}", inside & _has(data, head)
    event: Any = getattr(step, "event", None)
    if event in data.event_times:
        times = data.event_times[event]
        limit: float | None = getattr(step, "follow_up_years", None)
        seen = inside & times.observed & (times.years <= (np.inf if limit is None else limit))
        yield f"event {event}", f"{where}, with the event {event}", seen


def few_of(topic: str, limits: DisclosureLimits) -> int:
    """What fewer patients would be told apart by: with an event, the least number of events."""
    return max(limits.min_events, 1) if topic.startswith("event ") else limits.min_patients


def sums_of(column: str, values: NDArray[Any], rows: Bools) -> list[tuple[str, Bools]]:
    """Return the topics of a sum of a column over some rows, and the rows it tells of.

    The sum of a yes/no column beside the number of rows is a count of those with each answer.
    """
    if np.isin(values[rows & ~np.isnan(values)], (0, 1)).all():
        return [(f"yes to {column}", rows & (values == 1)), (f"no to {column}", rows & (values == 0))]
    return [(f"sums of {column}", rows & ~np.isnan(values))]


def events_of(study: Study, head: str) -> str:
    """The topic of those with an endpoint's event: one for all its horizons."""
    endpoint = study.endpoints[head]
    return f"event {endpoint.event if isinstance(endpoint, TimeToEventEndpoint) else getattr(endpoint, 'column', head)}"


def event_topics(study: Study, head: str) -> list[str]:
    """The topics of those with an endpoint's event; of several events joined, each one's too: those with one and not
    the other are the difference."""
    endpoint = study.endpoints[head]
    joined = getattr(endpoint, "event", None)
    return [events_of(study, head), *(f"event {one}" for one in (joined if isinstance(joined, tuple) else ()))]


def _has(data: SiteData, head: str) -> Bools:
    return np.asarray(data.labels[:, data.heads.index(head)] == 1)


def _words(step: StepConfig, study: Study) -> Iterator[str]:
    """Every word of a step's settings that may name a column, an endpoint or an event; of its calibration's too."""
    calibrates = step.stage == "calibrate"
    for name in type(step).model_fields:
        if name not in _SAYS_NOTHING_OF_PEOPLE and not (calibrates and name == "inputs"):
            yield from _in(getattr(step, name))
    yield from step.reads_columns
    if calibrates:
        # What a net says (``risk.death``) is an input that everybody has, and tells nobody's label.
        yield from _in([name for name in calibrate_inputs(step, study) if "." not in name])
    calibrated = study.used(step, "calibrate")
    if calibrated is not None and getattr(step, "score", None) is None:
        yield from _words(calibrated, study)


def _in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _WORD.findall(value)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _in(key)
            yield from _in(one)
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for one in value:
            yield from _in(one)
    elif hasattr(type(value), "model_fields"):
        for name in type(value).model_fields:
            yield from _in(getattr(value, name))
