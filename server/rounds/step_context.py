"""What a server stage works with: it asks sites, reads the artefacts of earlier steps, and returns one of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecgshared.stages.results.base import StageResult
from ecgshared.study.study import Study

ResultT = TypeVar("ResultT", bound=StageResult)


@dataclass(frozen=True)
class Artefact(Generic[ResultT]):
    """What a step produced.

    Attributes
    ----------
    result : the stage's ``Result``, complete: the report and results.json are made from it alone.
    arrays : what later steps send to sites, by name; a site sees them as ``"<step id>.<name>"``.
    """

    step: str
    stage: str
    result: ResultT
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Replies:
    """One phase's answers. ``absent`` gives the reason (a refusal code, "deadline", "not-finite", ...) by site.

    Of a secure sum there is one answer, of ``TOGETHER``: ``summed`` names the sites in it, and ``told`` is what each
    said beside it that is not about people.
    """

    by_site: Mapping[str, Any]
    absent: Mapping[str, str]
    told: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    summed: tuple[str, ...] = ()


Metrics = Callable[[Mapping[str, Any]], Mapping[str, float | None]]
"""From the replies by site to figures for the history (learning curves, TensorBoard); None is withheld."""


Accept = Callable[[Any], str | None]
"""Why a well-formed reply cannot be used ("wrong-shape", say), or None where it can."""


class Ask(Protocol):
    """Ask the step's sites (or some of them) one thing and wait for quorum or deadline."""

    def __call__(
        self,
        phase: str,
        *,
        round: int = 0,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        sites: tuple[str, ...] | None = None,
        quorum: int | None = None,
        accept: Accept | None = None,
        metrics: Metrics | None = None,
    ) -> Replies:
        """Send ``arrays`` beside the arrays of all artefacts the step uses; raise RunError below ``quorum``."""
        ...


AskAside = Callable[[str, str, tuple[str, ...]], Replies]
"""Ask sites that were away for what another step asked, (step, phase, sites); nobody is waited for."""


def _nobody_else(step: str, phase: str, sites: tuple[str, ...]) -> Replies:
    return Replies({}, {})


@dataclass(frozen=True)
class StepContext:
    """One step in progress.

    Attributes
    ----------
    inputs : artefacts of the steps this one uses, directly or through others, by step id.
    folder : the step's own folder in the run, for checkpoints.
    progress : call with (done, total, text) to move the progress bar.
    note : call with (what, why) to have something told in the run's events, its watch and its report.
    ask_aside : asks sites that were away what an earlier step asked; returns who has answered by now.
    """

    study: Study
    sites: tuple[str, ...]
    inputs: Mapping[str, Artefact[Any]]
    ask: Ask
    folder: Path
    progress: Any
    rng: np.random.Generator
    note: Callable[[str, str], object] = print
    ask_aside: AskAside = _nobody_else
