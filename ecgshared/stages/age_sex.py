"""age_sex: how well age and sex are told from the ECG, by site, sex and decade; the age gap; one model beside another.

Phases: ``calibrate`` (validation patients of training sites: sums of the error on age, for the gap, and a histogram of
absolute errors, for the interval of a single prediction) and ``judge`` (people no training saw: sums of errors and of
right answers by group, the site's own figures, and paired sums of this model less another).

The gap is predicted age less age, and it falls with age wherever prediction shrinks to the mean. The line of the gap on
age, fitted by federated least squares, is taken off: later steps may name ``<step>.gap``. The interval is split
conformal prediction: errors of people the net did not train on, the smallest bound that so large a share of them keeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field, model_validator

from ecgshared.arrays import Floats, Ints
from ecgshared.config import Config as BaseConfig
from ecgshared.stages.results.age_sex import Result as Result
from ecgshared.stats.influence import by_patient
from ecgshared.study.endpoints import BinaryEndpoint, ContinuousEndpoint
from ecgshared.study.score import require_shared_model, trained_heads
from ecgshared.wire.protocol import Split, Statistic, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study

LEAVES = {
    "calibrate": "sums of the error in age, of age and of their products over validation patients, and how many errors "
    "lie below whole years",
    "judge": "sums of errors in age and of right answers about sex, by sex and by decade of age, with mean error, "
    "accuracy and AUC",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Each number stands for a group of at least the hospital's own least size, a set of sums for one of at least twice "
    "as many patients as there are sums; and no two groups differ by fewer."
)
"""What stands between these numbers and one patient."""

DECADES = ("under 40", "40 to 49", "50 to 59", "60 to 69", "70 to 79", "80 and over")
GROUPS = ("all", "women", "men", *DECADES)
ERROR_EDGES_YEARS = np.arange(1.0, 61.0)
"""Absolute errors are counted between these; the last bin has no upper end."""

AGE_SUMS = ("n", "error", "absolute", "square", "age", "age_square", "mean", "mean_square", "error_mean")
"""Sums over ECGs of a group: error = predicted - age, mean = (predicted + age) / 2, as Bland and Altman plot them."""
CLUSTER_SUMS = ("aa", "an", "nn")
"""Sums over patients of squares and products of (sum of a figure, number of ECGs): the error of a mean of any value."""


class Alternative(BaseConfig):
    """Another model judged on the same ECGs: an existing one, a local one, or a column of the table."""

    age: str | None = Field(default=None, description="<train step>.<head>, or a number of the study's own columns")
    sex: str | None = Field(default=None, description="<train step>.<head>")


class Config(StepConfig):
    """An age_sex step; it uses the train steps whose heads it judges."""

    default_sites: ClassVar[str] = "all"
    opens_lockbox: ClassVar[bool] = True
    splits_read: ClassVar[tuple[Split, ...]] = ("validation", "lockbox")

    age: str | None = Field(default=None, description="<train step>.<head> of age, or a number of the study's columns")
    sex: str | None = Field(default=None, description="<train step>.<head> of being male")
    against: Alternative | None = Field(default=None, description="another model on the same ECGs: differences to it")
    coverage: float = Field(default=0.9, gt=0.5, lt=1, description="share of people whose age its interval shall hold")

    @model_validator(mode="after")
    def _judges_something(self) -> Config:
        if self.age is None and self.sex is None:
            raise ValueError("name a head under age, under sex, or both")
        if self.against is not None and not (
            (self.against.age and self.age is not None) or (self.against.sex and self.sex is not None)
        ):
            raise ValueError("against must name a model of age or of sex, and the step one of the same")
        return self


@payload("age_sex", "calibrate")
@dataclass(frozen=True)
class GapSums:
    """``sums``: shape = (6,): n, age, age^2, error, error x age, error^2. ``edge``, ``ecgs``: absolute errors (years)
    from the edge before up to this one, and how many, shape = (k,)."""

    sums: Annotated[Floats, Sums()]
    edge: Annotated[Floats, Statistic()]
    ecgs: Annotated[Floats, Statistic()]


@payload("age_sex", "judge")
@dataclass(frozen=True)
class Figures:
    """Of each of :data:`GROUPS` (G).

    ``age_sums``: shape = (G, 9), :data:`AGE_SUMS`; ``age_clusters``: (G, 3), of absolute errors. ``sex_sums``: (G, 3):
    n, right answers, men; ``sex_clusters``: (G, 3), of right answers; ``predicted_men``: (G,), mean probability.
    ``auc``: (G, 4), estimates. ``difference``: (2, 5): absolute error and right answers, this model less the other: n,
    sum, and the clusters of its sum. ``chance``: (2, 5), the same less an answer without an ECG: the training patients'
    mean age and more frequent sex (:func:`without_ecg`). ``patients``: (G, 2), of age and of sex.
    """

    age_sums: Annotated[Floats, Sums()]
    age_clusters: Annotated[Floats, Sums()]
    sex_sums: Annotated[Floats, Sums()]
    sex_clusters: Annotated[Floats, Sums()]
    predicted_men: Annotated[Floats, Statistic()]
    auc: Annotated[Floats, Statistic()]
    difference: Annotated[Floats, Sums()]
    chance: Annotated[Floats, Sums()]
    patients: Annotated[Floats, Statistic()]


def in_groups(age: Floats, male: Floats) -> np.ndarray:
    """Return who is in which of :data:`GROUPS`, bool array, shape = (G, n); unknown age or sex is in "all" alone."""
    decade = np.clip(np.floor(np.nan_to_num(age, nan=-1.0) / 10) - 3, 0, 5)
    known = ~np.isnan(age)
    rows = [np.ones(len(age), dtype=bool), male == 0, male == 1]
    return np.stack([*rows, *(known & (decade == d) for d in range(len(DECADES)))])


def age_sums(predicted: Floats, age: Floats) -> Floats:
    """Return :data:`AGE_SUMS` of ECGs, shape = (9,)."""
    error, mean = predicted - age, (predicted + age) / 2
    parts = (np.ones_like(age), error, np.abs(error), error**2, age, age**2, mean, mean**2, error * mean)
    return np.array([float(part.sum()) for part in parts])


def clusters(value: Floats, patient: Ints) -> Floats:
    """Return :data:`CLUSTER_SUMS` of a figure of each ECG, shape = (3,)."""
    each = by_patient(np.stack([value, np.ones_like(value)], axis=1), patient)
    return np.array([each[:, 0] @ each[:, 0], each[:, 0] @ each[:, 1], each[:, 1] @ each[:, 1]])


def mean_error(total: float, n: float, of: Floats, patients: float) -> float:
    """Return the standard error of total / n, clustered by patient, from sums over any number of sites."""
    if n <= 0 or patients < 2:
        return math.nan
    mean = total / n
    square = of[0] - 2 * mean * of[1] + mean**2 * of[2]
    return math.sqrt(max(square, 0.0) * patients / (patients - 1)) / n


def without_ecg(step: Config, arrays: Mapping[str, Floats]) -> tuple[float, float]:
    """Return what is told of everybody who has no ECG: mean age (years) and share of men of the training patients.

    NaN where the step's model is a column of the table, whose training nobody described.
    """
    told = []
    for row, head in enumerate((step.age, step.sex)):
        known = arrays.get(f"{(head or '').partition('.')[0]}.standardise")
        told.append(math.nan if known is None else float(known[row, 0]))
    return told[0], told[1]


@dataclass(frozen=True)
class AgeFigures:
    """What sums of errors come to; years. ``limits`` of agreement: mean error -/+ 1.96 SD (Bland and Altman 1986);
    ``slope`` of the error on the mean of both; ``r``: Pearson's, of predicted and true age."""

    n: float
    bias: float
    mae: float
    sd: float
    r2: float
    limits: tuple[float, float]
    slope: float
    r: float

    @classmethod
    def of(cls, s: Floats) -> AgeFigures:
        """Compute from :data:`AGE_SUMS`, shape = (9,); NaN where they are withheld or too few."""
        n = float(s[0])
        if not n > 2:
            nan = math.nan
            return cls(n, nan, nan, nan, nan, (nan, nan), nan, nan)
        bias, mae = s[1] / n, s[2] / n
        sd = math.sqrt(max((s[3] - n * bias**2) / (n - 1), 0.0))
        spread = s[5] - s[4] ** 2 / n
        r2 = 1 - s[3] / spread if spread > 0 else math.nan
        across = s[7] - s[6] ** 2 / n
        slope = (s[8] - s[1] * s[6] / n) / across if across > 0 else math.nan
        # Predicted and true age are the mean of both plus and less half the error.
        error, together = s[3] - n * bias**2, s[8] - s[1] * s[6] / n
        predicted, true = across + error / 4 + together, across + error / 4 - together
        r = (across - error / 4) / math.sqrt(predicted * true) if min(predicted, true) > 1e-9 * n else math.nan
        return cls(n, bias, mae, sd, r2, (bias - 1.96 * sd, bias + 1.96 * sd), slope, r)


