"""morph, at the site: one beat of each of some patients moved along the net's gradient; means over them leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from client.dataset.single_beats import SingleBeats
from client.rows.allowance import spend
from client.rows.context import SiteContext
from client.rows.logits import head_logits
from client.rows.model import load_model
from client.rows.risk import received
from ecgshared.arrays import Floats, Ints
from ecgshared.errors import RefusalCode, Refused
from ecgshared.learning.morph import PATH_POINTS, Morphs, morph
from ecgshared.service.files import private_folder, write_atomically
from ecgshared.stages.morph import BY_LEAD, DIRECTIONS, MEASURED, Config, Moved, Risks, measured, nets
from ecgshared.stats.score_scale import sketch
from ecgshared.wire.protocol import Answer, Evidence, Request

F32 = NDArray[np.float32]

DRAWN_SHARE = 0.8
KEPT = "morph.safetensors"
"""What the site keeps of the phase ``morph``, owner-only: the nets and the target, to show single morphs here."""


@dataclass(frozen=True)
class Mover:
    """The two nets at this site, and how the step moves beats with them.

    Parameters
    ----------
    arrays : of the request: weights of both.
    """

    site: SiteContext
    step: Config
    arrays: Mapping[str, NDArray[Any]]

    def moved(self, beats: F32, *, target: float, up: bool) -> tuple[Morphs, Floats, NDArray[np.bool_]]:
        """Morph beats (n, 12, W) that are reconstructed well enough.

        Returns
        -------
        Morphs of those, the mean squared error of every reconstruction (n,), mV^2, and which were good enough (n,).
        """
        import torch

        vae_step, net_step, head = nets(self.step, self.site.study)
        vae: Any = load_model(self.site, vae_step, self.arrays[f"{vae_step.id}.weights"])
        net = load_model(self.site, net_step, self.arrays[f"{net_step.id}.weights"])
        first = next(net.parameters())
        vae.to(first.dtype).eval()
        x = torch.as_tensor(beats).to(first.device, first.dtype)
        with torch.no_grad():
            z = vae(x, x.new_zeros((len(x), 0)))
            missed = (vae.decode(z, z.new_zeros((len(z), 0))) - x).square().mean((1, 2)).double().cpu().numpy()
        good = missed <= self.step.max_mse
        found = morph(
            vae,
            net.eval(),
            head,
            z.double().cpu().numpy()[good],
            target=target,
            up=up,
            steps=self.step.steps,
            rate=self.step.rate,
            prior=self.step.prior,
            bf16=self.site.settings.compute.precision == "bf16",
        )
        return found, missed, good


def risks(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``risks``."""
    step = _step(site)
    rows, logit = _scored(site, step, request)
    spend(site, request, "risks", cap=1, of=_told_by(site, step))
    found = sketch(logit, site.data.patient[rows], site.settings.limits.min_patients, growing=True)
    evidence = Evidence(found.patients)
    return Answer(Risks(found.mean, found.ecgs), {"mean": evidence, "ecgs": evidence})


