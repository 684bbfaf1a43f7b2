"""threshold: the high-risk cut-off, fixed on validation patients.

The LARGEST top group whose lower 95% limit (two-sided, patient-clustered) of the event rate exceeds ``min_rate``. The
candidates are cuts that all sites share, chosen from sketches of their scores before any case is counted, and are told
with the result; so are the rate above each with its limits and the fewest and most events that can be there. A limit
starts from the fewest: what a site may not count does not help a group to qualify. Each limit holds for its candidate
by itself; that the largest of several is taken makes its rate look somewhat better than it is, which is why a
threshold is judged on other patients (``evaluate``).

Where none qualifies, ``top_share`` names the group by its size, if the sites' edges can express one near it; else there
is no cut-off, and the result says so.

Phases: ``scale`` (sketches of scores), ``histogram`` (controls on the site's bins, cases above cuts; see
:mod:`ecgshared.stats.control_bins`), ``variance`` (squared per-patient influence on the pooled rates).

Arrays: ``cut``, shape = (1,): the score (logit of the risk) at which the high-risk group begins, HIGHEST where there is
none; ``cutoff``, shape = (1,): the same as a risk, inf where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field, model_validator
from scipy.optimize import brentq
from scipy.special import expit

from ecgshared.arrays import Floats
from ecgshared.stages.results.threshold import Result as Result
from ecgshared.stats.influence import Estimate, ratio_estimate
from ecgshared.stats.small_samples import rate_interval
from ecgshared.study.score import require_shared_model, risk_score
from ecgshared.wire.protocol import Count, Public, Split, StepConfig, Sums, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study


LEAVES = {
    "scale": "mean validation scores of neighbouring ECGs, of patients with and without the event apart",
    "histogram": "how many validation ECGs without the event fall into each interval of the score, and how many with "
    "it lie above cuts that all hospitals share",
    "variance": "sums over patients that the interval of the event rate above each of these cuts takes",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Intervals hold at least the hospital's own least size, and cuts divide patients with the event into groups that "
    "meet its limits; one set of cuts a score is answered."
)
"""What stands between these numbers and one patient."""


class Config(StepConfig):
    """A threshold step; it uses a calibrate step, or a train step and names the head."""

    can_be_frozen: ClassVar[bool] = True
    splits_read: ClassVar[tuple[Split, ...]] = ("validation",)
    read_later: ClassVar[tuple[str, ...]] = ("target", "score")

    default_sites: ClassVar[str] = "train"

    score: str | None = Field(default=None, description="<train step>.<head>; None takes the calibrated risk")
    target: str | None = Field(default=None, description="endpoint; None takes the score's own")
    max_age: float | None = Field(default=None, gt=0, description="only ECGs at a known age under this, years")
    min_rate: float | None = Field(
        default=0.049, gt=0, lt=1, description="4.9%: median control-arm rate of six defibrillator trials"
    )
    top_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of ECGs; the rule where min_rate is null, the way out where none qualifies",
    )
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="confidence that the group's rate is at least min_rate"
    )

    @model_validator(mode="after")
    def _has_a_rule(self) -> Config:
        if self.min_rate is None and self.top_share is None:
            raise ValueError("give min_rate, top_share, or both")
        return self


@payload("threshold", "scale")
@dataclass(frozen=True)
class Scale:
    """Sketches of the validation scores, as in ``evaluate``; shape = (k,) each."""

    head: Annotated[Floats, Sums()]
    case: Annotated[Floats, Sums()]
    mean: Annotated[Floats, Sums()]
    ecgs: Annotated[Floats, Sums()]


@payload("threshold", "histogram")
@dataclass(frozen=True)
class Histogram:
    """Control bins, shape = (k,); cuts answered with cases at or above each, shape = (c,); ``counts``: ECGs, patients,
    events of the site's validation set."""

    lower: Annotated[Floats, Sums()]
    upper: Annotated[Floats, Sums()]
    controls: Annotated[Floats, Sums()]
    cut: Annotated[Floats, Sums()]
    cases: Annotated[Floats, Sums()]
    counts: Annotated[Floats, Count()]
    patients_known: Annotated[int, Public()]


@payload("threshold", "variance")
@dataclass(frozen=True)
class CutVariance:
    """At each cut the site answered, shape = (c,): squared influence on the pooled rate above, and patients there."""

    cut: Annotated[Floats, Sums()]
    square_sum: Annotated[Floats, Sums()]
    patients: Annotated[Floats, Count()]


def target_of(step: Config, study: Study) -> str:
    """Return the endpoint the group's event rate is about."""
    return step.target or risk_score(step, study).target


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a threshold step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("a threshold step's configuration was expected")
    require_shared_model(step, study)
    if target_of(step, study) not in study.endpoints:
        raise ValueError(
            f"step {step.id!r}: target {step.target!r} is no endpoint; allowed: {', '.join(study.endpoints)}"
        )
    study.require_yes_no(step, (target_of(step, study),))


