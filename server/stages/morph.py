"""morph, at the coordinator: percentiles of predicted risk, means of all sites, and the mean beat moved by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.windows import BEAT_S
from ecgshared.errors import RunError, TooFewError
from ecgshared.stages.morph import BY_LEAD, DIRECTIONS, MEASURED, Config, Moved, Result, measured, nets
from ecgshared.stages.results.base import Absences, Group, MeanSd
from ecgshared.stages.results.morph import Change, Leads, MeanBeat, PooledMoved, SiteMoved
from ecgshared.stats.influence import UNDEFINED
from ecgshared.stats.regression import decided_estimate
from ecgshared.stats.score_scale import Sketch, pooled_sketch, quantile_cut
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import absences, est, number, numbers, quorum, released
from server.report.labels import NO_LABELS, Labels
from server.report.morphs import morph_sections
from server.report.sections import Section
from server.rounds.step_context import Artefact, StepContext

GROUPS: tuple[Group, ...] = ("training", "zero_shot")
Site = tuple[str, Group, Moved]


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Ask for the distribution of risk, then for the means; move the pooled mean beat here."""
    if not isinstance(step, Config):
        raise TypeError("a morph step's configuration was expected")
    study = context.study
    vae, net, _ = nets(step, study)
    absent: Absences = {}
    context.progress(0, 3, "predicted risk")
    low, high = _cuts(step, context, absent)
    context.progress(1, 3, "beats move")
    replies = context.ask("morph", arrays={"cuts": np.array([low, high])}, quorum=quorum(context, context.sites))
    absences(replies, absent, "morph")
    samples = net.model.samples(study.input.fs_hz, study.input.seconds)
    found: list[Site] = [
        (site, "training" if site in study.sites.train else "zero_shot", reply)
        for site, reply in replies.by_site.items()
        if np.shape(reply.real) == (2, 12, samples)
    ]
    pooled: dict[str, dict[str, PooledMoved]] = {
        name: {group: made for group in GROUPS if (made := _pool([f for f in found if f[1] == group], i)) is not None}
        for i, name in enumerate(DIRECTIONS)
    }
    real = {group: _real_difference([f for f in found if f[1] == group]) for group in GROUPS}
    context.progress(2, 3, "the mean beat moves")
    result = Result(
        net=net.id,
        head=step.risk.split(".", 1)[1],
        vae=vae.id,
        fs_hz=study.input.fs_hz,
        window_s=BEAT_S,
        low_logit=number(low),
        high_logit=number(high),
        low_share=step.low,
        high_share=step.high,
        sites={
            name: {site: _site(reply, i, group) for site, group, reply in found} for i, name in enumerate(DIRECTIONS)
        },
        pooled=pooled,
        difference_uv={group: _leads(beat) for group, beat in real.items() if beat is not None},
        agreement={
            group: _agreement(pooled["up"].get(group), beat) for group, beat in real.items() if beat is not None
        },
        from_mean=_mean_beat(step, context, found, high),
        absent=absent,
    )
    context.progress(3, 3, "moved")
    return Artefact(step.id, "morph", result)


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """Twelve leads before and after, the difference beside that of real people, the risk along the way, axes."""
    return morph_sections(artefact.step, artefact.result, labels)


def _cuts(step: Config, context: StepContext, absent: Absences) -> tuple[float, float]:
    """Return the logits at the two percentiles of predicted risk over all sites."""
    replies = context.ask("risks", quorum=quorum(context, context.sites))
    absences(replies, absent, "risks")
    sketches = [
        Sketch(r.mean, r.ecgs, np.zeros(len(r.mean), dtype=np.int64))
        for r in replies.by_site.values()
        if r.mean.ndim == 1 and released(r.ecgs, r.mean.shape) and np.isfinite(r.mean).all()
    ]
    mean, ecgs = pooled_sketch(sketches)
    if len(mean) < 2:
        raise TooFewError(
            "no hospital may tell how its predicted risks lie",
            where=step.id,
            remedy="more held-out patients: a larger share of validation, or larger hospitals",
        )
    low, high = (quantile_cut(mean, ecgs, 1 - share) for share in (step.low, step.high))
    if not low < high:
        raise RunError("the net gives nearly everybody the same risk", where=step.id, value=f"{low:g} and {high:g}")
    return low, high


