"""The result of ``biomarker``."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import Absences, Number, ResultPart, StageResult
from ecgshared.stages.results.regress import FitResult, Together


class Zoom(ResultPart):
    """aVL of a mean beat about its QRS, scaled to [0, 1], and how it changes; the beat of a morph step."""

    label: str
    ms: tuple[float, ...] = Field(description="from the R peak of lead I")
    scaled: tuple[Number, ...]
    d1: tuple[Number, ...] = Field(description="absolute first difference up to each sample, a sample at 500 Hz")
    d2: tuple[Number, ...] = Field(description="absolute second difference about each sample")
    peak_ms: Number
    end_ms: Number
    mean_d1: Number = Field(description="from R peak to QRS end")
    mean_d2: Number


class BiomarkerModel(ResultPart):
    """One regression, every coefficient per standard deviation of its term; of a yes/no term, of the term."""

    name: str
    terms: tuple[str, ...]
    pooled: FitResult
    sites: dict[str, FitResult]
    together: dict[str, Together] = Field(description="by term: the sites' own coefficients together, not per SD")


class SiteMeasured(ResultPart):
    """One site's ECGs."""

    ecgs: Number
    left_out: dict[str, Number] = Field(description="by reason")
    reason: str = Field(description="why it takes no part in the regressions; empty where it does")


class Result(StageResult):
    """The end of QRS against an outcome."""

    outcome: str
    controls: tuple[str, ...]
    mean: dict[str, Number] = Field(description="of each measurement over all sites")
    sd: dict[str, Number]
    avl: tuple[BiomarkerModel, ...] = Field(description="d1 and d2 of aVL, alone and with the controls")
    axis: BiomarkerModel | None = Field(description="left axis deviation, alone")
    leads: tuple[BiomarkerModel, ...] = Field(description="d1 and d2 of each lead, alone")
    sites: dict[str, SiteMeasured]
    zoom: tuple[Zoom, ...]
    absent: Absences
