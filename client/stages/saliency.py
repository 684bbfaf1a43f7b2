"""saliency, at the site: attributions of one ECG a patient, laid under the beats, and their means over patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.rows.allowance import spend_score
from client.rows.context import SiteContext
from client.rows.inputs import ModelRows, seen_by
from client.rows.model import load_model
from ecgshared.arrays import Floats, Ints
from ecgshared.ecg.beats import median_beat
from ecgshared.errors import RefusalCode, Refused
from ecgshared.learning.attribution import attribution
from ecgshared.stages.saliency import BEAT_PHASES, Config, Told, explained, phase_of, window
from ecgshared.wire.protocol import Answer, Evidence, Request

_AT_ONCE = 16


def tell(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``tell``."""
    step = site.step
    if not isinstance(step, Config):
        raise Refused(RefusalCode.BAD_REQUEST, "this step explains nothing", value=step.stage)
    train, head = explained(step, site.study)
    rows = _one_a_patient(site, step)
    spend_score(site, request)
    before, after = window(site.data.fs_hz)
    found = _Means(before + after)
    weights, standardise = request.arrays[f"{train.id}.weights"], request.arrays[f"{train.id}.standardise"]
    model = load_model(site, train, weights).eval()
    data = ModelRows(
        site.data,
        rows,
        covariates=train.model.side_inputs,
        standardise=standardise,
        heads=(),
        signals=seen_by(train.model, site.data).batch,
    )
    first = next(model.parameters())
    for start in range(0, len(rows), _AT_ONCE):
        signals, beside, _ = data.fetch(np.arange(start, min(start + _AT_ONCE, len(rows))))
        x, covariates = (
            torch.as_tensor(np.ascontiguousarray(a)).to(first.device, first.dtype) for a in (signals, beside)
        )
        shares = attribution(_Logit(model, covariates, head), x, step.method, step.integration_steps)
        for ecg, share in zip(signals, shares.double().cpu().numpy(), strict=True):
            found.add(np.asarray(ecg, dtype=np.float32), share, site.data.fs_hz, before, after)
    told = found.patients if found.patients >= step.at_least else 0
    enough, every = Evidence(np.array([told])), Evidence(np.full(12, told))
    return Answer(
        Told(
            patients=np.array([float(found.patients)]),
            share=found.mean(found.share),
            spread=found.spread(),
            signed=found.mean(found.signed),
            course=found.mean(found.course) * site.data.fs_hz,
            beat=found.mean(found.beat),
        ),
        {"patients": enough, **dict.fromkeys(("share", "spread", "signed", "course", "beat"), every)},
    )


PHASES = {"tell": tell}


@dataclass(frozen=True)
class _Logit:
    """One output of a net for ECGs whose side inputs are given."""

    model: nn.Module
    covariates: torch.Tensor
    head: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(x, self.covariates)[:, self.head]
        return found


class _Means:
    """Sums over patients of what one ECG gives."""

    def __init__(self, width: int) -> None:
        self.patients = 0
        self.share, self.squares, self.signed = (np.zeros((12, len(BEAT_PHASES))) for _ in range(3))
        self.course, self.beat = np.zeros((12, width)), np.zeros((12, width))

    def add(self, ecg: NDArray[np.float32], share: Floats, fs: float, before: int, after: int) -> None:
        """Add an ECG (12, T) and the shares of its samples; one without two whole beats is passed over."""
        size = np.abs(share)
        total = float(size.sum())
        usual = median_beat(ecg, fs)
        if usual is None or not total > 0:
            return
        centres = usual.qrs
        whole = centres[(centres >= before) & (centres + after <= ecg.shape[1])]
        if not len(whole):
            return
        phase = phase_of(ecg.shape[1], centres, fs)
        by_phase = np.stack([size[:, phase == p].sum(axis=1) for p in range(len(BEAT_PHASES))], axis=1) / total
        signed = np.stack([share[:, phase == p].sum(axis=1) for p in range(len(BEAT_PHASES))], axis=1) / total
        windows = whole[:, None] + np.arange(-before, after)
        self.patients += 1
        self.share += by_phase
        self.squares += by_phase**2
        self.signed += signed
        # As if every beat of the recording were the mean one: the course adds up to what the beats hold.
        self.course += size[:, windows].mean(axis=1) * len(centres) / total
        self.beat += ecg[:, windows].mean(axis=1)

    def mean(self, total: Floats) -> Floats:
        """Return a mean over patients; NaN where there are none."""
        return total / self.patients if self.patients else np.full_like(total, np.nan)

    def spread(self) -> Floats:
        """Return the SD over patients of the shares."""
        mean = self.mean(self.share)
        return np.sqrt(np.maximum(self.mean(self.squares) - mean**2, 0.0))


def _one_a_patient(site: SiteContext, step: Config) -> Ints:
    """Return one row of each patient taken, both drawn; of all patients, or of no more than half."""
    rows = site.rng.permutation(site.data.rows("lockbox"))
    first = np.sort(np.unique(site.data.patient[rows], return_index=True)[1])
    patients = len(first)
    taken = patients if step.most_patients >= patients else min(step.most_patients, patients // 2)
    return np.asarray(rows[first][:taken], dtype=np.int64)
