"""Which columns a hospital must map before it can take part in a study, and what each is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ecgshared.study.columns import STANDARD_COLUMNS
from ecgshared.study.study import EligibilityConfig, Study

_FOLLOWED = ("recorded_at", "death_date", "last_encounter", "data_end")
"""Until when somebody is known to live."""

EVENT_COLUMNS: dict[str, tuple[str, ...]] = {
    "death": _FOLLOWED,
    "scd": (*_FOLLOWED, "death_cause", "death_in_hospital", "admission_time"),
    "vfvt": (*_FOLLOWED, "vfvt_date"),
    "mi": (*_FOLLOWED, "mi_date"),
}
"""What each event is told from."""

_DERIVED_FROM: dict[str, tuple[str, ...]] = {
    "male": ("sex",),
    "lvef_low": ("lvef",),
    "defibrillator": ("icd_date", "recorded_at"),
    "days_to_index": ("index_date", "recorded_at"),
    "days_to_admission": ("admission_time", "recorded_at"),
    "year": ("recorded_at",),
    "month": ("recorded_at",),
    "hour": ("recorded_at",),
}

Want = Callable[[str, str], None]


def needed_columns(study: Study) -> dict[str, list[str]]:
    """Return ``{column: [what for]}`` in the order of the standard columns, a site's own labels last.

    A hospital that lacks one still takes part: what hangs on the column is then missing there, and said to be.
    """
    found: dict[str, list[str]] = {}

    def want(column: str, why: str) -> None:
        for base in _DERIVED_FROM.get(column, (column,)):
            reasons = found.setdefault(base, [])
            if why not in reasons:
                reasons.append(why)

    for column in ("ecg_id", "patient_id", "file"):
        want(column, "every study")
    for column in _eligible(study.eligibility):
        want(column, "eligibility")
    if study.censor_at_defibrillator:
        want("icd_date", "censor_at_defibrillator")
    for name, endpoint in study.endpoints.items():
        for column in _told_from(endpoint):
            want(column, f"endpoint {name}")
    for column in study.covariates:
        want(column, "covariates")
    for name, population in study.populations.items():
        for column in population.where:
            want(column, f"population {name}")
    _of_steps(study, want)
    order = list(STANDARD_COLUMNS)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def _told_from(endpoint: Any) -> Iterator[str]:
    """Yield the columns an endpoint's cells are told from: its own, and those of the events that it names."""
    if column := getattr(endpoint, "column", None):
        yield column
    named = getattr(endpoint, "events", None) or (getattr(endpoint, "event", None),)
    for event in named:
        yield from EVENT_COLUMNS.get(str(event), () if event is None else (str(event), *_FOLLOWED))


def _eligible(config: EligibilityConfig) -> Iterator[str]:
    if config.min_age is not None or config.max_age is not None or config.known_age:
        yield "age"
    if config.known_sex:
        yield "sex"
    if config.exclude_defibrillator:
        yield from ("icd_date", "recorded_at")
    if config.min_days_before_index is not None or config.max_days_before_index is not None:
        yield from ("index_date", "recorded_at")
    if config.most_recent_only:
        yield "recorded_at"


def _of_steps(study: Study, want: Want) -> None:
    for step in study.steps:
        model = getattr(step, "model", None)
        for column in getattr(model, "side_inputs", ()):
            want(column, f"step {step.id}")
        for event in (getattr(model, "event", None), getattr(step, "event", None)):
            for column in EVENT_COLUMNS.get(str(event), ()):
                want(column, f"step {step.id}")
        for column in step.reads_columns:
            want(column, f"step {step.id}")
