"""generate, at the site: beats made for held-out people, beside their own. Only figures over groups leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.rows.context import SiteContext
from client.rows.inputs import ModelRows, seen_by
from client.rows.latents import posterior_means
from client.rows.model import load_model
from ecgshared.errors import RefusalCode, Refused
from ecgshared.models.decode import decode_beats
from ecgshared.stages.generate import AXES, FEATURES, Config, Judged, measured, trained_cvae
from ecgshared.stats.generative import (
    adjusted_r2,
    median_distance,
    mmd2,
    nearest,
    precision_recall,
    principal_axes,
    standardised_slopes,
)
from ecgshared.wire.protocol import Answer, Evidence, Request

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_NEIGHBOURS = 5
_TAIL = 0.05


@dataclass(frozen=True)
class Beats:
    """Held-out ECGs of a site: ``x`` their beats, ``conditions`` standardised, NaN where missing; ``z`` posterior
    means; ``again``, ``usual`` and ``made`` the reconstruction, the beat of the conditions alone, and a new one;
    ``trained`` the beats trained on, one row each."""

    x: F32
    conditions: F64
    patient: NDArray[np.int64]
    z: F64
    again: F32
    usual: F32
    made: F32
    trained: F32


def judge(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``judge``."""
    if not isinstance(site.step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step does not judge beats", value=site.step.stage)
    beats = _beats(site, site.step, request.arrays)
    return judged_answer(
        beats,
        site.data.fs_hz,
        site.rng,
        patients_known=site.data.patients_known,
        tell_trained=site.settings.limits.withhold_nothing,
    )


PHASES = {"judge": judge}


def judged_answer(
    beats: Beats, fs_hz: float, rng: np.random.Generator, *, patients_known: bool, tell_trained: bool = False
) -> Answer:
    """Compute every figure of :class:`Judged` and the groups behind them.

    Parameters
    ----------
    tell_trained : whether distances to single training beats may leave. The distance of one crafted beat to the nearest
        of them says who was trained on, however many they are: they leave where no limit holds, in a simulation.
    """
    patients = len(np.unique(beats.patient))
    n, c = beats.conditions.shape
    values = _Figures(beats, fs_hz, rng) if n else None
    tail = int(_TAIL * min(patients, len(beats.trained)))
    # A slope of C conditions from few people would give them away, as in calibrate.
    enough = patients if patients >= 2 * (c + 1) else 0
    latents = patients if patients >= 2 * (beats.z.shape[1] + 1) else 0
    halves = patients // 2

    def of(name: str, shape: tuple[int, ...]) -> F64:
        return np.full(shape, np.nan) if values is None else np.asarray(getattr(values, name)(), dtype=np.float64)

    payload = Judged(
        counts=np.array([n, patients if patients_known else np.nan], dtype=np.float64),
        reconstruction=of("reconstruction", (2,)),
        leads=of("leads", (12,)),
        conditions_only=of("conditions_only", (1,)),
        mmd2=of("mmd2", (2,)),
        manifold=of("manifold", (4,)),
        features=of("features", (len(FEATURES), 4)),
        slopes=of("slopes", (len(FEATURES), c, 2)),
        condition_r2=of("condition_r2", (c,)),
        latent_correlation=of("latent_correlation", (1,)),
        nearest=of("nearest", (4,)),
        patients_known=int(patients_known),
    )
    everybody = Evidence(np.array(patients))
    nobody = patients if len(beats.trained) and tell_trained else 0
    return Answer(
        payload,
        {
            **dict.fromkeys(("counts", "reconstruction", "leads", "conditions_only", "latent_correlation"), everybody),
            "mmd2": Evidence(np.array(halves)),
            "manifold": Evidence(np.array(halves)),
            "features": Evidence(np.array([values.behind(f) if values else 0 for f in range(len(FEATURES))])),
            "slopes": Evidence(np.array(enough)),
            "condition_r2": Evidence(np.array([min(latents, values.known(j) if values else 0) for j in range(c)])),
            "nearest": Evidence(np.array([nobody, min(tail, nobody), nobody, min(tail, nobody)])),
        },
    )


class _Figures:
    """Each method gives the field of :class:`Judged` of its name."""

    def __init__(self, beats: Beats, fs_hz: float, rng: np.random.Generator) -> None:
        self.b, self.fs = beats, fs_hz
        mean, axes = principal_axes(_flat(beats.x), AXES)
        self.real, self.new = ((_flat(x) - mean) @ axes for x in (beats.x, beats.made))
        # Halves by patient, so that one person's two ECGs are not counted as two who are alike.
        first = rng.permutation(int(beats.patient.max()) + 1) % 2 == 0
        self.half = first[beats.patient]
        self.real_features, self.made_features = measured(beats.x, fs_hz), measured(beats.made, fs_hz)

    def reconstruction(self) -> F64:
        error = self._errors().mean(axis=1)
        return np.array([error.mean(), error.std()])

    def leads(self) -> F64:
        return np.asarray(self._errors().mean(axis=0))

    def _errors(self) -> F64:
        return np.asarray(1000 * np.abs(self.b.again - self.b.x).mean(axis=2), dtype=np.float64)

    def conditions_only(self) -> F64:
        return np.array([1000 * np.abs(self.b.usual - self.b.x).mean()])

    def mmd2(self) -> F64:
        here, there = self.real[self.half], self.real[~self.half]
        if min(len(here), len(there)) < 2:
            return np.full(2, np.nan)
        width = median_distance(self.real)
        return np.array([mmd2(here, self.new[~self.half], width), mmd2(here, there, width)])

    def manifold(self) -> F64:
        here, there = self.real[self.half], self.real[~self.half]
        if min(len(here), len(there)) <= _NEIGHBOURS:
            return np.full(4, np.nan)
        new = precision_recall(here, self.new[~self.half], _NEIGHBOURS)
        return np.array([*new, *precision_recall(here, there, _NEIGHBOURS)])

    def features(self) -> F64:
        out = np.full((len(FEATURES), 4), np.nan)
        for i, values in enumerate((self.real_features, self.made_features)):
            for f in range(len(FEATURES)):
                column = values[np.isfinite(values[:, f]), f]
                if len(column):
                    out[f, 2 * i : 2 * i + 2] = column.mean(), column.std()
        return out

    def behind(self, feature: int) -> int:
        """Patients whose real beat shows a feature."""
        return len(np.unique(self.b.patient[np.isfinite(self.real_features[:, feature])]))

    def known(self, condition: int) -> int:
        """Patients of whom a condition is known."""
        return len(np.unique(self.b.patient[~np.isnan(self.b.conditions[:, condition])]))

    def slopes(self) -> F64:
        given = np.nan_to_num(self.b.conditions)
        real, made = (standardised_slopes(given, y) for y in (self.real_features, self.made_features))
        # A condition that nobody here has is constant: its slope is nothing.
        absent = np.isnan(self.b.conditions).all(axis=0)
        both = np.stack([real, made], axis=2)
        both[:, absent] = np.nan
        return both

    def condition_r2(self) -> F64:
        out = []
        for values in self.b.conditions.T:
            known = ~np.isnan(values)
            out.append(adjusted_r2(self.b.z[known], values[known]))
        return np.array(out)

    def latent_correlation(self) -> F64:
        size = self.b.z.shape[1]
        if len(self.b.z) < 3 or size < 2:
            return np.array([np.nan])
        table = np.abs(np.corrcoef(self.b.z.T))
        return np.array([table[~np.eye(size, dtype=bool)].mean()])

    def nearest(self) -> F64:
        if not len(self.b.trained):
            return np.full(4, np.nan)
        among = _flat(self.b.trained)
        # Root mean square difference over the twelve leads, uV.
        scale = 1000 / np.sqrt(among.shape[1])
        out: list[float] = []
        for x in (self.b.made, self.b.x):
            found = scale * nearest(_flat(x), among)
            out += [float(np.median(found)), float(np.quantile(found, _TAIL))]
        return np.array(out)


def _flat(x: F32) -> F64:
    return np.asarray(x.reshape(len(x), -1), dtype=np.float64)


def _beats(site: SiteContext, step: Config, arrays: Mapping[str, NDArray[Any]]) -> Beats:
    trained = trained_cvae(step, site.study)
    store = seen_by(trained.model, site.data)
    held_out = site.data.rows("validation") if site.trains else np.arange(len(site.data))
    rows = held_out[store.known(held_out)]
    if len(rows) > step.max_ecgs:
        rows = np.sort(site.rng.choice(rows, step.max_ecgs, replace=False))
    z = posterior_means(site, trained, arrays, rows)
    model = load_model(site, trained, arrays[f"{trained.id}.weights"])
    data = ModelRows(
        site.data,
        rows,
        covariates=trained.model.side_inputs,
        standardise=arrays[f"{trained.id}.standardise"],
        heads=(),
        signals=store.batch,
    )
    conditions = data.fetch(np.arange(len(rows)))[1].astype(np.float64)
    learned = site.data.rows("train") if site.trains else np.arange(0)
    learned = learned[store.known(learned)]

    def decoded(latent: F64) -> F32:
        return decode_beats(model, latent, conditions)

    return Beats(
        x=store.batch(rows),
        conditions=conditions,
        patient=np.unique(site.data.patient[rows], return_inverse=True)[1].astype(np.int64),
        z=z,
        again=decoded(z),
        usual=decoded(np.zeros_like(z)),
        made=decoded(site.rng.standard_normal(z.shape)),
        trained=store.batch(learned),
    )
