"""Pictures of how training ECGs were varied: each change beside the unchanged ECG, on a beat of nobody's."""

from __future__ import annotations

import numpy as np

from ecgshared.arrays import Floats
from ecgshared.ecg.leads import LEADS
from ecgshared.stages.results.train import Result
from server.report.sections import Panels, Series

_SHOWN = "V2"
_SHOWN_S = 3.0
_BEAT_S = 0.85
_WAVES = (
    # Middle after the beat's beginning and width, s; X, Y, Z of the dipole, mV.
    (0.16, 0.022, (0.08, 0.12, -0.02)),
    (0.295, 0.008, (-0.12, 0.02, -0.25)),
    (0.32, 0.013, (1.05, 0.85, 0.25)),
    (0.348, 0.013, (-0.10, -0.25, 0.75)),
    (0.57, 0.055, (0.30, 0.22, -0.22)),
)
"""P, three parts of QRS, T."""

_HEADINGS = {
    "shift_seconds": "shifted by up to {:g} s",
    "scale": "amplitude times 1 ± {:g}",
    "wander_mv": "baseline, up to {:g} mV",
    "mains_mv": "mains hum, up to {:g} mV",
    "muscle_mv": "a burst of muscle noise, SD up to {:g} mV",
    "noise_mv": "white noise, SD {:g} mV",
    "electrode_cm": "chest electrodes off by {:g} cm (SD)",
    "lead_dropout": "a lead missing, probability {:g}",
}


def augmentation_panels(r: Result) -> list[Panels]:
    """Return one figure, a panel for each change that was on; none where training ECGs stayed as they were."""
    if not r.augment.any:
        return []
    import torch

    from ecgshared.learning.augment import augment
    from ecgshared.learning.plan import AugmentConfig

    fs_hz, shown = r.input.fs_hz, LEADS.index(_SHOWN)
    whole = made_ecg(fs_hz, r.input.seconds)
    # Copies enough that one of them shows the change well: the one that differs most of eight.
    copies = torch.as_tensor(np.repeat(whole[None], 8, axis=0))
    samples = min(round(_SHOWN_S * fs_hz), whole.shape[1])
    time = (np.arange(samples) / fs_hz).tolist()

    def drawn(label: str, signal: Floats, *, muted: bool = False) -> Series:
        return Series(label, time, np.round(signal[:samples], 4).tolist(), muted=muted)

    panels = []
    for name, strength in r.augment:
        if strength > 0:
            only = AugmentConfig(**{name: strength})
            generator = torch.Generator().manual_seed(1)
            changed = augment(copies, only, fs_hz=fs_hz, generator=generator).numpy()[:, shown]
            most = int(np.square(changed - whole[shown])[:, :samples].sum(axis=1).argmax())
            pair = (drawn("as it is", whole[shown], muted=True), drawn("as a net sees it", changed[most]))
            panels.append((_HEADINGS[name].format(strength), pair))
    return [
        Panels(
            "How training ECGs were varied",
            [],
            "seconds",
            f"lead {_SHOWN}, mV",
            caption="Each change alone, the strongest of eight draws, on a made ECG that is nobody's. In training all "
            "of them act at once, drawn anew for every ECG and step.",
            panels=panels,
        )
    ]


def made_ecg(fs_hz: float, seconds: float) -> Floats:
    """Return an ECG of a dipole that swings in P, QRS and T, shape = (12, T), mV."""
    from ecgshared.ecg.dipole import LEAD_FIELD, LIMB

    time = np.arange(round(fs_hz * seconds)) / fs_hz % _BEAT_S
    dipole = sum(
        np.array(axis)[:, None] * np.exp(-0.5 * ((time - middle) / width) ** 2) for middle, width, axis in _WAVES
    )
    eight = LEAD_FIELD @ dipole
    found: Floats = np.concatenate([LIMB @ eight[:2], eight[2:]])
    return found