def gap_line(sums: Floats) -> tuple[float, float, float]:
    """Return intercept and slope of the error on age, and the SD of what is left, from ``GapSums.sums``; NaN where age
    does not vary."""
    n, age, square, error, product, error_square = (float(v) for v in sums)
    spread = square - age**2 / n if n > 2 else 0.0
    if spread <= 0:
        return math.nan, math.nan, math.nan
    slope = (product - age * error / n) / spread
    intercept = (error - slope * age) / n
    left = error_square - intercept * error - slope * product
    return intercept, slope, math.sqrt(max(left, 0.0) / (n - 2))


def merged_errors(absolute: Floats, patient: Ints, min_patients: int) -> tuple[Floats, Floats, Ints]:
    """Return upper edges, counts and patients of bins of absolute errors, each of at least ``min_patients`` patients.

    The last bin's edge is the last of :data:`ERROR_EDGES_YEARS`, or infinite (told as a hundred years) beyond it.
    """
    place = np.searchsorted(ERROR_EDGES_YEARS, absolute, side="left")
    edges, counts, people = list[float](), list[int](), list[int]()
    start, ends = 0, [*ERROR_EDGES_YEARS, 100.0]
    for k in range(len(ends)):
        inside = (place >= start) & (place <= k)
        size = len(np.unique(patient[inside]))
        rest = len(np.unique(patient[place > k]))
        if size >= max(min_patients, 1) and (rest == 0 or rest >= min_patients):
            edges.append(ends[k])
            counts.append(int(inside.sum()))
            people.append(size)
            start = k + 1
    return np.array(edges), np.array(counts, dtype=np.float64), np.array(people, dtype=np.int64)


