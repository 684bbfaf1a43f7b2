"""generate: judge a conditional VAE's beats against those of people it did not train on, at their own sites.

At a training site these are the validation patients, elsewhere all. For each held-out ECG one beat is made from the
person's own conditions and a latent drawn from the prior, and the two sets are compared: on principal axes of the real
beats (discrepancy, precision and recall), and by what is measured on a beat (axis, intervals, amplitudes): its mean,
spread, and slope on each condition. A reference stands beside the first: one half of the real beats against the other.

``condition_r2`` is how well the latents tell a condition (adjusted R^2 of a linear fit): 0 is disentangled.
``nearest_uv``: distance to the nearest training beat, of made and of real held-out beats; at training sites only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecgshared.ecg.beats import MedianBeat
from ecgshared.ecg.features import NAMES, measure
from ecgshared.models.config import BEAT_WINDOW_S
from ecgshared.stages.results.generate import Result as Result
from ecgshared.stages.train import Config as TrainConfig
from ecgshared.wire.protocol import Count, Public, Split, Statistic, StepConfig, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

F64 = NDArray[np.float64]

FEATURES = (
    *("qrs_axis_deg", "pr_ms", "qrs_ms", "qt_ms"),
    *("r_I_mv", "r_aVF_mv", "r_V2_mv", "s_V2_mv", "r_V5_mv", "t_V2_mv", "t_V5_mv"),
)
"""What is measured on a beat; names of :data:`ecgshared.ecg.features.NAMES`."""

PUBLISHED_MAE_UV = (15.7, 3.2)
"""Reconstruction of representative beats, mean and SD (Harvey 2024)."""

AXES = 20
"""Principal axes of real beats on which samples are compared."""

ASSUMED_RR_S = 0.9
"""A single beat has no rate; it only bounds where T is looked for."""


LEAVES = {
    "judge": "how far made beats are from real ones: mean errors, distances, means and spreads of what is measured on "
    "beats, and slopes on conditions; no beat and no latent",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = "Each figure stands for a group of at least the hospital's own least size, or is withheld."
"""What stands between these numbers and one patient."""


class Config(StepConfig):
    """A generate step. ``uses`` must lead to one train step whose model is a cvae."""

    default_sites: ClassVar[str] = "all"
    splits_read: ClassVar[tuple[Split, ...]] = ("train", "validation")

    max_ecgs: int = Field(default=2000, ge=20, le=20_000, description="held-out ECGs judged at a site, at most")


@payload("generate", "judge")
@dataclass(frozen=True)
class Judged:
    """One site's figures. F features, C conditions.

    ``counts``: ECGs, patients. ``reconstruction``: mean and SD over ECGs of the mean absolute error, uV; ``leads``,
    shape = (12,), by lead; ``conditions_only``, shape = (1,), of the usual beat. ``mmd2``: made against real, real
    against real. ``manifold``: precision, recall, and both of real against real. ``features``, shape = (F, 4): mean and
    SD of real and of made. ``slopes``, shape = (F, C, 2): per SD of a condition, real and made. ``condition_r2``,
    shape = (C,). ``latent_correlation``, shape = (1,): mean absolute correlation of two latents. ``nearest``: median
    and 5th percentile of made, of real, uV.
    """

    counts: Annotated[F64, Count()]
    reconstruction: Annotated[F64, Statistic()]
    leads: Annotated[F64, Statistic()]
    conditions_only: Annotated[F64, Statistic()]
    mmd2: Annotated[F64, Statistic()]
    manifold: Annotated[F64, Statistic()]
    features: Annotated[F64, Statistic()]
    slopes: Annotated[F64, Statistic()]
    condition_r2: Annotated[F64, Statistic()]
    latent_correlation: Annotated[F64, Statistic()]
    nearest: Annotated[F64, Statistic()]
    patients_known: Annotated[int, Public()]


def measured(beats: NDArray[np.float32], fs: float) -> F64:
    """Return :data:`FEATURES` of beats (n, 12, W), mV, shape = (n, F); NaN where one cannot be told."""
    columns = [NAMES.index(name) for name in FEATURES]
    out = np.full((len(beats), len(FEATURES)), np.nan)
    centre = round(-BEAT_WINDOW_S[0] * fs)
    places = np.array([0, round(ASSUMED_RR_S * fs)], dtype=np.int64)
    for i, beat in enumerate(beats):
        whole = MedianBeat(beat, fs, centre, places, np.ones(2, dtype=bool), np.ones(12, dtype=np.float32))
        out[i] = measure(whole).row()[columns]
    return out


def trained_cvae(step: StepConfig, study: Study) -> TrainConfig:
    """Return the train step whose cvae a step judges or uses; raise ValueError where there is none."""
    trained = study.used(step, "train")
    if not isinstance(trained, TrainConfig) or not trained.model.makes_beats or trained.model.sees != "median_beat":
        raise ValueError(f"step {step.id!r} must use a train step whose model is a cvae")
    return trained


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a generate step does not fit its study."""
    trained = trained_cvae(step, study)
    foreign = [site for site in study.members(step) if site not in study.members(trained)]
    if trained.strategy.name == "fedbn" and foreign:
        raise ValueError(
            f"step {step.id!r}: {', '.join(foreign)} did not train {trained.id!r}, whose strategy fedbn keeps "
            "normalisation at the sites that trained; name only those under `sites`, or use another strategy"
        )
