"""Endpoints: from dates and codes to one label cell per ECG and head, with the censoring rules of the paper.

Source: Nature 2026 (doi 10.1038/s41586-026-10674-6), Methods. A cell is 1, 0, or NaN where it is not known.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ecgshared.config import Config

Event = Literal["scd", "death", "vfvt", "mi"]


class BinaryEndpoint(Config):
    """A 0/1 label column of the site's table; ``column`` is a key of the site's ``labels`` or ``male``/``lvef_low``."""

    kind: Literal["binary"]
    column: str


class TimeToEventEndpoint(Config):
    """An event within a horizon after the ECG: 1 if 0 <= days < 365.25 h, 0 if seen free of it for so long."""

    kind: Literal["time_to_event"]
    event: Event
    horizon_years: float = Field(gt=0, le=20)
    group: str | None = Field(
        default=None, description="heads of one group are made monotone in their horizon (cumulative hazard)"
    )


Endpoint = Annotated[BinaryEndpoint | TimeToEventEndpoint, Field(discriminator="kind")]
