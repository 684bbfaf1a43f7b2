"""Which score a step judges: a calibrated risk, or the probability of one trained head. Read from the study,
by all sides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ecgshared.study.columns import STANDARD_COLUMNS
from ecgshared.study.endpoints import BinaryEndpoint
from ecgshared.wire.protocol import StepConfig

if TYPE_CHECKING:
    from ecgshared.study.study import Study


@dataclass(frozen=True)
class RiskScore:
    """One score.

    Attributes
    ----------
    inputs : names for the feature matrix: ``"<train step>.<head>"``, ``"age"``, ``"male"``, covariates.
    calibrate : id of the step whose coefficients combine them; None where the only input is the logit itself.
    target : the endpoint the score is about.
    within : of a score that is a column (a published score, the ejection fraction): the range that it is told as a
        share of. lower_is_riskier : whether the share counts from the top.
    """

    inputs: tuple[str, ...]
    calibrate: str | None
    target: str
    within: tuple[float, float] | None = None
    lower_is_riskier: bool = False


def used_steps(step: StepConfig, study: Study) -> frozenset[str]:
    """Return the ids of all steps that a step uses, directly or through others."""
    reached: set[str] = set()
    waiting = list(step.uses)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += study.step(name).uses
    return frozenset(reached)


def trained_heads(step: StepConfig, study: Study) -> tuple[str, ...]:
    """Return ``"<train step>.<head>"`` of all train steps a step uses, directly or through others, in study
    order."""
    reached = used_steps(step, study)
    return tuple(
        f"{s.id}.{head}"
        for s in study.steps
        if s.id in reached and s.stage == "train"
        for head in s.heads  # type: ignore[attr-defined]
    )


def require_shared_model(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a site would judge a model whose normalisation stayed at the sites that trained it."""
    for name in {head.partition(".")[0] for head in trained_heads(step, study)}:
        trained = study.step(name)
        foreign = [site for site in study.members(step) if site not in study.members(trained)]
        if trained.strategy.name == "fedbn" and foreign:  # type: ignore[attr-defined]
            raise ValueError(
                f"step {step.id!r}: {', '.join(foreign)} did not train {name!r}, whose strategy fedbn keeps "
                "normalisation at the sites that trained; name only those under `sites`, or use another strategy"
            )


def calibrate_inputs(step: Any, study: Study) -> tuple[str, ...]:
    """Return a calibrate step's inputs: those it names, or all trained heads with age and sex.

    Sex is left out where it IS the target: the fit would read the answer.
    """
    if step.inputs is not None:
        return tuple(step.inputs)
    target = study.endpoints[step.target]
    reads_sex = isinstance(target, BinaryEndpoint) and target.column == "male"
    return (*trained_heads(step, study), "age", *(() if reads_sex else ("male",)))


def risk_score(step: Any, study: Study) -> RiskScore:
    """Return the score of a step with a ``score`` key.

    Raises
    ------
    ValueError : it names no trained head, or none and uses no calibrate step.
    """
    if step.score is not None:
        heads = trained_heads(step, study)
        if step.score not in heads:
            raise ValueError(
                f"step {step.id!r}: score {step.score!r} is no head of a train step it uses; "
                f"allowed: {', '.join(heads) or '(it uses none)'}"
            )
        return RiskScore((step.score,), None, step.score.split(".", 1)[1])
    calibrated = study.used(step, "calibrate")
    if calibrated is None:
        raise ValueError(
            f"step {step.id!r} must use a calibrate step, or name a trained head as `score: <train step>.<head>`"
        )
    target: str = calibrated.target  # type: ignore[attr-defined]
    return RiskScore(calibrate_inputs(calibrated, study), calibrated.id, target)


def named_scores(names: Iterable[str], step: StepConfig, study: Study, key: str) -> tuple[RiskScore, ...]:
    """Return scores by name: a calibrate step, a trained head ``<train step>.<head>``, a column of the study.

    Raises
    ------
    ValueError : one is none of them, or of a step that ``step`` does not use; ``key`` is where it is named.
    """
    heads, reached = trained_heads(step, study), used_steps(step, study)
    calibrated = {s.id: s for s in study.steps if s.id in reached and s.stage == "calibrate"}
    found = []
    for name in names:
        if name in heads:
            found.append(RiskScore((name,), None, name.split(".", 1)[1]))
        elif name in calibrated:
            other: Any = calibrated[name]
            found.append(RiskScore(calibrate_inputs(other, study), other.id, other.target))
        elif name.removeprefix("-") in study.numbers:
            found.append(column_score(name, study, ""))
        else:
            allowed = (*heads, *calibrated)
            close = get_close_matches(name, (*allowed, *study.numbers), n=1)
            raise ValueError(
                f"step {step.id!r}: {key} names {name!r}; allowed are the calibrate steps and trained heads it uses, "
                f"and columns of the study: {', '.join((*allowed, *study.numbers))}"
                + (f"; did you mean {close[0]}?" if close else "")
            )
    return tuple(found)


def column_score(name: str, study: Study, target: str) -> RiskScore:
    """Return a column that is a number or a flag as a score: the higher, the riskier; ``-lvef``: the lower."""
    column = name.removeprefix("-")
    declared, standard = study.columns.get(column), STANDARD_COLUMNS.get(column)
    within = (0.0, 1.0)
    if declared is not None and declared.range is not None:
        within = declared.range
    elif standard is not None and standard.low is not None and standard.high is not None:
        within = (standard.low, standard.high)
    return RiskScore((column,), None, target, within, name.startswith("-"))


def risk_of(score: RiskScore, x: NDArray[np.float64], coef: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return any score on the scale of 0 to 1, shape = (n,): a risk, or a column as a share of its range.

    Parameters
    ----------
    x, coef : as :func:`risk_from_inputs`.
    """
    if score.within is None:
        return risk_from_inputs(x, coef)
    low, high = score.within
    share = (x[:, 0] - low) / (high - low)
    return 1.0 - share if score.lower_is_riskier else share


def risk_from_inputs(x: NDArray[np.float64], coef: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return the risk of each row, shape = (n,), NaN where an input is unknown.

    Parameters
    ----------
    x : float array, shape = (n, p), score inputs.
    coef : float array, shape = (p + 1,), intercept first; None: the one column is a logit.
    """
    eta = x[:, 0] if coef is None else coef[0] + x @ coef[1:]
    return np.asarray(expit(eta), dtype=np.float64)