def _site(reply: Moved, i: int, group: Group) -> SiteMoved:
    patients, left_out = numbers(reply.counts[i])
    arrived, steps, mse = numbers(reply.reached[i])
    return SiteMoved(
        group=group,
        patients=patients,
        left_out=left_out,
        arrived=arrived,
        steps=steps,
        reconstruction_mse=mse,
        logit_before=_mean_sd(reply.path[i, 0]),
        logit_after=_mean_sd(reply.path[i, -1]),
    )


def _mean_sd(pair: Floats) -> MeanSd:
    mean, sd = numbers(pair)
    return MeanSd(mean=mean, sd=sd)


class _Pool:
    """Means and SDs over the patients of several sites, from each site's own and how many they are."""

    def __init__(self, replies: list[Moved], i: int) -> None:
        self._replies, self._i = replies, i
        self._n = np.array([r.counts[i, 0] for r in replies])

    @property
    def patients(self) -> float:
        return float(self._n.sum())

    def mean(self, name: str, column: int | None = None) -> Floats:
        values = np.stack([getattr(r, name)[self._i] for r in self._replies])
        values = values if column is None else values[..., column]
        weight = self._n.reshape(-1, *[1] * (values.ndim - 1)) * np.isfinite(values)
        total = weight.sum(axis=0)
        summed = (weight * np.nan_to_num(values)).sum(axis=0)
        return _divided(summed, total)

    def sd(self, mean: tuple[str, int | None], sd: tuple[str, int | None]) -> Floats:
        """SD over all patients: within sites, and of the sites' means."""
        centre = self.mean(*mean)
        total, weight = np.zeros(centre.shape), np.zeros(centre.shape)
        for n, reply in zip(self._n, self._replies, strict=True):
            m, s = (self._of(reply, *which) for which in (mean, sd))
            known = np.isfinite(m) & np.isfinite(s)
            total += np.where(known, n * (np.nan_to_num(s) ** 2 + (np.nan_to_num(m) - centre) ** 2), 0.0)
            weight += n * known
        return np.sqrt(_divided(total, weight))

    def _of(self, reply: Moved, name: str, column: int | None) -> Floats:
        value: Floats = getattr(reply, name)[self._i]
        return value if column is None else value[..., column]


def _divided(a: Floats, b: Floats) -> Floats:
    """Return a / b, NaN where b is 0."""
    return np.asarray(np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0), dtype=np.float64)


def _told(found: list[Site], i: int) -> list[Moved]:
    """The replies of sites that told of a direction."""
    return [r for _, _, r in found if np.isfinite(r.counts[i, 0]) and np.isfinite(r.end[i]).all()]


def _pool(found: list[Site], i: int) -> PooledMoved | None:
    replies = _told(found, i)
    if not replies:
        return None
    pool = _Pool(replies, i)
    n = pool.patients
    start, end = pool.mean("start"), pool.mean("end")
    between = [r.end[i] - r.start[i] - (end - start) for r in replies]
    variance = sum(float(r.counts[i, 0]) * (r.spread[i] ** 2 + b**2) for r, b in zip(replies, between, strict=True)) / n
    half = 1.96 * np.sqrt(variance / max(n - 1, 1))
    before, change = pool.mean("measured", 0), pool.mean("measured", 2)
    change_sd = pool.sd(("measured", 2), ("measured", 3))
    lead_before, lead_change = pool.mean("by_lead", 0), pool.mean("by_lead", 2)
    lead_sd = pool.sd(("by_lead", 2), ("by_lead", 3))
    path, path_sd = pool.mean("path", 0), pool.sd(("path", 0), ("path", 1))
    return PooledMoved(
        patients=number(n),
        arrived=number(pool.mean("reached", 0)),
        real_uv=_leads(pool.mean("real")),
        start_uv=_leads(start),
        end_uv=_leads(end),
        low_uv=_leads(end - start - half),
        high_uv=_leads(end - start + half),
        path=tuple(_mean_sd(np.array(pair)) for pair in zip(path, path_sd, strict=True)),
        measured={name: _change(before[m], change[m], change_sd[m], n) for m, name in enumerate(MEASURED)},
        leads={
            lead: {
                name: _change(lead_before[k, m], lead_change[k, m], lead_sd[k, m], n) for m, name in enumerate(BY_LEAD)
            }
            for k, lead in enumerate(LEADS)
        },
    )