def conformal(edges: list[Floats], counts: list[Floats], coverage: float) -> float:
    """Return the half width that holds at least ``coverage`` of errors to come, from bins of all sites.

    Of an error it is known only below which edge it lies: so it counts from there on. NaN where too few were told.
    """
    pairs = sorted(
        (float(e), float(c)) for es, cs in zip(edges, counts, strict=True) for e, c in zip(es, cs, strict=True)
    )
    total = sum(count for _, count in pairs)
    needed, seen = math.ceil((total + 1) * coverage), 0.0
    for edge, count in pairs:
        seen += count
        if seen >= needed:
            return edge if edge <= ERROR_EDGES_YEARS[-1] else math.nan
    return math.nan


def models(step: Config) -> tuple[tuple[str | None, str | None], ...]:
    """Return the models of age and of sex: this step's, then the other's."""
    other = step.against or Alternative()
    return (step.age, step.sex), (other.age, other.sex)


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where an age_sex step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("an age_sex step's configuration was expected")
    require_shared_model(step, study)
    heads = trained_heads(step, study)
    of_age = [h for h in heads if _column(study, h) == ("continuous", "age")]
    of_sex = [h for h in heads if _column(study, h) == ("binary", "male")]
    numbers = [name for name in study.numbers if name not in ("age", "male")]
    for age, sex in models(step):
        if age is not None and age not in (*of_age, *numbers):
            raise ValueError(
                f"step {step.id!r}: {age!r} tells no age; heads of age that it uses: "
                f"{', '.join(of_age) or 'none'}; columns: {', '.join(numbers) or 'none'}"
            )
        if sex is not None and sex not in of_sex:
            raise ValueError(
                f"step {step.id!r}: {sex!r} is no head of being male; allowed: {', '.join(of_sex) or 'none'}"
            )


def _column(study: Study, head: str) -> tuple[str, str]:
    endpoint = study.endpoints[head.partition(".")[2]]
    return (endpoint.kind, endpoint.column) if isinstance(endpoint, BinaryEndpoint | ContinuousEndpoint) else ("", "")
