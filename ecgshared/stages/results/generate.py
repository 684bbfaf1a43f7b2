"""The result of ``generate``."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import Absences, Group, MeanSd, Number, ResultPart, StageResult


class MadeReal(ResultPart):
    """A number of made beats beside that of real ones."""

    made: Number
    real: Number


class RealMade(ResultPart):
    """A slope in real beats beside that in made ones."""

    real: Number
    made: Number


class FeatureMoments(ResultPart):
    """Mean and spread of one feature."""

    real: MeanSd
    made: MeanSd


class Agreement(ResultPart):
    """Made slopes against real ones, each in units of its feature's spread."""

    correlation: Number
    slope: Number


class Distance(ResultPart):
    """Distances to the nearest training beat, uV: median and 5th percentile."""

    median: Number
    p05: Number


class Nearest(ResultPart):
    """Of made and of real held-out beats; at training sites only."""

    made: Distance
    real: Distance


class SiteBeats(ResultPart):
    """One site's verdict on the model's beats."""

    group: Group
    ecgs: Number
    patients: Number
    reconstruction_uv: MeanSd = Field(description="mean absolute error, over ECGs")
    leads_uv: tuple[Number, ...] = Field(description="by lead, in the standard order of twelve")
    conditions_only_uv: Number = Field(description="error of the usual beat of the conditions")
    mmd2: MadeReal = Field(description="squared maximum mean discrepancy; real: one half against the other")
    precision: Number
    recall: Number
    precision_real: Number
    recall_real: Number
    features: dict[str, FeatureMoments]
    slopes: dict[str, dict[str, RealMade]] = Field(description="by feature, then condition; per SD of the condition")
    slope_agreement: Agreement
    condition_r2: dict[str, Number] = Field(description="how well latents tell a condition; 0 is disentangled")
    latent_correlation: Number
    nearest_uv: Nearest


class PooledBeats(ResultPart):
    """Means over a group's sites, weighted by their ECGs."""

    reconstruction_uv: Number
    conditions_only_uv: Number
    precision: Number
    recall: Number
    precision_real: Number
    recall_real: Number


class Result(StageResult):
    """How good a conditional VAE's beats are."""

    model: str = Field(description="the train step")
    conditions: tuple[str, ...]
    features: tuple[str, ...]
    published_mae_uv: tuple[float, float] = Field(description="mean and SD of a published model")
    sites: dict[str, SiteBeats]
    pooled: dict[Group, PooledBeats]
    absent: Absences
