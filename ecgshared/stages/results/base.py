"""What the results of all stages are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
Number = Finite | None
"""None: withheld by the site, or undefined for so few. JSON has neither NaN nor infinity."""

IntervalUnit = Literal["patient", "ECG"]
Group = Literal["training", "zero_shot", "case_control"]
"""Sites that train, and sites that are only evaluated: never pooled together."""

Absences = dict[str, dict[str, str]]
"""Why a site gave no answer: by site, then by phase. What failed over all sites stands under "pooled"."""


class ResultPart(BaseModel):
    """Frozen; keys that a later version adds are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class StageResult(ResultPart):
    """The base of every stage's ``Result``."""

    together: tuple[str, ...] = Field(
        default=(),
        description="sites whose numbers were added under masks: only their sum is known, told of `together`",
    )


class EstimateResult(ResultPart):
    """A number with its standard error and 95% interval."""

    value: Number
    se: Number
    low: Number
    high: Number


class Heterogeneity(ResultPart):
    """How far sites differ: Cochran's Q, its p value, I2 as a share and tau2."""

    q: Number
    p: Number
    i2: Number
    tau2: Number


class MeanSd(ResultPart):
    """Mean and standard deviation."""

    mean: Number
    sd: Number
