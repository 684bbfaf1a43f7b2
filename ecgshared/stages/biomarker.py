"""biomarker: the slope of the end of QRS in aVL, measured on everybody, against outcomes; every lead beside it.

What morphs showed (doi 10.1038/s41586-026-10674-6): :mod:`ecgshared.ecg.terminal` on each ECG's median beat. Linear
regressions of an outcome on it, per standard deviation, alone and with rate, intervals, axes and QRS duration, errors
clustered by patient; each lead's by itself; and left axis deviation. They are those of stage ``regress``, exact over
sites, on the ECGs no training saw: a step is several small regressions, told apart by ``block``, all on the same ECGs.

Phase ``measured`` counts the ECGs that were measured, and those that were not by reason; the others are ``regress``'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from ecgshared.arrays import Floats
from ecgshared.ecg.beats import MedianBeat
from ecgshared.ecg.features import measure
from ecgshared.ecg.leads import LEADS
from ecgshared.ecg.terminal import AT_END, FLAT, HIGHEST_HZ, NO_END, terminal_slopes
from ecgshared.stages import regress
from ecgshared.stages.results.biomarker import Result as Result
from ecgshared.study.study import Study
from ecgshared.wire.protocol import Count, Split, StepConfig, payload

Control = Literal["rate_bpm", "pr_ms", "qrs_ms", "qt_ms", "p_axis_deg", "qrs_axis_deg", "t_axis_deg"]
CONTROLS: tuple[Control, ...] = ("rate_bpm", "pr_ms", "qrs_ms", "qt_ms", "p_axis_deg", "qrs_axis_deg", "t_axis_deg")
ORDERS = ("d1", "d2")
AXIS = "left_axis"
LEFT_AXIS_DEG = (-90.0, -30.0)

NO_BEATS, NO_WAVE = "no two whole beats", "a wave that a control is measured on is absent"
REASONS = (NO_BEATS, NO_END, FLAT, AT_END, NO_WAVE)
"""Why an ECG is left out, in the order they are looked for."""

NUMBERS = len(CONTROLS) + 24 + 1
"""Measured on an ECG: controls, d1 and d2 of each lead in turn, and the number of a reason (-1: none)."""


LEAVES = {
    "measured": "how many ECGs were measured, and how many not, by reason",
    "cohort": "counts of ECGs, patients and outcomes, sums of each measurement, and which stay here and why",
    "sums": "sums of products of measurements and outcomes",
    "errors": "sums of squares and of fourth powers, over patients, of what each adds to a model's error",
    "own": "the hospital's own coefficients of a model, and their errors",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "The rules of stage regress hold: each sum is of at least the hospital's own least numbers of patients and events, "
    "and a hospital with fewer patients than twice the numbers that leave takes no part. All regressions of a step are "
    "of the same ECGs."
)
"""What stands between these numbers and one patient."""


class Config(StepConfig):
    """A biomarker step. It trains nothing; a morph step under ``uses`` lends the figure its mean beats."""

    default_sites: ClassVar[str] = "all"
    opens_lockbox: ClassVar[bool] = True
    splits_read: ClassVar[tuple[Split, ...]] = ("lockbox",)

    outcome: str = Field(description="an endpoint")
    controls: tuple[Control, ...] = Field(
        default=CONTROLS,
        max_length=7,
        description="beside the biomarker in the second model; an ECG needs all of them in any case",
    )
    every_lead: bool = Field(default=True, description="regress on each of the twelve leads by itself as well")
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")

    @field_validator("controls")
    @classmethod
    def _once(cls, names: tuple[Control, ...]) -> tuple[Control, ...]:
        if len(set(names)) < len(names):
            raise ValueError("names a control twice")
        return names

    @property
    def event(self) -> None:
        """No step needs times for it."""
        return None

    @property
    def blocks(self) -> int:
        """Regressions told apart: aVL with controls, left axis deviation, then each lead."""
        return 2 + (12 if self.every_lead else 0)

    def regression(self, block: int) -> regress.Config:
        """Return the regress step that a block is."""
        models: list[dict[str, object]] = []
        if block == 0:
            for name in (feature(4, order) for order in ORDERS):
                models += [{"name": f"{name}_alone", "terms": (name,)}]
                if self.controls:
                    models += [{"name": f"{name}_with", "terms": (name, *self.controls)}]
        elif block == 1:
            models = [{"name": AXIS, "terms": (AXIS,)}]
        else:
            models = [{"name": name, "terms": (name,)} for name in (feature(block - 2, order) for order in ORDERS)]
        return regress.Config.model_validate(
            {
                "id": self.id,
                "stage": "regress",
                "outcome": (self.outcome,),
                "models": models,
                "sites": self.sites,
                "population": self.population,
                "max_age": self.max_age,
            }
        )

    def numbers_sent(self) -> int:
        """Return how many numbers about its people leave a site over all blocks."""
        return sum(self.regression(block).numbers_sent() for block in range(self.blocks))


def feature(lead: int, order: str) -> str:
    """Return the name of a measurement as a term of regressions: ``avl_d1``."""
    return f"{LEADS[lead].lower()}_{order}"


FEATURES: tuple[str, ...] = tuple(feature(lead, order) for lead in range(12) for order in ORDERS)


@payload("biomarker", "measured")
@dataclass(frozen=True)
class Measured:
    """``ecgs``, shape = (1,), with every measurement; ``left_out``, shape = (R,), without, by :data:`REASONS`."""

    ecgs: Annotated[Floats, Count()]
    left_out: Annotated[Floats, Count()]


payload("biomarker", "cohort")(regress.Cohort)
payload("biomarker", "sums")(regress.ProductSums)
payload("biomarker", "errors")(regress.ErrorSums)
payload("biomarker", "own")(regress.OwnFit)


def measurements(beat: MedianBeat | None) -> Floats:
    """Return the measurements of an ECG, shape = (NUMBERS,), NaN where there is none."""
    out = np.full(NUMBERS, np.nan)
    out[-1] = REASONS.index(NO_BEATS)
    if beat is None:
        return out
    found, end = measure(beat), terminal_slopes(beat)
    out[: len(CONTROLS)] = [getattr(found, name) for name in CONTROLS]
    out[len(CONTROLS) : -1] = np.stack([end.d1, end.d2], axis=1).ravel()
    why = [reason for reason in end.reason if reason]
    # Without aVL there is nothing; another lead that is lacking takes the ECG out of all regressions alike.
    out[-1] = REASONS.index(end.reason[4] or why[0]) if why else -1
    return out


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a biomarker step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("a biomarker step's configuration was expected")
    if step.outcome not in study.endpoints:
        raise ValueError(
            f"step {step.id!r}: outcome {step.outcome!r} is no endpoint; allowed: {', '.join(study.endpoints)}"
        )
    band = study.input.band_hz
    if study.input.fs_hz < 4 * HIGHEST_HZ or (band is not None and band[1] < HIGHEST_HZ):
        raise ValueError(
            f"step {step.id!r}: the end of QRS is measured up to {HIGHEST_HZ:g} Hz: input.fs_hz must be "
            f"{4 * HIGHEST_HZ:g} or more, and input.band_hz reach {HIGHEST_HZ:g}"
        )
