"""generate, at the coordinator: one question to every site, then their figures side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ecgshared.stages.generate import FEATURES, PUBLISHED_MAE_UV, Config, Judged, Result, trained_cvae
from ecgshared.stages.results.base import Absences, Group, MeanSd
from ecgshared.stages.results.generate import (
    Agreement,
    Distance,
    FeatureMoments,
    MadeReal,
    Nearest,
    PooledBeats,
    RealMade,
    SiteBeats,
)
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, number, numbers, quorum
from server.report.generation import beat_sections
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Section
from server.rounds.step_context import Artefact, StepContext


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Ask every site to judge the model on its held-out people."""
    if not isinstance(step, Config):
        raise TypeError("a generate step's configuration was expected")
    study = context.study
    trained = trained_cvae(step, study)
    conditions = list(trained.model.side_inputs)
    absent: Absences = {}
    replies = context.ask("judge", quorum=quorum(context, context.sites))
    absences(replies, absent, "judge")
    sites = {
        site: _site(reply, conditions, "training" if site in study.sites.train else "zero_shot")
        for site, reply in replies.by_site.items()
    }
    result = Result(
        model=trained.id,
        conditions=tuple(conditions),
        features=FEATURES,
        published_mae_uv=PUBLISHED_MAE_UV,
        sites=sites,
        pooled={group: _pool(sites, group) for group in get_args(Group)},
        absent=absent,
    )
    return Artefact(step.id, "generate", result)


def _site(reply: Judged, conditions: list[str], group: Group) -> SiteBeats:
    ecgs, patients = numbers(reply.counts)
    mmd_made, mmd_real = numbers(reply.mmd2)
    precision, recall, precision_real, recall_real = numbers(reply.manifold)
    made, made_tail, real, real_tail = numbers(reply.nearest)
    return SiteBeats(
        group=group,
        ecgs=ecgs,
        patients=patients,
        reconstruction_uv=_pair(reply.reconstruction),
        leads_uv=numbers(reply.leads),
        conditions_only_uv=number(reply.conditions_only[0]),
        mmd2=MadeReal(made=mmd_made, real=mmd_real),
        precision=precision,
        recall=recall,
        precision_real=precision_real,
        recall_real=recall_real,
        features={
            name: FeatureMoments(real=_pair(row[:2]), made=_pair(row[2:]))
            for name, row in zip(FEATURES, reply.features, strict=True)
        },
        slopes={
            name: {c: RealMade(real=number(a), made=number(b)) for c, (a, b) in zip(conditions, table, strict=True)}
            for name, table in zip(FEATURES, reply.slopes, strict=True)
        },
        slope_agreement=_agreement(reply.slopes, reply.features),
        condition_r2=dict(zip(conditions, numbers(reply.condition_r2), strict=True)),
        latent_correlation=number(reply.latent_correlation[0]),
        nearest_uv=Nearest(made=Distance(median=made, p05=made_tail), real=Distance(median=real, p05=real_tail)),
    )


def _pair(values: NDArray[np.float64]) -> MeanSd:
    mean, sd = numbers(values)
    return MeanSd(mean=mean, sd=sd)


def _agreement(slopes: NDArray[np.float64], features: NDArray[np.float64]) -> Agreement:
    """Correlation of made with real slopes, and their line through 0, each feature in units of its own spread."""
    spread = np.where(features[:, 1] > 0, features[:, 1], np.nan)
    scaled = (slopes / spread[:, None, None]).reshape(-1, 2)
    real, made = scaled[np.isfinite(scaled).all(axis=1)].T
    if len(real) < 3 or not (real.std() > 0 and made.std() > 0):
        return Agreement(correlation=None, slope=None)
    return Agreement(correlation=number(np.corrcoef(real, made)[0, 1]), slope=number(real @ made / (real @ real)))


def _pool(sites: Mapping[str, SiteBeats], group: Group) -> PooledBeats:
    """Means over the group's sites, weighted by their ECGs."""
    members = [site for site in sites.values() if site.group == group]

    def mean(values: list[float | None]) -> float | None:
        pairs = [
            (v, site.ecgs) for v, site in zip(values, members, strict=True) if v is not None and site.ecgs is not None
        ]
        total = sum(n for _, n in pairs)
        return sum(v * n for v, n in pairs) / total if total else None

    return PooledBeats(
        reconstruction_uv=mean([s.reconstruction_uv.mean for s in members]),
        conditions_only_uv=mean([s.conditions_only_uv for s in members]),
        precision=mean([s.precision for s in members]),
        recall=mean([s.recall for s in members]),
        precision_real=mean([s.precision_real for s in members]),
        recall_real=mean([s.recall_real for s in members]),
    )


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """Reconstruction, likeness, what conditions do, disentanglement and memory, site by site."""
    return beat_sections(artefact.step, artefact.result, labels)