CANDIDATE_ROOM = 1
"""Bins of controls that each side of a candidate needs: fine cuts matter more here than the AUC."""
_NEAREST = (1.0, 0.6, 1.6, 0.36, 2.5, 0.2, 4.0, 0.1)
_EVENLY = 40
_SURELY = 0.997
"""A group whose expected limit is just ``min_rate`` qualifies every other time: the guess leaves one more error."""


def candidate_shares(best: float | None, top_share: float | None) -> tuple[float, ...]:
    """Return shares of ECGs whose groups are tried, the most wanted first.

    A site with few events answers the first one only, so that it should be the one most likely to be chosen.

    Parameters
    ----------
    best : share of the largest group that should qualify, see :func:`likely_share`; None where size is the rule.
    """
    shares = [] if top_share is None else [top_share]
    if best is None:
        shares += [shares[0] * factor for factor in (0.8, 1.25)] if shares else []
    else:
        shares = [best * factor for factor in _NEAREST] + shares
        shares += np.geomspace(max(best / 30, 1e-4), min(8 * best, 0.99), _EVENLY).tolist()
    return tuple(share for share in shares if 0 < share < 1)


def likely_share(controls: tuple[Floats, Floats], cases: tuple[Floats, Floats], min_rate: float) -> float:
    """Guess, before any case is counted, which share holds the largest group whose lower limit exceeds ``min_rate``.

    Risks are read off the pooled sketches by a linear discriminant; a bad guess costs power, never truth.

    Parameters
    ----------
    controls, cases : mean scores and ECGs of pooled sketches.
    """
    score, weight = (np.concatenate(pair) for pair in zip(controls, cases, strict=True))
    if not len(score):
        return 0.0
    base = cases[1].sum() / weight.sum()
    middle = np.average(controls[0], weights=controls[1]) if len(controls[0]) else 0.0
    spread = np.average((controls[0] - middle) ** 2, weights=controls[1]) if len(controls[0]) else 0.0
    slope = (np.average(cases[0], weights=cases[1]) - middle) / spread if len(cases[0]) and spread > 0 else 1.0
    order = np.argsort(-score, kind="stable")
    odds = slope * (score[order] - score.mean())
    # The intercept that makes the mean risk the event rate.
    level = brentq(lambda a: np.average(expit(odds + a), weights=weight[order]) - base, -1e3, 1e3) if base > 0 else -1e3
    above = np.cumsum(weight[order])
    rate = np.cumsum(expit(odds + level) * weight[order]) / above
    limits = np.array([rate_interval(r, r * (1 - r) / n, n, _SURELY)[0] for r, n in zip(rate, above, strict=True)])
    found = np.flatnonzero(limits > min_rate)
    return float(above[found[-1] if len(found) else int(np.argmax(limits))] / above[-1])


@dataclass(frozen=True)
class Candidates:
    """Top groups that are tried; shape = (m,) each.

    Attributes
    ----------
    ecgs : ECGs of the group. rate_low, rate, rate_high : least, likely and largest event rate.
    square_sum : summed squared influence on ``rate``. patients : in the group. NaN where sites gave neither.
    """

    ecgs: Floats
    rate_low: Floats
    rate: Floats
    rate_high: Floats
    square_sum: Floats
    patients: Floats

    def estimates(self, confidence: float) -> tuple[Estimate, ...]:
        """Return each group's rate; its interval runs from the limit of the least rate to that of the largest."""
        found = []
        for n, low, rate, high, squares, people in zip(
            self.ecgs, self.rate_low, self.rate, self.rate_high, self.square_sum, self.patients, strict=True
        ):
            own = ratio_estimate(rate, squares, n, people, scale="logit", patients_in=people, confidence=confidence)
            # Trials that the clustered variance is worth stay the same when the rate is another.
            plain = rate * (1 - rate)
            trials = plain / own.se**2 if own.se > 0 and plain > 0 else people
            lower, upper = (
                rate_interval(r, r * (1 - r) / trials if trials > 0 else np.nan, people, confidence)
                for r in (low, high)
            )
            found.append(Estimate(float(rate), own.se, lower[0], upper[1]))
        return tuple(found)


def largest_group(candidates: Candidates, *, min_rate: float, confidence: float) -> int | None:
    """Return the largest group whose lower limit exceeds ``min_rate``, as an index; None where there is none."""
    qualified = [i for i, e in enumerate(candidates.estimates(confidence)) if e.low > min_rate]
    return max(qualified, key=lambda i: candidates.ecgs[i]) if qualified else None
