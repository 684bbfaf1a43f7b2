"""survival_evaluate: how well frozen survival models do, on lockboxes and at sites that never trained.

One phase, ``local``: every site computes its own figures and sends scalars with their errors, survival curves of the
risk groups that the fit fixed, read on a coarse grid, and the sums of the log-rank test. All that concerns groups is
read in those same groups, and a model whose groups differ from those of an earlier model by a few patients only gives
none: no two numbers may differ by a few people. A site judges two sets of models for one step and no more.

Models are compared on the same patients: the interval of a difference comes from each patient's difference of
influences.

``difference`` is to the step's first model. Pooled concordance and AUC are the event-weighted means of the sites' own
(pairs within a site only), Brier scores the ECG-weighted ones; slope and expected over observed are random effects. A
site whose score is constant or perfect has no error to weigh it by and is left out of what is pooled, with its reason.
Heterogeneity is on the logit scale for concordance, the log scale for ratios. A value without an interval hangs on
fewer than ten patients with the event. null: withheld by the site, or undefined for so few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from ecgshared.arrays import Floats
from ecgshared.stages.results.survival_evaluate import Result as Result
from ecgshared.stages.survival import Config as FitConfig
from ecgshared.study.score import require_shared_model
from ecgshared.wire.protocol import Count, Public, Split, Statistic, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

FIGURES = ("harrell", "uno", "auc", "brier", "integrated_brier", "expected_over_observed", "slope")
"""Estimates of each model, in the order of the payload's rows."""
COMPARED = ("harrell", "uno", "auc")
"""Those whose difference to the first model is given."""
QUESTIONS = 1
"""Sets of models that a site evaluates for one step: of two, risk groups could differ by one patient."""


LEAVES = {
    "local": "the hospital's own figures: counts, concordance, AUC, Brier scores, calibration, and the survival curves "
    "of the risk groups at a few times",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Each figure stands for a group of at least the hospital's own least size and least number of events, or is "
    "withheld; curves are read where enough patients leave between two times."
)
"""What stands between these numbers and one patient."""


class Config(StepConfig):
    """A survival_evaluate step; it uses a survival step, whose event, inputs and horizon it takes."""

    default_sites: ClassVar[str] = "all"
    opens_lockbox: ClassVar[bool] = True
    splits_read: ClassVar[tuple[Split, ...]] = ("lockbox",)

    curve_points: int = Field(default=12, ge=2, le=60, description="times of the survival curves, up to the horizon")


@payload("survival_evaluate", "local")
@dataclass(frozen=True)
class LocalResults:
    """One site's figures. P inputs, M models, G risk groups, T times; estimates are (value, se, low, high).

    ``counts``: ECGs, patients, ECGs and patients with the event. ``left_out``: without time, without input.
    ``observed``: (4,), risk by the horizon. ``figures``: (M, 7, 4), see FIGURES. ``differences``: (M, 3, 4), see
    COMPARED. ``group_counts``: (M, G, 2), ECGs and those with the event. ``group_risks``: (M, G, 5), mean predicted
    and estimate of the observed risk by the horizon. ``curves``: (M, G, T, 3), survival, error of its log, ECGs still
    followed. ``excess``: (M, G) and ``covariance``: (M, G, G) of the log-rank test.
    """

    reason: Annotated[str, Public()]
    patients_known: Annotated[int, Public()]
    counts: Annotated[Floats, Count()]
    left_out: Annotated[Floats, Count()]
    missing: Annotated[Floats, Count()]
    observed: Annotated[Floats, Statistic()]
    figures: Annotated[Floats, Statistic()]
    differences: Annotated[Floats, Statistic()]
    group_counts: Annotated[Floats, Count()]
    group_risks: Annotated[Floats, Statistic()]
    curves: Annotated[Floats, Statistic()]
    excess: Annotated[Floats, Sums()]
    covariance: Annotated[Floats, Sums()]


def fit_step(step: StepConfig, study: Study) -> FitConfig:
    """Return the survival step that is judged; raise ValueError where none is used."""
    used = study.used(step, "survival")
    if not isinstance(used, FitConfig):
        raise ValueError(f"step {step.id!r} must use a survival step")
    return used


def curve_times(step: Config, fit: FitConfig) -> Floats:
    """Return the times of the survival curves, years, shape = (T,)."""
    return fit.horizon_years * np.arange(1, step.curve_points + 1) / step.curve_points


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a survival_evaluate step does not fit its study."""
    fit_step(step, study)
    require_shared_model(step, study)
