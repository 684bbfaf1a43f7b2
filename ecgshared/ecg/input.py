"""What a model sees of an ECG: rate, length, band and baseline."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ecgshared.config import Config


class InputConfig(Config):
    """What the model sees: rate, length, band and baseline of every ECG, the same at every site."""

    fs_hz: float = Field(default=500, ge=50, le=1000, description="rate that recordings are brought to, Hz")
    seconds: float = Field(default=10, ge=2, le=60, description="length of the input, seconds")
    band_hz: tuple[float, float] | None = Field(
        default=None, description="zero-phase band-pass; None filters nothing, as the paper"
    )
    mains_hz: Literal[50, 60] | None = Field(
        default=None, description="mains frequency that is removed; none where it is left"
    )
    baseline: Literal["median", "mode", "none"] = Field(
        default="median", description="what is subtracted of each lead: its median, its most frequent value, nothing"
    )
    resample: Literal["polyphase", "linear"] = Field(
        default="polyphase", description="how the rate is changed: polyphase with its filter, or linear as the paper"
    )
    pad: Literal["right", "both"] = Field(default="both", description="where a short recording is filled with zeros")

    @property
    def samples(self) -> int:
        """Samples per lead."""
        return round(self.fs_hz * self.seconds)

    @model_validator(mode="after")
    def _band_fits(self) -> InputConfig:
        if self.band_hz is not None and not 0 < self.band_hz[0] < self.band_hz[1] < self.fs_hz / 2:
            raise ValueError(f"band_hz must satisfy 0 < low < high < fs_hz / 2 = {self.fs_hz / 2:g}")
        return self
