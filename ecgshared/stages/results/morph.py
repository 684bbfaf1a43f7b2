"""The result of ``morph``."""

from __future__ import annotations

from pydantic import Field

from ecgshared.stages.results.base import Absences, EstimateResult, Group, MeanSd, Number, ResultPart, StageResult

Leads = tuple[tuple[Number, ...], ...]
"""Twelve leads, in the standard order, of the beat's samples, uV."""


class SiteMoved(ResultPart):
    """One site's beats in one direction."""

    group: Group
    patients: Number
    left_out: Number = Field(description="patients whose beat was reconstructed too badly")
    arrived: Number = Field(description="share that reached the target")
    steps: Number = Field(description="mean")
    reconstruction_mse: Number = Field(description="mean, mV^2")
    logit_before: MeanSd
    logit_after: MeanSd


class Change(ResultPart):
    """What is measured on beats: before, and what the morph changed, with the interval of its mean over patients."""

    before: Number
    change: EstimateResult


class PooledMoved(ResultPart):
    """Means over the patients of a group's sites, in one direction."""

    patients: Number
    arrived: Number
    real_uv: Leads = Field(description="mean of patients' median single beats")
    start_uv: Leads = Field(description="mean reconstruction of the beats that were moved")
    end_uv: Leads = Field(description="mean morph")
    low_uv: Leads = Field(description="of the mean difference, end - start: lower end of its 95% interval")
    high_uv: Leads = Field(description="upper end")
    path: tuple[MeanSd, ...] = Field(description="predicted logit along the way, mean and SD over patients")
    measured: dict[str, Change]
    leads: dict[str, dict[str, Change]] = Field(description="by lead, then by what is measured")


class MeanBeat(ResultPart):
    """The pooled mean low-risk beat, moved by itself at the coordinator: nobody's beat."""

    start_uv: Leads
    end_uv: Leads
    logit_before: Number
    logit_after: Number
    steps: int
    measured: dict[str, Change] = Field(description="without intervals")


class Result(StageResult):
    """Beats moved through a VAE's latent space along a beat net's gradient."""

    net: str = Field(description="the train step of the net")
    head: str
    vae: str = Field(description="the train step of the VAE")
    fs_hz: float
    window_s: tuple[float, float]
    low_logit: Number = Field(description="predicted logit at the percentile below which beats start up")
    high_logit: Number = Field(description="and at that where they are to arrive")
    low_share: float
    high_share: float
    sites: dict[str, dict[str, SiteMoved]] = Field(description="by direction, then site")
    pooled: dict[str, dict[str, PooledMoved]] = Field(description="by direction, then group")
    difference_uv: dict[str, Leads] = Field(description="by group: mean real high-risk less mean real low-risk beat")
    agreement: dict[str, Number] = Field(
        description="by group: correlation of the morphs' mean difference with it, over all leads and samples"
    )
    from_mean: MeanBeat | None
    absent: Absences
