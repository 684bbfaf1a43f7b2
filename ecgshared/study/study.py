"""The study file: which steps run, on which endpoints, with which model. No path, row or limit of a hospital."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, SerializeAsAny, ValidationInfo, field_validator, model_validator

from ecgshared.config import Config, parse_yaml, read_text, validate
from ecgshared.ecg.input import InputConfig
from ecgshared.errors import ConfigError
from ecgshared.study.blocks import CompareBlock, LeaveOneOutBlock, expand
from ecgshared.study.columns import COVARIATES, STANDARD_COLUMNS
from ecgshared.study.declared import NAME, DeclaredColumn, filter_kinds, name_faults, number_names
from ecgshared.study.endpoints import (
    EVENTS,
    BinaryEndpoint,
    Censoring,
    ContinuousEndpoint,
    Endpoint,
    TimeToEventEndpoint,
)
from ecgshared.study.framework import EligibilityConfig as EligibilityConfig
from ecgshared.study.framework import FederationConfig as FederationConfig
from ecgshared.study.framework import Name as Name
from ecgshared.study.framework import PublishedConfig as PublishedConfig
from ecgshared.study.framework import SitesConfig as SitesConfig
from ecgshared.study.framework import SplitConfig as SplitConfig
from ecgshared.study.populations import Population, kinds
from ecgshared.study.registry import STAGES, shared_room
from ecgshared.study.secure import SecureSumConfig, check_secure_sum
from ecgshared.wire.protocol import StepConfig

ColumnName = Annotated[str, Field(pattern=NAME)]


_FLAG = DeclaredColumn(kind="flag")


def _near(name: str, allowed: Iterable[str], otherwise: str) -> str:
    close = get_close_matches(name, allowed, n=3)
    return f"did you mean {', '.join(close)}?" if close else otherwise


class Study(Config):
    """A study. ``sha256`` travels with every message."""

    format_version: Literal[1] = Field(default=1, description="version of the study language; 1 so far")
    name: Name = Field(description="short name of the study, lower case: letters, digits, _ and -")
    about: str = Field(
        default="", description="one sentence for the hospitals that approve it and for the report's head"
    )
    published: PublishedConfig | None = Field(
        default=None,
        description="a publication whose values stand beside ours in the report",
        exclude_if=lambda published: published is None,
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="every random number of the study follows from it")
    sites: SitesConfig = Field(description="which hospitals train and which only judge")
    input: InputConfig = Field(
        default=InputConfig(), description="what a model sees of a recording: rate, length, filters"
    )
    columns: dict[ColumnName, DeclaredColumn] = Field(
        default={},
        max_length=40,
        description="columns beside the standard ones, which sites map under `table.declared`",
        exclude_if=lambda columns: not columns,
    )
    endpoints: dict[Name, Endpoint] = Field(min_length=1, description="what is predicted, each under a name of its own")
    censoring: Censoring = Field(
        default="strict",
        description="an ECG whose horizon ends after the data: missing (strict), as the paper did, or weighted by the "
        "chance to be followed (ipcw; in evaluate, beside the strict figures)",
    )
    censor_at_defibrillator: bool = Field(
        default=False, description="a defibrillator implanted after the ECG ends the view on what would have come"
    )
    covariates: tuple[str, ...] = Field(default=(), description="columns that steps may use, beside age, sex")
    labels: dict[str, str] = Field(
        default={},
        description="how the report calls standard columns and hospitals, in words",
        exclude_if=lambda labels: not labels,
    )
    eligibility: EligibilityConfig = Field(
        default=EligibilityConfig(), description="whom the study is about; everybody else is excluded and counted"
    )
    populations: dict[Name, Population] = Field(
        default={}, description="groups among the eligible, named once; steps say whom they are about"
    )
    split: SplitConfig = Field(
        default=SplitConfig(), description="shares of the patients of a training hospital that train, choose and judge"
    )
    federation: FederationConfig = Field(
        default=FederationConfig(), description="how many answers make a round, and how long they are waited for"
    )
    secure_sum: SecureSumConfig | None = Field(
        default=None,
        description="sums and weights are added under masks: nobody sees one hospital's; none where it is left out",
        exclude_if=lambda found: found is None,
    )
    steps: tuple[SerializeAsAny[StepConfig], ...] = Field(
        min_length=1, description="what is done, in this order; each names a stage"
    )
    compare: dict[Name, CompareBlock] = Field(
        default={},
        description="steps beside each other, as contrast steps behind the others",
        exclude_if=lambda blocks: not blocks,
    )
    leave_one_out: dict[Name, LeaveOneOutBlock] = Field(
        default={},
        description="a train step without each of its hospitals in turn, judged at the one left out",
        exclude_if=lambda blocks: not blocks,
    )
    _gone: tuple[Name, ...] = PrivateAttr(default=())
    _amendment: str = PrivateAttr(default="")

    @model_validator(mode="before")
    @classmethod
    def _blocks_are_steps(cls, study: Any) -> Any:
        return expand(study) if isinstance(study, dict) else study

    @field_validator("columns")
    @classmethod
    def _names_are_free(cls, columns: dict[str, DeclaredColumn]) -> dict[str, DeclaredColumn]:
        if faults := name_faults(columns):
            raise ValueError("; ".join(faults))
        return columns

    @field_validator("covariates")
    @classmethod
    def _covariates_known(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "columns" not in info.data:
            return names  # their own faults are told
        allowed = (*COVARIATES, *number_names(info.data["columns"]))
        for name in names:
            if name not in allowed:
                close = get_close_matches(name, allowed, n=3)
                hint = f"did you mean {', '.join(close)}?" if close else f"allowed: {', '.join(allowed)}"
                raise ValueError(f"{name!r} is no covariate; {hint}")
        if len(set(names)) != len(names):
            raise ValueError("covariates names one twice")
        return names

    @model_validator(mode="after")
    def _labels_name_something(self) -> Study:
        for name, label in self.labels.items():
            if name in self.columns:
                raise ValueError(f"labels: {name!r} is declared under columns; give its label there")
            if name not in ("male", *STANDARD_COLUMNS, *self.sites.all):
                close = get_close_matches(name, ("male", *COVARIATES, *self.sites.all), n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"labels: {name!r} is no standard column and no site of the study{hint}")
            if not 0 < len(label) <= 80 or not label.isprintable():
                raise ValueError(f"labels.{name}: a label has 1 to 80 printable characters")
        return self

    @model_validator(mode="after")
    def _endpoints_have_columns(self) -> Study:
        known = kinds(filter_kinds(self.columns))
        numbers = [n for n, kind in known.items() if kind == "number" and (n in STANDARD_COLUMNS or n in self.columns)]
        for name, endpoint in self.endpoints.items():
            where = f"endpoints.{name}"
            if isinstance(endpoint, ContinuousEndpoint) and endpoint.column not in numbers:
                what = f"{endpoint.column!r} is no number of the study"
                raise ValueError(f"{where}: {what}; {_near(endpoint.column, numbers, 'declare it under `columns`')}")
            if isinstance(endpoint, BinaryEndpoint) and self.columns.get(endpoint.column, _FLAG).kind != "flag":
                raise ValueError(f"{where}: {endpoint.column!r} is declared as a {self.columns[endpoint.column].kind}")
            if isinstance(endpoint, TimeToEventEndpoint):
                self._require_events(where, endpoint.events)
        return self

    def _require_events(self, where: str, events: Iterable[str]) -> None:
        allowed = (*EVENTS, *(name for name, column in self.columns.items() if column.kind == "event"))
        for event in events:
            if event not in allowed:
                hint = _near(event, allowed, f"allowed: {', '.join(allowed)}; others are declared under `columns`")
                raise ValueError(f"{where}: {event!r} is no event of the study; {hint}")

    @field_validator("populations")
    @classmethod
    def _columns_known(cls, populations: dict[str, Population], info: ValidationInfo) -> dict[str, Population]:
        if "columns" not in info.data:
            return populations
        known = kinds(filter_kinds(info.data["columns"]))
        faults = [f"{name}.{fault}" for name, population in populations.items() for fault in population.check(known)]
        if faults:
            raise ValueError("; ".join(faults))
        return populations

    @field_validator("steps", mode="before")
    @classmethod
    def _steps_by_stage(cls, steps: Any) -> Any:
        if not isinstance(steps, list | tuple):
            raise ValueError("must be a list of steps")
        parsed, faults = [], []
        for i, step in enumerate(steps):
            if isinstance(step, StepConfig):
                parsed.append(step)
            elif not isinstance(step, dict) or step.get("stage") not in STAGES:
                found = step.get("stage") if isinstance(step, dict) else step
                named = step.get("id", f"step {i + 1}") if isinstance(step, dict) else f"step {i + 1}"
                near = get_close_matches(str(found), STAGES, n=1)
                meant = f"; did you mean {near[0]!r}?" if near else ""
                faults.append(f"{named}: stage {found!r} is not one of {', '.join(STAGES)}{meant}")
            else:
                try:
                    parsed.append(
                        validate(shared_room(step["stage"]).Config, step, where=step.get("id", f"step {i + 1}"))
                    )
                except ConfigError as error:
                    faults.append(str(error))
        if faults:
            raise ValueError("\n    ".join(faults))
        return tuple(parsed)

    @model_validator(mode="after")
    def _graph_holds(self) -> Study:
        seen: dict[str, StepConfig] = {}
        for step in self.steps:
            if step.id in seen:
                raise ValueError(f"two steps are called {step.id!r}")
            for used in step.uses:
                if used not in seen:
                    raise ValueError(f"step {step.id!r} uses {used!r}, which is no earlier step")
            if step.frozen is not None and (not step.can_be_frozen or step.sites is not None):
                what = (
                    f"a step of stage {step.stage} cannot be imported"
                    if not step.can_be_frozen
                    else ("no site is asked for what is imported; leave `sites` out")
                )
                raise ValueError(f"step {step.id!r}: {what}")
            if step.population is not None and step.population not in self.populations:
                close = get_close_matches(step.population, self.populations, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"named are: {', '.join(self.populations) or 'none'}"
                raise ValueError(f"step {step.id!r}: no population is called {step.population!r}; {hint}")
            if (event := getattr(step, "event", None)) is not None:
                self._require_events(f"step {step.id!r}", (event,))
            self._require_unseen(step, seen)
            self.members(step)
            check = getattr(shared_room(step.stage), "check", None)
            seen[step.id] = step
            if check is not None:
                check(step, self)
            check_secure_sum(self, step)
        return self

    def _require_unseen(self, step: StepConfig, earlier: dict[str, StepConfig]) -> None:
        """Refuse a step that would judge or fit on validation patients a model that was trained on them."""
        judges = "validation" in step.reads_splits and not getattr(step, "retrains", False)
        if step.frozen is not None or not judges or step.stage == "describe":
            return
        waiting = list(step.uses)
        while waiting:
            used = earlier[waiting.pop()]
            if getattr(used, "retrains", False):
                raise ValueError(
                    f"step {step.id!r} reads validation patients, and {used.id!r}, which it uses, was trained on them "
                    "(on: [train, validation]); the lockbox alone can judge it"
                )
            waiting += used.uses

    @property
    def numbers(self) -> tuple[str, ...]:
        """Columns that have a number for each ECG at every site that knows it: age, male, covariates, declared."""
        return tuple(dict.fromkeys(("age", "male", *self.covariates, *number_names(self.columns))))

    def require_yes_no(self, step: StepConfig, heads: Iterable[str]) -> None:
        """Raise ValueError where one of a step's endpoints is no yes or no (1 or 0) that could be counted or ranked."""
        for head in heads:
            if isinstance(self.endpoints[head], ContinuousEndpoint):
                raise ValueError(
                    f"step {step.id!r}: {head!r} is a continuous endpoint; stage {step.stage} takes yes/no"
                )

    @property
    def used_stages(self) -> frozenset[str]:
        """The stages of its steps."""
        return frozenset(step.stage for step in self.steps)

    def step(self, step_id: str) -> StepConfig:
        """Return a step by its id; raise KeyError where there is none."""
        return next(step for step in self.steps if step.id == step_id)

    @property
    def gone(self) -> tuple[str, ...]:
        """Sites that left the run for good, see :mod:`ecgshared.study.amendment`."""
        return self._gone

    @property
    def amendment(self) -> str:
        """The sha256 of the amendment that holds; "" where there is none."""
        return self._amendment

    def amended(self, gone: tuple[str, ...], amendment: str) -> Study:
        """Return the same study, of the same hash, without sites that left; a step may then have no members."""
        made = self.model_copy()
        made._gone, made._amendment = gone, amendment
        return made

    def members(self, step: StepConfig) -> tuple[str, ...]:
        """Return the sites a step is run on; those it is for where it is imported and nobody is asked."""
        return tuple(site for site in self.first_members(step) if site not in self._gone)

    def first_members(self, step: StepConfig) -> tuple[str, ...]:
        """Return the sites of a step as the study was approved, those that left since among them."""
        if step.frozen is not None:
            return self.sites.all
        wanted = step.sites if step.sites is not None else step.default_sites
        series = self.sites.case_control if not step.by_ranks else ()
        groups = {
            name: tuple(site for site in sites if site not in series)
            for name, sites in (
                ("train", self.sites.train),
                ("zero_shot", self.sites.zero_shot),
                ("case_control", self.sites.case_control),
                ("all", self.sites.all),
            )
        }
        names = groups.get(wanted, (wanted,)) if isinstance(wanted, str) else wanted
        unknown = [name for name in names if name not in self.sites.all]
        if unknown or not names:
            raise ValueError(f"step {step.id!r}: {unknown or wanted!r} names no site of the study")
        if drawn := [name for name in names if name in series]:
            raise ValueError(
                f"step {step.id!r}: {', '.join(drawn)} holds a case-control series, and what {step.stage} tells hangs "
                "on how often the event is"
            )
        return tuple(names)

    def used(self, step: StepConfig, stage: str) -> StepConfig | None:
        """Return the nearest step of ``stage`` that ``step`` uses, directly or through others; None where none."""
        for name in step.uses:
            found = self.step(name)
            if found.stage == stage:
                return found
        for name in step.uses:
            deeper = self.used(self.step(name), stage)
            if deeper is not None:
                return deeper
        return None

    @property
    def sha256(self) -> str:
        """Hash of the canonical content: comments and key order don't matter, every value does."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_study(path: Path) -> Study:
    """Read and validate a study file; what was read before, word for word, is not parsed again."""
    return _study_of(path, read_text(path))


@lru_cache(maxsize=64)
def _study_of(path: Path, text: str) -> Study:
    return validate(Study, parse_yaml(text, path, aliases=True), where=path)
