"""What a study says before its steps: who counts, who is in which part, which sites take part, when a round counts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ecgshared.config import Config

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]


class EligibilityConfig(Config):
    """Who and which ECG counts. Applied in this order; the flow of exclusions follows it."""

    min_age: float | None = Field(default=None, description="youngest age at the ECG, years")
    max_age: float | None = Field(default=None, description="age under this, years")
    known_age: bool = Field(default=False, description="drop ECGs of people of unknown age")
    known_sex: bool = Field(default=False, description="drop ECGs of people of unknown sex")
    exclude_defibrillator: bool = Field(default=False, description="drop ECGs on or after implantation")
    min_days_before_index: float | None = Field(default=None, description="ECG at least so many days before index_date")
    max_days_before_index: float | None = Field(default=None, description="ECG at most so many days before index_date")
    most_recent_only: bool = Field(default=False, description="the last eligible ECG of each patient")


class SplitConfig(Config):
    """Shares of PATIENTS. Sites that never train put every patient into the lockbox."""

    train: float = Field(default=0.3, ge=0, le=1, description="share that trains")
    validation: float = Field(default=0.3, ge=0, le=1, description="share that chooses rounds and calibrates")
    lockbox: float = Field(default=0.4, ge=0, le=1, description="share that judges, once, at the end")

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitConfig:
        if abs(self.train + self.validation + self.lockbox - 1) > 1e-9:
            raise ValueError("train + validation + lockbox must be 1")
        return self


class SitesConfig(Config):
    """Which sites train, and which are only ever evaluated. Nobody trains where all that is judged is imported."""

    train: tuple[Name, ...] = Field(default=(), description="hospitals that train")
    zero_shot: tuple[Name, ...] = Field(default=(), description="hospitals that judge and never train")
    case_control: tuple[Name, ...] = Field(
        default=(),
        description="hospitals whose table is a case-control series: they never train, and judge by ranks alone, since "
        "how often the event is follows from how the series was drawn; never pooled with others",
        exclude_if=lambda names: not names,
    )

    @model_validator(mode="after")
    def _disjoint(self) -> SitesConfig:
        both = set(self.train) & set(self.zero_shot)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} cannot both train and be zero-shot")
        twice = set(self.case_control) & {*self.train, *self.zero_shot}
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))}: a case-control series stands under case_control alone")
        if not self.all:
            raise ValueError("names no site, under none of train, zero_shot and case_control")
        return self

    @property
    def all(self) -> tuple[str, ...]:
        """Training sites first, case-control series last."""
        return self.train + self.zero_shot + self.case_control

    def group_of(self, site: str) -> Literal["training", "zero_shot", "case_control"]:
        """Return the group that a site is judged in."""
        return "training" if site in self.train else "zero_shot" if site in self.zero_shot else "case_control"


class FederationConfig(Config):
    """When a round counts."""

    quorum: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        default="all", description="sites that must answer before a round counts, or all"
    )
    deadline_seconds: float = Field(default=3600, gt=0, description="how long a site may take for one answer, seconds")
    retries: int = Field(default=2, ge=0, le=20, description="times a round below quorum is asked again")
    patience_seconds: float = Field(
        default=7 * 86_400,
        ge=0,
        description="how long hospitals below the quorum are waited for; never in a simulation",
    )


class PublishedConfig(Config):
    """A publication that a study reproduces."""

    paper: Literal["10.1038/s41586-026-10674-6"] = Field(description="its DOI; values of this one are known")
    data: Literal["in_silico", "real"] = Field(description="what the report calls ours")
