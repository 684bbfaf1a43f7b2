"""What the report calls things: the study's own labels, else words made from the study, else the name as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ecgshared.stages.evaluate import Config as EvaluateConfig
from ecgshared.stages.evaluate import heads_of
from ecgshared.stages.results.base import StageResult
from ecgshared.stages.results.describe import Result as Described
from ecgshared.study.endpoints import EVENTS, TimeToEventEndpoint
from ecgshared.study.study import Study

_COLUMNS = {
    "age": "Age, years",
    "male": "Male",
    "lvef": "Ejection fraction",
    "bmi": "Body mass index, kg/m²",
    "heart_failure": "Heart failure",
    "diabetes": "Diabetes",
    "hypertension": "Hypertension",
    "previous_mi": "Previous myocardial infarction",
    "ecg_age": "ECG age, years",
    "age_gap": "ECG age less age, years",
    "intercept": "Intercept",
}
_BUILT_IN = {"male": "male sex", "lvef_low": "ejection fraction of 35% or less"}
_GROUPS = {"training": "lockboxes of the training hospitals", "zero_shot": "hospitals that never trained"}
_GROUPS |= {"case_control": "case-control series"}
_SHORT = {"training": "pooled, training", "zero_shot": "pooled, zero-shot"}


@dataclass(frozen=True)
class Labels:
    """Words for the names of a study; without one (its file does not fit this version) names stay names.

    ``told`` : results of all steps, for lines that one step's figure takes from another.
    """

    study: Study | None = None
    told: Mapping[str, StageResult] = field(default_factory=dict)

    def endpoint(self, name: str) -> str:
        """Return an endpoint in words: its label, or "sudden cardiac death within 2 years"."""
        found = None if self.study is None else self.study.endpoints.get(name)
        if found is None:
            return name
        if found.label is not None:
            return found.label
        if isinstance(found, TimeToEventEndpoint):
            return f"{self.event(*found.events)} {window_words(found)}"
        declared = self.study is not None and found.column in self.study.columns
        return self.column(found.column) if declared else _BUILT_IN.get(found.column, found.column.replace("_", " "))

    def event(self, *names: str) -> str:
        """Return an event in words, or several: "sudden cardiac death or VF/VT"."""
        return " or ".join(EVENTS.get(name) or self.column(name) for name in names)

    def step(self, name: str) -> str:
        """Return a step's label, or its name."""
        found = None if self.study is None else next((s for s in self.study.steps if s.id == name), None)
        return name if found is None or found.label is None else found.label

    def whom(self, name: str) -> str:
        """Return whom a step is about: its population's label or name; empty where it is everybody eligible."""
        found = None if self.study is None else next((s for s in self.study.steps if s.id == name), None)
        if self.study is None or found is None or found.population is None:
            return ""
        return self.study.populations[found.population].label or found.population.replace("_", " ")

    def site(self, name: str) -> str:
        """Return a hospital's label, or its name."""
        return name if self.study is None else self.study.labels.get(name, name)

    def offers(self, site: str, endpoint: str) -> bool:
        """Say whether a hospital knows an endpoint: not where a describe step found no label of it there."""
        described = [r.sites[site] for r in self.told.values() if isinstance(r, Described) and site in r.sites]
        return not described or any(endpoint in found.heads_offered for found in described)

    def column(self, name: str) -> str:
        """Return an input in words: a column's label, or the endpoint behind "<train step>.<head>"."""
        if self.study is not None and name in self.study.labels:
            return self.study.labels[name]
        if self.study is not None and name in self.study.columns:
            column = self.study.columns[name]
            words = column.label or name.replace("_", " ")
            return f"{words}, {column.unit}" if column.unit else words
        step, _, what = name.partition(".")
        if not what:
            return _COLUMNS.get(name, name.replace("_", " "))
        if self.study is not None and what in self.study.endpoints:
            return f"{self.endpoint(what)}, logit by {self.step(step)}"
        return f"{what} of {self.step(step)}"

    def group(self, group: str) -> str:
        """Return what a group of sites is."""
        return _GROUPS.get(group, group)

    def pooled(self, group: str) -> str:
        """Return what a row or curve over a group of sites is called."""
        return _SHORT.get(group, f"pooled, {group}")

    def score(self, name: str) -> str:
        """Return a score in words: the calibrate step it is the risk of, or the head of a train step."""
        step, _, head = name.partition(".")
        if self.study is not None and not head and name.removeprefix("-") in self.study.numbers:
            column = self.column(name.removeprefix("-"))
            return f"{column} (the lower, the riskier)" if name.startswith("-") else column
        return f"{self.endpoint(head)}, by {self.step(step)}" if head else f"risk of {self.step(step)}"

    def models(self, step: str) -> str:
        """Return the trained models behind a step ("risk, resnet1d"); empty where there are none or it is unknown."""
        if self.study is None or all(s.id != step for s in self.study.steps):
            return ""
        waiting, found = [step], dict[str, str]()
        while waiting:
            one = self.study.step(waiting.pop())
            if one.stage == "train":
                model = getattr(one, "model", None)
                found[one.id] = f"{self.step(one.id)}, {getattr(model, 'name', 'model')}"
            waiting += one.uses
        return "; ".join(found[s.id] for s in self.study.steps if s.id in found)

    def about(self, step: str, score: str = "") -> str:
        """Return what a headline says of where it comes from: "step judged · risk of score · risk, resnet1d"."""
        parts = [f"step {self.step(step)}", self.whom(step), self.score(score) if score else "", self.models(step)]
        return " · ".join(part for part in parts if part)

    @property
    def primary(self) -> str | None:
        """The endpoint the study is about: that of its last evaluation, else its first."""
        if self.study is None:
            return None
        for step in reversed(self.study.steps):
            if isinstance(step, EvaluateConfig):
                return heads_of(step, self.study)[0]
        return next(iter(self.study.endpoints))


NO_LABELS = Labels()
"""Names as they are."""


def window_words(endpoint: TimeToEventEndpoint) -> str:
    """Return when an endpoint's event counts: "within 1 year", "from 0.25 to 0.5 years"."""
    years = f"{endpoint.horizon_years:g} year{'' if endpoint.horizon_years == 1 else 's'}"
    text = f"from {endpoint.after_years:g} to {years}" if endpoint.after_years else f"within {years}"
    return f"{text}, among those who died" if endpoint.among_deaths else text


def counted(number: int, what: str) -> str:
    """Return "1 epoch", "2 epochs"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