def morphed(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``morph``: at the percentiles sent, logits of where beats start and arrive."""
    step = _step(site)
    low, high = received(request, "cuts", (2,))
    if not low < high:
        raise Refused(RefusalCode.BAD_REQUEST, "the cuts must rise", value=f"{low:g} and {high:g}")
    rows, logit = _scored(site, step, request)
    spend(site, request, "morph", cap=1, of=["cuts", *_told_by(site, step)])
    keep(site, step, request)
    mover = Mover(site, step, request.arrays)
    seen = SingleBeats(site.data)
    groups = chosen(rows, logit, site.data.patient, (float(low), float(high)), step.beats, site.rng)
    means = []
    for direction, of, target in zip(DIRECTIONS, groups, (high, low), strict=True):
        beats, median = typical(seen, of)
        asked = direction in step.directions
        if not len(of):
            means.append(nothing(seen.samples))
            continue
        found, missed, good = mover.moved(beats, target=float(target), up=direction == "up")
        means.append(_means(found if asked else None, median, missed, good, site.data.fs_hz))
    return moved_answer(means, patients_known=site.data.patients_known)


PHASES = {"risks": risks, "morph": morphed}


def chosen(
    rows: Ints, logit: Floats, patient: Ints, cuts: tuple[float, float], most: int, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Return rows at or below the first cut, and at or above the second, one of each patient and at most ``most``.

    Nobody is in both; whose row it is, and which, is drawn by the site. Never more than :data:`DRAWN_SHARE` of those
    who could be: two studies whose groups differ by one person would give that person's beat by subtraction.
    """
    order = rng.permutation(len(rows))
    rows, logit = rows[order], logit[order]
    high = _one_each(rows[logit >= cuts[1]], patient)
    low = rows[logit <= cuts[0]]
    low = _one_each(low[~np.isin(patient[low], patient[high])], patient)
    return np.sort(low[: _drawn(low, most)]), np.sort(high[: _drawn(high, most)])


def _drawn(of: Ints, most: int) -> int:
    return min(most, int(DRAWN_SHARE * len(of)))


def _one_each(rows: Ints, patient: Ints) -> Ints:
    """Return the first row of each patient, in their order."""
    _, first = np.unique(patient[rows], return_index=True)
    return rows[np.sort(first)]


def typical(seen: SingleBeats, rows: Ints) -> tuple[F32, F32]:
    """Return of each row the beat nearest to the median of its single beats, and that median; (n, 12, W) mV each."""
    shape = (len(rows), 12, seen.samples)
    nearest, median = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    every, of = seen.every(rows)
    for i in range(len(rows)):
        own = every[of == i]
        median[i] = np.median(own, axis=0)
        nearest[i] = own[np.square(own - median[i]).sum(axis=(1, 2)).argmin()]
    return nearest, median


@dataclass(frozen=True)
class Means:
    """One direction's means and the patients behind each; the fields of :class:`Moved` without the first axis."""

    patients: int
    left_out: int
    values: dict[str, Floats]
    behind: dict[str, Ints]


def nothing(samples: int) -> Means:
    """Return the means of nobody."""
    shapes = _shapes(samples)
    return Means(
        0,
        0,
        {name: np.full(shape, np.nan) for name, shape in shapes.items()},
        {"measured": np.zeros(len(MEASURED), dtype=np.int64), "by_lead": np.zeros((12, len(BY_LEAD)), dtype=np.int64)},
    )


def _shapes(samples: int) -> dict[str, tuple[int, ...]]:
    beat = (12, samples)
    return {
        **dict.fromkeys(("real", "start", "end", "spread"), beat),
        "path": (PATH_POINTS, 2),
        "reached": (3,),
        "measured": (len(MEASURED), 4),
        "by_lead": (12, len(BY_LEAD), 4),
    }


def _means(found: Morphs | None, median: F32, missed: Floats, good: NDArray[np.bool_], fs_hz: float) -> Means:
    """Return means over the patients whose beats were moved; of one each, so that beats are patients."""
    empty = nothing(median.shape[2])
    n = int(good.sum())
    values, behind = dict(empty.values), dict(empty.behind)
    if n:
        values["real"] = 1000 * median[good].mean(axis=0, dtype=np.float64)
    if n and found is not None:
        moved = found.end.astype(np.float64) - found.start
        values["start"], values["end"] = (1000 * b.mean(axis=0, dtype=np.float64) for b in (found.start, found.end))
        values["spread"] = 1000 * moved.std(axis=0)
        values["path"] = np.stack([found.path.mean(axis=0), found.path.std(axis=0)], axis=1)
        values["reached"] = np.array([found.arrived.mean(), found.steps.mean(), missed[good].mean()])
        before, after = measured(found.start, fs_hz), measured(found.end, fs_hz)
        for name, i in (("measured", 0), ("by_lead", 1)):
            values[name], behind[name] = _changes(before[i], after[i], circular=name == "measured")
    return Means(n, int((~good).sum()), values, behind)


def _changes(before: Floats, after: Floats, *, circular: bool) -> tuple[Floats, Ints]:
    """Return mean and SD before and of the change, (..., 4), over those who have both, and how many they are."""
    change = after - before
    if circular:
        axes = [i for i, name in enumerate(MEASURED) if name.endswith("_deg")]
        change[:, axes] = (change[:, axes] + 180) % 360 - 180
    known = np.isfinite(before) & np.isfinite(change)
    count = known.sum(axis=0)
    out = np.full((*before.shape[1:], 4), np.nan)
    for i, values in ((0, before), (2, change)):
        total = np.where(known, values, 0.0).sum(axis=0)
        mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
        square = np.where(known, (values - mean) ** 2, 0.0).sum(axis=0)
        out[..., i] = mean
        out[..., i + 1] = np.sqrt(np.divide(square, count, out=np.full(count.shape, np.nan), where=count > 0))
    return out, count.astype(np.int64)


def moved_answer(means: list[Means], *, patients_known: bool) -> Answer:
    """Return what is told of both directions, with the patients behind each cell; nobody where none are known."""
    patients = np.array([m.patients if patients_known else 0 for m in means])
    left_out = np.array([m.left_out if patients_known else 0 for m in means])
    whole = Evidence(patients)
    stacked = {name: np.stack([m.values[name] for m in means]) for name in means[0].values}
    counts = np.array([[m.patients, m.left_out] for m in means], dtype=np.float64)
    parts = {
        name: Evidence(np.stack([m.behind[name] if patients_known else 0 * m.behind[name] for m in means]))
        for name in ("measured", "by_lead")
    }
    return Answer(
        Moved(counts=counts, **stacked),
        {
            "counts": Evidence(np.stack([patients, left_out], axis=1)),
            **dict.fromkeys(("real", "start", "end", "spread", "path", "reached"), whole),
            **parts,
        },
    )


def keep(site: SiteContext, step: Config, request: Request) -> None:
    """Keep at the site what single morphs need to be shown here."""
    vae, net, _ = nets(step, site.study)
    kept = {f"{trained.id}.weights": request.arrays[f"{trained.id}.weights"] for trained in (vae, net)}
    folder = site.state / step.id
    private_folder(folder)
    kept["cuts"] = np.asarray(request.arrays["cuts"])
    write_atomically(folder / KEPT, save(kept, {"study": request.study_hash, "step": step.id}), private=True)


def _told_by(site: SiteContext, step: Config) -> list[str]:
    """Return the names of the arrays that an answer hangs on."""
    vae, net, _ = nets(step, site.study)
    return [f"{vae.id}.weights", f"{net.id}.weights", f"{net.id}.standardise"]


def _scored(site: SiteContext, step: Config, request: Request) -> tuple[Ints, Floats]:
    """Return the held-out rows with beats, and the logit the net sees in each: the mean over its beats."""
    _, net, head = nets(step, site.study)
    for name in _told_by(site, step):
        if name not in request.arrays:
            raise Refused(RefusalCode.BAD_REQUEST, f"the request lacks {name!r}")
    rows = site.data.rows("validation") if site.trains else np.arange(len(site.data))
    logit = head_logits(site, net, request.arrays, rows)[:, head] if len(rows) else np.zeros(0)
    known = np.isfinite(logit)
    return rows[known], logit[known]


def _step(site: SiteContext) -> Config:
    if not isinstance(site.step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step moves no beats", value=site.step.stage)
    return site.step
