"""The rules of statistical disclosure: how small a group may be before a number about it stays at the hospital."""

from __future__ import annotations

from pydantic import Field

from ecgshared.config import Config


class DisclosureLimits(Config):
    """A site's minimum cells. Groups below either limit are withheld."""

    min_patients: int = Field(default=10, ge=1)
    min_events: int = Field(default=5, ge=0)