def _change(before: float, change: float, sd: float, patients: float) -> Change:
    """One change, with the interval of its mean over so many patients."""
    if not (np.isfinite(change) and np.isfinite(sd)) or patients < 2:
        return Change(before=number(before), change=est(UNDEFINED))
    return Change(
        before=number(before), change=est(decided_estimate(float(change), float(sd) / np.sqrt(patients), patients))
    )


def _real_difference(found: list[Site]) -> Floats | None:
    """Mean beat of high-risk people less that of low-risk people, uV, where both groups are told."""
    parts = []
    for i in (1, 0):
        replies = [r for _, _, r in found if np.isfinite(r.counts[i, 0]) and np.isfinite(r.real[i]).all()]
        if not replies:
            return None
        parts.append(_Pool(replies, i).mean("real"))
    return np.asarray(parts[0] - parts[1], dtype=np.float64)


def _agreement(pooled: PooledMoved | None, real: Floats) -> float | None:
    if pooled is None:
        return None
    moved = np.array(pooled.end_uv, dtype=np.float64) - np.array(pooled.start_uv, dtype=np.float64)
    return number(np.corrcoef(moved.ravel(), real.ravel())[0, 1]) if moved.std() > 0 and real.std() > 0 else None


def _mean_beat(step: Config, context: StepContext, found: list[Site], target: float) -> MeanBeat | None:
    """Move the mean low-risk beat of all sites: what a single morph looks like, and nobody's."""
    replies = _told(found, 0)
    if not replies:
        return None
    import torch

    from ecgshared.learning.layout import Layout
    from ecgshared.learning.morph import morph
    from ecgshared.stages.train_net import built

    study = context.study
    vae_step, net_step, head = nets(step, study)
    models: list[Any] = []
    for trained in (vae_step, net_step):
        model = built(trained, study).float()
        Layout.of(model).load(model, context.inputs[trained.id].arrays["weights"].astype(np.float32))
        models.append(model.eval())
    vae, net = models
    beat = torch.as_tensor(_Pool(replies, 0).mean("real")[None] / 1000, dtype=torch.float32)
    with torch.no_grad():
        z = vae(beat, torch.empty((1, 0))).double().numpy()
    moved = morph(vae, net, head, z, target=target, up=True, steps=step.steps, rate=step.rate, prior=step.prior)
    before, after = (measured(b, study.input.fs_hz)[0][0] for b in (moved.start, moved.end))
    change = after - before
    axes = [name.endswith("_deg") for name in MEASURED]
    change[axes] = (change[axes] + 180) % 360 - 180
    return MeanBeat(
        start_uv=_leads(1000 * moved.start[0]),
        end_uv=_leads(1000 * moved.end[0]),
        logit_before=number(moved.path[0, 0]),
        logit_after=number(moved.path[0, -1]),
        steps=int(moved.steps[0]),
        measured={
            name: Change(
                before=number(before[m]),
                change=est(UNDEFINED).model_copy(update={"value": number(change[m])}),
            )
            for m, name in enumerate(MEASURED)
        },
    )


def _leads(beat: Mapping[int, Any] | Floats) -> Leads:
    """Return twelve leads to a tenth of a microvolt."""
    return tuple(tuple(None if v is None else round(v, 1) for v in numbers(lead)) for lead in np.asarray(beat))
