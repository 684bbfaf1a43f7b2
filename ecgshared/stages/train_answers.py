"""What a hospital answers in a training, and how such answers are added up without any one being seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.arrays import Floats
from ecgshared.errors import PrivacyError
from ecgshared.privacy.summed import Summand
from ecgshared.wire.protocol import Public, Request, Statistic, Weights, payload

if TYPE_CHECKING:
    from ecgshared.study.study import Study


@payload("train", "fit")
@dataclass(frozen=True)
class Update:
    """One site's work of one round.

    ``update``: shape = (n_parameters,), its weights after local training; where the step compresses, the way they went
    as :mod:`ecgshared.learning.compression` writes it. Validation speaks of the weights
    RECEIVED: ``validation_loss`` (each head's mean cross-entropy or, where it is continuous, absolute error as a share
    of half its range; or the mean of each of the model's own figures) and ``validation_auc``, shape = (H,), NaN of a
    continuous head. Under privacy no exact figure of a round leaves: losses and AUCs are NaN.
    """

    update: Annotated[NDArray[Any], Weights()]
    layout: Annotated[str, Public()]
    steps: Annotated[int, Public()]
    seconds: Annotated[float, Public()]
    training_loss: Annotated[float, Statistic()]
    validation_loss: Annotated[NDArray[np.float64], Statistic()]
    validation_auc: Annotated[NDArray[np.float64], Statistic()]
    noise_multiplier: Annotated[float, Public()]
    epsilon_spent: Annotated[float, Public()]
    delta: Annotated[float, Public()]


@payload("train", "validate")
@dataclass(frozen=True)
class Validation:
    """Validation figures of the weights received, shape = (H,) each: loss and AUC."""

    validation_loss: Annotated[NDArray[np.float64], Statistic()]
    validation_auc: Annotated[NDArray[np.float64], Statistic()]


SUMMED = {"fit": "own", "validate": "own"}
"""What can be added under masks; each hospital's own group must meet its limits: it trained on it."""


def as_sums(answer: Update | Validation, request: Request, study: Study, site: str) -> Summand:
    """Return an answer as numbers that add up: the way the weights went and the figures, times the site's a_k.

    A figure that the site withholds adds nothing to its sum and nothing to the sum of the weights it is divided by.
    """
    share = share_of(request.arrays, study.step(request.step), study, site)
    arrays = {"share": np.array([share])}
    for name in ("training_loss", "validation_loss", "validation_auc"):
        if hasattr(answer, name):
            figure = np.atleast_1d(np.asarray(getattr(answer, name), dtype=np.float64))
            known = np.isfinite(figure)
            arrays[name] = share * np.array([np.where(known, figure, 0.0), known])
    told: dict[str, str] = {}
    if isinstance(answer, Update):
        moved = answer.update.astype(np.float64) - request.arrays["weights"]
        arrays["update"] = share * moved
        told = {name: str(getattr(answer, name)) for name in _TOLD}
    return Summand(arrays, frozenset({"update"}), told)


_TOLD = ("layout", "steps", "seconds", "noise_multiplier", "epsilon_spent", "delta")


LATE_WEIGHTS = "late_weights"
"""Array beside the weights: shares of sites that were away when the cohorts were described, and came later; else 0."""


def share_of(arrays: Mapping[str, NDArray[Any]], step: Any, study: Study, site: str) -> float:
    """Return a site's a_k as a message of a train step has it; 0 where it is withheld.

    Raises
    ------
    PrivacyError : the step uses no describe step. KeyError : the message lacks the totals. IndexError, ValueError :
        they are not those of the study's sites.
    """
    described, place = study.used(step, "describe"), study.sites.train.index(site)
    if described is None:
        raise PrivacyError("a training that uses no describe step has no weights to add up by", where=step.id)
    share = float(arrays[f"{described.id}.{step.totals[1]}"][place])
    return share if share > 0 or LATE_WEIGHTS not in arrays else float(arrays[LATE_WEIGHTS][place])


def of_sums(
    cls: type[Any], sums: Mapping[str, Floats], told: Sequence[Mapping[str, str]], request: Request
) -> Update | Validation:
    """Return added answers as one: the mean of the weights and of the figures, by the sites' a_k."""
    share = float(sums["share"][0])
    if not share > 0:
        raise PrivacyError("the sites of the sum have no weight")
    with np.errstate(invalid="ignore", divide="ignore"):
        figures = {
            name: np.where(pair[1] > 0, pair[0] / pair[1], np.nan)
            for name, pair in sums.items()
            if name.endswith(("_loss", "_auc"))
        }
    if cls is Validation:
        return Validation(figures["validation_loss"], figures["validation_auc"])
    received = request.arrays["weights"]
    if sums["update"].shape != received.shape:
        raise PrivacyError("the sum is of other weights", value=sums["update"].shape, allowed=str(received.shape))
    layouts = {texts.get("layout", "") for texts in told}
    return Update(
        update=(received + sums["update"] / share).astype(received.dtype),
        layout=layouts.pop() if len(layouts) == 1 else "",
        steps=max(int(texts["steps"]) for texts in told),
        seconds=max(float(texts["seconds"]) for texts in told),
        training_loss=float(figures["training_loss"][0]),
        validation_loss=figures["validation_loss"],
        validation_auc=figures["validation_auc"],
        noise_multiplier=min(float(texts["noise_multiplier"]) for texts in told),
        epsilon_spent=max(float(texts["epsilon_spent"]) for texts in told),
        delta=max(float(texts["delta"]) for texts in told),
    )
