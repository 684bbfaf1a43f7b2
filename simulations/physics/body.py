"""A person's body: where the heart lies, how strong and how long each part of its beat is, what the chest lets through.

Age, sex and body size act as they do in people; the rest is each person's own scatter (:class:`Physique`). Fibrosis
changes QRS by the way of :func:`simulations.physics.disease.conduct`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecgshared.config import Config
from simulations.physics import heart as h
from simulations.physics.disease import MAX_FIBROSIS, People, WaveformEffects, conduct
from simulations.physics.torso import REFERENCE_HEART_CM, Anatomy

F64 = NDArray[np.float64]


class Physique(Config):
    """Means and scatter (SD) of bodies and hearts; gains are logarithms of what multiplies the reference beat's forces.

    Adjusted so that healthy people have the amplitudes, axes and intervals of PTB-XL's NORM records of their age and
    sex (``ecgfed simulate realism``).
    """

    scatter: float = Field(default=1.0, ge=0, description="multiplies every SD of shape, position and strength")
    frontal_deg: float = Field(default=18.0, description="turn of the heart in the frontal plane at 60 years, BMI 26")
    frontal_sd: float = Field(default=16.0, ge=0)
    frontal_age: float = -0.29
    frontal_bmi: float = -1.00
    vertical_deg: float = Field(default=8.0, description="turn about the vertical; positive: later transition")
    vertical_sd: float = Field(default=16.0, ge=0)
    tilt_deg: float = Field(default=-20.0, description="turn about the left-right axis")
    tilt_sd: float = Field(default=12.0, ge=0)
    source: float = Field(default=0.00, description="strength of the whole source")
    source_sd: float = Field(default=0.17, ge=0)
    source_age: float = -0.0035
    source_male: float = Field(default=0.17, description="men over women")
    left: float = Field(default=0.28, description="leftward forces of QRS")
    left_sd: float = Field(default=0.11, ge=0)
    septal: float = Field(default=-0.93, description="early rightward force: q in I, V6")
    septal_sd: float = Field(default=1.19, ge=0)
    terminal_sd: float = Field(default=0.08, ge=0, description="late rightward force, mV: s in I, V6")
    inferior: float = -0.56
    inferior_sd: float = Field(default=0.08, ge=0)
    superior: float = Field(default=-0.62, description="late upward force")
    superior_sd: float = Field(default=0.00, ge=0)
    superior_own: float = Field(default=0.03, ge=0, description="scatter of the late upward force apart from the rest")
    back: float = Field(default=0.70, description="the table's late backward force is half of what people have")
    back_sd: float = Field(default=0.39, ge=0)
    front: float = -0.28
    front_sd: float = Field(default=0.51, ge=0)
    chest: tuple[float, float, float, float, float, float] = Field(
        default=(-0.44, -0.00, -0.37, -0.45, -0.30, -0.16), description="what the chest wall lets through to V1..V6"
    )
    chest_sd: float = Field(default=0.14, ge=0)
    duration: float = Field(default=-0.01, description="QRS duration")
    duration_sd: float = Field(default=0.08, ge=0)
    duration_male: float = 0.08
    t: float = -0.46
    t_sd: float = Field(default=0.24, ge=0)
    t_age: float = -0.0041
    t_male: float = 0.13
    t_left: float = 0.02
    t_left_sd: float = Field(default=0.18, ge=0)
    t_inferior: float = 0.15
    t_inferior_sd: float = Field(default=0.09, ge=0)
    t_front: float = -0.17
    t_front_sd: float = Field(default=0.39, ge=0)
    st_mv: float = Field(default=-0.0407, description="ST level to the front")
    st_male: float = Field(default=0.0240, description="more in men, fading with age")
    st_sd: float = Field(default=0.0078, ge=0)
    p_left: float = 0.44
    p_inferior: float = 1.00
    p_front: float = -0.42
    p_sd: float = Field(default=0.26, ge=0)
    pr_s: float = 0.160
    pr_sd: float = Field(default=0.018, ge=0)
    pr_age: float = 0.0004
    qt_s: float = 0.376
    qt_sd: float = Field(default=0.018, ge=0)
    rate: float = Field(default=70.0, description="beats per minute of a healthy woman")
    rate_sd: float = Field(default=10.5, ge=0)

    def scattered(self) -> Physique:
        """Return it with ``scatter`` multiplied into the SDs of shape, position and strength."""
        if self.scatter == 1.0:
            return self
        spread = {name: getattr(self, name) * self.scatter for name in _SPREAD}
        return self.model_copy(update={**spread, "scatter": 1.0})


_SPREAD = tuple(
    name
    for name in Physique.model_fields
    if (name.endswith("_sd") and name not in ("pr_sd", "qt_sd", "rate_sd")) or name == "superior_own"
)


def anatomy_of(people: People, physique: Physique | None = None) -> Anatomy:
    """Return heart position and turn: more horizontal with weight and age, larger in men and the lean."""
    f = (Physique() if physique is None else physique).scattered()
    z, s, bmi, age = people.position, people.shape, people.bmi - 26.0, people.age - 60.0
    frontal = f.frontal_deg + f.frontal_bmi * bmi + f.frontal_age * age + f.frontal_sd * z[:, 0]
    vertical = f.vertical_deg + f.vertical_sd * z[:, 1]
    tilt = f.tilt_deg + f.tilt_sd * z[:, 2]
    shift = np.stack([0.7 * z[:, 3] + 0.04 * bmi, 0.5 * z[:, 4], 0.7 * z[:, 5] + 0.06 * bmi], axis=1)
    male = f.source_male * (people.male - 0.5)
    scale = np.exp(f.source + f.source_sd * people.electrical[:, 0] - 0.02 * bmi + f.source_age * age + male)
    return Anatomy(
        REFERENCE_HEART_CM + shift,
        np.deg2rad(np.clip(np.stack([frontal, vertical, tilt], 1), -75, 75)),
        scale,
        np.exp(np.array(f.chest) + f.chest_sd * s[:, 4:10].astype(np.float64)),
    )


def heart_of(people: People, effects: WaveformEffects, physique: Physique | None = None) -> h.Heart:
    """Return the shape of each heart: fibrosis on QRS; age and sex on voltage, intervals, ST and T."""
    f = (Physique() if physique is None else physique).scattered()
    n, e, s = len(people.age), people.electrical, people.shape.astype(np.float64)
    male, age = people.male.astype(np.float64), people.age - 60.0
    p, qrs, t = (h.reference_part(name, n) for name in ("p", "qrs", "t"))

    qrs = _scaled(qrs, axis=2, kernels=slice(-1, None), by=np.exp(f.back + f.back_sd * e[:, 1]))
    qrs = _scaled(qrs, axis=2, kernels=slice(-2, -1), by=np.exp(f.front + f.front_sd * e[:, 2]))
    qrs = _scaled(qrs, axis=1, kernels=slice(5, 7), by=np.exp(f.inferior + f.inferior_sd * e[:, 3]))
    upward = np.exp(f.superior + f.superior_sd * e[:, 3] + f.superior_own * s[:, 0])
    qrs = _scaled(qrs, axis=1, kernels=slice(7, 8), by=upward)
    qrs = _scaled(qrs, axis=0, kernels=slice(0, 5), by=np.exp(f.left + f.left_sd * s[:, 1]))
    qrs = _scaled(qrs, axis=0, kernels=slice(0, 1), by=np.exp(f.septal + f.septal_sd * s[:, 2]))
    qrs.vector[:, 4, 0] += (f.terminal_sd * s[:, 3]).astype(np.float32)
    # QRS duration follows muscle volume.
    muscle = np.exp(f.duration + f.duration_sd * e[:, 4] + f.duration_male * (male - 0.5))
    qrs = conduct_qrs(qrs, people.fibrosis, effects, muscle)

    atrium = f.p_sd * s[:, 13]
    for axis, kernels, gain in (
        (0, slice(0, 2), f.p_left),
        (1, slice(2, 5), f.p_inferior),
        (2, slice(5, None), f.p_front),
    ):
        p = _scaled(p, axis=axis, kernels=kernels, by=np.exp(gain + atrium))

    # T voltage falls with age; men have the taller anterior T and the higher ST.
    height = np.exp(f.t + f.t_sd * e[:, 5] + f.t_age * age + f.t_male * (male - 0.5))
    t = replace(t, vector=(t.vector * height[:, None, None]).astype(np.float32))
    t = _scaled(t, axis=0, kernels=slice(0, 4), by=np.exp(f.t_left + f.t_left_sd * s[:, 10]))
    t = _scaled(t, axis=1, kernels=slice(4, 7), by=np.exp(f.t_inferior + f.t_inferior_sd * s[:, 11]))
    t = _scaled(t, axis=2, kernels=slice(7, None), by=np.exp(f.t_front + f.t_front_sd * s[:, 12]))
    st_mv = f.st_mv + f.st_male * male * np.exp(-np.maximum(age + 35, 0) / 40) + f.st_sd * e[:, 6]
    t = _with_st(t, st_mv)

    extra_qrs = 0.09 * (conduct(people.fibrosis * effects.conduction).delay - 1)
    qt = f.qt_s + 0.010 * (1 - male) + 0.0004 * age + f.qt_sd * e[:, 7] + 0.8 * extra_qrs
    pr = f.pr_s + f.pr_age * age + f.pr_sd * e[:, 6] + 0.004 * male
    return h.Heart(p, qrs, t, pr.astype(np.float32), qt.astype(np.float32))


def conduct_qrs(qrs: h.Part, fibrosis: F64, effects: WaveformEffects, muscle: F64) -> h.Part:
    """Send the QRS through fibrotic muscle.

    Each kernel stands for tissue activated ``path`` seconds after onset. Its activation comes ``delay`` times
    later and is spread by ``dispersion * path`` at constant area: slurring grows towards the end of QRS.
    The late vector turns left and up; the early anterior force that makes the r of V1-V3 is lost, and all of QRS turns
    back.
    """
    share = np.asarray(fibrosis, dtype=np.float64) * effects.conduction
    found = conduct(np.minimum(share, MAX_FIBROSIS))
    path = np.maximum(qrs.centre_s - h.QRS_ONSET_S, 0.0) * muscle[:, None]
    centre = h.QRS_ONSET_S + path * found.delay[:, None]
    own = qrs.width_s * muscle[:, None]
    # A slower front has the same double layer, so it lasts longer at the same strength; what dispersion adds
    # in quadrature is the same current spread over more time.
    lasting = own * found.delay[:, None]
    width = np.hypot(lasting, found.dispersion[:, None] * path)
    relative = np.asarray(fibrosis, dtype=np.float64) / MAX_FIBROSIS
    late = np.clip(path / (0.055 * muscle[:, None]), 0, 1.5)
    turn = np.deg2rad(effects.left_axis_deg) * relative[:, None] * late
    x, y, z = np.moveaxis(qrs.vector * (lasting / width)[:, :, None], -1, 0)
    z = np.where(z < 0, z * (1 - effects.r_loss * relative)[:, None], z)
    back = np.deg2rad(effects.backward_deg) * relative[:, None]
    x, z = np.cos(back) * x - np.sin(back) * z, np.sin(back) * x + np.cos(back) * z
    vector = np.stack([np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x, z], axis=-1)
    return h.Part(vector.astype(np.float32), centre.astype(np.float32), width.astype(np.float32))


def _scaled(part: h.Part, *, axis: int, kernels: slice, by: F64) -> h.Part:
    vector = part.vector.copy()
    vector[:, kernels, axis] *= by[:, None]
    return replace(part, vector=vector.astype(np.float32))


def _with_st(t: h.Part, st_mv: F64) -> h.Part:
    """Add an ST level: a broad kernel between QRS end and T, pointing to the front and a little left."""
    n = len(st_mv)
    vector = st_mv[:, None, None] * np.array([0.25, 0.0, -0.9])[None, None]
    return h.Part(
        np.concatenate([t.vector, vector.astype(np.float32)], axis=1),
        np.concatenate([t.centre_s, np.full((n, 1), 0.12, np.float32)], axis=1),
        np.concatenate([t.width_s, np.full((n, 1), 0.035, np.float32)], axis=1),
    )
