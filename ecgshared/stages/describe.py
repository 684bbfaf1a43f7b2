"""describe: what a coordinator must know before anything runs, and Table 1.

Withheld numbers are null. At a site that trains, labels of the lockbox are neither read nor counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ecgshared.stages.results.describe import Result as Result
from ecgshared.study.declared import number_names
from ecgshared.wire.protocol import Count, Public, Split, Statistic, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

VARIABLES = ("age", "male", "lvef", "bmi", "heart_failure", "diabetes", "hypertension", "previous_mi")
YES_NO = ("male", "heart_failure", "diabetes", "hypertension", "previous_mi")
ALSO = ("defibrillator", "lvef_measured")
"""What follows from the table: a defibrillator at the ECG, and whether the ejection fraction was measured."""


LEAVES = {
    "counts": "how many ECGs and patients there are by split, how many have each label and event, means and spreads of "
    "the variables of Table 1, length of follow-up, ECGs by device and sampling rate, and what each rule excluded",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = "Each number stands for a group of at least the hospital's own least size, or is withheld."
"""What stands between these numbers and one patient."""


class Config(StepConfig):
    """A describe step."""

    default_sites: ClassVar[str] = "all"
    by_ranks: ClassVar[bool] = True

    lockbox: bool = Field(
        default=False,
        description="describe the lockboxes of the hospitals that train, which are opened for it; training takes "
        "nothing from such a step",
        exclude_if=lambda value: not value,
    )

    @property
    def opens_lockbox(self) -> bool:  # type: ignore[override]
        """Only where the study says so."""
        return self.lockbox

    @property
    def reads_splits(self) -> tuple[Split, ...]:
        """The lockbox alone, or all."""
        return ("lockbox",) if self.lockbox else self.splits_read

    @property
    def reads_columns(self) -> tuple[str, ...]:
        """Who has a defibrillator follows from two dates."""
        return ("defibrillator",)


def variables_of(study: Study) -> tuple[str, ...]:
    """Return the variables of Table 1: the usual ones, the study's declared numbers and flags, and :data:`ALSO`."""
    return tuple(dict.fromkeys((*VARIABLES, *number_names(study.columns), *ALSO)))


def yes_no_of(study: Study) -> tuple[str, ...]:
    """Return those of them that are told as shares."""
    flags = (name for name, column in study.columns.items() if column.kind == "flag")
    return (*YES_NO, *flags, *ALSO)


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a train step takes its totals from a described lockbox."""
    taking = [s.id for s in study.steps if s.stage == "train" and step.id in s.uses and getattr(step, "lockbox", False)]
    if taking:
        raise ValueError(f"step {step.id!r} describes lockboxes: {', '.join(taking)} cannot use it for training")


@payload("describe", "counts")
@dataclass(frozen=True)
class SiteCounts:
    """One site's counts. H heads, 2 groups a head and one of all.

    ``labelled`` and ``events``: shape = (H, 3 splits), ECGs. ``table1``: shape = (1 + 2 H, V, 2), V variables as
    :func:`variables_of` has them, mean and SD over ECGs of everybody, then for each head of those with and without the
    event. ``follow_up_quartiles``: (3,), years, rounded. ``age_sums``: n, sum, sum of squares over training ECGs;
    ``male_sums`` the same; ``covariate_sums``, shape = (C, 3), the same of each covariate of the study.
    ``lockbox_openings``: runs, of any study, that saw the site's lockbox before this one.
    """

    heads_offered: Annotated[tuple[str, ...], Public()]
    patients_known: Annotated[int, Public()]
    design: Annotated[str, Public()]
    lockbox_openings: Annotated[int, Public()]
    ecgs: Annotated[NDArray[np.float64], Count()]
    patients: Annotated[NDArray[np.float64], Count()]
    labelled: Annotated[NDArray[np.float64], Count()]
    events: Annotated[NDArray[np.float64], Count()]
    table1: Annotated[NDArray[np.float64], Statistic()]
    follow_up: Annotated[NDArray[np.float64], Statistic()]
    follow_up_quartiles: Annotated[NDArray[np.float64], Statistic()]
    age_sums: Annotated[NDArray[np.float64], Sums()]
    male_sums: Annotated[NDArray[np.float64], Sums()]
    covariate_sums: Annotated[NDArray[np.float64], Sums()]
    devices: Annotated[tuple[str, ...], Public()]
    device_ecgs: Annotated[NDArray[np.float64], Count()]
    rates: Annotated[tuple[str, ...], Public()]
    rate_ecgs: Annotated[NDArray[np.float64], Count()]
    flow_reasons: Annotated[tuple[str, ...], Public()]
    flow_ecgs: Annotated[NDArray[np.float64], Count()]
    flow_patients: Annotated[NDArray[np.float64], Count()]


def moments(sums: NDArray[Any]) -> tuple[float, float]:
    """Return mean and SD (population) from (n, sum, sum of squares), shape = (3,); NaN where n is not positive."""
    n, total, squares = (float(v) for v in sums)
    if not n > 0:
        return float("nan"), float("nan")
    mean = total / n
    return mean, max(squares / n - mean**2, 0.0) ** 0.5


@dataclass(frozen=True)
class TrainingTotals:
    """What training takes from describe.

    Attributes
    ----------
    head_counts : shape = (H,): N_h, labelled training ECGs of head h over all sites that may say so.
    site_weights : shape = (K,): a_k, a site's share of training ECGs; 0 where it withheld the number.
    standardise : shape = (2 + C, 2): mean and SD of age (years), of male and of the study's covariates, over training
        ECGs; 0 and 1 where no site told.
    head_counts_train_validation, site_weights_train_validation : of training and validation ECGs together.
    """

    head_counts: NDArray[np.float64]
    site_weights: NDArray[np.float64]
    standardise: NDArray[np.float64]
    head_counts_train_validation: NDArray[np.float64]
    site_weights_train_validation: NDArray[np.float64]


def training_totals(counts: list[SiteCounts]) -> TrainingTotals:
    """Combine the counts of the training sites, in the study's order; a withheld number counts as none."""
    labelled = np.nansum([c.labelled[:, 0] for c in counts], axis=0)
    ecgs = np.nan_to_num(np.array([c.ecgs[0] for c in counts]))
    standardise = []
    told = [np.vstack([c.age_sums, c.male_sums, c.covariate_sums]) for c in counts]
    for sums in np.nansum(told, axis=0):
        mean, sd = moments(sums)
        standardise.append((mean if np.isfinite(mean) else 0.0, sd if sd > 0 else 1.0))
    # A site that withholds either number withholds the sum.
    both = np.nan_to_num(np.array([c.ecgs[0] + c.ecgs[1] for c in counts]))
    return TrainingTotals(
        labelled,
        _shares(ecgs),
        np.array(standardise),
        np.nansum([c.labelled[:, 0] + c.labelled[:, 1] for c in counts], axis=0),
        _shares(both),
    )


def _shares(ecgs: NDArray[np.float64]) -> NDArray[np.float64]:
    total = ecgs.sum()
    return ecgs / total if total > 0 else ecgs
